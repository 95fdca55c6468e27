"""Sources of knowledge for training: cached answers, live teachers on their own tokens, several teachers, earlier states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, is_of_whole_row, require
from potstill.data.encoded import EncodedRows
from potstill.data.paired import PairedCollator, PairedRows
from potstill.errors import CacheError
from potstill.ground.devices import compute_device
from potstill.knowledge.cache import CachedTeacher, Fingerprints
from potstill.knowledge.ensemble import Confidence, EnsembleTeacher, combine
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.per_task import PerTaskTeacher
from potstill.models.frozen import fingerprint_of_processor
from potstill.models.load import LoadedTeacher
from potstill.models.party import Student, Teacher
from potstill.models.taps import TapReader

if TYPE_CHECKING:
    from potstill.training.teacher_weights import TeacherWeights

CONFIDENCES: dict[str, Confidence] = {"confidence": "entropy", "max_probability": "max", "agreement": "label"}


class LayeredSource:
    """Answers from one source, inner values from another.

    Args:
        answers: Gives logits, by row (a cache, usually).
        inside: Gives inner values, live; where the vocabulary was cut, on the student's own tokens, so that positions agree.
    """

    def __init__(self, answers: TeacherSource, inside: TeacherSource) -> None:
        self.answers, self.inside = answers, inside
        self.model = getattr(inside, "model", None)

    @property
    def fingerprint(self) -> str:
        """Of the teacher."""
        return self.answers.fingerprint

    def can_provide(self, need: str) -> bool:
        """Whether either source has it."""
        return self.answers.can_provide(need) or self.inside.can_provide(need)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """Each need from the first source that has it."""
        answered = tuple(need for need in needs if self.answers.can_provide(need))
        inner = tuple(need for need in needs if need not in answered)
        first = self.answers.signal(batch, answered) if answered else TeacherSignal()
        if not inner:
            return first
        second = self.inside.signal(batch, inner)
        return TeacherSignal(first.response, {**first.taps, **second.taps}, second.token_mask)


@dataclass(frozen=True)
class AlignedCollator:
    """Adds the student's own tokens in the teacher's ids, so that the teacher's inner values fall on the same positions.

    `kept_ids` [student vocabulary] is the teacher's id of each of the student's tokens.
    """

    base: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    kept_ids: Tensor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch with ``teacher_input_ids`` and its mask and the student's inputs."""
        batch = self.base(rows)
        return batch | {
            f"teacher_{name}": self.kept_ids[value] if name == "input_ids" else value
            for name, value in batch.items()
            if name in ("input_ids", "attention_mask", "token_type_ids")
        }


class RowsTeacher:
    """A live teacher that looks up the rows of a batch and reads them in its own tokens, whatever the student reads.

    Args:
        live: The teacher.
        rows: All rows in the teacher's tokens (or pixels), with the `collator` of its batches.
        token_values: Whether values with one entry per token are given; not where the student has other tokens.
    """

    def __init__(
        self,
        live: LiveTeacher,
        rows: EncodedRows,
        collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
        *,
        token_values: bool,
    ) -> None:
        self.live, self.rows, self.collator, self.token_values = live, rows, collator, token_values
        self.model = live.model
        self._order = np.argsort(rows.row_ids, kind="stable")

    @property
    def fingerprint(self) -> str:
        """Of the teacher."""
        return self.live.fingerprint

    def can_provide(self, need: str) -> bool:
        """Logits and values of whole rows; values of single tokens where they fall on the student's."""
        return (is_of_whole_row(need) or self.token_values) and self.live.can_provide(need)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The teacher's values for the rows with the batch's ids.

        Raises:
            NeedsError: A value of single tokens is asked for, and the student has other tokens.
        """
        require(needs, self.can_provide, source="a teacher that reads its own tokens", remedy="take values of whole rows")
        wanted = batch["row_id"].cpu().numpy()
        found = np.searchsorted(self.rows.row_ids, wanted, sorter=self._order).clip(max=len(self._order) - 1)
        places = self._order[found]
        if not np.array_equal(self.rows.row_ids[places], wanted):
            unknown = wanted[self.rows.row_ids[places] != wanted][0]
            raise CacheError(
                f"the teacher's rows have no row with the id {int(unknown)}", todo="give it the rows of the training"
            )
        return self.live.signal(self.collator(self.rows.__getitems__(places.tolist())), needs)


@dataclass(frozen=True)
class Combination:
    """How several teachers become one.

    Args:
        way: ``teacher.combine`` of a recipe.
        weights: One per teacher; None for equal ones.
    """

    way: str = "mean"
    weights: Sequence[float] | None = None

    @property
    def is_learned(self) -> bool:
        """Whether the weights are learned with the student."""
        return self.way == "learned"

    def source(self, sources: Sequence[TeacherSource], weights: TeacherWeights | None) -> TeacherSource:
        """All teachers as one source; the learned weights are read anew for every batch."""
        shares: Any = self.weights if weights is None else weights.shares
        return EnsembleTeacher(sources, shares, confidence=CONFIDENCES.get(self.way, "none"))

    def mix(self, logits: Sequence[np.ndarray], learned: Sequence[float] | None) -> np.ndarray:
        """What the teachers together answer [N, C], from the logits [N, C] of each and the weights that training ended with.

        It reads no labels, which a served ensemble would not have either.
        """
        shares = learned if self.is_learned else self.weights
        weights = torch.tensor(shares or [1.0] * len(logits))
        logs = torch.stack([torch.from_numpy(one).float().log_softmax(-1) for one in logits])
        return combine(logs, weights / weights.sum(), confidence=CONFIDENCES.get(self.way, "none")).numpy()


def training_source(
    teachers: Sequence[Teacher], student: Student, combination: Combination, weights: TeacherWeights | None = None
) -> TeacherSource:
    """The knowledge of a run's teacher or teachers; inner values are the first one's.

    The student's tokens decide which inner values can be compared. Teachers of several tasks answer the rows of their own task
    each; `combination` and the learned `weights` join several teachers of one task.
    """
    if teachers[0].rows.number is not None:
        return of_own_teachers(teachers)
    first = _first_source(teachers[0], student)
    if len(teachers) == 1:
        return first
    return LayeredSource(combination.source([first, *map(answers_of, teachers[1:])], weights), first)


def of_own_teachers(teachers: Sequence[Teacher]) -> TeacherSource:
    """For each row the answers of its own task's teacher, cached or live on its own tokens."""
    return PerTaskTeacher({one.rows.block: answers_of(one) for one in teachers})


