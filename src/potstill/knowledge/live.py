"""The teacher as a live model, asked anew for every batch.

Shapes: B batch, C classes, T tokens, D width.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from potstill.answers.units import head_output
from potstill.contracts.answers import Answers
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TapReader, require
from potstill.errors import ModelError
from potstill.ground.devices import device_of, device_of_batch, exact
from potstill.ground.hardware import bf16_pays
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.frozen import ensure_eval, fingerprint_of, freeze
from potstill.models.inputs import MAIN_INPUTS, InputNames
from potstill.models.weights import in_float32
from potstill.tasks import answers_of

logger = logging.getLogger(__name__)

_HIDDEN = re.compile(r"hidden:(-?\d+)|embedding")
TEACHER_PREFIX = "teacher_"
_NO_INPUT = frozenset({"labels"})


class LiveTeacher:
    """A frozen model that answers every batch.

    At every call it is in eval mode, without gradients, its buffers untouched. It reads its own inputs
    (``teacher_input_ids`` …) where the batch has them, else the student's.

    Args:
        model: A classifier whose forward returns logits, or an object with ``logits``; it is frozen in place. One in another type
            than float32 is left alone: a copy in float32 answers, as if it came from disk. Quantized weights stay as they are.
        tap_reader: Reads intermediate values by need name; without one, only logits and hidden states are at hand.
        dtype: What to compute in: "float32", also inside a caller's autocast; "bfloat16", which moves the logits of small models
            by hundredths; or "auto" (bfloat16 where a measurement says that it pays). The weights stay in float32.
        device: Where it runs, and is moved to when it is first asked. None: where the batches are, if that is a GPU, else where
            it is; so that a teacher on the CPU does not silently hold up a student that trains on a GPU.
        answers: What the model answers; None for what its class and its problem type say.
    """

    def __init__(
        self,
        model: nn.Module,
        tap_reader: TapReader | None = None,
        *,
        dtype: Literal["auto", "float32", "bfloat16"] = "float32",
        device: torch.device | str | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.model = freeze(in_float32(model))
        self.tap_reader = tap_reader
        self.dtype = dtype
        self.home = device
        self.answers = answers_of(self.model) if answers is None else answers

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the model's settings and weights."""
        return fingerprint_of(self.model)

    @functools.cached_property
    def _names(self) -> InputNames:
        return InputNames(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self.model)

    def settle(self, batch: Mapping[str, Any]) -> None:
        """Move the model to where it is to answer this batch; nothing to do from the second batch on."""
        wanted = device_of_batch(batch) if self.home is None else exact(self.home)
        if wanted == self.device or (self.home is None and wanted.type == "cpu"):
            return
        logger.info("the teacher moves from %s to %s", self.device, wanted)
        self.model.to(wanted)

    def computes_in_bf16(self) -> bool:
        """Whether the forward pass runs in bfloat16."""
        if self.dtype == "auto":
            return bf16_pays(self.device.type)
        return self.dtype == "bfloat16"

    def can_provide(self, need: str) -> bool:
        """Logits and hidden states; with a tap reader whatever that reads."""
        return need == "logits" or self.tap_reader is not None or _HIDDEN.fullmatch(need) is not None

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The model's inputs out of a batch, on its device; refuses a batch that has none of them."""
        own = {key[len(TEACHER_PREFIX) :]: value for key, value in batch.items() if key.startswith(TEACHER_PREFIX)}
        known = {key: value for key, value in (own or batch).items() if key in self._names.names or key in MAIN_INPUTS}
        device = self.device
        inputs = {key: value.to(device, non_blocking=True) for key, value in self._names.take(known, leave=_NO_INPUT).items()}
        if not inputs:
            raise ModelError(
                f"the batch has none of the teacher's inputs; it has {', '.join(batch) or 'nothing'}",
                ", ".join(name for name in self._names.names if name not in _NO_INPUT),
                "encode the data with the teacher's processor, under keys that begin with teacher_",
            )
        return inputs

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """Run the model on one batch.

        Returns:
            Logits [B, C] (per unit where the batch has units, see `answers.units`) and taps in float32,
            on the model's device, free of any graph and fit to be used in one.

        Raises:
            NeedsError: A need cannot be met without a tap reader.
        """
        require(
            needs,
            self.can_provide,
            source="a live teacher without a tap reader",
            remedy="LiveTeacher(model, TapReader()), of potstill.models.taps, reads inner values, as DistillationTrainer"
            " does; or choose losses on logits or hidden states",
        )
        ensure_eval(self.model)
        self.settle(batch)
        inputs = self.inputs(batch)
        taps = [need for need in dict.fromkeys(needs) if need != "logits"]
        # Tensors made in inference mode cannot be saved for a student's backward pass, so taps are made without it;
        # logits alone are made in it, which is faster, and copied out.
        precision = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.computes_in_bf16())
        with torch.no_grad() if taps else torch.inference_mode(), precision:
            values = self._forward(inputs, taps, with_logits="logits" in needs or not taps)
        logits = values.pop("logits", None)
        if logits is not None:
            logits, _ = self.answers.arrange({"logits": logits}, self._units(batch))
            logits = logits.float() if not logits.is_inference() else logits.float().clone()
        return TeacherSignal(
            response=None if logits is None or "logits" not in needs else DenseLogits(logits),
            taps={name: value.float() if value.is_floating_point() else value for name, value in values.items()},
            token_mask=inputs.get("attention_mask"),
        )

    def _units(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Where the units of the rows are in the teacher's tokens; in the student's where both read the same."""
        own = {key[len(TEACHER_PREFIX) :]: value for key, value in batch.items() if key.startswith(f"{TEACHER_PREFIX}unit_")}
        return own or batch

    def _forward(self, inputs: Mapping[str, Tensor], taps: list[str], *, with_logits: bool) -> dict[str, Tensor]:
        if self.tap_reader is not None and taps:
            return dict(self.tap_reader.read(self.model, inputs, [*taps, "logits"] if with_logits else taps))
        output = self.model(**inputs, **({"output_hidden_states": True} if taps else {}))
        return {"logits": head_output(output)} | {need: _hidden_state(output.hidden_states, need) for need in taps}


def _hidden_state(states: tuple[Tensor, ...], need: str) -> Tensor:
    """The state of block k: index 0 is the embedding, negative k counts from the last block."""
    index = 0 if need == "embedding" else int(need.partition(":")[2])
    if not -len(states) < index < len(states):
        raise ModelError(f"{need} does not exist in the teacher", f"hidden:0 to hidden:{len(states) - 1}")
    return states[index]
