"""Extractive question answering: the span of a context that answers a question, or that there is none."""

# N windows, U units (0 for no answer, then the words of the window)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from potstill.answers.spans import best_spans, exact_match, span_scores, text_f1
from potstill.contracts.answers import SPAN, Answers
from potstill.data.unit_collate import UnitCollator
from potstill.data.unit_rows import EncodedUnits
from potstill.errors import ModelError
from potstill.modalities.text.token_columns import find_questions
from potstill.modalities.text.windows import encode_questions, into_windows, words_of
from potstill.modalities.text.word_tokenizers import load_word_tokenizer
from potstill.tasks.loading import loading_error
from potstill.tasks.text_classification import TextClassification


class QuestionAnswering(TextClassification):
    """A span of a context, which is read in overlapping windows where it is long."""

    name = "question-answering"
    label_kind = "spans"
    metric = "f1"
    needs_windows = True
    can_augment = False

    def answers(self, labels: np.ndarray | None = None) -> Answers:
        """Two distributions over the words of the window: of the first and of the last of the span."""
        del labels
        return SPAN

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """``question``, ``context`` and ``label`` → columns; see `potstill.modalities.text.token_columns.find_questions`."""
        return find_questions(dataset.features, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model for extractive question answering; its head is new where the checkpoint has none.

        Raises:
            ModelError: Nothing to load there.
        """
        try:
            return AutoModelForQuestionAnswering.from_pretrained(name_or_path, ignore_mismatched_sizes=True)
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, "a model for question answering", err) from err

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer.

        Raises:
            ModelError: Nothing to load there, or a tokenizer that cannot tell words apart.
        """
        return load_word_tokenizer(super().load_processor(name_or_path, model_config=model_config), name_or_path)

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Questions with windows of their contexts; see `potstill.modalities.text.windows.into_windows`."""
        return into_windows(dataset, processor, **options)

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedUnits:  # type: ignore[override]
        """Tokenised windows with the place of each word; see `potstill.modalities.text.windows.encode_questions`."""
        return encode_questions(dataset, processor, folder, max_tokens=max_tokens)

    def collator(self, processor: Any) -> UnitCollator:  # type: ignore[override]
        """Pads tokens to the longest row of the batch, and words to the window with most."""
        return UnitCollator(super().collator(processor))

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """``f1`` and ``exact_match`` of answers [N, 2, U] against spans of units [N, 2], window by window.

        This is what training and quantization choose by; `text_quality` counts as SQuAD does, question by question.

        Raises:
            ModelError: Logits that are not finite, or no window with a label.
        """
        known = np.asarray(labels)[:, 0] >= 0
        if not known.any() or not np.isfinite(np.asarray(logits)[known]).all():
            raise ModelError(
                "no window has an answer to measure by, or logits are not finite",
                "labelled rows and finite logits",
                "evaluate on a labelled split; train with a lower learning rate",
            )
        spans, lead = best_spans(np.asarray(logits)[known])
        spans[lead <= 0] = 0
        return span_scores(spans, np.asarray(labels)[known])

    def text_quality(self, found: Any, rows: Dataset) -> dict[str, float]:
        """SQuAD's ``f1`` and ``exact_match`` over questions: of each, the best span of all windows, as text.

        Args:
            found: Predictions with ``logits`` [N, 2, U] and ``row_ids`` [N].
            rows: The windows, with ``context``, ``answers``, ``row_id`` and ``group``.
        """
        said, answers = self.texts_of(found, rows)
        return {
            "f1": float(np.mean([text_f1(said[group], answers[group]) for group in said])),
            "exact_match": float(np.mean([exact_match(said[group], answers[group]) for group in said])),
        }

    def texts_of(self, found: Any, rows: Dataset) -> tuple[dict[int, str], dict[int, list[str]]]:
        """Question (row id of its first window) → the text that is answered, empty for none; and → its right answers."""
        spans, leads = best_spans(found.logits)
        place = {int(row_id): number for number, row_id in enumerate(found.row_ids)}
        said: dict[int, str] = {}
        best: dict[int, float] = {}
        answers: dict[int, list[str]] = {}
        for row in rows:
            number, group = place[row["row_id"]], row["group"]
            answers[group] = list(row["answers"])
            if group not in best or leads[number] > best[group]:
                best[group], said[group] = float(leads[number]), _text(row["context"], spans[number], leads[number])
        return said, answers

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Nothing: spans have no classes."""
        return []

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The question and its context, with a line between them."""
        return f"{row['question']} | {row['context']}"


def _text(context: str, span: np.ndarray, lead: float) -> str:
    words = words_of(context)
    if lead <= 0 or not words:
        return ""
    first, last = (min(int(unit) - 1, len(words) - 1) for unit in span)
    return context[words[first][0] : words[last][1]]