def _first_source(teacher: Teacher, student: Student) -> TeacherSource:
    """Answers from the cache where there is one, else from the live model on its own tokens; inner values from the live model."""
    live = live_teacher(teacher)
    inside: TeacherSource = live
    if student.has_own_tokens or (student.has_other_rows and teacher.cache is None):
        own = live_rows(teacher, live, token_values=not teacher.rows.task.modality.has_tokens)
        if teacher.cache is None:
            return own if student.has_own_tokens else LayeredSource(own, live)
        inside = own
    return live if teacher.cache is None else LayeredSource(cached_answers(teacher, live.fingerprint), inside)


def live_teacher(teacher: Teacher) -> LiveTeacher:
    """A teacher asked about every batch as it is."""
    return LiveTeacher(teacher.model, TapReader(), device=compute_device())


def live_rows(party: Teacher | Student, live: LiveTeacher, *, token_values: bool) -> RowsTeacher:
    """The live model of a party on all rows in its own tokens, found by their ids."""
    return RowsTeacher(live, party.encoded(*party.rows.names), party.collator, token_values=token_values)


def cached_answers(teacher: Teacher, fingerprint: str) -> CachedTeacher:
    """The answers that were kept, of the teacher with that fingerprint."""
    assert teacher.cache is not None
    expected = Fingerprints(teacher=fingerprint, processor=fingerprint_of_processor(teacher.processor))
    return CachedTeacher.open(teacher.cache, expect=expected)


def answers_of(teacher: Teacher) -> TeacherSource:
    """The answers of one teacher by itself: cached, or live on its own tokens."""
    live = LiveTeacher(teacher.model, device=compute_device())
    return live_rows(teacher, live, token_values=False) if teacher.cache is None else cached_answers(teacher, live.fingerprint)


def answers_of_student(student: Student) -> TeacherSource:
    """The answers of a model of a chain: cached, or live on the rows in its own tokens."""
    if student.cache is not None:
        return CachedTeacher.open(student.cache)
    return live_rows(student, LiveTeacher(student.model, device=compute_device()), token_values=False)


def num_snapshots(teacher: Teacher, named: Sequence[str]) -> int:
    """How many earlier states of the teacher there are: those that the recipe names, else those that its training kept."""
    return len(named) or len(list((teacher.folder / "anchors").glob("anchor-*")))


def snapshot(teacher: Teacher, name: str, load: Callable[[Path], LoadedTeacher], named: Sequence[str]) -> TeacherSource:
    """An earlier state of the teacher, ``"anchor-1"`` and so on, as a live source on the teacher's own tokens.

    `named` are the folders that the recipe names; it is empty for the states that the teacher's training kept.
    """
    folder = Path(named[int(name.rpartition("-")[2]) - 1]) if named else teacher.folder / "anchors" / name
    state = replace(teacher, load=lambda: load(folder), folder=folder, cache=None, _opened={})
    return live_rows(state, LiveTeacher(state.model, device=compute_device()), token_values=False)


def training_collator(student: Student, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The student's collator; where vocabularies differ, with the teacher's ids of the same tokens."""
    base = student.rows.task.collator(processor)
    return base if student.kept_ids is None else AlignedCollator(base, torch.from_numpy(student.kept_ids))


def paired_batches(student: Student, teacher: Teacher, split: str, *, num_rows: int, batch_size: int, seed: int) -> list[Any]:
    """Batches of rows drawn by the seed, as the student reads them and, where its tokens differ, as the teacher does."""
    rows: EncodedRows = student.encoded(split)
    collator: Any = training_collator(student, student.processor)
    if student.has_own_tokens:
        collator, rows = PairedCollator(collator, teacher.collator), PairedRows(rows, teacher.encoded(split))
    drawn = np.random.default_rng(seed).permutation(len(rows))[:num_rows]
    return [collator(rows.__getitems__(drawn[start : start + batch_size].tolist())) for start in range(0, len(drawn), batch_size)]
