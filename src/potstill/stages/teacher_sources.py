"""Which teacher a stage listens to: answers from the cache, inner values from the live model, each in its own tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, is_of_whole_row
from potstill.data.encoded import EncodedRows
from potstill.errors import CacheError
from potstill.ground.devices import compute_device

if TYPE_CHECKING:
    from potstill.knowledge.live import LiveTeacher
    from potstill.stages.context import Run
    from potstill.training.teacher_weights import TeacherWeights


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

    Args:
        base: The collator of the student's rows.
        kept_ids: [student vocabulary] the teacher's id of each of the student's tokens.
    """

    base: Callable[[list[dict[str, Any]]], dict[str, Tensor]]
    kept_ids: Tensor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch with ``teacher_input_ids`` and its mask beside the student's inputs."""
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
        rows: All rows in the teacher's tokens (or pixels).
        collator: Makes a batch of them.
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
        """What the teacher says of the rows with the batch's ids."""
        wanted = batch["row_id"].cpu().numpy()
        found = np.searchsorted(self.rows.row_ids, wanted, sorter=self._order).clip(max=len(self._order) - 1)
        places = self._order[found]
        if not np.array_equal(self.rows.row_ids[places], wanted):
            unknown = wanted[self.rows.row_ids[places] != wanted][0]
            raise CacheError(
                f"the teacher's rows have no row with the id {int(unknown)}", todo="give it the rows that are learnt from"
            )
        return self.live.signal(self.collator(self.rows.__getitems__(places.tolist())), needs)


def training_source(run: Run, weights: TeacherWeights | None = None) -> TeacherSource:
    """What the run's teacher or teachers say; inner values are the first one's.

    Args:
        run: The run.
        weights: The learned weights of several teachers.
    """
    from potstill.stages.several_tasks import of_own_teachers
    from potstill.stages.several_teachers import together

    if run.recipe.tasks:
        return of_own_teachers(run)
    return together(run, _first_source(run), weights)


def _first_source(run: Run) -> TeacherSource:
    """Answers from the cache where there is one, else from the live model on its own tokens; inner values from the live model."""
    live = live_teacher(run)
    cached = (run.folder / run.places.cache / "logits").is_dir()
    inside: TeacherSource = live
    if has_own_tokens(run) or (has_other_rows(run) and not cached):
        own = live_rows(run, live, token_values=run.task.modality == "image")
        if not cached:
            return own if has_own_tokens(run) else LayeredSource(own, live)
        inside = own
    return LayeredSource(cached_answers(run, live.fingerprint), inside) if cached else live


def live_teacher(run: Run) -> LiveTeacher:
    """The run's first teacher, asked about every batch as it is."""
    from potstill.knowledge.live import LiveTeacher
    from potstill.models.taps import TapReader

    return LiveTeacher(run.teacher.model, TapReader(), device=compute_device())


def live_rows(run: Run, live: LiveTeacher, *, token_values: bool) -> RowsTeacher:
    """The live teacher on all rows in its own tokens, found by their ids."""
    names = [name for name in ("train", "validation", "test", "unlabelled", "augmented") if run.has(name)]
    return RowsTeacher(live, run.teacher_rows(*names), run.task.collator(run.teacher.processor), token_values=token_values)


def has_own_tokens(run: Run) -> bool:
    """Whether the student reads through a tokenizer or image processor that is no cut of the teacher's."""
    return bool(run.facts(run.places.student).get("own_tokenizer"))


def has_other_rows(run: Run) -> bool:
    """Whether the rows were encoded anew for the student."""
    return (run.folder / run.places.student / "encoded").is_dir()


def cached_answers(run: Run, fingerprint: str) -> TeacherSource:
    """The answers that the `cache` stage kept, of the teacher with that fingerprint."""
    from potstill.knowledge.cache import CachedTeacher, Fingerprints
    from potstill.models.frozen import fingerprint_of_processor

    expected = Fingerprints(teacher=fingerprint, processor=fingerprint_of_processor(run.teacher.processor))
    return CachedTeacher.open(run.folder / run.places.cache / "logits", expect=expected)


def training_collator(run: Run, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The student's collator; where vocabularies differ, with the teacher's ids of the same tokens beside it."""
    from potstill.stages.student import kept_ids

    base = run.task.collator(processor)
    ids = kept_ids(run)
    return base if ids is None else AlignedCollator(base, torch.from_numpy(ids))
