"""A transformers.Trainer for an objective of terms: order of rows, optimizer, checkpoints, companions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from potstill.errors import TrainingError
from potstill.ground.devices import LOOKED_UP
from potstill.ground.tables import nearest
from potstill.models.taps import Taps
from potstill.training import checkpoints, order
from potstill.training.companions.contract import Companion
from potstill.training.objective import BALANCE_KEY, NonFiniteLoss, Objective


class ObjectiveTrainer(Trainer):
    """The half of `DistillationTrainer` that knows no teacher.

    Attributes:
        objective: The terms.
        companions: What learns or acts together with the student.
        training_collator: Makes the batches of training.
        learning_rate_multiples: Pattern of parameter names → factor of the learning rate.
    """

    loss_is_scaled_for_ga = True
    args: TrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    objective: Objective
    companions: Sequence[Companion]
    training_collator: Callable[[list[Any]], dict[str, Any]]
    learning_rate_multiples: Mapping[str, float]
    num_weights = 0  # of the student, without what only trains it

    @property
    def folder(self) -> Path:
        """Where checkpoints are written."""
        return Path(self.args.output_dir or "trainer_output")

    def _networks(self) -> list[Taps]:
        """Further networks that learn as the student does."""
        return [network for companion in self.companions for network in companion.networks]

    # -- batches

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device, but for what is only looked up."""
        kept = {name: value for name, value in inputs.items() if name in LOOKED_UP}
        moved = {name: value for name, value in inputs.items() if name not in LOOKED_UP}
        return {**super()._prepare_inputs(moved), **kept}

    def _prepare_input(self, data: Any) -> Any:
        """Copies do not wait for the device, which may still be at the step before."""
        if isinstance(data, Tensor) and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    @property
    def progress(self) -> float:
        """Share of the optimizer steps that are done."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step, and per term the units in all of them on all ranks."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(batch)
        if not batches:
            return batches, None
        counts = self.objective.count(batches)
        if self.args.world_size > 1:
            counts = counts.to(device)
            torch.distributed.all_reduce(counts)
        self.objective.begin_step(self.progress, counts)
        return batches, counts

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches that depend on seed, epoch and rank alone."""
        if self.train_dataset is None or isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        return order.training_loader(
            self.train_dataset,
            self._train_batch_size,
            self.training_collator,
            self.args,
            memory=self.objective.rows,
            companions=self.companions,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches of like length in a fixed order."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None or isinstance(dataset, IterableDataset):
            return super().get_eval_dataloader(dataset)
        return order.evaluation_loader(dataset, self.data_collator, self.args)[1]

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As for evaluation."""
        return self.get_eval_dataloader(test_dataset)

    # -- the step

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Six per weight and input element; the weights are counted once, not every step."""
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        return 6 * main.numel() * self.num_weights if isinstance(main, Tensor) else 0

    def after_step(self) -> None:
        """The weights have moved: companions follow, rows and terms are taken over."""
        self.objective.after_step(self.args.world_size)
        for companion in self.companions:
            companion.after_step()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each term since the last time, as ``loss/<term>``."""
        if "loss" in logs:
            logs.update(self.objective.drain(self.args.world_size))
        super().log(logs, start_time)

    # -- the optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """AdamW in groups: decayed or not (norms and biases), per multiple; the losses' parts are never decayed."""
        if self.optimizer is not None:
            return self.optimizer
        source: Any = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(source))
        groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
        for name, parameter in source.named_parameters():
            if not parameter.requires_grad:
                continue
            own = self._own_name(name)
            is_bridge = own.startswith(checkpoints.PREFIX)
            decay = self.args.weight_decay if name in decayed and not is_bridge else 0.0
            groups.setdefault((is_bridge, decay, self._multiple_of(own)), []).append(parameter)
        self._refuse_idle_patterns([self._own_name(name) for name, _ in source.named_parameters()])
        settings = [
            {"params": parameters, "weight_decay": decay, "lr": self.args.learning_rate * multiple}
            for (_, decay, multiple), parameters in groups.items()
        ]
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, source)
        self.optimizer = optimizer_class(settings, **options)
        return self.optimizer

    def _own_name(self, name: str) -> str:
        """A parameter's name within its network: ``_distill.mutual-peers.0.classifier.weight`` is ``classifier.weight``."""
        starts = (f"{checkpoints.PREFIX}{companion.key}." for companion in self.companions if companion.networks)
        start = next((start for start in starts if name.startswith(start)), None)
        return name if start is None else name[len(start) :].partition(".")[2]

    def _multiple_of(self, name: str) -> float:
        balance = self.objective.balance
        if balance is not None and name.startswith(f"{checkpoints.PREFIX}{BALANCE_KEY}."):
            return balance.learning_rate_multiple
        return next((value for pattern, value in self.learning_rate_multiples.items() if fnmatchcase(name, pattern)), 1.0)

    def _refuse_idle_patterns(self, names: Sequence[str]) -> None:
        """A pattern of learning rates that no parameter has is a mistake."""
        for pattern in self.learning_rate_multiples:
            if not any(fnmatchcase(name, pattern) for name in names) and not pattern.startswith(checkpoints.PREFIX):
                guess = nearest(pattern, names)
                raise TrainingError(
                    f"learning_rate_multiples has the pattern {pattern!r}, which no parameter has",
                    "patterns of names in named_parameters(), or of '_distill.*' for trained parts of losses",
                    f"did you mean {guess!r}?" if guess else "print the names with dict(model.named_parameters())",
                )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Each network's gradient is shortened by its own length, so that no network slows another."""
        others = [[each for each in taps.model.parameters() if each.requires_grad] for taps in self._networks()]
        if not others:
            return super()._clip_grad_norm(model)
        taken = {id(parameter) for group in others for parameter in group}
        own = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
        for group in others:
            nn.utils.clip_grad_norm_(group, self.args.max_grad_norm)
        return self.accelerator.clip_grad_norm_(own, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Also looked at: a length that is not finite would stop all weights without a word."""
        norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(norm, Tensor) and self.accelerator.scaler is None:
            self.objective.watch_gradient(norm)
        return norm

    # -- checkpoints

    @contextlib.contextmanager
    def _final_weights(self) -> Iterator[None]:
        """The student has the weights inside that are evaluated and saved."""
        with contextlib.ExitStack() as stack:
            for companion in self.companions:
                stack.enter_context(companion.weights())
            yield

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = output_dir or str(self.folder)
        with self._final_weights():
            state = checkpoints.without_losses(self.model.state_dict() if state_dict is None else state_dict)
            super()._save(folder, state)
        if self.args.should_save:
            checkpoints.save_state(folder, self.objective.modules, self.companions)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoints.load_renamed(resume_from_checkpoint, self.model)
        checkpoints.load_state(resume_from_checkpoint, self.objective.modules, self.companions)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        checkpoints.load_renamed(str(self.state.best_model_checkpoint), self.model)
        if self._networks():
            checkpoints.load_state(str(self.state.best_model_checkpoint), self.objective.modules, None)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Trained parts of losses, which are kept elsewhere in a checkpoint, are not missed."""
        if load_result.unexpected_keys and isinstance(self.model, PreTrainedModel):
            return  # written under other names, and loaded whole by `load_renamed` at once
        kept_elsewhere = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = [name for name in load_result.missing_keys if name not in kept_elsewhere]
        if len(missing) < len(load_result.missing_keys) and isinstance(self.model, PreTrainedModel):
            self.model.tie_weights()
        super()._issue_warnings_after_load(SimpleNamespace(missing_keys=missing, unexpected_keys=load_result.unexpected_keys))

    def _save_stopped(self, err: NonFiniteLoss) -> None:
        folder = self.folder / f"stopped-at-step-{self.state.global_step}"
        self.save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            stopped = {"step": self.state.global_step, "terms": err.terms, "row_ids": err.row_ids}
            (folder / "stopped.json").write_text(json.dumps(stopped, indent=2), encoding="utf-8")


class AroundStep(TrainerCallback):
    """Stops before the weights move by a loss that is not finite, and calls the trainer after they moved."""

    def __init__(self, trainer: ObjectiveTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.objective.check()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.after_step()
