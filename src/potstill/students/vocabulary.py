"""Tokenizers cut to the tokens that the data uses, which can still read all other text.

What always stays: special and added tokens, the unknown token, bytes, ASCII characters and the characters of every token that
the data uses (with and without the continuation mark), and, for BPE, every ancestor of a kept token in the merge table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError
from potstill.students import tokenizer_file as file

SAMPLED_TOKENS = 500
TOKEN_ID_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")
_COUNTED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class VocabularyCut:
    """A smaller tokenizer and how its ids lie in the old one.

    Args:
        tokenizer: The cut tokenizer.
        kept_ids: [new size] int64, ascending: the old id of each new id.
        kept_counts: [new size] int64: how often the data uses each kept token.
        coverage: Share of the counted token occurrences whose token stays, 0 to 1.
        unseen_inflation: How many times longer other text becomes: measured on `unseen_texts` where they were given,
            else estimated from how often the data itself shows a token only once.
    """

    tokenizer: PreTrainedTokenizerBase
    kept_ids: np.ndarray
    kept_counts: np.ndarray
    coverage: float
    unseen_inflation: float

    def new_ids(self, old_size: int) -> np.ndarray:
        """[old_size] int64: the new id of each old id, -1 where it is gone."""
        table = np.full(old_size, -1, dtype=np.int64)
        table[self.kept_ids] = np.arange(len(self.kept_ids))
        return table

    def renumber(self, config: Any, old_size: int) -> None:
        """Give a configuration of a model of `old_size` tokens the size and the special ids of the cut vocabulary, in place.

        Of settings of generation the special ids.
        """
        if hasattr(config, "vocab_size"):
            config.vocab_size = len(self.kept_ids)
        table = self.new_ids(max(int(self.kept_ids.max()) + 1, old_size))
        for key in TOKEN_ID_KEYS:
            old = getattr(config, key, None)
            if isinstance(old, int) and 0 <= old < len(table):
                setattr(config, key, int(table[old]) if table[old] >= 0 else None)
            elif isinstance(old, list):  # several tokens end a text
                setattr(config, key, [int(table[i]) for i in old if 0 <= i < len(table) and table[i] >= 0])


def count_tokens(encoded: Iterable[Sequence[int] | np.ndarray], vocab_size: int) -> np.ndarray:
    """How often each token id occurs: [vocab_size] int64.

    Args:
        encoded: One array of ids per row (or per many rows).
        vocab_size: Length of the answer; larger ids are an error.

    Example:
        >>> count_tokens([[1, 2, 2], [2]], 4).tolist()
        [0, 1, 3, 0]
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for ids in encoded:
        for start in range(0, len(ids), _COUNTED_AT_ONCE):
            counts += np.bincount(np.asarray(ids[start : start + _COUNTED_AT_ONCE], dtype=np.int64), minlength=vocab_size)
    return counts


def cut_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    token_counts: Mapping[int, int] | np.ndarray,
    size: int | None = None,
    *,
    unseen_texts: Sequence[str] | None = None,
    also: Iterable[int] = (),
) -> VocabularyCut:
    """Keep the `size` most useful tokens and write a tokenizer that knows only them.

    Args:
        tokenizer: A tokenizer with a `tokenizers` backend: WordPiece, Unigram, BPE or WordLevel. It is not changed.
        token_counts: Token id → occurrences in the data.
        size: Tokens to keep; None keeps what the data uses and what must stay.
        unseen_texts: Texts that were not counted, to measure how much longer they become.
        also: Ids of tokens that must stay too.

    Raises:
        ModelError: The tokenizer cannot be cut, or `size` is below what must stay.
    """
    definition = file.read(tokenizer)
    tokens = file.token_ids(definition)
    counts = _own_counts(token_counts, max(tokens.values()) + 1)
    kept = np.array(sorted(_choose(definition, tokens, counts, size, also)), dtype=np.int64)
    smaller = copy.deepcopy(tokenizer)
    file.write(smaller, definition, kept)
    share = float(counts[kept].sum() / max(counts.sum(), 1))
    cut = VocabularyCut(smaller, kept, counts[kept], share, 1.0)
    return replace(cut, unseen_inflation=_inflation(tokenizer, cut, tokens, counts, unseen_texts))


def required_size(tokenizer: PreTrainedTokenizerBase, token_counts: Mapping[int, int] | np.ndarray) -> int:
    """The smallest vocabulary that `cut_vocabulary` can make: what must stay whatever the data uses.

    Raises:
        ModelError: The tokenizer cannot be cut.
    """
    return len(required_ids(tokenizer, token_counts))


def required_ids(tokenizer: PreTrainedTokenizerBase, token_counts: Mapping[int, int] | np.ndarray) -> np.ndarray:
    """The ids [n] of the tokens that stay whatever the data uses: special tokens, bytes, characters.

    Raises:
        ModelError: The tokenizer cannot be cut.
    """
    definition = file.read(tokenizer)
    tokens = file.token_ids(definition)
    found = _required(definition, tokens, _own_counts(token_counts, max(tokens.values()) + 1), ())
    return np.array(sorted(found), dtype=np.int64)


