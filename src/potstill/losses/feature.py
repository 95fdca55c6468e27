"""Feature losses of one formula: hidden states and embeddings, compared value by value.

Shapes: B batch, T tokens, D width, C channels, H height, W width of a map.
Features are [B, D], [B, T, D] with a mask [B, T], or [B, C, H, W]; a row is the mean over its real tokens or positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from potstill.ground.precision import full_precision
from potstill.losses.layers import BridgedLoss, mask_for, match_maps, refuse_ranks
from potstill.losses.options import LAST_LAYER, LayerPair, between, one_of, positive, scales
from potstill.losses.reduction import Reduction, alike, divergence, over_rows


@full_precision
def hidden_mse(
    student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of features: mean over tokens (or positions) of 1/D ‖s − t‖².

    Source: Jiao et al. 2020, TinyBERT (arXiv 1909.10351), eq. 8.

    Args:
        student_hidden: [B, D], [B, T, D] or [B, C, H, W], already in the teacher's width.
        teacher_hidden: The same shape.
    """
    alike(student_hidden, teacher_hidden)
    squares = (student_hidden - teacher_hidden).square()
    return over_rows(squares.mean(1 if squares.dim() == 4 else -1), mask, reduction)


@full_precision
def cosine(
    student_hidden: Tensor, teacher_hidden: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Cosine distance 1 − ⟨s, t⟩ / (‖s‖ ‖t‖), mean over tokens or positions, computed as half the squared chord.

    Source: Sanh et al. 2019, DistilBERT (arXiv 1910.01108), section 3. Shapes as in `hidden_mse`.
    """
    alike(student_hidden, teacher_hidden)
    axis = 1 if student_hidden.dim() == 4 else -1
    chord = F.normalize(student_hidden, dim=axis) - F.normalize(teacher_hidden, dim=axis)
    return over_rows(0.5 * chord.square().sum(axis), mask, reduction)


@full_precision
def embedding_mse(
    student_embedding: Tensor, teacher_embedding: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference of the embedding layer's outputs.

    Source: Jiao et al. 2020, TinyBERT (arXiv 1909.10351), eq. 9. Shapes as in `hidden_mse`.
    """
    return hidden_mse(student_embedding, teacher_embedding, mask=mask, reduction=reduction)


@full_precision
def pkd(student_hidden: Tensor, teacher_hidden: Tensor, *, token: int = 0, reduction: Reduction = "mean") -> Tensor:
    """Patient distillation ‖ s/‖s‖ − t/‖t‖ ‖² of one token's hidden state.

    Source: Sun et al. 2019, BERT-PKD (arXiv 1908.09355).

    Args:
        student_hidden: [B, D] or [B, T, D].
        teacher_hidden: The same shape.
        token: Which token is read of [B, T, D]; 0 is [CLS].
    """
    if student_hidden.dim() == 3:
        student_hidden, teacher_hidden = student_hidden[:, token], teacher_hidden[:, token]
    difference = F.normalize(student_hidden, dim=-1) - F.normalize(teacher_hidden, dim=-1)
    return over_rows(difference.square().sum(-1), None, reduction)


@full_precision
def cwd(
    student_map: Tensor,
    teacher_map: Tensor,
    *,
    temperature: float = 4.0,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Channel-wise distillation: KL over positions within each channel, τ²/C Σ_c Σ_i φ(t_c)_i log(φ(t_c)_i / φ(s_c)_i).

    Source: Shu et al. 2021 (arXiv 2011.13256).

    Args:
        student_map: [B, C, H, W], or [B, T, D] where tokens are the positions and widths the channels.
        teacher_map: The same shape.
        temperature: τ of the softmax over positions.
    """
    log_p = _log_softmax_over_positions(teacher_map, temperature, mask)
    log_q = _log_softmax_over_positions(student_map, temperature, mask)
    rows = None if mask is None else mask.bool().any(1, keepdim=True)
    return over_rows(temperature**2 * divergence(log_p, log_q), rows, reduction)


@full_precision
def ghnd(student_map: Tensor, teacher_map: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean") -> Tensor:
    """Generalised head network distillation: the sum of squared differences over a whole feature.

    Source: Matsubara and Levorato 2020 (arXiv 2007.15818), with every layer weight 1. Shapes as in `hidden_mse`.
    """
    squares = (student_map - teacher_map).square().sum(1 if student_map.dim() == 4 else -1)
    if mask is None:
        return over_rows(squares.flatten(1).sum(1) if squares.dim() > 1 else squares, None, reduction)
    rows = squares.masked_fill(~mask.bool(), 0.0).flatten(1).sum(1) if squares.dim() > 1 else squares
    return over_rows(rows, mask.bool().flatten(1).any(1) if mask.dim() > 1 else mask, reduction)


@full_precision
def mgd(
    generated_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Mean squared difference between the feature generated from a masked student feature and the teacher's.

    Source: Yang et al. 2022 (arXiv 2205.01529). Shapes as in `hidden_mse`; masking and generator are in the module.
    """
    return hidden_mse(generated_feature, teacher_feature, mask=mask, reduction=reduction)


def _log_softmax_over_positions(values: Tensor, temperature: float, mask: Tensor | None) -> Tensor:
    channels = values.flatten(2) if values.dim() == 4 else values.transpose(1, 2)
    channels = channels / temperature
    if mask is not None:
        channels = channels.masked_fill(~mask.bool().unsqueeze(1), -1e4)
    return F.log_softmax(channels, dim=-1)


class HiddenMSE(BridgedLoss):
    """Mean squared difference of hidden states; see `functional.hidden_mse`. Source: TinyBERT (arXiv 1909.10351).

    Args:
        scale: What the difference of each pair is divided by, for example the variance of the teacher's values, so that blocks
            of different size weigh alike; none: 1.
    """

    formula = staticmethod(hidden_mse)

    def __init__(
        self, *, layers: Sequence[LayerPair] = LAST_LAYER, project: str = "auto", scale: Sequence[float] | None = None
    ) -> None:
        super().__init__(layers=layers, project=project)
        self.scale = None if scale is None else scales("scale", scale, len(self.layers))

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        value = super().compare(index, student_value, teacher_value, token_mask)
        return value if self.scale is None else value / self.scale[index]


class Cosine(BridgedLoss):
    """Cosine distance of hidden states; see `functional.cosine`. Source: DistilBERT (arXiv 1910.01108)."""

    formula = staticmethod(cosine)


class EmbeddingMSE(HiddenMSE):
    """Mean squared difference of embeddings; see `functional.embedding_mse`. Source: TinyBERT (arXiv 1909.10351)."""

    def __init__(self, *, layers: Sequence[LayerPair] = (("embedding", "embedding"),), project: str = "auto") -> None:
        super().__init__(layers=layers, project=project)


class PKD(BridgedLoss):
    """Patient distillation of the [CLS] states; see `functional.pkd`. Source: BERT-PKD (arXiv 1908.09355)."""

    ranks: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, project: str = "auto", token: int = 0) -> None:
        super().__init__(layers=layers, project=project)
        self.token = token

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """One token is read: the others may differ in number."""
        refuse_ranks(self, student_shape, teacher_shape, names, self.ranks)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        if student_value.dim() == 3:
            student_value, teacher_value = student_value[:, self.token], teacher_value[:, self.token]
        return pkd(self.bridged(index, student_value), teacher_value, reduction="sum")


class CWD(BridgedLoss):
    """Channel-wise distillation; see `functional.cwd`. Source: Shu et al. 2021 (arXiv 2011.13256)."""

    ranks: ClassVar[tuple[int, ...]] = (3, 4)
    formula = staticmethod(cwd)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, project: str = "auto", temperature: float = 4.0) -> None:
        super().__init__(layers=layers, project=project)
        self.temperature = positive("temperature", temperature)


