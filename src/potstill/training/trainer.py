"""The trainer of students: a teacher's knowledge and labels, compared by the terms of an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from potstill.contracts.answers import Answers
from potstill.contracts.signal import TeacherSignal
from potstill.errors import TrainingError
from potstill.ground.devices import seeded
from potstill.losses.contract import Loss, StudentView
from potstill.models.taps import Taps
from potstill.tasks import answers_of
from potstill.training import balance as balancing
from potstill.training import checkpoints, evaluation, id_ranges, preparation
from potstill.training import trainer_arguments as given
from potstill.training.columns import ExplainedCollator, KnownColumns
from potstill.training.companions.contract import Companion
from potstill.training.companions.peers import Peers
from potstill.training.objective import NonFiniteLoss, Objective
from potstill.training.objective_trainer import AroundStep, ObjectiveTrainer
from potstill.training.row_plan import RowPlan, read_row_plan
from potstill.training.row_statistics import make_memory
from potstill.training.student_reader import StudentReader, within_forward
from potstill.training.terms import Term, read_terms


class DistillationTrainer(ObjectiveTrainer):
    """Trains a student on a teacher's knowledge; otherwise a `transformers.Trainer`.

    Every term is normalised by its own count over the whole global batch (accumulation × ranks), so the same gradient
    comes out however it is cut. Trained parts of losses live under ``student._distill`` while training: they are wrapped,
    clipped, optimised in their own group and checkpointed, and they are not in the saved student.

    Args:
        model: The student; one in half precision is brought to float32, in place.
        args: Training arguments; they are copied, never changed.
        teacher: A model, a source of knowledge, or None for losses that read labels alone. A model is frozen in place; one in
            another type than float32 is left alone, and a copy in float32 is asked.
        losses: See `read_terms`; by default KL (weight 0.7, τ 2) and cross-entropy (0.3), or `bce` or `regression` of both where
            the model's problem type says so.
        train_dataset: Rows; with an attribute `lengths` they are batched by like length. Columns that neither the forwards
            nor losses nor sources read are left out, unless ``args.remove_unused_columns`` is false.
        eval_dataset: Rows to evaluate on.
        data_collator: Returns tensors by name, with ``labels`` and ``row_id`` where there are any.
        processing_class: Tokenizer or image processor, saved with the student.
        compute_metrics: From an `EvalPrediction` to metrics by name.
        preprocess_logits_for_metrics: From the logits and labels of a batch to what is kept of it for `compute_metrics`.
        average_decay: Evaluate and save the exponential moving average of the weights; None for the weights themselves.
        learning_rate_multiples: Pattern of parameter names (``"classifier.*"``, ``"_distill.*"``) → factor of the learning rate.
        selection: From the metrics of an evaluation to the figure that the best model has most of, logged as ``eval_selection``.
        rows: Easy rows first, or more of those that teach most; see `RowPlan`.
        balance: How terms are weighed against each other: "none", "phases", "gradient_norm" or "uncertainty".
        peers: Other networks that train with the student and replace a teacher; the best of all is left in `model`.
        training_collator: Makes the batches of training, where they differ from those of evaluation.
        class_pairs: Every batch of training holds, with each labelled row, another one of its class.
        companions: Further companions of training; see `training.companions`.
        answers: What the model answers; None for what its class and its problem type say.

    Raises:
        TrainingError: Several GPUs in one process (`DataParallel`), companions that do not fit together, or a teacher that has
            weights in common with the student.

    Example:
        trainer = DistillationTrainer(student, args, teacher=teacher, losses=["kl", {"name": "ce", "weight": 0.3}], …)
        trainer.train()
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments | None = None,
        *,
        teacher: Any = None,
        losses: Sequence[str | Mapping[str, Any] | Term | Loss] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        processing_class: Any = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Any], Tensor] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        average_decay: float | None = None,
        learning_rate_multiples: Mapping[str, float] | None = None,
        selection: Callable[[Mapping[str, float]], float] | None = None,
        rows: RowPlan | Mapping[str, Any] | None = None,
        balance: str = "none",
        peers: Peers | None = None,
        training_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        class_pairs: bool = False,
        companions: Sequence[Companion] = (),
        answers: Answers | None = None,
    ) -> None:
        given.refuse_no_model(model)
        given.refuse_other_types(args, teacher)
        removes_columns = args is None or args.remove_unused_columns
        args = given.own_arguments(args)
        given.refuse_one_model(model, teacher)
        given.bring_to_float32(model)
        self.companions = given.all_companions(companions, teacher, peers, average_decay, class_pairs)
        given.refuse_combinations(self.companions, teacher, average_decay, balance)
        with given.unchanged_config(model):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        self.answers = answers_of(self.model) if answers is None else answers
        if losses is None:
            losses = given.default_losses(self.answers, has_teacher=teacher is not None, companions=self.companions)
        self.objective = Objective(read_terms(losses), args.device)
        self._compute: Any = self.objective
        self.source = given.as_source(teacher, args.device, self.answers)
        training_collator = ExplainedCollator(training_collator or self.data_collator)
        self.data_collator = ExplainedCollator(self.data_collator)
        if removes_columns:
            known = self.model, self.source, self.objective.terms
            self.data_collator = KnownColumns(self.data_collator, *known)
            training_collator = KnownColumns(training_collator, *known)
        for companion in self.companions:
            self.source = companion.source(self.source)
            training_collator = companion.collator(training_collator)
            self._compute = companion.objective(self._compute)
        self._limits: list[id_ranges.Limit | id_ranges.Longest] = []
        self.data_collator = id_ranges.CheckedCollator(self.data_collator, self._limits)
        self.training_collator = id_ranges.CheckedCollator(training_collator, self._limits)
        self.learning_rate_multiples = dict(learning_rate_multiples or {})
        self.selection = selection
        self.row_plan = read_row_plan(rows)
        self.balance = balancing.known(balance)
        self._reader: StudentReader | None = None
        self._memories: list[evaluation.TeacherMemory] = []
        self._is_prepared = False
        self.add_callback(AroundStep(self))

    def prepare(self) -> None:
        """Check what the losses need, learn the shapes from one batch, and build bridges; happens once.

        Raises:
            NeedsError: The student, the teacher or the batches lack what a loss needs.
            Faults: Several things are lacking.
        """
        if self._is_prepared:
            return
        terms = self.objective.terms
        for companion in self.companions:
            companion.check_terms(terms)
        preparation.check_needs(terms, self.model, self.source)
        is_twice = any(term.loss.reads_gradients for term in terms)
        needs = self.objective.needs_student()
        reader = StudentReader(self.model, needs, self.accelerator, self.answers, differentiates_twice=is_twice)
        self._reader = reader
        self._build_companions()
        dataset = self.train_dataset if self.train_dataset is not None else self.eval_dataset
        if dataset is not None and hasattr(dataset, "__len__") and len(dataset) == 0:
            raise TrainingError("there are no rows", "a data set with rows", "look at train_dataset and eval_dataset")
        self._limits += id_ranges.of_tokens(self.model, self.source)
        if dataset is not None:
            collator = self.training_collator if dataset is self.train_dataset else self.data_collator
            batch = self._prepare_inputs(preparation.probe(dataset, collator))
            preparation.check_batch(terms, batch)
            student = preparation.shapes_of_student(reader.taps, reader.inputs(batch), self.answers, batch)
            reader.answer_shape = student.logits[1:]
            preparation.check_answers(terms, batch, student.logits)
            self._limits += id_ranges.of_labels(terms, student.logits[-1], student.modules.get("head"))
            teacher = preparation.shapes_of_teacher(self.source, batch, terms)
            num_rows = len(dataset) if hasattr(dataset, "__len__") else 0
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.args.seed)
                for term in terms:
                    term.loss.prepare(student, teacher if term.loss.needs_teacher() else None, num_rows=num_rows)
        self._attach()
        self.objective.modules.to(self.args.device)
        self.num_weights = sum(parameter.numel() for parameter in self.model.parameters())
        self._is_prepared = True

    def _attach(self) -> None:
        """Weights of rows and factors of terms become part of the objective and of its checkpoints."""
        losses = [term.loss for term in self.objective.terms]
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        memory = None
        if not self.row_plan.is_default and self.train_dataset is not None:
            given_rows = self.row_plan, self.train_dataset, self.data_collator, self.source, self.args, self._prepare_inputs
            memory = make_memory(*given_rows, self.answers)
        self.objective.attach(
            rows=memory,
            balance=balancing.build(self.balance, losses, trained),
            knows_answers=self.source is not None and preparation.provides(self.source, "logits"),
        )

    def _build_companions(self) -> None:
        """Companions make what they need; their networks become part of the objective's checkpoint."""
        for companion in self.companions:
            companion.build(self)
            if companion.networks:
                self.objective.modules[companion.key] = nn.ModuleList(taps.model for taps in companion.networks)
        self.objective.num_networks = 1 + len(self._networks())

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; `resume_from_checkpoint=True` takes the newest whole checkpoint of the output folder.

        Raises:
            TrainingError: A loss is not finite, or the checkpoint belongs to other losses.
        """
        self.prepare()
        set_seed(self.args.seed)
        if resume_from_checkpoint is True:
            newest = checkpoints.newest_checkpoint(self.folder)
            resume_from_checkpoint = str(newest) if newest else None
        with checkpoints.attached(self.model, self.objective.modules):
            for companion in self.companions:
                companion.begin(self)
            try:
                outcome = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
                for companion in self.companions:
                    companion.end(self)
                return outcome
            except NonFiniteLoss as err:
                self._save_stopped(err)
                raise

    def _finalize_training(self, *args: Any) -> Any:
        self.objective.check()
        self.objective.check_gradient()
        for companion in self.companions:
            companion.after_last_step()
        return super()._finalize_training(*args)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """This micro-batch's share of the objective, times the ranks, over which gradients are averaged."""
        self.prepare()
        if num_items_in_batch is None:
            self.objective.begin_step(self.progress, self.objective.count([inputs]))
        signal = self._signal(inputs, self.objective.active_needs_teacher(), trains=True)
        views: list[StudentView] = []

        def compute() -> Tensor:
            reader = self._prepared_reader()
            views.append(reader.view(inputs) if return_outputs or self._wants_answers else reader.inner(inputs))
            return self._compute(views[-1], signal, inputs)

        is_bare = model is self.model
        loss = compute() if is_bare else within_forward(self.model, model, self._prepared_reader().inputs(inputs), compute)
        loss = loss * self.args.world_size if self.args.world_size > 1 else loss
        return (loss, {"logits": views[-1].logits}) if return_outputs else loss

    @property
    def _wants_answers(self) -> bool:
        """Whether the student's logits are read in this step, or its whole forward has to be seen."""
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # their modules count on being left behind in order
        is_whole = self.objective.rows is not None or any(companion.reads_answers for companion in self.companions)
        return is_whole or is_sharded or not self._prepared_reader().can_stop or "logits" in self.objective.needs_student()

    def _prepared_reader(self) -> StudentReader:
        if self._reader is None:
            raise TrainingError("the trainer is not prepared", todo="call train() or evaluate()")
        return self._reader

    def view_of(self, network: Taps, batch: Mapping[str, Any]) -> StudentView:
        """One forward of a network of the student's shape."""
        return self._prepared_reader().view(batch, network)

    def _signal(self, batch: Mapping[str, Any], needs: tuple[str, ...], *, trains: bool = False) -> TeacherSignal | None:
        """The knowledge of a batch, which a source may disturb while the student trains."""
        if not needs:
            return None
        ask = getattr(self.source, "training_signal", self.source.signal) if trains else self.source.signal
        return preparation.to_device(ask(batch, needs), self.args.device)

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
        with seeded(self.args.seed), torch.no_grad(), self._final_weights():  # what a loss draws here, training does not miss
            only_loss = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
            found, metrics = self._measured(dataloader, only_loss=only_loss)
        named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        return EvalLoopOutput(found.predictions, found.labels, named, len(found.positions))

    def _measured(self, dataloader: DataLoader[Any], *, only_loss: bool) -> tuple[evaluation.Predictions, dict[str, float]]:
        """The answers and figures of the student; of the best network where there are more, with the figures of each."""
        fixed = self.source if getattr(self.source, "is_fixed", True) else None  # answers that change are no measure
        has_teacher = fixed is not None and preparation.provides(fixed, "logits")
        fetch, memory = self._signal if has_teacher else None, evaluation.memory_of(self._memories, dataloader.dataset)
        found, metrics, groups = [], [], getattr(dataloader.dataset, "groups", None)
        for network in (None, *self._networks()):
            view = partial(self._prepared_reader().view, network=network)
            main = getattr(self.model, "main_input_name", "input_ids")
            wanted = evaluation.Wanted(main, tuple(self.args.include_for_metrics), self.preprocess_logits_for_metrics)
            one = evaluation.predict(dataloader, self._prepare_inputs, view, self.objective, fetch, memory, self._tick, wanted)
            found.append(evaluation.gathered(one, self.args.world_size))
            compute = None if only_loss else self.compute_metrics
            metrics.append(evaluation.figures(found[-1], self.objective, groups, self.answers.closeness, compute, self.selection))
        return (found[0], metrics[0]) if len(found) == 1 else evaluation.best_network(found, metrics)

    def _tick(self) -> None:
        self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
