"""Noise on the teacher's answers while the student trains."""

from __future__ import annotations

from typing import Any

from potstill.knowledge.noisy import NoisyTeacher
from potstill.training.companions.contract import Companion


class Noise(Companion):
    """The teacher becomes a `NoisyTeacher`; its evaluation stays as it is.

    Args:
        sigma: σ, the size of the noise relative to a logit.
        share: Share of the rows that it disturbs.
    """

    def __init__(self, sigma: float = 0.5, share: float = 0.5) -> None:
        self.sigma, self.share = sigma, share

    def source(self, teacher: Any) -> Any:
        """The teacher with noise; itself where there is no teacher or no noise."""
        return NoisyTeacher(teacher, sigma=self.sigma, share=self.share) if teacher is not None and self.sigma else teacher
