"""Images in four quarter turns, for student and teacher."""

from __future__ import annotations

from potstill.modalities.image.quarter_turns import TurnedCollator
from potstill.training.companions.contract import Collate, Companion


class QuarterTurns(Companion):
    """Every image of a batch of training is seen in four quarter turns, by the teacher too."""

    changes_inputs = True

    def collator(self, base: Collate) -> Collate:
        """The same rows four times, turned."""
        return TurnedCollator(base)
