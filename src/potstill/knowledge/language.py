"""A teacher of a language that is asked while the student trains: its hidden states and its head, never its logits.

Shapes: B windows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import require
from potstill.ground.devices import device_of
from potstill.models.decoder import Decoder
from potstill.models.frozen import fingerprint_of, freeze

HIDDEN = "head.in"


class LanguageTeacher:
    """One decoder, frozen, in eval mode.

    Args:
        decoder: It; its weights are not changed.
    """

    is_fixed = gives_hidden = True

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        freeze(decoder.model)

    @property
    def fingerprint(self) -> str:
        """Of its weights."""
        return fingerprint_of(self.decoder.model)

    def can_provide(self, need: str) -> bool:
        """The distributions of the next token, as hidden states and head."""
        return need in ("logits", HIDDEN)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str]) -> TeacherSignal:
        """Hidden states [B, T, D] as the tap ``head.in``, and the head.

        Raises:
            NeedsError: Something else is asked for.
        """
        require(needs, self.can_provide, source="a teacher of tokens", remedy="take losses on the distributions of tokens")
        device = device_of(self.decoder.model)
        with torch.no_grad():
            hidden = self.decoder.hidden({name: batch[name].to(device) for name in ("input_ids", "position_ids")})
        return TeacherSignal(taps={HIDDEN: hidden}, head=self.decoder.head)
