"""The number of threads that a model trains fastest with: small models lose more by waiting than they gain."""

from __future__ import annotations

import contextlib
import copy
import logging
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill.ground.devices import compute_device
from potstill.ground.disk import read_json, write_json_atomic
from potstill.training.precision import LONG_TRAINING, model_inputs, rounds_for, time_step

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def fastest_threads(model: nn.Module, batch: Mapping[str, Any], folder: Path, *, steps: int = LONG_TRAINING) -> Iterator[int]:
    """Use one thread or all that PyTorch has, whichever trains this model faster, while the block runs.

    The answer is remembered in the folder, so that a resumed run computes alike. Where a GPU trains, all threads are left.

    Args:
        model: The model to be trained; a copy of it is timed.
        batch: One batch as the collator makes it.
        folder: Remembers the answer.
        steps: Of the training, of which measuring may take a small part; a long one by default.
    """
    most = torch.get_num_threads()
    chosen = _remembered(model, batch, folder, most, rounds_for(steps)) if most > 1 and compute_device().type == "cpu" else most
    torch.set_num_threads(chosen)
    try:
        yield chosen
    finally:
        torch.set_num_threads(most)


def _remembered(model: nn.Module, batch: Mapping[str, Any], folder: Path, most: int, rounds: int) -> int:
    file = folder / "threads.json"
    known = read_json(file)
    if isinstance(known, dict) and "threads" in known:
        return min(most, int(known["threads"]))
    seconds: dict[int, list[float]] = {1: [], most: []}
    trial, inputs = copy.deepcopy(model).train(), model_inputs(model, batch)
    for turn in range(rounds + 1):
        for count, times in seconds.items():
            torch.set_num_threads(count)
            spent = time_step(trial, inputs, torch.device("cpu"), is_half=False)
            if turn > 0:
                times.append(spent)
    medians = {count: statistics.median(times) for count, times in seconds.items()}
    chosen = min(medians, key=lambda count: medians[count])
    logger.info("a step takes %s", ", ".join(f"{spent * 1e3:.1f} ms with {count} threads" for count, spent in medians.items()))
    write_json_atomic(file, {"threads": chosen})
    return chosen
