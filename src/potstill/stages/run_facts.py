"""What planning reads of a run, from the results of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.planning.forecast import Forecast, forecast, passes_of
from potstill.planning.phases import RunFacts
from potstill.stages.teacher_snapshots import num_anchors

if TYPE_CHECKING:
    from potstill.stages.context import Run


def run_facts(run: Run) -> RunFacts:
    """The facts of a run whose rows are read."""
    return RunFacts(run.recipe, run.task, run.teacher_config, len(run.label_names), run.answers, num_anchors(run))


def forecast_of(run: Run) -> Forecast | None:
    """The forecast of a run, made once; None where nothing can be said of its models yet."""
    return run._once("forecast", "", lambda: forecast(run_facts(run)))  # type: ignore[no-any-return]


def passes(run: Run) -> float:
    """How often a run will read its rows, over all phases of its method."""
    return passes_of(run.recipe, forecast_of(run))


def check_models(run: Run) -> None:
    """Refuse a method or losses whose needs teacher and student cannot meet, as far as is known before anything is trained.

    Raises:
        PotstillError: As `Forecast.check`.
    """
    foreseen = forecast_of(run)
    if foreseen is not None:
        foreseen.check()
