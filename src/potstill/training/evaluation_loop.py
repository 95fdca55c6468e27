"""What the trainer reads and measures: batches in a fixed order, and the student against labels and teacher."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from potstill.contracts.signal import TeacherSignal
from potstill.ground.devices import LOOKED_UP, seeded
from potstill.losses.contract import StudentView
from potstill.training import evaluation, order, preparation
from potstill.training.averaging import WeightAverage
from potstill.training.objective import Objective
from potstill.training.peers import Peers

logger = logging.getLogger(__name__)


class MeasuringTrainer(Trainer):
    """The reading and measuring half of `DistillationTrainer`; it has no objective of its own.

    Attributes:
        objective: The terms, set by the subclass.
        source: The source of knowledge, or None.
        closeness: From the student's and the teacher's answers to figures by name.
        selection: From metrics to the figure that the best model has most of, or None.
    """

    closeness: Callable[[Any, Any], dict[str, float]] = staticmethod(evaluation.fidelity)
    args: TrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    objective: Objective
    source: Any
    selection: Callable[[Mapping[str, float]], float] | None
    peers: Peers | None
    class_pairs: bool
    training_collator: Callable[[list[Any]], dict[str, Any]]
    _average: WeightAverage | None
    _memories: list[evaluation.TeacherMemory]

    def prepare(self) -> None:
        """Make ready what `_view` and `_signal` need."""
        raise TypeError(f"{type(self).__name__} does not define prepare")

    def _view(self, batch: Mapping[str, Any]) -> StudentView:
        raise TypeError(f"{type(self).__name__} does not define _view")

    def _signal(self, batch: Mapping[str, Any], needs: tuple[str, ...]) -> TeacherSignal | None:
        raise TypeError(f"{type(self).__name__} does not define _signal")

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

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches that depend on seed, epoch and rank alone."""
        if self.train_dataset is None or isinstance(self.train_dataset, IterableDataset):
            return super().get_train_dataloader()
        batches = order.training_batches(
            self.train_dataset,
            self._train_batch_size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            drop_last=self.args.dataloader_drop_last,
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
            memory=self.objective.rows,
            class_pairs=self.class_pairs,
            total_batches=self._total_batches(len(self.train_dataset)),
        )
        return order.loader(self.train_dataset, batches, self.training_collator, self.args)

    def _total_batches(self, num_rows: int) -> float:
        """Batches of all ranks in the whole training."""
        if self.args.max_steps > 0:
            return float(self.args.max_steps * self.args.gradient_accumulation_steps * self.args.world_size)
        return self.args.num_train_epochs * -(-num_rows // self._train_batch_size)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Batches of like length in a fixed order."""
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None or isinstance(dataset, IterableDataset):
            return super().get_eval_dataloader(dataset)
        batches = order.FixedBatches(
            len(dataset),
            self.args.eval_batch_size,
            lengths=getattr(dataset, "lengths", None),
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )
        return order.loader(dataset, batches, self.data_collator, self.args)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """As for evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Task metric, distillation loss, and agreement and mean KL where the teacher knows the rows."""
        self.prepare()
        self.objective.set_progress(self.progress)
        self.model.eval()
        self.objective.modules.eval()  # no part of the model outside of training
        self.callback_handler.eval_dataloader = dataloader
        with seeded(self.args.seed), torch.no_grad(), self._averaged():  # what a loss draws here, training does not miss
            found = self._predictions(dataloader, self._view)
            metrics = self._metrics(found, getattr(dataloader.dataset, "groups", None))
            if self.peers is not None:
                found, metrics = self._best_of_peers(dataloader, found, metrics)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(found.logits, found.labels, named, len(found.positions))

    def _predictions(self, dataloader: DataLoader[Any], network: evaluation.Student) -> evaluation.Predictions:
        """What one network says of every row, beside the teacher's answers where there is one that stays as it is."""
        is_fixed = self.source is not None and getattr(self.source, "is_fixed", True)
        has_teacher = is_fixed and preparation.provides(self.source, "logits")
        fetch = self._signal if has_teacher else None
        memory = self._memory_of(dataloader.dataset)
        found = evaluation.predict(dataloader, self._prepare_inputs, network, self.objective, fetch, memory, self._tick)
        return evaluation.gathered(found, self.args.world_size)

    def _best_of_peers(
        self, dataloader: DataLoader[Any], first: evaluation.Predictions, metrics: dict[str, float]
    ) -> tuple[evaluation.Predictions, dict[str, float]]:
        """The answers and figures of the best network, with those of each beside them as ``peer_<number>_<figure>``."""
        assert self.peers is not None
        self.peers.others.eval()
        all_found, all_metrics = [first], [metrics]
        for number in range(2, self.peers.count + 1):
            all_found.append(self._predictions(dataloader, functools.partial(self.peers.view, number)))
            all_metrics.append(self._metrics(all_found[-1], getattr(dataloader.dataset, "groups", None)))
        figures = [each.get("selection", -each.get("loss", 0.0)) for each in all_metrics]
        best = max(range(len(figures)), key=figures.__getitem__)
        single = {f"peer_{k}_{name}": value for k, each in enumerate(all_metrics, start=1) for name, value in each.items()}
        return all_found[best], {**all_metrics[best], "best_peer": float(best + 1), **single}

    def _metrics(self, found: evaluation.Predictions, groups: np.ndarray | None = None) -> dict[str, float]:
        metrics = evaluation.loss_of(self.objective, found)
        if found.teacher_logits is not None:
            metrics.update(self.closeness(*found.counted(found.logits, found.teacher_logits)))
        if self.compute_metrics is not None and found.labels is not None:
            logits, labels = (found.logits, found.labels) if groups is None else found.of_texts(groups)
            metrics.update(self.compute_metrics(EvalPrediction(predictions=logits, label_ids=labels)))
        if self.selection is not None:
            metrics["selection"] = self.selection(metrics)
        return metrics

    def _memory_of(self, dataset: Any) -> evaluation.TeacherMemory:
        for memory in self._memories:
            if memory.dataset is dataset:
                return memory
        self._memories.append(evaluation.TeacherMemory(dataset))
        return self._memories[-1]

    def _tick(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self._average.applied() if self._average is not None else contextlib.nullcontext()
