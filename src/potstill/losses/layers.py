"""Losses over pairs of layers: which taps they read, what shapes they refuse, how bridges connect them, how they sum.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.losses.catalogue import LOSSES
from potstill.losses.contract import FormulaLoss, Loss, LossValue, Shapes, StudentView
from potstill.losses.options import LAST_LAYER, LayerPair, layer_pairs, one_of, tap_name

PROJECT_CHOICES = ("auto", "linear", "none")


class Bridge(nn.Module):
    """A linear map over the width of [B, D], [B, T, D], or over the channels of [B, C, H, W] (a 1 × 1 convolution)."""

    def __init__(self, student_width: int, teacher_width: int, *, is_map: bool, bias: bool = True) -> None:
        super().__init__()
        self.layer: nn.Conv2d | nn.Linear
        if is_map:
            self.layer = nn.Conv2d(student_width, teacher_width, 1, bias=bias)
        else:
            self.layer = nn.Linear(student_width, teacher_width, bias=bias)

    def forward(self, values: Tensor) -> Tensor:
        """The projected values; the input is cast to the weights' type where autocast does not do it."""
        return self.layer(values.to(self.layer.weight.dtype))


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Takes its running statistics where a training batch has one value a channel, of which there is no variance."""

    def forward(self, values: Tensor) -> Tensor:
        """The normalised values, channels on the second axis."""
        if self.training and values.numel() < 2 * values.shape[1]:
            return F.batch_norm(values, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(values)


class VectorNorm(_BatchNorm, nn.BatchNorm1d):
    """A batch norm over [B, D] that takes a batch of a single row."""


class MapNorm(_BatchNorm, nn.BatchNorm2d):
    """A batch norm over [B, C, H, W] that takes a batch of a single position."""


def width_of(shape: tuple[int, ...]) -> int:
    """Channels of a map [B, C, H, W], else the last axis."""
    return shape[1] if len(shape) == 4 else shape[-1]


def positions_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of [B, T, D], height and width of a map, nothing of [B, D]."""
    return shape[2:] if len(shape) == 4 else shape[1:-1]


def build_bridge(student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], project: str, *, names: str) -> nn.Module:
    """A bridge from the student's width to the teacher's: where they differ ("auto"), always ("linear") or never ("none").

    Raises:
        NeedsError: The widths differ and `project` is "none".
    """
    student_width, teacher_width = width_of(student_shape), width_of(teacher_shape)
    if project == "none" and student_width != teacher_width:
        raise NeedsError(
            f"{names} have widths {student_width} and {teacher_width}, and project is none",
            "equal widths, or a bridge between them",
            "set project: auto, or take a loss without projection such as gram",
        )
    if project == "none" or (project == "auto" and student_width == teacher_width):
        return nn.Identity()
    return Bridge(student_width, teacher_width, is_map=len(student_shape) == 4)


def match_maps(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W] on the smaller of both grids, by adaptive average pooling; others as they are."""
    if student_map.dim() != 4 or teacher_map.dim() != 4 or student_map.shape[2:] == teacher_map.shape[2:]:
        return student_map, teacher_map
    grid = (min(student_map.shape[2], teacher_map.shape[2]), min(student_map.shape[3], teacher_map.shape[3]))
    return F.adaptive_avg_pool2d(student_map, grid), F.adaptive_avg_pool2d(teacher_map, grid)


class PairedLoss(FormulaLoss):
    """A loss that compares pairs of (student, teacher) values and takes the mean over pairs; widths may differ.

    The mean over pairs keeps the weight of the term the same for 1 and for 12 pairs. Of two grids the smaller is taken.

    Attributes:
        roles: What a block number means: "hidden:k", "attention:k" …; of several, each pair of layers is read in all of them.
        ranks: Accepted numbers of axes of a value.
        nearest: What to take instead where the needs cannot be met: `sp` compares rows with rows, whatever their shapes.
        of_vectors: Whether every value becomes one vector per row first, so that any shapes can be compared.
    """

    kind: ClassVar[str] = "feature"
    roles: ClassVar[tuple[str, ...]] = ("hidden",)
    ranks: ClassVar[tuple[int, ...]] = (2, 3, 4)
    nearest: ClassVar[str] = "sp"
    of_vectors: ClassVar[bool] = False

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER) -> None:
        super().__init__()
        self.layers = layer_pairs(layers)
        self.bridges = nn.ModuleList()

    def needs_student(self) -> tuple[str, ...]:
        return unique(own for own, _ in self.names())

    def needs_teacher(self) -> tuple[str, ...]:
        return unique(theirs for _, theirs in self.names())

    def names(self) -> list[tuple[str, str]]:
        """Need names (student, teacher) of each pair of layers in each role."""
        return [(tap_name(role, own), tap_name(role, theirs)) for own, theirs in self.layers for role in self.roles]

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        bridges = []
        for student_name, teacher_name in self.names():
            student_shape = shape_of(student, student_name, "student", self)
            teacher_shape = shape_of(teacher, teacher_name, "teacher", self)
            names = f"student {student_name} {list(student_shape)} and teacher {teacher_name} {list(teacher_shape)}"
            if self.of_vectors:
                student_shape, teacher_shape = ((shape[0], width_of(shape)) for shape in (student_shape, teacher_shape))
            self.check(student_shape, teacher_shape, names)
            bridges.append(self.bridge(student_shape, teacher_shape, names))
        self.bridges = nn.ModuleList(bridges)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """Refuse shapes that cannot be compared: another number of axes than accepted, or another number of tokens."""
        refuse_ranks(self, student_shape, teacher_shape, names, self.ranks)
        if len(student_shape) == 3 and student_shape[1] != teacher_shape[1]:
            raise other_tokens(self, names)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        """The trained module between the two values; none here."""
        return nn.Identity()

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Mean over pairs of the sum over rows."""
        pairs = enumerate(self.pairs(student, teacher))
        terms = [self.compare(index, own, theirs, student.token_mask) for index, (own, theirs) in pairs]
        return LossValue(sum=torch.stack(terms).sum() / len(terms), count=float(student.logits.shape[0]))

    def pairs(self, student: StudentView, teacher: TeacherSignal | None) -> list[tuple[Tensor, Tensor]]:
        """The values that are compared, the teacher's without a gradient."""
        taps = teacher_taps(teacher)
        found = [(student.taps[own], taps[theirs].detach()) for own, theirs in self.names()]
        if not self.of_vectors:
            return found
        return [(vectors(own, student.token_mask), vectors(theirs, student.token_mask)) for own, theirs in found]

    def bridged(self, index: int, student_value: Tensor) -> Tensor:
        """The student's value of pair `index` through its bridge, where one was prepared."""
        return self.bridges[index](student_value) if index < len(self.bridges) else student_value

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        """Sum over rows for one pair: the formula of the two values, in the teacher's width and on the smaller grid."""
        student_value, teacher_value = match_maps(self.bridged(index, student_value), teacher_value)
        arguments = self.arguments(mask_for(teacher_value, token_mask))
        return self.formula(student_value, teacher_value, **arguments, reduction="sum")


