"""A teacher of images that is asked about every view of every image once, and remembered: seeds and methods share the views."""

# N images, B batch, E epochs

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from cifar_nets import StagedNet
from potstill.contracts.signal import TeacherSignal
from potstill.ground.hardware import bf16_pays
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.taps import TapReader


class RememberedTeacher:
    """A source of knowledge that keeps logits, the maps of all stages and the classifier's input in half precision.

    At rest a net's answer to an image does not depend on the batch, so what it said of an image in one epoch of one method holds
    in the same epoch of all others. Other needs go to the live net.

    Args:
        net: The teacher, on the device that it computes on.
        count: N, images with ids 0 to N − 1.
        views: E, epochs with views of their own.
    """

    def __init__(self, net: StagedNet, count: int, views: float) -> None:
        kind = next(net.parameters()).device.type
        self.live = LiveTeacher(net, TapReader(), dtype="bfloat16" if bf16_pays(kind) else "float32")
        self.needs = ("logits", "head.in", *(f"hidden:{stage}" for stage in range(1, len(net.widths) + 1)))
        self.is_known = torch.zeros(math.ceil(views) + 1, count, dtype=torch.bool)
        self.values: dict[str, Tensor] = {}
        self.model = net

    @property
    def fingerprint(self) -> str:
        """Of the teacher."""
        return self.live.fingerprint

    def can_provide(self, need: str) -> bool:
        """Whatever the live net gives."""
        return self.live.can_provide(need)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """What the teacher says of these views.

        Args:
            batch: With ``pixel_values``, ``row_id`` and ``view``.
            needs: Need names.
        """
        if not set(needs) <= set(self.needs):
            return self.live.signal(batch, needs)
        places = batch["view"].cpu(), batch["row_id"].cpu()
        is_new = ~self.is_known[places]
        if bool(is_new.any()):
            self._ask({name: value[is_new.to(value.device)] for name, value in batch.items() if isinstance(value, Tensor)})
        device = batch["pixel_values"].device
        found = {need: self.values[need][places].to(device).float() for need in needs}
        logits = found.pop("logits", None)
        return TeacherSignal(None if logits is None else DenseLogits(logits), found)

    def _ask(self, batch: Mapping[str, Tensor]) -> None:
        said = self.live.signal(batch, self.needs)
        places = batch["view"].cpu(), batch["row_id"].cpu()
        for need in self.needs:
            value = said.logits if need == "logits" else said.taps[need]
            if need not in self.values:
                self.values[need] = torch.empty(*self.is_known.shape, *value.shape[1:], dtype=torch.float16)
            self.values[need][places] = value.cpu().half()
        self.is_known[places] = True
