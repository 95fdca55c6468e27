"""One phase of training of a decoder on disk: goes on after a kill, keeps the best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback

from potstill.errors import TrainingError
from potstill.ground import ranks
from potstill.ground.devices import compute_device, device_of, release_memory
from potstill.training.checkpoints import newest_checkpoint
from potstill.training.language_trainer import LanguageTrainer
from potstill.training.phase_settings import PhaseSettings, training_arguments
from potstill.training.phases import PhaseOutcome, Watch, finished, keep
from potstill.training.selection import chosen_evaluation
from potstill.training.terms import Term


def train_language(
    model: Any,
    *,
    rows: Any,
    collator: Any,
    folder: str | Path,
    terms: Sequence[Term],
    source: Any = None,
    eval_rows: Any = None,
    settings: PhaseSettings,
    on_progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    prepare_batches: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PhaseOutcome:
    """Train a decoder in place; called again with the same arguments it goes on where it was, or returns what it had.

    Args:
        rows: Windows; see `modalities.language.packing.PackedRows`.
        eval_rows: Windows that decide which weights are kept; None keeps the last.

    Raises:
        TrainingError: A loss is not finite, or there are no rows.
    """
    if len(rows) == 0:
        raise TrainingError("there are no rows to train on", todo="give a data set with rows")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folder = ranks.from_first(folder.absolute() if ranks.num_ranks() > 1 else folder)
    done = finished(model, folder)
    if done is not None:
        return done
    watch, home = Watch(folder, on_progress), device_of(model)
    has_choice = eval_rows is not None and len(eval_rows) > 0 and settings.select != "last"
    arguments = training_arguments(settings, folder, len(rows), eval_rows is not None, has_choice, settings.precision == "bf16")
    arguments.per_device_eval_batch_size = settings.batch_size
    trainer = LanguageTrainer(
        model,
        arguments,
        terms=terms,
        source=source,
        train_dataset=rows,
        eval_dataset=eval_rows,
        data_collator=collator,
        callbacks=[watch, *callbacks],
        prepare_batches=prepare_batches,
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = ranks.from_first(newest_checkpoint(trainer.folder))
    if source is not None and hasattr(source, "to"):
        source.to(compute_device())
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    model.eval()
    best = chosen_evaluation(trainer.state.log_history, keeps_best=trainer.args.load_best_model_at_end)
    history = [dict(entry) for entry in trainer.state.log_history]
    outcome = PhaseOutcome(model, history, best, trainer.state.global_step, watch.seconds(), checkpoint is not None)
    ranks.wait_for_all()
    if ranks.is_first():
        keep(outcome, folder)
    ranks.wait_for_all()
    model.to(home)
    del trainer
    release_memory()
    return outcome
