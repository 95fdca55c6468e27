"""The definition of a fast tokenizer (what `tokenizer.json` holds), read and rewritten."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from potstill.errors import ModelError

MODELS = ("WordPiece", "Unigram", "BPE", "WordLevel")
MARKS = ("##", "▁", "Ġ", "</w>", "@@")  # continuation and word marks of the common tokenizers
_BYTE = re.compile(r"<0x..>")
ASCII = frozenset(chr(code) for code in range(33, 127))


def read(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The definition as a dict.

    Raises:
        ModelError: There is no `tokenizers` backend, or its model is of an unknown kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    definition = json.loads(backend.to_str()) if backend is not None else {"model": {"type": type(tokenizer).__name__}}
    if definition["model"].get("type") not in MODELS:
        raise ModelError(
            f"the vocabulary of a {definition['model'].get('type')} tokenizer cannot be cut",
            f"a fast tokenizer of type {', '.join(MODELS)}",
            "keep the whole vocabulary (student: {vocabulary: keep}), or save the tokenizer as tokenizer.json",
        )
    return definition


def token_ids(definition: dict[str, Any]) -> dict[str, int]:
    """Token → id, added tokens included."""
    vocab = definition["model"]["vocab"]
    ids = {entry[0]: i for i, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {added["content"]: added["id"] for added in definition.get("added_tokens", ())}


def bare(token: str) -> str:
    """The token without its continuation or word marks."""
    for mark in MARKS:
        if token != mark:
            token = token.removeprefix(mark).removesuffix(mark) or token
    return token


def required_ids(definition: dict[str, Any], tokens: dict[str, int], counts: np.ndarray) -> set[int]:
    """Ids that stay whatever the counts say."""
    model = definition["model"]
    kept = {added["id"] for added in definition.get("added_tokens", ())}
    if model.get("unk_token") in tokens:
        kept.add(tokens[model["unk_token"]])
    if model.get("unk_id") is not None:
        kept.add(int(model["unk_id"]))
    if (definition.get("padding") or {}).get("pad_id") is not None:
        kept.add(int(definition["padding"]["pad_id"]))
    if model["type"] == "WordLevel":
        return kept
    is_byte_level = "ByteLevel" in json.dumps([definition.get("pre_tokenizer"), definition.get("decoder")])
    characters = set(ASCII).union(*(bare(token) for token, i in tokens.items() if counts[i] > 0))
    for token, token_id in tokens.items():
        is_single_byte = _BYTE.fullmatch(token) is not None or (is_byte_level and len(token) == 1)
        is_character = len(bare(token)) == 1 and bare(token) in characters
        if is_single_byte or is_character or token in MARKS:
            kept.add(token_id)
    return kept


def ancestors(definition: dict[str, Any], tokens: dict[str, int]) -> dict[int, set[int]]:
    """For BPE, each token's direct parts in every merge that forms it; empty for other models."""
    needs: dict[int, set[int]] = {}
    if definition["model"]["type"] != "BPE":
        return needs
    prefix = definition["model"].get("continuing_subword_prefix") or ""
    for left, right in _merges(definition):
        product = tokens.get(left + right.removeprefix(prefix))
        if product is not None and left in tokens and right in tokens:
            needs.setdefault(product, set()).update((tokens[left], tokens[right]))
    return needs


def write(tokenizer: PreTrainedTokenizerBase, definition: dict[str, Any], kept: np.ndarray) -> None:
    """Give `tokenizer` a backend that knows only the `kept` old ids, numbered from zero in their order."""
    new = {int(old): i for i, old in enumerate(kept)}
    cut = json.loads(json.dumps(definition))
    model = cut["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new]
        model["unk_id"] = new.get(model.get("unk_id"))
    else:
        model["vocab"] = {t: new[i] for t, i in sorted(model["vocab"].items(), key=lambda item: item[1]) if i in new}
    if model["type"] == "BPE":
        model["merges"] = _kept_merges(definition, model["vocab"])
    for added in cut.get("added_tokens", ()):
        added["id"] = new[added["id"]]
    if cut.get("padding"):
        cut["padding"]["pad_id"] = new.get(cut["padding"]["pad_id"], 0)
    cut["post_processor"] = _renumber(cut.get("post_processor"), new)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(cut))


def _merges(definition: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in definition["model"]["merges"])
    return [(left, right) for left, right in pairs]


def _kept_merges(definition: dict[str, Any], vocab: dict[str, int]) -> list[list[str]]:
    prefix = definition["model"].get("continuing_subword_prefix") or ""
    merges = [(left, right, left + right.removeprefix(prefix)) for left, right in _merges(definition)]
    return [[left, right] for left, right, product in merges if left in vocab and right in vocab and product in vocab]


def _renumber(processor: Any, new: dict[int, int]) -> Any:
    """The post-processor with its special token ids replaced."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "Sequence":
        return processor | {"processors": [_renumber(inner, new) for inner in processor["processors"]]}
    processor = dict(processor)
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name] = [processor[name][0], new[processor[name][1]]]
    if processor.get("type") == "TemplateProcessing":
        special = processor["special_tokens"].items()
        processor["special_tokens"] = {name: entry | {"ids": [new[i] for i in entry["ids"]]} for name, entry in special}
    return processor
