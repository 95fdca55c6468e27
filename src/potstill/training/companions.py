"""What lives or happens beside the student while a stage trains: peers, its own average, noise, other views of the rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from potstill.training.peers import Peers

Hears = Literal["teacher", "pixels", "itself"]


@dataclass(frozen=True)
class Companions:
    """Settings of a stage as data; nothing by default.

    Args:
        peers: Networks that learn from each other, with the student; 0 for none. They take the teacher's place.
        start: What the other peers begin with: "student" or "random"; see `Peers`.
        mix: How several peers speak as one: "probability" or "logits".
        average: The student's moving average (`average_decay` of the stage) takes the teacher's place.
        noise: σ of the noise on the teacher's logits; 0 for none.
        noise_share: Share of the rows that it disturbs.
        turned: Every image is seen in four quarter turns, by the teacher too.
        class_pairs: Every labelled row of a batch meets another one of its class.
    """

    peers: int = 0
    start: Literal["student", "random"] = "student"
    mix: Literal["probability", "logits"] = "probability"
    average: bool = False
    noise: float = 0.0
    noise_share: float = 0.5
    turned: bool = False
    class_pairs: bool = False

    @property
    def hears(self) -> Hears:
        """Whom the student listens to: the run's teacher, the live one on the batch as it is, or itself and its peers."""
        if self.peers or self.average:
            return "itself"
        return "pixels" if self.turned else "teacher"

    def arrange(self, teacher: Any, collator: Callable[[list[Any]], dict[str, Any]]) -> dict[str, Any]:
        """Arguments of `DistillationTrainer` for this teacher and this collator of training rows."""
        options: dict[str, Any] = {"teacher": self._teacher(teacher), "class_pairs": self.class_pairs}
        if self.peers:
            options["peers"] = Peers(self.peers, start=self.start, mix=self.mix)
        if self.turned:
            from potstill.modalities.image.quarter_turns import TurnedCollator

            options["training_collator"] = TurnedCollator(collator)
        return options

    def _teacher(self, teacher: Any) -> Any:
        if self.peers:
            return None
        if self.average:
            from potstill.training.self_average import SelfAverage

            return SelfAverage()
        if not self.noise or teacher is None:
            return teacher
        from potstill.knowledge.noisy import NoisyTeacher

        return NoisyTeacher(_as_source(teacher), sigma=self.noise, share=self.noise_share)


def _as_source(teacher: Any) -> Any:
    if not isinstance(teacher, nn.Module):
        return teacher
    from potstill.knowledge.live import LiveTeacher
    from potstill.models.taps import TapReader

    return LiveTeacher(teacher, TapReader())
