"""Precision and threads of training, chosen by the time of a step, and what bfloat16 costs in fidelity.

Shapes: N answers, C numbers of an answer.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div
from transformers import TrainingArguments

from potstill.answers.units import FLOOR
from potstill.contracts.answers import Answers
from potstill.ground.counted import counted
from potstill.ground.devices import compute_device, device_of, frozen
from potstill.ground.disk import read_json, write_json_atomic
from potstill.ground.hardware import bf16_pays
from potstill.models.inputs import MAIN_INPUTS, InputNames, logits_of

logger = logging.getLogger(__name__)

WORTHWHILE_SHARE = 0.8  # bfloat16 must save a fifth of the step before it is worth its rounding
ROUNDS, MEASURING_SHARE = 4, 0.05
LONG_TRAINING = 1000
_IS_HALF = {"fp32": False, "bf16": True, "auto": None}  # None: what a measurement says
Way = TypeVar("Way")


@dataclass(frozen=True)
class Computing:
    """What a phase computes in.

    Args:
        bf16: In bfloat16, not in float32.
        step_fp32_ms: Milliseconds of a step in float32; None where none was timed.
        step_bf16_ms: The same in bfloat16.
    """

    bf16: bool = False
    step_fp32_ms: float | None = None
    step_bf16_ms: float | None = None


def computing_of(
    precision: str, model: nn.Module, batch: Mapping[str, Any], folder: Path, *, steps: int = LONG_TRAINING
) -> Computing:
    """What was asked; for "auto" float32 on a CPU, on a GPU what was measured, remembered so that a resumed run computes alike.

    On a CPU the answers of small models in bfloat16 differ by hundredths of a logit, so it is taken only where it is asked for.

    Args:
        model: The model to be trained; a copy of it is timed, unless the answer is float32 without a measurement.
        steps: Of the training, of which measuring may take a small part; a long one by default.
    """
    device, is_half = TrainingArguments(output_dir=str(folder), report_to=[]).device, _IS_HALF[precision]
    if not is_half and (is_half is not None or device.type == "cpu"):
        return Computing()
    file = folder / "precision.json"
    known = read_json(file)
    if isinstance(known, dict) and known.keys() == {part.name for part in fields(Computing)}:
        return Computing(**known)
    found = Computing()
    if is_half or bf16_pays(device.type):
        full, half = step_seconds(model, model_inputs(model, batch), device, rounds=rounds_for(steps))
        found = Computing(is_half or half < WORTHWHILE_SHARE * full, full * 1e3, half * 1e3)
    write_json_atomic(file, asdict(found))
    return found


def rounds_for(steps: int) -> int:
    """How often to time a step of each of two ways before `steps` of them are made: at least once, after one that is not counted.

    Example:
        >>> rounds_for(30), rounds_for(90), rounds_for(1000)
        (1, 2, 4)
    """
    return min(ROUNDS, max(1, round(MEASURING_SHARE * steps / 2)))


def step_seconds(
    model: nn.Module, inputs: Mapping[str, Any], device: torch.device, *, rounds: int = ROUNDS
) -> tuple[float, float]:
    """Median seconds of forward and backward of this model on this batch, in float32 and in bfloat16."""
    trial = copy.deepcopy(model).to(device).train()
    batch = {name: value.to(device) for name, value in inputs.items()}
    full, half = _medians((False, True), lambda is_half: time_step(trial, batch, device, is_half=is_half), rounds).values()
    logger.info("a step takes %.1f ms in float32 and %.1f ms in bfloat16", full * 1e3, half * 1e3)
    return full, half


def _medians(ways: Iterable[Way], timed: Callable[[Way], float], rounds: int) -> dict[Way, float]:
    """Median seconds of each way, timed in turns, after a first turn that is not counted."""
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, times in seconds.items():
            spent = timed(way)
            if turn > 0:
                times.append(spent)
    return {way: statistics.median(times) for way, times in seconds.items()}


@contextlib.contextmanager
def fastest_threads(model: nn.Module, batch: Mapping[str, Any], folder: Path, *, steps: int = LONG_TRAINING) -> Iterator[int]:
    """Use one thread or all that PyTorch has, whichever trains this model faster, while the block runs.

    The answer is remembered in the folder, so that a resumed run computes alike. Where a GPU trains, all threads are left.
    """
    most = torch.get_num_threads()
    chosen = _best_threads(model, batch, folder, most, rounds_for(steps)) if most > 1 and compute_device().type == "cpu" else most
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(most)


def _best_threads(model: nn.Module, batch: Mapping[str, Any], folder: Path, most: int, rounds: int) -> int:
    file = folder / "threads.json"
    known = read_json(file)
    if isinstance(known, dict) and "threads" in known:
        return min(most, int(known["threads"]))
    trial, inputs = copy.deepcopy(model).train(), model_inputs(model, batch)

    def timed(count: int) -> float:
        torch.set_num_threads(count)
        return time_step(trial, inputs, torch.device("cpu"), is_half=False)

    medians = _medians((1, most), timed, rounds)
    chosen = min(medians, key=lambda count: medians[count])
    logger.info(
        "a step takes %s", ", ".join(f"{spent * 1e3:.1f} ms with {counted(count, 'thread')}" for count, spent in medians.items())
    )
    write_json_atomic(file, {"threads": chosen})
    return chosen


def precision_facts(
    computing: Computing, model: nn.Module, batches: Iterable[Mapping[str, Any]], answers: Answers
) -> dict[str, Any]:
    """What a phase computed in, what a step took, and what bfloat16 costs in fidelity; see `rounding_cost`.

    Args:
        model: As it was trained, on the device that trained it.
        batches: Of some rows, read only where the phase computed in bfloat16.
        answers: What it answers.
    """
    cost = rounding_cost(model, batches, answers) if computing.bf16 else {}
    steps = {"step_fp32_ms": computing.step_fp32_ms, "step_bf16_ms": computing.step_bf16_ms}
    return {"computed_in": "bf16" if computing.bf16 else "fp32", **steps, **cost}


def rounding_cost(model: nn.Module, batches: Iterable[Mapping[str, Any]], answers: Answers) -> dict[str, Any]:
    """How far a model's answers in bfloat16 are from those in float32.

    Returns:
        ``rows``, ``largest_difference`` and ``mean_difference`` of a number of an answer (a logit); of classes also
        ``mean_kl_nats``, KL(float32 ‖ bfloat16), and ``same_decisions``, the share of answers whose class is the same.
    """
    rows, differences, divergences, agreements = 0, [], [], []
    with frozen(model):
        for batch in batches:
            full, half = (_answers(model, batch, answers, is_half=is_half) for is_half in (False, True))
            rows += len(batch["row_id"]) if "row_id" in batch else len(full)
            differences.append((half - full)[full > FLOOR].abs())
            divergences.append(kl_div(half.log_softmax(-1), full.log_softmax(-1), reduction="none", log_target=True).sum(-1))
            agreements.append((half.argmax(-1) == full.argmax(-1)).float())
    apart = torch.cat(differences)
    found = {"rows": rows, "largest_difference": float(apart.max()), "mean_difference": float(apart.mean())}
    if not answers.is_distribution:
        return found
    divergence = float(torch.cat(divergences).mean().clamp_min(0))
    return {**found, "mean_kl_nats": divergence, "same_decisions": float(torch.cat(agreements).mean())}


def rounding_note(facts: Mapping[str, Any]) -> str | None:
    """A line on what bfloat16 gained and cost in a phase; None where it computed in float32."""
    if "largest_difference" not in facts:
        return None
    same = f", {facts['same_decisions']:.1%} of decisions are equal" if "same_decisions" in facts else ""
    return (
        f"trained in bfloat16: a step takes {facts['step_bf16_ms']:.1f} ms, in float32 {facts['step_fp32_ms']:.1f} ms;"
        f" answers to {facts['rows']} rows differ by at most {facts['largest_difference']:.2g}{same}"
    )


def _answers(model: nn.Module, batch: Mapping[str, Any], answers: Answers, *, is_half: bool) -> Tensor:
    """Answers [N, C] of the units that count, in float32 numbers on the CPU."""
    device = device_of(model)
    inputs = {name: value.to(device) for name, value in model_inputs(model, batch).items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half):
        logits = logits_of(model(**inputs))
    found, mask = answers.arrange({"logits": logits.float().cpu()}, batch)
    return found if mask is None else found[mask]


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
