"""Who follows training live: trackers of experiments, and callbacks of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback

from potstill.errors import MissingExtra, PotstillError, RecipeError
from potstill.ground.code import find_code
from potstill.ground.tables import at


class Tracker(NamedTuple):
    """A tracker of experiments, as transformers reports to it.

    Args:
        callback: Its callback.
        package: What has to be installed.
    """

    callback: str
    package: str


INTEGRATIONS = "transformers.integrations.integration_utils"
TRACKERS = {
    "tensorboard": Tracker(f"{INTEGRATIONS}:TensorBoardCallback", "tensorboard"),
    "wandb": Tracker(f"{INTEGRATIONS}:WandbCallback", "wandb"),
    "mlflow": Tracker(f"{INTEGRATIONS}:MLflowCallback", "mlflow"),
    "trackio": Tracker(f"{INTEGRATIONS}:TrackioCallback", "trackio"),
}
OF_FILES = "tensorboard"  # writes into a folder


@dataclass(frozen=True)
class Reporting:
    """What is told to whom while a run trains; none of it changes what is trained.

    Args:
        trackers: Names in `TRACKERS`.
        code: Callbacks named as ``package.module:name``.
        callbacks: Callbacks in memory.
        folder: Receives the files of trackers that write some.
    """

    trackers: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    callbacks: tuple[TrainerCallback, ...] = ()
    folder: Path = field(default_factory=Path)

    def of_phase(self, name: str) -> list[TrainerCallback]:
        """New callbacks for a phase of training.

        Raises:
            MissingExtra: A tracker is not installed.
            RecipeError: What code names is no callback.
        """
        check_trackers(self.trackers)
        return [
            *(self._tracker(tracker, name) for tracker in self.trackers),
            *(_callback(code) for code in self.code),
            *self.callbacks,
        ]

    def _tracker(self, tracker: str, phase: str) -> TrainerCallback:
        made = at(TRACKERS[tracker].callback)
        if tracker != OF_FILES:
            return made()  # type: ignore[no-any-return]
        from torch.utils.tensorboard import SummaryWriter

        return made(SummaryWriter(str(self.folder / phase.replace(": ", "-"))))  # type: ignore[no-any-return,no-untyped-call]


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that trackers can be reported to.

    Raises:
        MissingExtra: The package of one is not installed; names it.
    """
    for name in names:
        package = TRACKERS[name].package
        if find_spec(package) is None:
            error = MissingExtra(f"report_to: {name}", "track")
            error.todo = f"pip install {package}, or leave {name} out of report_to"
            raise error


def check_callbacks(names: Sequence[str]) -> None:
    """Make sure that code names callbacks.

    Raises:
        RecipeError: One is none, or cannot be found.
    """
    for name in names:
        _callback(name)


def _callback(name: str) -> TrainerCallback:
    found: Any = find_code(name, wanted="a class on transformers.TrainerCallback, or a function that gives one")
    try:
        made = found()
    except PotstillError:
        raise
    except Exception as err:
        raise RecipeError(
            f"the callback {name} failed: {type(err).__name__}: {err}", "one that needs no arguments", "correct it"
        ) from err
    if not isinstance(made, TrainerCallback):
        raise RecipeError(
            f"{name} gave {type(made).__name__}", "a transformers.TrainerCallback", "build the class on TrainerCallback"
        )
    return made
