"""The contract between losses and the trainer: views in, (sum, count, metrics) out.

Shapes: B batch, C classes, T tokens, D width, H heads.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from potstill.contracts.response import Response
from potstill.contracts.signal import TeacherSignal
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.vocabulary_head import VocabularyHead

IGNORED_LABEL = -100


@dataclass(frozen=True)
class StudentView:
    """What the student gave for one batch.

    Args:
        logits: [B, C]; [B, U, C] where a row has several units. Not a number where no loss of the step names them among its
            needs: the forward may then have been left before them.
        taps: Intermediate values by need name.
        token_mask: [B, T], 1 on real tokens, for token models; None otherwise.
        modules: The student's own modules by role, for losses that reuse one (``"head"``).
        unit_mask: [B, U], true on the units that count; None where logits are of whole rows or of tokens.
        head: Of a language model, whose logits are left to the loss.
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    token_mask: Tensor | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    unit_mask: Tensor | None = None
    head: VocabularyHead | None = None


@dataclass(frozen=True)
class LossValue:
    """A loss over one micro-batch, not yet normalised.

    Args:
        sum: Scalar tensor, the sum over units (rows, labelled rows, tokens …).
        count: How many units the sum runs over; equals ``loss.count(batch)``.
        metrics: Detached scalar tensors worth logging.
    """

    sum: Tensor
    count: Tensor | float
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """What the trainer learns about a model from one probe forward, before wrapping.

    Args:
        taps: Need name → shape of the value for the probe batch, batch dimension first.
        logits: Shape of the logits.
        modules: Modules by role (``"head"``: the final linear layer), where the model has them.
    """

    taps: Mapping[str, tuple[int, ...]]
    logits: tuple[int, ...]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)


class Loss(nn.Module):
    """Base of every loss in the catalogue.

    A subclass states what it needs, counts its units from the batch alone, and returns a sum.
    Whatever it learns or remembers (bridges, memory banks, temperatures) is a submodule, parameter
    or buffer of it, made at the latest in `prepare`, so that the trainer can register, wrap, clip,
    checkpoint and move it.

    Attributes:
        kind: response, feature, attention, relation, contrast or gradient.
        unit: What is counted: "rows" (all), "labelled" (label ≠ -100) or "tokens".
        may_be_negative: Whether its value has no least value of 0, as a log likelihood.
        of_rows: Whether it compares one answer for each row, [B, C], and not answers of words or places.
        of_classes: Whether it compares probabilities of classes that exclude each other, and so means nothing for several labels
            at once, numbers or embeddings.
        reads_labels: Whether it reads the batch's labels.
        takes_row_temperatures: Whether its temperature may be a tensor with one for each row.
        responses: The kinds of response for which its formula is right, where it reads the teacher's logits.
    """

    kind: ClassVar[str] = "response"
    unit: ClassVar[str] = "rows"
    may_be_negative: ClassVar[bool] = False
    of_rows: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False
    reads_labels: bool = False
    takes_row_temperatures: ClassVar[bool] = False
    responses: tuple[type[Response], ...] = (DenseLogits,)

    def needs_student(self) -> tuple[str, ...]:
        """Names of the student values read, for example ``("logits",)`` or ``("hidden:1",)``."""
        return ("logits",)

    def needs_teacher(self) -> tuple[str, ...]:
        """Names of the teacher values read; empty where the loss reads labels alone."""
        return ("logits",)

    def needs_batch(self) -> tuple[str, ...]:
        """Batch columns read (``"labels"``, ``"row_id"`` …)."""
        return ("labels",) if self.reads_labels else ()

    def reads_numbers(self) -> bool:
        """Whether it reads labels as numbers, one for each output, and not as the index of a class."""
        return False

    @property
    def compares_answers(self) -> bool:
        """Whether it compares the answers, and no inner values or gradients."""
        return self.kind == "response"

    @property
    def reads_gradients(self) -> bool:
        """Whether it differentiates the student, whose values must then be those of the plain forward."""
        return self.kind == "gradient"

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        """Build bridges and buffers for these shapes; called once, before the model is wrapped.

        Args:
            student: Shapes of the student's values.
            teacher: Those of the teacher; None where no teacher value is read.
            num_rows: Rows of the training set, for losses with a memory per row.

        Raises:
            NeedsError: The shapes cannot be matched.
        """

    def count(self, batch: Mapping[str, Any]) -> Tensor | float:
        """Units that this micro-batch contributes; equals the count that `forward` returns."""
        if self.unit == "labelled":
            return (batch["labels"] != IGNORED_LABEL).sum()
        if self.unit == "tokens":
            return batch["attention_mask"].sum()
        return float(next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim() > 0), 0))

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over the micro-batch; see the subclass."""
        raise TypeError(f"{type(self).__name__} does not define forward")


class FormulaLoss(Loss):
    """Base of losses whose value is one formula of `functional`.

    A subclass names its `formula`. What the formula takes by keyword and the loss has as an attribute is handed over, and the
    mask where it takes one.
    """

    formula: ClassVar[Callable[..., Tensor]]

    def arguments(self, mask: Tensor | None = None) -> dict[str, Any]:
        """What the formula takes by keyword."""
        options, takes_mask = _keywords(self.formula)
        given = {name: getattr(self, name) for name in options if hasattr(self, name)}
        return given | {"mask": mask} if takes_mask else given


@functools.cache
def _keywords(formula: Callable[..., Tensor]) -> tuple[tuple[str, ...], bool]:
    """A formula's options, and whether it takes a mask."""
    parameters = inspect.signature(formula).parameters.values()
    names = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    return tuple(name for name in names if name not in ("mask", "reduction")), "mask" in names
