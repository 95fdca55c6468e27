"""Token classification: a tag for every word, such as the parts of named entities or parts of speech."""

# N rows, U words of the row with most, B batch, T tokens, C tags

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoModelForTokenClassification, PreTrainedModel

from potstill.answers.entities import EntityCounts, count_entities
from potstill.answers.quality import classification_quality, per_class
from potstill.answers.tag_labels import are_entities
from potstill.contracts.answers import CLASS_OF_EACH_UNIT, Answers
from potstill.data.unit_collate import UnitCollator
from potstill.data.unit_rows import EncodedUnits
from potstill.errors import ModelError
from potstill.modalities.text.token_columns import find_words
from potstill.modalities.text.word_tokenising import encode_words
from potstill.modalities.text.word_tokenizers import load_word_tokenizer
from potstill.tasks.loading import head_names, loading_error
from potstill.tasks.text_classification import TextClassification


class TokenClassification(TextClassification):
    """A tag for every word of a row.

    Attributes:
        label_names: The tags in the order of the logits. They say whether entities are counted; the run sets them.
    """

    name = "token-classification"
    label_kind = "tags"

    def __init__(self, label_names: Sequence[str] = ()) -> None:
        self.label_names = tuple(label_names)

    @property
    def metric(self) -> str:  # type: ignore[override]
        """``f1`` of entities where tags mark them, else ``accuracy`` of words."""
        return "f1" if not self.label_names or are_entities(self.label_names) else "accuracy"

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """One distribution over tags for each word: cross-entropy with labels, KL with the teacher."""
        del labels
        return CLASS_OF_EACH_UNIT

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """``tokens`` and ``label`` → columns; see `potstill.modalities.text.token_columns.find_words`."""
        return find_words(dataset.features, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model for token classification; its head is new where the checkpoint has none of this size.

        Raises:
            ModelError: Nothing to load there.
        """
        names = head_names(num_labels, label_names)
        try:
            return AutoModelForTokenClassification.from_pretrained(name_or_path, ignore_mismatched_sizes=True, **names)
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, "a model for token classification", err) from err

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer, able to read rows that are split into words.

        Raises:
            ModelError: Nothing to load there, or a tokenizer that cannot tell words apart.
        """
        return load_word_tokenizer(super().load_processor(name_or_path, model_config=model_config), name_or_path)

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedUnits:  # type: ignore[override]
        """Tokenised rows with the place of each word; see `potstill.modalities.text.word_tokenising.encode_words`."""
        return encode_words(dataset, processor, folder, max_tokens=max_tokens)

    def collator(self, processor: Any) -> UnitCollator:  # type: ignore[override]
        """Pads tokens to the longest row of the batch, and words to the row with most."""
        return UnitCollator(super().collator(processor))

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Measures of answers [N, U, C] against tags [N, U].

        With entity tags: ``f1``, ``precision`` and ``recall`` of whole entities over all rows (see `answers.entities`), and
        ``accuracy`` of words. Else ``accuracy`` and ``macro_f1`` of words.

        Raises:
            ModelError: Logits that are not finite, or no word with a tag.
        """
        known = np.asarray(labels) >= 0
        words = classification_quality(np.asarray(logits)[known], np.asarray(labels)[known])
        if self.metric != "f1":
            return words
        return self._count(logits, labels).scores() | {"accuracy": words["accuracy"]}

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each tag over words [N, U]; see `potstill.answers.quality.per_class`."""
        known = np.asarray(labels) >= 0
        return per_class(np.asarray(logits)[known], np.asarray(labels)[known])

    def per_entity(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, float]]:
        """Entity type → ``precision``, ``recall``, ``f1`` and ``support``."""
        counts = self._count(logits, labels)
        kinds = sorted({*counts.true, *counts.named})
        return {kind: counts.scores(kind) | {"support": float(counts.true[kind])} for kind in kinds}

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The words with spaces between them."""
        return " ".join(row["tokens"])

    def _count(self, logits: np.ndarray, labels: np.ndarray) -> EntityCounts:
        if not self.label_names or np.shape(logits)[-1] != len(self.label_names):
            raise ModelError(
                f"the answers have {np.shape(logits)[-1]} tags, and {len(self.label_names)} names of tags are known",
                "one name for each tag",
                "make the task with the names: TokenClassification(label_names)",
            )
        answers, known = np.asarray(logits).argmax(-1), np.asarray(labels) >= 0
        names = np.array(self.label_names)
        sides = ([names[row[mask]].tolist() for row, mask in zip(side, known)] for side in (np.maximum(labels, 0), answers))
        return count_entities(*sides)
