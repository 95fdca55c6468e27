"""Selection of the weights that a phase keeps: the figure that evaluations are compared by, and the chosen evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from transformers import EarlyStoppingCallback

Selection = Literal["metric", "fidelity", "last"]
_TIE = 1e-6  # a better fit to the teacher breaks ties of the metric, and never outweighs one row


def selection_figure(select: Selection, metric: str | None) -> Callable[[Mapping[str, float]], float]:
    """From the metrics of an evaluation to the figure that the kept weights have most of.

    Args:
        select: What decides.
        metric: The task's measure; where it, or the teacher's answers, are missing, closeness to the teacher or the loss decides.
    """

    def choose(metrics: Mapping[str, float]) -> float:
        divergence = _distance(metrics)
        closeness = None if divergence is None else -divergence
        if select == "fidelity" and closeness is not None:
            return closeness
        if metric is not None and metric in metrics:
            worse = metrics.get("loss", 0.0) if divergence is None else divergence
            return metrics[metric] - _TIE * worse / (1.0 + abs(worse))
        return closeness if closeness is not None else -metrics.get("loss", 0.0)

    return choose


def chosen_evaluation(history: Sequence[Mapping[str, float]], *, keeps_best: bool) -> dict[str, float]:
    """The evaluation of the kept weights: the best one's, else the last; empty where nothing was evaluated.

    Args:
        history: What was logged, in order.
        keeps_best: The best weights were loaded in the end.
    """
    evaluations = [entry for entry in history if "eval_selection" in entry]
    if not evaluations:
        return {}
    return dict(max(evaluations, key=lambda entry: entry["eval_selection"]) if keeps_best else evaluations[-1])


class Patience(EarlyStoppingCallback):
    """Stops after a number of evaluations in a row without gain; those before an interruption count as well."""

    def __init__(self, evaluations: int) -> None:
        super().__init__(early_stopping_patience=evaluations)

    def on_train_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        super().on_train_begin(args, state, control, **options)
        best, self.early_stopping_patience_counter = None, 0
        for entry in state.log_history:
            value = entry.get("eval_selection")
            if value is None or entry.get("step", 0) == 0:  # the untrained model is not waited for
                continue
            is_better = best is None or value > best
            best = value if is_better else best
            self.early_stopping_patience_counter = 0 if is_better else self.early_stopping_patience_counter + 1


def _distance(metrics: Mapping[str, float]) -> float | None:
    """How far the student is from the teacher, in whatever measure fits the answers; None where the teacher was not asked."""
    if "teacher_cosine" in metrics:
        return 1.0 - metrics["teacher_cosine"]
    return metrics.get("teacher_kl", metrics.get("teacher_rmse"))
