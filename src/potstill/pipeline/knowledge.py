"""Which teacher a stage listens to: answers from the cache, inner values from the live model, each in its own tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.teacher.signal import TeacherSignal
from potstill.teacher.source import TeacherSource

if TYPE_CHECKING:
    from potstill.pipeline.context import Run


class LayeredSource:
    """Answers from one source, inner values from another.

    Args:
        answers: Gives logits, by row (a cache, usually).
        inside: Gives inner values, live, on the student's own tokens, so that positions agree.
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


def training_source(run: Run) -> TeacherSource:
    """The teacher's answers from the cache where there is one, everything else from the live model."""
    from potstill.teacher.live import LiveTeacher
    from potstill.training.taps import TapReader

    live = LiveTeacher(run.teacher.model, TapReader())
    if not (run.folder / "work/cache/logits").is_dir():
        return live
    from potstill.teacher.cache import CachedTeacher, Fingerprints
    from potstill.teacher.rest import fingerprint_of_processor

    expected = Fingerprints(teacher=live.fingerprint, processor=fingerprint_of_processor(run.teacher.processor))
    answers = CachedTeacher.open(run.folder / "work/cache/logits", expect=expected)
    return LayeredSource(answers, live)


def training_collator(run: Run, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """The student's collator; where vocabularies differ, with the teacher's ids of the same tokens beside it."""
    from potstill.pipeline.student_stages import kept_ids

    base = run.task.collator(processor)
    ids = kept_ids(run)
    return base if ids is None else AlignedCollator(base, torch.from_numpy(ids))