def use_order(
    tokenizer: PreTrainedTokenizerBase, token_counts: Mapping[int, int] | np.ndarray, *, also: Iterable[int] = ()
) -> tuple[np.ndarray, int]:
    """The ids [n] of what must stay and of what the data uses, in the order in which room is given to them; how many must stay.

    A token comes right after all that merges need to form it, so that the first k of them are a whole vocabulary's tokens.

    Raises:
        ModelError: The tokenizer cannot be cut.
    """
    definition = file.read(tokenizer)
    tokens, needs = file.token_ids(definition), file.ancestors(definition, file.token_ids(definition))
    counts = _own_counts(token_counts, max(tokens.values()) + 1)
    found = dict.fromkeys(sorted(_required(definition, tokens, counts, also)))
    required = len(found)
    for token_id in _by_use(tokens, counts, only_seen=True):
        if token_id not in found:
            found |= dict.fromkeys([*sorted(_closure(token_id, needs) - found.keys() - {token_id}), token_id])
    return np.array(list(found), dtype=np.int64), required


def _required(definition: dict[str, Any], tokens: dict[str, int], counts: np.ndarray, also: Iterable[int]) -> set[int]:
    needs = file.ancestors(definition, tokens)
    stay = file.required_ids(definition, tokens, counts).union(also)
    return set().union(*(_closure(token_id, needs) for token_id in stay))


def _choose(
    definition: dict[str, Any], tokens: dict[str, int], counts: np.ndarray, size: int | None, also: Iterable[int]
) -> set[int]:
    needs = file.ancestors(definition, tokens)
    kept = _required(definition, tokens, counts, also)
    if size is not None and len(kept) > size:
        raise ModelError(
            f"a vocabulary of {size} tokens is asked; special tokens, bytes and characters alone take {len(kept)}",
            f"{len(kept)} to {len(tokens)} tokens for this tokenizer and data",
            f"ask for at least {len(kept)} tokens, or for a lower ratio",
        )
    room = len(tokens) if size is None else size
    for token_id in _by_use(tokens, counts, only_seen=size is None):
        if len(kept) >= room:
            break
        fresh = _closure(token_id, needs) - kept
        if len(kept) + len(fresh) <= room:
            kept |= fresh
    return kept


def _by_use(tokens: dict[str, int], counts: np.ndarray, *, only_seen: bool) -> list[int]:
    """Most frequent first; then unseen characters, then unseen tokens in their old order."""
    lengths = {token_id: len(file.bare(token)) for token, token_id in tokens.items()}
    ids = sorted(tokens.values(), key=lambda i: (-counts[i], lengths[i] > 1, i))
    return [i for i in ids if counts[i] > 0] if only_seen else ids


def _closure(token_id: int, needs: Mapping[int, set[int]]) -> set[int]:
    """The token and everything that merges need to form it."""
    closure, open_ids = {token_id}, [token_id]
    while open_ids:
        fresh = needs.get(open_ids.pop(), set()) - closure
        closure |= fresh
        open_ids.extend(fresh)
    return closure


def counts_by_id(token_counts: Mapping[int, int] | np.ndarray, size: int) -> np.ndarray:
    """[size] int64: occurrences by token id; larger ids are left out."""
    counts = np.zeros(size, dtype=np.int64)
    for token_id, count in _pairs(token_counts):
        if 0 <= token_id < size:
            counts[token_id] = count
    return counts


def _pairs(token_counts: Mapping[int, int] | np.ndarray) -> Iterable[tuple[int, int]]:
    return token_counts.items() if isinstance(token_counts, Mapping) else enumerate(np.asarray(token_counts).tolist())


def _own_counts(token_counts: Mapping[int, int] | np.ndarray, size: int) -> np.ndarray:
    for token_id, count in _pairs(token_counts):
        if token_id >= size and count:
            raise ModelError(
                f"token id {token_id} is counted {count} times; the tokenizer has {size} ids",
                "counts that were made with this tokenizer",
                "encode the data with the same tokenizer that is to be cut",
            )
    return counts_by_id(token_counts, size)


def _inflation(
    tokenizer: PreTrainedTokenizerBase,
    cut: VocabularyCut,
    tokens: dict[str, int],
    counts: np.ndarray,
    unseen_texts: Sequence[str] | None,
) -> float:
    if unseen_texts:
        before = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in unseen_texts)
        after = sum(len(cut.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in unseen_texts)
        return after / max(before, 1)
    kept = set(cut.kept_ids.tolist())
    dropped = [token for token, token_id in sorted(tokens.items(), key=lambda item: item[1]) if token_id not in kept]
    if not dropped:
        return 1.0
    sample = dropped[:: max(1, len(dropped) // SAMPLED_TOKENS)]
    texts = [tokenizer.convert_tokens_to_string([token]) for token in sample]
    pieces = np.mean([max(1, len(cut.tokenizer(text, add_special_tokens=False)["input_ids"])) for text in texts])
    missing = 1 - cut.coverage + float((counts == 1).sum() / max(counts.sum(), 1))
    return float(1 + min(missing, 1.0) * (pieces - 1))
