"""What every source of knowledge can do: say what it can provide, and provide it for a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError


@runtime_checkable
class TeacherSource(Protocol):
    """A live model, several models, or a cache on disk."""

    @property
    def fingerprint(self) -> str:
        """Of the knowledge: the weights of the teacher or teachers."""

    def can_provide(self, need: str) -> bool:
        """Whether a signal of this source can hold the value of that need name."""

    def signal(self, batch: Mapping[str, Any], needs: Collection[str]) -> TeacherSignal:
        """The knowledge of one batch.

        Args:
            batch: The student's batch with ``row_id`` [B]; ``teacher_*`` keys are the teacher's own inputs.
            needs: Need names, for example ``("logits", "hidden:-1")``.
        """


class TapReader(Protocol):
    """Reads intermediate values of a model by need name; the training room has one."""

    def read(self, model: nn.Module, inputs: Mapping[str, Tensor], needs: Collection[str]) -> Mapping[str, Tensor]:
        """One forward pass; the values of `needs`, of which ``"logits"`` may be one."""


def require(needs: Collection[str], can_provide: Callable[[str], bool], *, source: str, remedy: str) -> None:
    """Refuse needs that a source cannot meet.

    Raises:
        NeedsError: Names the needs that are not met, and the remedy.
    """
    missing = sorted(need for need in needs if not can_provide(need))
    if missing:
        raise NeedsError(f"{', '.join(missing)} is needed of the teacher, and {source} does not give it", todo=remedy)


WHOLE_ROW_NEEDS = ("logits", "pooled", "head.in")


def is_of_whole_row(need: str) -> bool:
    """Whether a value belongs to the row, whatever tokens it is read in, and not to single tokens."""
    return need in WHOLE_ROW_NEEDS or need.startswith("mean:")
