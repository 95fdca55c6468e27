"""The trainer of decoders: an objective over the learned tokens, computed from hidden states and the head.

Shapes: B windows, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, TrainingError
from potstill.ground.devices import seeded
from potstill.losses.contract import StudentView
from potstill.models.decoder import Decoder
from potstill.training import checkpoints, preparation
from potstill.training import trainer_arguments as given
from potstill.training.companions.contract import Companion
from potstill.training.language_figures import HIDDEN, TokenFigures
from potstill.training.objective import NonFiniteLoss, Objective
from potstill.training.objective_trainer import AroundStep, ObjectiveTrainer
from potstill.training.student_reader import within_forward
from potstill.training.terms import Term


class LanguageTrainer(ObjectiveTrainer):
    """Trains a decoder on tokens and on a teacher's distributions over them; otherwise a `transformers.Trainer`.

    Every term is divided by the learned tokens of the whole global batch (accumulation × ranks), counted after batches were
    prepared, so the same gradient comes out however the batch is cut. The student's logits are never held at once.

    Args:
        model: The student: a causal language model, plain or with adapters of peft.
        args: Training arguments; they are copied, never changed.
        terms: The objective, of token losses.
        source: Who knows the distributions: a `LanguageTeacher`, a cache of tokens, or None for losses that read tokens alone.
        train_dataset: Windows, with an attribute `lengths`.
        eval_dataset: Windows to evaluate on.
        data_collator: Makes a batch: ``input_ids``, ``position_ids``, ``targets``, all [B, T].
        prepare_batches: Changes the micro-batches of an optimizer step before they are counted: samples of the student, for
            example.

    Raises:
        TrainingError: Several GPUs in one process, or a teacher that has weights in common with the student.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments | None = None,
        *,
        terms: Sequence[Term],
        source: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]],
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        prepare_batches: Callable[[LanguageTrainer, list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
    ) -> None:
        args = given.own_arguments(args)
        self.companions: Sequence[Companion] = ()
        with given.unchanged_config(model):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
            )
        self.decoder = Decoder(model)
        self.source, self.prepare_batches = source, prepare_batches
        self.training_collator = data_collator
        self.learning_rate_multiples: dict[str, float] = {}
        self.objective = Objective(terms, args.device)
        self.objective.modules.to(args.device)
        self.num_weights = sum(parameter.numel() for parameter in model.parameters())
        if source is None and self.objective.needs_teacher():
            raise NeedsError("a term reads a teacher's distributions, and no teacher was given", todo="give source=…")
        self.add_callback(AroundStep(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """Train; `resume_from_checkpoint=True` takes the newest whole checkpoint of the output folder.

        Raises:
            TrainingError: A loss is not finite.
        """
        set_seed(self.args.seed)
        if resume_from_checkpoint is True:
            newest = checkpoints.newest_checkpoint(self.folder)
            resume_from_checkpoint = str(newest) if newest else None
        with checkpoints.attached(self.model, self.objective.modules):
            try:
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
            except NonFiniteLoss as err:
                self._save_stopped(err)
                raise

    def _finalize_training(self, *args: Any) -> Any:
        self.objective.check()
        self.objective.check_gradient()
        return super()._finalize_training(*args)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, changed where that is asked for, and then counted over all ranks."""
        if self.prepare_batches is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        drawn = [batch for batch, _ in zip(epoch_iterator, range(num_batches))]
        return super().get_batch_samples(iter(self.prepare_batches(self, drawn)), len(drawn), device)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the objective, times the ranks, over which gradients are averaged."""
        if num_items_in_batch is None:
            self.objective.begin_step(self.progress, self.objective.count([inputs]))
        signal = self._signal(inputs, self.objective.active_needs_teacher())

        def compute() -> Tensor:
            with self.accelerator.autocast():
                view = self.view(inputs)
            return self.objective(view, signal, inputs)

        feed = {"input_ids": inputs["input_ids"]}
        loss = compute() if model is self.model else within_forward(self.model, model, feed, compute)
        loss = loss * self.args.world_size if self.args.world_size > 1 else loss
        return (loss, {}) if return_outputs else loss

    def view(self, batch: Mapping[str, Any]) -> StudentView:
        """One forward of the student: its hidden states and its head."""
        hidden = self.decoder.hidden(batch)
        nowhere = torch.full((1, 1), float("nan"), device=hidden.device).expand(*hidden.shape[:2])
        return StudentView(nowhere, {HIDDEN: hidden}, head=self.decoder.head)

    def _signal(self, batch: Mapping[str, Any], needs: tuple[str, ...]) -> TeacherSignal | None:
        if not needs:
            return None
        return preparation.to_device(self.source.signal(batch, needs), self.args.device)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss and perplexity over the learned tokens, and closeness to a teacher that can be asked."""
        self.model.eval()
        can_ask = self.source is not None and getattr(self.source, "gives_hidden", False)
        figures, rows = TokenFigures(has_teacher=can_ask), 0
        with seeded(self.args.seed), torch.no_grad():
            for batch in dataloader:
                batch = self._prepare_inputs(batch)
                with self.accelerator.autocast():
                    view = self.view(batch)
                signal = self._signal(batch, ("logits",)) if can_ask else None
                assert view.head is not None
                figures.update(view.taps[HIDDEN], view.head, batch["targets"], signal)
                rows += len(batch["targets"])
                self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            totals = figures.tensor().to(self.args.device)
            torch.distributed.all_reduce(totals)
            figures.load(totals)
        found = figures.figures()
        if not found:
            raise TrainingError("no token of the evaluation rows is learned", todo="give rows with answers")
        found["selection"] = -found.get("teacher_kl", found["loss"])
        return EvalLoopOutput(np.zeros(0), None, {f"{metric_key_prefix}_{name}": value for name, value in found.items()}, rows)
