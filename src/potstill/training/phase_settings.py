"""Settings of a phase of training, the number of steps that follows, and its `TrainingArguments`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers import TrainingArguments

from potstill.ground import ranks
from potstill.training.checkpoints import CHECKPOINTS
from potstill.training.companions.catalogue import Wanted
from potstill.training.row_plan import RowPlan
from potstill.training.selection import Selection

Precision = Literal["fp32", "bf16", "auto"]
MAX_EVALUATIONS, MIN_EVALUATIONS = 20, 5


@dataclass(frozen=True)
class PhaseSettings:
    """How one phase trains; the defaults fit small encoders.

    Args:
        epochs: Passes over the rows.
        learning_rate: Peak.
        batch_size: Rows per micro-batch and rank.
        accumulation: Micro-batches per optimizer step.
        warmup: Share of the steps over which the rate rises.
        schedule: What the rate does then: "linear", "cosine", "constant_with_warmup" (of transformers).
        seed: Of order, dropout and new weights.
        max_steps: Stop after this number of optimizer steps; None for whole epochs.
        precision: fp32, bf16, or auto: fp32 on a CPU, on a GPU bf16 where the measured step gains.
        select: Keep the model with the best task metric, the one closest to the teacher (the untrained one is asked too), or
            the last.
        patience: Stop after this number of evaluations without gain; None for never.
        evaluations: How often to evaluate and checkpoint; None for once an epoch, at least 5 and at most 20 times.
        weight_decay: Of matrices; norms and biases have none.
        head_multiple: Factor of the learning rate for the final layer, where it is new.
        starts_head: Fit the final layer to the teacher's answers before the first step (`head_start`).
        average_decay: Keep the moving average of the weights; None for the weights themselves.
        max_gradient_norm: Longer gradients are shortened to this.
        workers: Processes that load rows.
        rows: Easy rows first, or more of those that teach most.
        balance: How terms are weighed against each other: "none", "phases", "gradient_norm" or "uncertainty".
        companions: Options of companions by their names in `training.companions.catalogue`.
    """

    epochs: float = 3.0
    learning_rate: float = 5e-5
    batch_size: int = 32
    accumulation: int = 1
    warmup: float = 0.06
    schedule: str = "linear"
    seed: int = 0
    max_steps: int | None = None
    precision: Precision = "fp32"
    select: Selection = "metric"
    patience: int | None = None
    evaluations: int | None = None
    weight_decay: float = 0.01
    head_multiple: float = 1.0
    starts_head: bool = False
    average_decay: float | None = None
    max_gradient_norm: float = 1.0
    workers: int = 0
    rows: RowPlan = field(default_factory=RowPlan)
    balance: str = "none"
    companions: Wanted = field(default_factory=dict)


def usual_evaluations(epochs: float) -> int:
    """How often a phase evaluates and saves by default."""
    return min(MAX_EVALUATIONS, max(MIN_EVALUATIONS, math.ceil(epochs)))


def total_steps(num_rows: int, settings: PhaseSettings) -> int:
    """Optimizer steps of a phase, with as many ranks as there are."""
    if settings.max_steps is not None:
        return settings.max_steps
    batches = math.ceil(math.ceil(num_rows / settings.batch_size) / ranks.num_ranks())
    return max(1, math.ceil(settings.epochs * max(1, math.ceil(batches / settings.accumulation))))


def training_arguments(
    settings: PhaseSettings, folder: Path, num_rows: int, has_evaluation: bool, has_choice: bool, is_half: bool
) -> TrainingArguments:
    """The settings as transformers takes them; with `has_choice` the rows of evaluation choose the weights that are kept."""
    arguments = TrainingArguments(output_dir=str(folder / CHECKPOINTS), report_to=[], disable_tqdm=True, seed=settings.seed)
    steps = total_steps(num_rows, settings)
    times = settings.evaluations or usual_evaluations(settings.epochs)
    interval = max(1, math.ceil(steps / times))
    return TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=max(64, settings.batch_size),
        gradient_accumulation_steps=settings.accumulation,
        warmup_steps=round(settings.warmup * steps),
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=is_half,
        use_cpu=arguments.device.type == "cpu",
        logging_steps=max(1, steps // 50),
        eval_strategy="steps" if has_evaluation else "no",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=has_choice,
        metric_for_best_model="selection" if has_choice else None,
        greater_is_better=True if has_choice else None,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=arguments.device.type != "cpu",
        disable_tqdm=True,
        report_to=[],
    )
