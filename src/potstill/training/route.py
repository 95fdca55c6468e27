"""Snapshots of a model while it trains, for students that follow its way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from potstill.training.checkpoints import is_whole

WEIGHTS = "model.safetensors"


class RouteKeeper(TrainerCallback):
    """Keeps the weights of every checkpoint of a stage; the trainer itself keeps the newest ones alone.

    Args:
        folder: Receives ``step-00000120.safetensors`` and so on; links where the disk can link.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take what an earlier sitting saved last, should it have been stopped before it was kept."""
        for checkpoint in Path(args.output_dir).glob("checkpoint-*"):
            if is_whole(checkpoint):
                self._keep(checkpoint)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the weights that were saved just now."""
        if args.should_save:
            self._keep(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _keep(self, checkpoint: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / f"step-{int(checkpoint.name.rpartition('-')[2]):08d}.safetensors"
        if place.exists() or not (checkpoint / WEIGHTS).is_file():
            return
        partial = place.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        try:
            os.link(checkpoint / WEIGHTS, partial)
        except OSError:
            shutil.copyfile(checkpoint / WEIGHTS, partial)
        os.replace(partial, place)


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """`count` of the kept states at equal intervals, the end of the way not among them; all of them where there are fewer.

    Args:
        files: As `RouteKeeper` names them; the last one is the end.

    Example:
        >>> [file.name for file in evenly([Path(f"step-{step}") for step in (2, 4, 6, 8, 10, 12)], 2)]
        ['step-4', 'step-8']
    """
    ordered = sorted(files, key=step_of)
    if len(ordered) - 1 <= count:
        return ordered[:-1]
    last = step_of(ordered[-1])
    chosen: list[Path] = []
    for number in range(1, count + 1):
        wanted = number * last / (count + 1)
        chosen.append(min((one for one in ordered[:-1] if one not in chosen), key=lambda one: abs(step_of(one) - wanted)))
    return sorted(chosen, key=step_of)


def step_of(file: Path) -> int:
    """Optimizer steps done in that state."""
    return int(file.stem.rpartition("-")[2])
