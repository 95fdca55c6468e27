"""A teacher with noise on its answers in training, which regularises as several teachers would.

Shapes: B batch, C classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource
from potstill.errors import NeedsError, RecipeError
from potstill.knowledge.responses.dense import DenseLogits


class NoisyTeacher:
    """Logits (1 + ξ) · z with ξ ~ N(0, σ²) for every class, in a share of the rows drawn anew at every step.

    The noise is drawn from PyTorch's random state, which checkpoints hold; evaluation gets the answers as they are.

    Args:
        source: Whose answers are disturbed.
        sigma: σ, the size of the noise relative to a logit.
        share: α, the probability that a row is disturbed.

    Source: Sau and Balasubramanian 2016 (arXiv 1610.09650), section 3.2, eq. 3 and 4.

    Raises:
        RecipeError: A negative σ, or a share outside [0, 1].
        NeedsError: A model where a source is expected.
    """

    def __init__(self, source: TeacherSource, *, sigma: float = 0.5, share: float = 0.5) -> None:
        if isinstance(source, nn.Module):
            raise NeedsError(
                f"NoisyTeacher was given the model {type(source).__name__}, and disturbs the answers of a source",
                "a source of knowledge, such as LiveTeacher",
                "write NoisyTeacher(LiveTeacher(model))",
            )
        if not _is_number(sigma) or sigma < 0:
            raise RecipeError(f"sigma of the noise is {sigma!r}", "a number from 0", "for example sigma: 0.5")
        if not _is_number(share) or not 0 <= share <= 1:
            raise RecipeError(f"the share of noisy rows is {share!r}", "a number from 0 to 1", "for example share: 0.5")
        self.source, self.sigma, self.share = source, float(sigma), float(share)

    @property
    def model(self) -> nn.Module | None:
        """The teacher's model, where the source has one."""
        return getattr(self.source, "model", None)

    @property
    def fingerprint(self) -> str:
        """Of the source and the noise."""
        return f"{self.source.fingerprint}+noise-{self.sigma}-{self.share}"

    def can_provide(self, need: str) -> bool:
        """What the source can."""
        promised = getattr(self.source, "can_provide", None)
        return bool(promised(need)) if promised is not None else need in getattr(self.source, "provides", ())

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The answers as they are."""
        return self.source.signal(batch, needs)

    def training_signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The answers with noise, where the source keeps every logit; inner values are as they are."""
        signal = self.source.signal(batch, needs)
        if "logits" not in needs:
            return signal
        logits = signal.logits
        shape = (logits.shape[0], *[1] * (logits.dim() - 1))
        chosen = (torch.rand(shape) < self.share).to(logits.device)
        noise = torch.randn(logits.shape).to(logits.device, logits.dtype) * self.sigma
        return dataclasses.replace(signal, response=DenseLogits(logits * (1 + noise * chosen)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
