"""Who follows training live: trackers of experiments, and callbacks of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from transformers import TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback, WandbCallback

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


class WandbRun(WandbCallback):
    """Weights & Biases with a run for each phase, where the user has not begun one."""

    _is_own = False

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begins the run."""
        self._is_own = self._wandb.run is None
        super().on_train_begin(args, state, control, model=model, **kwargs)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        """Ends the run, so that the next phase does not go on in it from step 0."""
        super().on_train_end(args, state, control, model=model, processing_class=processing_class, **kwargs)
        if self._is_own and state.is_world_process_zero:
            self._wandb.finish()


class MlflowRun(MLflowCallback):
    """MLflow with names that it can keep: its files hold ``loss`` or ``loss/kl``, not both."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **kwargs: Any) -> None:
        """Logs ``loss/kl`` as ``loss_kl``."""
        super().on_log(args, state, control, {name.replace("/", "_"): value for name, value in logs.items()}, model, **kwargs)


class RunName(TrainerCallback):
    """Names the run of the trackers that follow it.

    Args:
        name: Of the run; the time is added.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the name before the trackers read it."""
        args.run_name = f"{self.name}, {datetime.now():%Y-%m-%d %H:%M:%S}"


INTEGRATIONS = "transformers.integrations.integration_utils"
HERE = "potstill.training.reporting"
TRACKERS = {
    "tensorboard": Tracker(f"{INTEGRATIONS}:TensorBoardCallback", "tensorboard"),
    "wandb": Tracker(f"{HERE}:WandbRun", "wandb"),
    "mlflow": Tracker(f"{HERE}:MlflowRun", "mlflow"),
    "trackio": Tracker(f"{INTEGRATIONS}:TrackioCallback", "trackio"),
}
OF_FILES = "tensorboard"  # writes into a folder


@dataclass(frozen=True)
class Reporting:
    """Who follows a run while it trains; none of it changes what is trained.

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
            *([RunName(f"{self.folder.parent.name}: {name}")] if self.trackers else []),
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
