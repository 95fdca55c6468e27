"""One phase of training on disk: checkpoints while it runs, the best model when it ends, the same result after a kill."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import EvalPrediction

from potstill.answers.judging import known_rows
from potstill.errors import TrainingError
from potstill.ground import ranks
from potstill.ground.devices import device_of, release_memory, seeded
from potstill.ground.disk import read_json, write_json_atomic
from potstill.losses.contract import Loss
from potstill.models.taps import head_of
from potstill.training.checkpoints import newest_checkpoint
from potstill.training.companions import catalogue as companions
from potstill.training.head_start import ROWS, start_head
from potstill.training.phase_settings import PhaseSettings, total_steps, training_arguments
from potstill.training.precision import Computing, computing_of, fastest_threads, precision_facts
from potstill.training.selection import Patience, chosen_evaluation, selection_figure
from potstill.training.terms import Term
from potstill.training.trainer import DistillationTrainer

Progress = Callable[[int, int, Mapping[str, float]], None]
_PROGRESS_SECONDS = 0.1
_PRECISION_ROWS = 48  # on which bfloat16 is compared with float32


@dataclass
class PhaseOutcome:
    """The result of a phase.

    Args:
        history: What was logged, in order: losses per term, learning rate, evaluations.
        best: The evaluation of the chosen weights; empty without evaluation.
        precision: What it computed in, and what that cost; see `training.precision.precision_facts`.
    """

    model: nn.Module
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    is_resumed: bool = False
    precision: dict[str, Any] = field(default_factory=dict)


def train_phase(
    model: nn.Module,
    *,
    rows: Any,
    collator: Callable[[list[Any]], dict[str, Any]],
    folder: str | Path,
    terms: Sequence[str | Mapping[str, Any] | Term | Loss],
    teacher: Any = None,
    eval_rows: Any = None,
    task: Any = None,
    metric: str | None = None,
    settings: PhaseSettings | None = None,
    on_progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PhaseOutcome:
    """Train `model` in place; called again with the same arguments it goes on where it was, or returns what it had.

    Args:
        model: Teacher (with ``terms=["ce"]``) or student; trained on a GPU where there is one, and left where it was.
        folder: Where checkpoints and the result are kept; of this phase alone.
        terms: The objective, as `DistillationTrainer` takes it.
        teacher: A model, a source of knowledge, or None.
        eval_rows: Rows that decide which weights are kept; None keeps the last.
        task: Measures the evaluation rows: `quality(logits, labels)` gives figures by name, `metric` names the one that decides.
        metric: Which of the task's measures decides; the task's own by default.
        settings: How to train.
        on_progress: Called with ``(steps done, steps in all, newest figures)``.

    Raises:
        TrainingError: A loss is not finite, or there are no rows.
        NeedsError: The losses need what is not there.
    """
    settings, folder = settings or PhaseSettings(), Path(folder)
    if len(rows) == 0:
        raise TrainingError("there are no rows to train on", todo="give a data set with rows")
    folder.mkdir(parents=True, exist_ok=True)
    folder = ranks.from_first(folder.absolute() if ranks.num_ranks() > 1 else folder)
    done = finished(model, folder)
    if done is not None:
        return done
    watch, home = Watch(folder, on_progress), device_of(model)
    probe = collator([rows[index] for index in range(min(settings.batch_size, len(rows)))])
    steps = total_steps(len(rows), settings)
    with fastest_threads(model, probe, folder, steps=steps):
        chosen = computing_of(settings.precision, model, probe, folder, steps=steps) if ranks.is_first() else Computing()
        computing, calls = ranks.from_first(chosen), [watch, *callbacks]
        given = {"losses": terms, "teacher": teacher, "train_dataset": rows, "eval_dataset": eval_rows, "data_collator": collator}
        trainer = _trainer(model, folder, task, metric, settings, computing, calls, given)
        checkpoint = ranks.from_first(newest_checkpoint(trainer.folder))
        if settings.starts_head and (checkpoint is None or settings.select == "fidelity"):  # which may keep what it began with
            start_head(model, trainer.source, _some(rows, collator, settings, ROWS))
        start: dict[str, Tensor] | None = None
        if settings.select == "fidelity":  # training may take the student further from the teacher than it was
            start = {name: value.detach().clone() for name, value in model.state_dict().items()}
        trainer.args.eval_on_start = start is not None and trainer.args.load_best_model_at_end and checkpoint is None
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval()
    best = chosen_evaluation(trainer.state.log_history, keeps_best=trainer.args.load_best_model_at_end)
    if start is not None and best.get("step") == 0:
        model.load_state_dict(start)
    with seeded(settings.seed):
        shown = _some(eval_rows or rows, collator, settings, _PRECISION_ROWS)
        precision = precision_facts(computing, model, shown, trainer.answers)
    outcome = PhaseOutcome(
        model,
        [dict(entry) for entry in trainer.state.log_history],
        best,
        trainer.state.global_step,
        watch.seconds(),
        checkpoint is not None,
        precision,
    )
    ranks.wait_for_all()
    if ranks.is_first():
        keep(outcome, folder)
    ranks.wait_for_all()
    model.to(home)
    del trainer
    release_memory()
    return outcome


def _some(
    rows: Any, collator: Callable[[list[Any]], dict[str, Any]], settings: PhaseSettings, count: int
) -> Iterator[dict[str, Any]]:
    """Batches of at most `count` of the rows, drawn by the seed."""
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(settings.seed))[:count].tolist()
    for start in range(0, len(chosen), settings.batch_size):
        yield collator([rows[index] for index in chosen[start : start + settings.batch_size]])


def _trainer(
    model: nn.Module,
    folder: Path,
    task: Any,
    metric: str | None,
    settings: PhaseSettings,
    computing: Computing,
    callbacks: list[TrainerCallback],
    given: dict[str, Any],
) -> DistillationTrainer:
    eval_rows, num_rows = given["eval_dataset"], len(given["train_dataset"])
    has_choice = eval_rows is not None and len(eval_rows) > 0 and settings.select != "last"
    arguments = training_arguments(settings, folder, num_rows, eval_rows is not None, has_choice, computing.bf16)
    if settings.patience is not None and has_choice:
        callbacks.append(Patience(settings.patience))
    trainer = DistillationTrainer(
        model,
        arguments,
        **given,
        compute_metrics=None if task is None else _labelled_quality(task),
        callbacks=callbacks,
        average_decay=settings.average_decay,
        learning_rate_multiples=_head_multiples(model, settings.head_multiple),
        selection=selection_figure(settings.select, metric or (task.metric if task else None)),
        rows=settings.rows,
        balance=settings.balance,
        companions=companions.build(settings.companions),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _labelled_quality(task: Any) -> Callable[[EvalPrediction], dict[str, float]]:
    def measure(prediction: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return task.quality(logits, labels) if known_rows(labels).any() else {}

    return measure


def _head_multiples(model: nn.Module, multiple: float) -> dict[str, float]:
    head = head_of(model)
    if multiple == 1.0 or head is None:
        return {}
    own = {id(parameter) for parameter in head.parameters()}
    return {name: multiple for name, parameter in model.named_parameters() if id(parameter) in own}


def keep(outcome: PhaseOutcome, folder: Path) -> None:
    """Keep the result; the record is written last, and the checkpoints go then."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in outcome.model.state_dict().items()}
    save_file(tensors, folder / "trained.safetensors")
    record = {key: getattr(outcome, key) for key in ("history", "best", "steps", "seconds", "precision")}
    write_json_atomic(folder / "trained.json", record)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def finished(model: nn.Module, folder: Path) -> PhaseOutcome | None:
    """The result that a phase kept in its folder, its weights loaded into the model; None where it is not done."""
    record = read_json(folder / "trained.json")
    if not isinstance(record, dict):
        return None
    model.load_state_dict(load_file(folder / "trained.safetensors"))
    model.eval()
    return PhaseOutcome(model, record["history"], record["best"], record["steps"], record["seconds"], True, record["precision"])


class Watch(TrainerCallback):
    """Reports progress, evaluates and saves at the very last step, and keeps the time over sittings."""

    def __init__(self, folder: Path, on_progress: Progress | None) -> None:
        self.file = folder / "checkpoints" / "seconds.json"
        self.on_progress = on_progress
        self.figures: dict[str, float] = {}
        self.before, self.start, self.last_reported = self._read(), time.monotonic(), 0.0

    def seconds(self) -> float:
        """Training time up to now, over all sittings up to the checkpoint that each left."""
        return self.before + time.monotonic() - self.start

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = True
        self._report(state, is_last=state.global_step >= state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.figures.update({name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))})

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._report(state, is_last=True)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.should_save:
            write_json_atomic(self.file, {"seconds": self.seconds()})

    def _report(self, state: Any, *, is_last: bool) -> None:
        if self.on_progress is None or (not is_last and time.monotonic() - self.last_reported < _PROGRESS_SECONDS):
            return
        self.last_reported = time.monotonic()
        self.on_progress(state.global_step, state.max_steps, dict(self.figures))

    def _read(self) -> float:
        known = read_json(self.file)
        return float(known["seconds"]) if isinstance(known, dict) and "seconds" in known else 0.0
