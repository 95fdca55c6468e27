"""Spans: the part of a context that answers a question, or that there is none; exact match and F1 as SQuAD counts them.

Shapes: N windows, U units of a window (0 for no answer, then its words).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.answers.fidelity import log_softmax
from potstill.answers.one_class import Classes, ClassJudge
from potstill.answers.tags import as_lists, roles_of_units
from potstill.contracts.answers import Judge, Mapped, Predictions
from potstill.data.arrow import table_of
from potstill.data.columns import one_of
from potstill.data.words import words_of
from potstill.errors import DataError, ModelError

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

ANSWER_NAMES = ("answers", "answer", "答案")
NAMES = ("start", "end")
LONGEST_WORDS = 30


class Span(Classes):
    """Two distributions over the words of a window: of the first and of the last of the span.

    Labels are read as ``{"text": […], "answer_start": […]}``, a list of ``{"text", "answer_start"}``, or texts that the context
    holds. They become [N] lists of ``{"text", "answer_start"}``; an empty list means that the context has no answer.
    """

    kind = reported = "span"
    noun = "a span of words"
    metric = "f1"
    has_label_names = False
    is_of_row = False
    has_mean = False

    def find_columns(
        self, dataset: Dataset, asked: Mapping[str, str] | None, modality: Modality, *, labelled: bool = True
    ) -> dict[str, str]:
        """``question``, ``context`` and ``label`` (answers; a user may say ``answers``)."""
        features = dataset.features
        roles = roles_of_units(features, asked, modality, "answers", labelled=labelled)
        if labelled and "label" not in roles:
            free = [name for name in features if name not in roles.values()]
            accepted = 'a column of answers, each {"text": […], "answer_start": […]}'
            roles["label"] = one_of("answers", free, ANSWER_NAMES, features, accepted, first=True)
        return roles

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[tuple[tuple[str, int], ...] | None]:
        """The answers of each row, each a text and the character where it begins.

        Raises:
            DataError: An answer that does not stand in its context.
        """
        answers, contexts = (table_of(dataset, [roles[role]]).column(0).to_pylist() for role in ("label", "context"))
        return [
            None
            if answer is None
            else tuple(_checked(text, start, context or "", split, row) for text, start in _pairs(answer, split, row))
            for row, (answer, context) in enumerate(zip(answers, contexts), 1)
        ]

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """``start`` and ``end``, whatever the teacher calls them."""
        if not any(raw):
            raise DataError(
                f"no training row has an answer (column {roles['label']!r})",
                'answers such as {"text": ["…"], "answer_start": [0]}',
                "name another column: data.columns: {answers: …}",
            )
        return NAMES, Mapped(_positions, [])

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Any = None) -> Mapped:
        """Takes answers as they are."""
        return Mapped(_positions, [])

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """A mark that nothing is known, which no answer has."""
        return as_lists([[{"text": "", "answer_start": -1}]] * count)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """Rows with and without an answer."""
        return np.array([int(bool(row)) for row in values], np.int64)

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``, the text of the answer, empty where the context has none; its ``start`` and ``end`` in characters
        of the context; and its ``probability``, that of its first place times that of its last in the window.
        """
        spans, leads = best_spans(found.logits)
        sure = np.exp(log_softmax(found.logits))
        by_id = {int(row_id): number for number, row_id in enumerate(found.row_ids)}
        windows: dict[int, list[tuple[int, str]]] = {}
        for row in rows:
            windows.setdefault(row["group"], []).append((by_id[row["row_id"]], row["context"]))
        answers = []
        for own, context in zip(windows.values(), content.column("context").to_pylist(), strict=True):
            starts = _starts(context, [text for _, text in own])
            at = max(range(len(own)), key=lambda place: leads[own[place][0]])
            number, window = own[at]
            places = _characters(window, spans[number], leads[number])
            units = spans[number] if places else (0, 0)
            chance = float(sure[number, 0, units[0]] * sure[number, 1, units[1]])
            start, end = (None, None) if places is None else (place + starts[at] for place in places)
            answers.append((context[start:end] if places else "", start, end, chance))
        columns = zip(("prediction", "start", "end", "probability"), (pa.string(), pa.int64(), pa.int64(), pa.float32()))
        return pa.table({name: pa.array([row[k] for row in answers], kind) for k, (name, kind) in enumerate(columns)})

    def judge(self) -> Judge:
        """See `SpanJudge`."""
        return SpanJudge(self)

    def text_scores(self, found: Predictions, rows: Dataset) -> dict[str, np.ndarray]:
        """SQuAD's ``f1`` and ``exact_match`` of each question: of the best span of all its windows, as text.

        Args:
            found: Answers with ``logits`` [N, 2, U] and ``row_ids`` [N].
            rows: The windows, with ``context``, ``answers``, ``row_id`` and ``group``.
        """
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
        return {
            "f1": np.array([text_f1(said[group], answers[group]) for group in said]),
            "exact_match": np.array([exact_match(said[group], answers[group]) for group in said]),
        }


