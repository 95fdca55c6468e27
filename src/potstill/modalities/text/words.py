"""Rows of words, each word with a place of its own among the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features
from transformers import AutoTokenizer

from potstill.data.arrow import table_of
from potstill.data.collate import UnitCollator
from potstill.data.columns import is_list, one_of
from potstill.data.encoded import EncodedRows
from potstill.errors import DataError
from potstill.modalities.text.texts import Texts
from potstill.modalities.text.word_tokenising import check_word_places, encode_words

WORD_NAMES = ("tokens", "words", "word_list", "token_list", "词", "词语")


class UnitTexts(Texts):
    """Texts whose answer is read at words."""

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer, able to read rows that are split into words: byte-level ones take a space before each as part of it.

        Raises:
            ModelError: Nothing to load there, or a tokenizer that does not say where words are.
        """
        tokenizer = super().load_processor(name_or_path, model_config=model_config)
        check_word_places(tokenizer)
        if getattr(tokenizer, "add_prefix_space", None) is not False:
            return tokenizer
        limit = tokenizer.model_max_length
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, add_prefix_space=True)
        tokenizer.model_max_length = limit
        return tokenizer

    def collator(self, processor: Any) -> Callable[..., dict[str, torch.Tensor]]:
        """Pads tokens to the longest row of the batch, and words to the row with most."""
        return UnitCollator(super().collator(processor))  # type: ignore[arg-type]


class Words(UnitTexts):
    """Lists of words."""

    roles: Sequence[str] = ("tokens",)
    column_names: Sequence[str] = WORD_NAMES

    def find_content(self, features: Features, roles: Mapping[str, str], *, taken: Sequence[str] | None = None) -> dict[str, str]:
        """``tokens``: a column of lists with a usual name."""
        if "tokens" in roles:
            return dict(roles)
        lists = [name for name in features if is_list(features[name]) and name not in roles.values()]
        accepted = "a column with a list of words in each row"
        return {**roles, "tokens": one_of("tokens", lists, WORD_NAMES, features, accepted)}

    def read(
        self,
        dataset: Dataset,
        roles: Mapping[str, str],
        split: str,
        notes: list[str],
        *,
        folder: Path | None,
        skip_corrupt: bool,
        start: int = 0,
    ) -> tuple[pa.Table, list[int] | None]:
        """``tokens``: a list of words a row."""
        column = roles["tokens"]
        rows = table_of(dataset, [column]).column(0).to_pylist()
        for number, words in enumerate(rows, start + 1):
            if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
                raise DataError(
                    f"column {column!r} holds {_described(words)} in row {number} of the {split} split",
                    "a list of words in each row",
                    "split the texts into words, or name another column: data.columns: {tokens: …}",
                )
        if not any(word.strip() for words in rows for word in words) and not start:
            raise DataError(f"no row of the {split} split has a word (column {column!r})", "rows with words", "check the column")
        if empty := sum(not word.strip() for words in rows for word in words):
            notes.append(f"empty words of the {split} split: {empty}, which have no token and no answer")
        return pa.table({"tokens": pa.array(rows, pa.list_(pa.large_string()))}), None

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedRows:
        """Tokenised rows with the place of each word; see `potstill.modalities.text.word_tokenising.encode_words`."""
        return encode_words(dataset, processor, folder, max_tokens=max_tokens)

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The words with spaces between them."""
        return " ".join(row["tokens"])

    def augmented(self, rows: Dataset, *, num: int, seed: int, tokenizer: Any, embeddings: np.ndarray) -> Sequence[Any]:
        """Lists of words; see `potstill.modalities.text.augment_words.augment_words`."""
        from potstill.modalities.text.augment_words import augment_words

        return augment_words(list(rows["tokens"]), num=num, seed=seed, tokenizer=tokenizer, embeddings=embeddings)

    def augmented_rows(self, made: Sequence[Any], *, first_row_id: int, no_label: np.ndarray) -> Dataset:
        """See `potstill.modalities.text.augment_words.rows_of_words`."""
        from potstill.modalities.text.augment_words import rows_of_words

        return rows_of_words(made, first_row_id=first_row_id)


def _described(value: object) -> str:
    if isinstance(value, list):
        odd = next(word for word in value if not isinstance(word, str))
        return f"a list with {odd!r} in it"
    return "nothing" if value is None else f"a {type(value).__name__}"