class BridgedLoss(PairedLoss):
    """A loss over pairs of values whose widths are brought together by a linear bridge.

    Args:
        layers: Pairs (student, teacher).
        project: "auto" bridges where the widths differ, "linear" always, "none" never.
    """

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, project: str = "auto") -> None:
        super().__init__(layers=layers)
        self.project = one_of("project", project, PROJECT_CHOICES)

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return build_bridge(student_shape, teacher_shape, self.project, names=f"{loss_name(self)}: {names}")


def loss_name(loss: Loss) -> str:
    """The catalogue name of a loss, or its class name."""
    path = f"{type(loss).__module__}:{type(loss).__name__}"
    return next((name for name, entry in LOSSES.items() if entry == path), type(loss).__name__)


def unique(names: Any) -> tuple[str, ...]:
    """The names, each once, in order."""
    return tuple(dict.fromkeys(names))


def mask_for(values: Tensor, token_mask: Tensor | None) -> Tensor | None:
    """The token mask [B, T] where `values` is [B, T, D] over the same tokens, else None."""
    if token_mask is None or values.dim() != 3 or values.shape[1] != token_mask.shape[1]:
        return None
    return token_mask


def vectors(values: Tensor, token_mask: Tensor | None) -> Tensor:
    """One vector per row: tokens averaged over the real ones, maps over positions, [B, D] as it is."""
    if values.dim() == 4:
        return values.mean((2, 3))
    if values.dim() < 3:
        return values
    mask = mask_for(values, token_mask)
    if mask is None:
        return values.mean(1)
    kept = mask.bool().unsqueeze(-1)
    return values.masked_fill(~kept, 0.0).sum(1) / kept.sum(1).clamp(min=1)


def other_tokens(loss: Loss, names: str) -> NeedsError:
    """That two values have different numbers of tokens, or different grids."""
    return NeedsError(
        f"{loss_name(loss)}: {names} have different token counts or grids",
        "the same tokens or grid on both sides",
        f"use the teacher's tokenizer or patch size for the student, or the loss {getattr(loss, 'nearest', 'sp')}",
    )


def teacher_taps(teacher: TeacherSignal | None) -> Mapping[str, Tensor]:
    """The teacher's intermediate values, refused where there is no teacher."""
    if teacher is None:
        raise NeedsError("a teacher signal is needed, there is none", todo="give the trainer a teacher")
    return teacher.taps


def shape_of(shapes: Shapes | None, name: str, side: str, loss: Loss) -> tuple[int, ...]:
    """Shape of one tap, refused where the model does not have it."""
    if shapes is None or name not in shapes.taps:
        there = "nothing" if shapes is None else ", ".join(sorted(shapes.taps)) or "no intermediate values"
        raise NeedsError(
            f"{loss_name(loss)} needs {name} of the {side}, which provides {there}",
            "a tap that the model has",
            f"change layers, or take the loss {getattr(loss, 'nearest', 'sp')}",
        )
    return tuple(shapes.taps[name])


def refuse_ranks(
    loss: Loss, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str, ranks: tuple[int, ...]
) -> None:
    """Refuse values whose number of axes differs between the sides or is not accepted."""
    kinds = {2: "vectors [B, D]", 3: "token values [B, T, D]", 4: "maps or heads [B, C, H, W]"}
    if len(student_shape) == len(teacher_shape) and len(student_shape) in ranks:
        return
    raise NeedsError(
        f"{loss_name(loss)} cannot compare {names}",
        f"both sides as {' or '.join(kinds[rank] for rank in ranks)}",
        f"change layers, or take the loss {getattr(loss, 'nearest', 'sp')}",
    )