class GHND(BridgedLoss):
    """Sum of squared differences at equal shapes; see `functional.ghnd`. Source: GHND (arXiv 2007.15818)."""

    formula = staticmethod(ghnd)

    def __init__(self, *, layers: Sequence[LayerPair] = LAST_LAYER, project: str = "none") -> None:
        super().__init__(layers=layers, project=project)


class MGD(BridgedLoss):
    """Masked generative distillation: from a randomly masked student feature, generate the teacher's whole feature.

    Mean squared difference between G(mask · bridge(s)) and t, where G is two 3 × 3 convolutions (two linear layers for
    tokens) with a ReLU between.
    Source: Yang et al. 2022 (arXiv 2205.01529); mean for the sum over elements. Masks are drawn at each call. The authors mask
    15 % of the channels where they classify, 65 % of the positions where they detect.

    Args:
        masked_share: Share λ of what is masked.
        over: "channels" masks whole channels of a row, "positions" all channels at places.
    """

    ranks: ClassVar[tuple[int, ...]] = (3, 4)

    def __init__(
        self,
        *,
        layers: Sequence[LayerPair] = LAST_LAYER,
        project: str = "auto",
        masked_share: float = 0.15,
        over: str = "channels",
    ) -> None:
        super().__init__(layers=layers, project=project)
        self.masked_share = between("masked_share", masked_share, 0, 1)
        self.over = one_of("over", over, ("channels", "positions"))

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        align = super().bridge(student_shape, teacher_shape, names)
        is_map = len(teacher_shape) == 4
        width = teacher_shape[1] if is_map else teacher_shape[-1]
        layers = [nn.Conv2d(width, width, 3, padding=1) if is_map else nn.Linear(width, width) for _ in range(2)]
        return nn.ModuleDict({"align": align, "generate": nn.Sequential(layers[0], nn.ReLU(), layers[1])})

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        modules = self.bridges[index]
        assert isinstance(modules, nn.ModuleDict)
        weight = modules["generate"][0].weight  # type: ignore[index]
        student_value, teacher_value = match_maps(modules["align"](student_value.to(weight.dtype)), teacher_value)
        kept = student_value.new_empty(self.mask_shape(student_value)).bernoulli_(1 - self.masked_share)
        generated = modules["generate"](student_value * kept)
        return mgd(generated, teacher_value, mask=mask_for(teacher_value, token_mask), reduction="sum")

    def mask_shape(self, values: Tensor) -> tuple[int, ...]:
        """One draw for each channel of a row, or for each of its positions."""
        rows, second, *rest = values.shape
        if self.over == "channels":
            return (rows, second, 1, 1) if values.dim() == 4 else (rows, 1, *rest)
        return (rows, 1, *rest) if values.dim() == 4 else (rows, second, 1)
