"""Whether training in bfloat16 is faster here, by timing real steps of the real model."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from potstill.disk import read_json, write_json_atomic
from potstill.hardware import bf16_pays
from potstill.teacher.inputs import MAIN_INPUTS, InputNames
from potstill.training.taps import logits_of

logger = logging.getLogger(__name__)

WORTHWHILE_SHARE = 0.8  # bfloat16 must save a fifth of the step before it is worth its rounding
ROUNDS, MEASURING_SHARE = 4, 0.05
LONG_TRAINING = 1000


def computes_in_bf16(
    precision: str, model: nn.Module, batch: Mapping[str, Any], folder: Path, *, steps: int = LONG_TRAINING
) -> bool:
    """What was asked; for "auto" what was measured, remembered so that a resumed run computes alike.

    Args:
        precision: "fp32", "bf16" or "auto".
        model: The model to be trained; a copy of it is timed.
        batch: One batch as the collator makes it.
        folder: Remembers the answer.
        steps: Of the training, of which measuring may take a small part; a long one by default.
    """
    if precision != "auto":
        return precision == "bf16"
    file = folder / "precision.json"
    known = read_json(file)
    if isinstance(known, dict) and "bf16" in known:
        return bool(known["bf16"])
    device = TrainingArguments(output_dir=str(folder), report_to=[]).device
    pays = bf16_pays(device.type) and step_gains(model, model_inputs(model, batch), device, rounds=rounds_for(steps))
    write_json_atomic(file, {"bf16": pays})
    return pays


def rounds_for(steps: int, ways: int = 2) -> int:
    """How often to time a step of each of `ways` before `steps` of them are made: at least once, after one that is not counted.

    Example:
        >>> rounds_for(30), rounds_for(90), rounds_for(1000)
        (1, 2, 4)
    """
    return min(ROUNDS, max(1, round(MEASURING_SHARE * steps / ways)))


def step_gains(model: nn.Module, inputs: Mapping[str, Any], device: torch.device, *, rounds: int = ROUNDS) -> bool:
    """Whether forward and backward of this model on this batch are faster in bfloat16 by more than noise."""
    trial = copy.deepcopy(model).to(device).train()
    batch = {name: value.to(device) for name, value in inputs.items()}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds + 1):
        for is_half in (False, True):
            spent = time_step(trial, batch, device, is_half=is_half)
            if turn > 0:
                seconds[is_half].append(spent)
    full, half = statistics.median(seconds[False]), statistics.median(seconds[True])
    logger.info("a step takes %.1f ms in float32 and %.1f ms in bfloat16", full * 1e3, half * 1e3)
    return half < WORTHWHILE_SHARE * full


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch the model takes, labels left out."""
    names = InputNames(model)
    known = {name: value for name, value in batch.items() if name in names.names or name in MAIN_INPUTS}
    return names.take(known, leave=frozenset({"labels"}))


def time_step(model: nn.Module, batch: Mapping[str, Any], device: torch.device, *, is_half: bool) -> float:
    """Seconds of one forward and backward."""
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half):
        loss = logits_of(model(**batch)).float().square().mean()
    loss.backward()
    model.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