class SpanJudge(ClassJudge):
    """Judges the first and the last place of each span like classes, and whole spans window by window.

    Training and quantization choose by the spans; `Span.text_scores` counts as SQuAD does, question by question.
    """

    def keep(self, student: Predictions, teacher: Predictions | None) -> dict[str, np.ndarray]:
        """As for classes, and the best span of each window (0 and 0 where no answer is better)."""
        labels = np.asarray(student.labels)
        known = labels[:, 0] >= 0
        spans, lead = best_spans(np.asarray(student.logits)[known])
        spans[lead <= 0] = 0
        return super().keep(student, teacher) | {"named": spans, "true": labels[known]}

    def quality(self) -> dict[str, float]:
        """``f1`` and ``exact_match`` over words of spans.

        Raises:
            ModelError: Logits that are not finite, or no window with a label.
        """
        if not len(self["true"]) or not self["is_finite"][self["label"] >= 0].all():
            raise ModelError(
                "no window has an answer to measure by, or logits are not finite",
                "labelled rows and finite logits",
                "evaluate on a labelled split; train with a lower learning rate",
            )
        return {name: float(scores.mean()) for name, scores in span_scores(self["named"], self["true"]).items()}

    def per_class(self) -> list[dict[str, Any]]:
        """Nothing: places have no classes."""
        return []

    def name(self, names: Sequence[str], index: int) -> str:
        """A place by its number."""
        return str(index)

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of F1 and exact match of each window with a label."""
        scores = span_scores(self["named"], self["true"])
        return (scores[metric][:, None], lambda means: float(means[0])) if metric in scores else None


def _text(context: str, span: np.ndarray, lead: float) -> str:
    places = _characters(context, span, lead)
    return "" if places is None else context[places[0] : places[1]]


def _characters(context: str, span: np.ndarray, lead: float) -> tuple[int, int] | None:
    """Where a span of units starts and ends in characters; None where no answer is better."""
    words = words_of(context)
    if lead <= 0 or not words:
        return None
    first, last = (min(int(unit) - 1, len(words) - 1) for unit in span)
    return words[first][0], words[last][1]


def _starts(context: str, windows: Sequence[str]) -> list[int]:
    """Where each window begins in its context, in characters; windows come in order and overlap."""
    starts = [context.find(windows[0])]
    for window in windows[1:]:
        starts.append(context.find(window, starts[-1] + 1))
    return starts


def best_spans(logits: np.ndarray, *, longest: int = LONGEST_WORDS) -> tuple[np.ndarray, np.ndarray]:
    """The span of at most `longest` words with the highest logits [N, 2, U] of each window, and how far it beats no answer.

    Returns:
        First and last unit [N, 2], never unit 0, and [N] the sum of their logits less that of unit 0 twice.
    """
    logits = np.asarray(logits, np.float64)
    count = logits.shape[-1]
    if count < 2:
        return np.zeros((len(logits), 2), np.int64), np.full(len(logits), -np.inf)
    best, spans = np.full(len(logits), -np.inf), np.zeros((len(logits), 2), np.int64)
    first, last = logits[:, 0, 1:], logits[:, 1, 1:]
    for width in range(min(longest, count - 1)):
        sums = first[:, : count - 1 - width] + last[:, width:]
        place = sums.argmax(1)
        value = sums[np.arange(len(sums)), place]
        better = value > best
        best[better] = value[better]
        spans[better] = np.stack([place + 1, place + 1 + width], 1)[better]
    return spans, best - logits[:, 0, 0] - logits[:, 1, 0]


def span_scores(named: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
    """``exact_match`` [N] and ``f1`` [N] over words of spans [N, 2], where [0, 0] means no answer."""
    named, true = np.asarray(named), np.asarray(true)
    exact = (named == true).all(1)
    shared = np.minimum(named[:, 1], true[:, 1]) - np.maximum(named[:, 0], true[:, 0]) + 1
    sizes = (named[:, 1] - named[:, 0] + 1) + (true[:, 1] - true[:, 0] + 1)
    both = (named[:, 0] > 0) & (true[:, 0] > 0)
    f1 = np.where(both, 2 * np.maximum(shared, 0) / np.maximum(sizes, 1), exact)
    return {"f1": f1.astype(np.float64), "exact_match": exact.astype(np.float64)}


def normalised(text: str) -> str:
    """Lower case, without punctuation, English articles and doubled spaces, as SQuAD's evaluation has it.

    Source: Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250), section 6.1 and its evaluation script.
    """
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(named: str, answers: Sequence[str]) -> float:
    """1 where the text equals an answer once both are normalised; without answers, where nothing was named."""
    return float(any(normalised(named) == normalised(answer) for answer in answers or [""]))


def text_f1(named: str, answers: Sequence[str]) -> float:
    """The best F1 over the normalised words that the text shares with an answer; without answers, 1 where nothing was named.

    Example:
        >>> text_f1("the red car", ["red cars"])
        0.5
    """
    return max(_one_f1(normalised(named).split(), normalised(answer).split()) for answer in answers or [""])


def _one_f1(named: list[str], true: list[str]) -> float:
    if not named or not true:
        return float(named == true)
    shared = sum((Counter(named) & Counter(true)).values())
    return 2 * shared / (len(named) + len(true))


def _positions(raw: Sequence[Any], split: str) -> np.ndarray:
    """[N] lists of ``{"text", "answer_start"}``."""
    return as_lists([{"text": text, "answer_start": start} for text, start in row or ()] for row in raw)


def _pairs(answer: Any, split: str, row: int) -> list[tuple[str, Any]]:
    if isinstance(answer, str):
        return [(answer, None)] if answer else []
    if isinstance(answer, Mapping):
        texts, starts = answer.get("text"), answer.get("answer_start")
        if isinstance(texts, str):
            return [(texts, starts)] if texts else []
        texts, starts = texts or [], starts if isinstance(starts, list) else [None] * len(texts or [])
        if len(texts) != len(starts):
            raise DataError(
                f"row {row} of the {split} split has {len(texts)} answers and {len(starts)} places where they start",
                "as many entries in answer_start as in text",
                f"correct row {row}, or leave answer_start out: the first place is taken",
            )
        return list(zip(texts, starts))
    return [pair for part in answer for pair in _pairs(part, split, row)]


def _checked(text: str, start: Any, context: str, split: str, row: int) -> tuple[str, int]:
    start = _whole(start, split, row)
    found = context.find(text) if start is None else start
    if found >= 0 and context[found : found + len(text)] == text:
        return text, int(found)
    place = "is not in the context" if start is None else f"does not stand at character {start} of the context"
    raise DataError(
        f"the answer {text[:60]!r} in row {row} of the {split} split {place}",
        "answers that are copied from the context, with the character where they begin",
        f"correct row {row}, or leave answer_start out: the first place is taken",
    )


def _whole(start: Any, split: str, row: int) -> int | None:
    """Where an answer starts, also as a float, which tables with gaps have; None where it is not known."""
    if start is None or start != start:
        return None
    if isinstance(start, int | float) and not isinstance(start, bool) and float(start).is_integer():
        return int(start)
    raise DataError(
        f"row {row} of the {split} split has the answer_start {start!r}",
        "the character where the answer starts, a whole number from 0",
        f"correct row {row}, or leave answer_start out: the first place is taken",
    )
