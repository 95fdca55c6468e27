"""The one training loop: a transformers.Trainer whose loss is a sum of normalised distillation terms."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import EvalPrediction

from potstill.answers.units import answers_of
from potstill.contracts.signal import TeacherSignal
from potstill.data.collate import NOT_INPUTS
from potstill.errors import TrainingError
from potstill.ground.tables import nearest
from potstill.losses.contract import Loss, StudentView
from potstill.models.inputs import InputNames
from potstill.models.taps import Taps
from potstill.training import balance as balancing
from potstill.training import checkpoints, evaluation, preparation
from potstill.training import id_ranges as row_limits
from potstill.training import trainer_arguments as given
from potstill.training.averaging import WeightAverage
from potstill.training.evaluation_loop import MeasuringTrainer
from potstill.training.objective import BALANCE_KEY, NonFiniteLoss, Objective
from potstill.training.peers import KEY as PEERS_KEY
from potstill.training.peers import Peers, own_name
from potstill.training.row_measures import kind_of_answers
from potstill.training.row_plan import RowPlan, read_row_plan
from potstill.training.row_statistics import make_memory
from potstill.training.self_average import SelfAverage
from potstill.training.terms import Term, read_terms

logger = logging.getLogger(__name__)


class DistillationTrainer(MeasuringTrainer):
    """Trains a student on a teacher's knowledge; otherwise a `transformers.Trainer`.

    Every term is normalised by its own count over the whole global batch (accumulation × ranks), so the same gradient
    comes out however it is cut. Trained parts of losses live under ``student._distill`` while training: they are wrapped,
    clipped, optimised in their own group and checkpointed, and they are not in the saved student.

    Args:
        model: The student.
        args: Training arguments; they are copied, never changed.
        teacher: A model (put at rest, in place), a source of knowledge, or None for losses that read labels alone.
        losses: See `read_terms`; by default KL (weight 0.7, τ 2) and cross-entropy (0.3), or `bce` or `regression` of both where
            the model's problem type says so.
        train_dataset: Rows; with an attribute `lengths` they are batched by like length.
        eval_dataset: Rows to evaluate on.
        data_collator: Returns tensors by name, with ``labels`` and ``row_id`` where there are any.
        processing_class: Tokenizer or image processor, saved beside the student.
        compute_metrics: From an `EvalPrediction` to metrics by name.
        callbacks: Of transformers.
        optimizers: An optimizer and scheduler of your own.
        average_decay: Evaluate and save the exponential moving average of the weights; None for the weights themselves.
        learning_rate_multiples: Pattern of parameter names (``"classifier.*"``, ``"_distill.*"``) → factor of the learning rate.
        selection: From the metrics of an evaluation to the figure that the best model has most of, told as ``eval_selection``.
        rows: Easy rows first, or more of those that teach most; see `RowPlan`.
        balance: How terms are weighed against each other: "none", "phases", "gradient_norm" or "uncertainty".
        peers: Other networks that train beside the student, in place of a teacher; the best of all is left in `model`.
        training_collator: Makes the batches of training, where they differ from those of evaluation.
        class_pairs: Every batch of training holds, beside each labelled row, another one of its class.

    Raises:
        TrainingError: Several GPUs in one process (`DataParallel`), peers together with a teacher or an average, or a teacher
            that has weights in common with the student.

    Example:
        trainer = DistillationTrainer(student, args, teacher=teacher, losses=["kl", {"name": "ce", "weight": 0.3}], …)
        trainer.train()
    """

    loss_is_scaled_for_ga = True

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
    ) -> None:
        args = given.own_arguments(args)
        given.refuse_one_model(model, teacher)
        given.refuse_beside_peers(peers, teacher, average_decay, balance)
        with given.unchanged_config(model):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        if losses is None:
            losses = given.default_losses(model, has_teacher=teacher is not None, has_peers=peers is not None)
        self.objective = Objective(read_terms(losses), args.device)
        self.source = given.as_source(teacher, args.device) if peers is None else peers
        self.peers, self.class_pairs = peers, class_pairs
        self._limits: list[row_limits.Limit] = []
        self.data_collator = row_limits.CheckedCollator(self.data_collator, self._limits)
        self.training_collator = self.data_collator
        if training_collator is not None:
            self.training_collator = row_limits.CheckedCollator(training_collator, self._limits)
        self.average_decay = average_decay
        self.learning_rate_multiples = dict(learning_rate_multiples or {})
        self.selection = selection
        self.closeness = given.closeness_of(kind_of_answers(self.model))
        self.row_plan = read_row_plan(rows)
        self.balance = balancing.known(balance)
        self._average: WeightAverage | None = None
        self._taps: Taps | None = None
        self._names = InputNames(self.model)
        self._roles: Mapping[str, nn.Module] = {}
        self._answer_shape: tuple[int, ...] = ()
        self._memories: list[evaluation.TeacherMemory] = []
        self._num_weights = 0
        self.add_callback(_AroundStep(self))

    @property
    def folder(self) -> Path:
        """Where checkpoints are written."""
        return Path(self.args.output_dir or "trainer_output")

    # -- before the first step

    def prepare(self) -> None:
        """Check what the losses need, learn the shapes from one batch, and build bridges; happens once.

        Raises:
            NeedsError: The student, the teacher or the batches lack what a loss needs.
            Faults: Several things are lacking.
        """
        if self._taps is not None:
            return
        terms = self.objective.terms
        if self.peers is not None:
            preparation.check_peers(terms)
        preparation.check_needs(terms, self.model, self.source)
        self._build_beside()
        dataset = self.train_dataset if self.train_dataset is not None else self.eval_dataset
        if dataset is not None and hasattr(dataset, "__len__") and len(dataset) == 0:
            raise TrainingError("there are no rows", "a data set with rows", "look at train_dataset and eval_dataset")
        taps = Taps(self.model, self.objective.needs_student())
        self._limits += row_limits.of_tokens(self.model, self.source)
        if dataset is not None:
            batch = self._prepare_inputs(self._probe(dataset))
            preparation.check_batch(terms, batch)
            student = preparation.shapes_of_student(taps, self._student_inputs(batch), batch)
            self._answer_shape = student.logits[1:]
            preparation.check_rows(terms, student.logits)
            preparation.check_labels(terms, batch, student.logits)
            self._limits += row_limits.of_labels(terms, student.logits[-1], student.modules.get("head"))
            teacher = preparation.shapes_of_teacher(self.source, batch, terms)
            num_rows = len(dataset) if hasattr(dataset, "__len__") else 0
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.args.seed)
                for term in terms:
                    term.loss.prepare(student, teacher if term.loss.needs_teacher() else None, num_rows=num_rows)
        self._attach()
        self.objective.modules.to(self.args.device)
        self._roles = preparation.student_modules(self.model)
        self._num_weights = sum(p.numel() for p in self.model.parameters())
        self._taps = taps

    def _attach(self) -> None:
        """Weights of rows and factors of terms become part of the objective and of its checkpoints."""
        losses = [term.loss for term in self.objective.terms]
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        memory = None
        if not self.row_plan.is_default and self.train_dataset is not None:
            given_rows = self.row_plan, self.train_dataset, self.data_collator, self.source, self.args, self._prepare_inputs
            memory = make_memory(*given_rows, kind=kind_of_answers(self.model))
        self.objective.attach(
            rows=memory,
            balance=balancing.build(self.balance, losses, trained),
            knows_answers=self.source is not None and preparation.provides(self.source, "logits"),
        )

    def _probe(self, dataset: Any) -> dict[str, Any]:
        if isinstance(dataset, IterableDataset):
            rows = [row for row, _ in zip(dataset, range(preparation.PROBE_ROWS))]
        else:
            rows = [dataset[i] for i in range(min(preparation.PROBE_ROWS, len(dataset)))]
        return dict(self.training_collator(rows) if dataset is self.train_dataset else self.data_collator(rows))

    def _build_beside(self) -> None:
        """Make the peers, or let the average follow the student."""
        if isinstance(self.source, SelfAverage):
            self.source.follow(self.model, None, self._answers)
        if self.peers is not None:
            self.peers.build(self.model, self.objective.needs_student(), self._view_of, seed=self.args.seed)
            self.objective.modules[PEERS_KEY] = self.peers.others
            self.objective.num_networks = self.peers.count

    @contextlib.contextmanager
    def _losses_attached(self) -> Iterator[None]:
        """The trained parts of the losses are a submodule of the student, and no part of what it saves."""
        student: Any = self.model
        had_list = "_keys_to_ignore_on_save" in student.__dict__
        ignored = student.__dict__.get("_keys_to_ignore_on_save")
        student._distill = self.objective.modules
        own = {f"{checkpoints.PREFIX}{name}" for name in self.objective.modules.state_dict()}
        student._keys_to_ignore_on_save = set(getattr(student, "_keys_to_ignore_on_save", None) or ()) | own
        try:
            yield
        finally:
            del student._distill
            if had_list:
                student._keys_to_ignore_on_save = ignored
            else:
                del student._keys_to_ignore_on_save

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
        with self._losses_attached():
            if self.average_decay is not None:
                self._average = WeightAverage(self.model, self.average_decay)
            if isinstance(self.source, SelfAverage):
                self.source.follow(self.model, self._average, self._answers)
            try:
                outcome = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
                self._keep_best_peer()
                return outcome
            except NonFiniteLoss as err:
                self._save_stopped(err)
                raise

    def _finalize_training(self, *args: Any) -> Any:
        self.objective.check()
        self.objective.check_gradient()
        average, self._average = self._average, None
        if average is not None:
            average.keep()
        return super()._finalize_training(*args)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        checkpoints.load_renamed(str(self.state.best_model_checkpoint), self.model)
        if self.peers is not None:
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

    def _keep_best_peer(self) -> None:
        """Leave the network in `model` that the evaluation of its weights found best."""
        if self.peers is None:
            return
        best = evaluation.best_peer(self.state, at_best=self.args.load_best_model_at_end)
        self.peers.hand_over(self.model, best)
        logger.info("network %d of %d peers is kept", best, self.peers.count)

    def _save_stopped(self, err: NonFiniteLoss) -> None:
        folder = self.folder / f"stopped-at-step-{self.state.global_step}"
        self.save_model(str(folder), _internal_call=True)
        if self.args.should_save:
            stopped = {"step": self.state.global_step, "terms": err.terms, "row_ids": err.row_ids}
            (folder / "stopped.json").write_text(json.dumps(stopped, indent=2), encoding="utf-8")

    # -- the step

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
        peers = self.peers
        signal = None if peers is not None else self._training_signal(inputs, self.objective.active_needs_teacher())
        views: list[StudentView] = []

        def objective() -> Tensor:
            views.append(self._view(inputs) if self._wants_answers or return_outputs else self._inner_view(inputs))
            if peers is not None:
                return peers.objective(self.objective, views[-1], inputs)
            return self.objective(views[-1], signal, inputs)

        loss = objective() if model is self.model else self._inside(model, inputs, objective)
        loss = loss * self.args.world_size if self.args.world_size > 1 else loss
        return (loss, {"logits": views[-1].logits}) if return_outputs else loss

    def _inside(self, model: nn.Module, inputs: Mapping[str, Any], objective: Callable[[], Tensor]) -> Tensor:
        """Compute the loss within the wrapper's forward, so that it sees every parameter that takes part."""
        student: Any = self.model
        own = student.__dict__.get("forward")

        def restore() -> None:
            if own is None:
                student.__dict__.pop("forward", None)
            else:
                student.forward = own

        def forward(*_: Any, **__: Any) -> Tensor:
            restore()
            return objective()

        student.forward = forward
        try:
            return model(**self._student_inputs(inputs))
        finally:
            restore()

    def _view(self, batch: Mapping[str, Any]) -> StudentView:
        if self._taps is None:
            raise TrainingError("the trainer is not prepared", todo="call train() or evaluate()")
        return self._view_of(self._taps, batch)

    @property
    def _wants_answers(self) -> bool:
        """Whether somebody reads the student's logits in this step, or has to see its whole forward."""
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # their modules count on being left behind in order
        is_whole = self.peers is not None or self.objective.rows is not None or len(self._answer_shape) != 1
        if is_whole or is_sharded or self._taps is None or not self._taps.can_stop:
            return True
        return "logits" in self.objective.needs_student()

    def _inner_view(self, batch: Mapping[str, Any]) -> StudentView:
        """Inner values alone, of a forward that is left behind the last of them; the logits are not a number."""
        assert self._taps is not None
        inputs = self._student_inputs(batch)
        with self.accelerator.autocast(), self._kernels():
            taps = self._taps.reach(inputs)
        num_rows = next(value.shape[0] for value in inputs.values() if isinstance(value, Tensor))
        nowhere = torch.full((1, 1), float("nan"), device=self.args.device).expand(num_rows, *self._answer_shape)
        return StudentView(nowhere, taps, batch.get("attention_mask"), self._roles, None)

    def _answers(self, batch: Mapping[str, Any]) -> Tensor:
        return self._view_of(Taps(self.model, ()), batch).logits

    def _view_of(self, network: Taps, batch: Mapping[str, Any]) -> StudentView:
        # Autocast: of the student its wrapper does so, of peers nobody else.
        with self.accelerator.autocast(), self._kernels():
            logits, taps = network.run(self._student_inputs(batch))
        answers, unit_mask = answers_of(logits, batch)
        return StudentView(answers, taps, batch.get("attention_mask"), self._roles, unit_mask)

    def _kernels(self) -> contextlib.AbstractContextManager[Any]:
        """Attention that can be differentiated twice, where a loss reads gradients; whatever is fastest elsewhere."""
        if torch.is_grad_enabled() and any(term.loss.kind == "gradient" for term in self.objective.terms):
            return sdpa_kernel(SDPBackend.MATH)
        return contextlib.nullcontext()

    def _signal(self, batch: Mapping[str, Any], needs: tuple[str, ...]) -> TeacherSignal | None:
        if not needs:
            return None
        return preparation.to_device(self.source.signal(batch, needs), self.args.device)

    def _training_signal(self, batch: Mapping[str, Any], needs: tuple[str, ...]) -> TeacherSignal | None:
        """The knowledge of a batch of training, which a source may disturb."""
        ask = getattr(self.source, "training_signal", None)
        if not needs or ask is None:
            return self._signal(batch, needs)
        return preparation.to_device(ask(batch, needs), self.args.device)

    def _student_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {name: value for name, value in batch.items() if name not in NOT_INPUTS and not name.startswith("teacher_")}
        return self._names.take(inputs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Six per weight and input element; the weights are counted once, not every step."""
        main = inputs.get(getattr(self.model, "main_input_name", "input_ids"))
        return 6 * main.numel() * self._num_weights if isinstance(main, Tensor) else 0

    def before_step(self) -> None:
        """Stop before weights move by a loss that is not finite."""
        self.objective.check()

    def after_step(self) -> None:
        """Follow the weights with their average, and keep what rows and terms did."""
        self.objective.after_step(self.args.world_size)
        if self._average is not None:
            self._average.update()

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
            own = own_name(name, checkpoints.PREFIX)
            is_bridge = own.startswith(checkpoints.PREFIX)
            decay = self.args.weight_decay if name in decayed and not is_bridge else 0.0
            groups.setdefault((is_bridge, decay, self._multiple_of(own)), []).append(parameter)
        self._refuse_idle_patterns(own_name(name, checkpoints.PREFIX) for name, _ in source.named_parameters())
        settings = [
            {"params": parameters, "weight_decay": decay, "lr": self.args.learning_rate * multiple}
            for (_, decay, multiple), parameters in groups.items()
        ]
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, source)
        self.optimizer = optimizer_class(settings, **options)
        return self.optimizer

    def _refuse_idle_patterns(self, names: Iterable[str]) -> None:
        """A pattern of learning rates that no parameter has is a slip of the pen."""
        known = list(names)
        for pattern in self.learning_rate_multiples:
            if not any(fnmatchcase(name, pattern) for name in known) and not pattern.startswith(checkpoints.PREFIX):
                guess = nearest(pattern, known)
                raise TrainingError(
                    f"learning_rate_multiples has the pattern {pattern!r}, which no parameter has",
                    "patterns of names in named_parameters(), or of '_distill.*' for trained parts of losses",
                    f"did you mean {guess!r}?" if guess else "print the names with dict(model.named_parameters())",
                )

    def _multiple_of(self, name: str) -> float:
        if self.objective.balance is not None and name.startswith(f"{checkpoints.PREFIX}{BALANCE_KEY}."):
            return self.objective.balance.learning_rate_multiple
        return next((value for pattern, value in self.learning_rate_multiples.items() if fnmatchcase(name, pattern)), 1.0)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Each network's gradient is shortened by its own length, so that peers do not slow one another."""
        if self.peers is None:
            return super()._clip_grad_norm(model)
        own, *others = self.peers.groups(model)
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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = output_dir or str(self.folder)
        with self._averaged():
            state = checkpoints.without_losses(self.model.state_dict() if state_dict is None else state_dict)
            super()._save(folder, state)
        if self.args.should_save:
            checkpoints.save_state(folder, self.objective.modules, self._average)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        checkpoints.load_renamed(resume_from_checkpoint, self.model)
        checkpoints.load_state(resume_from_checkpoint, self.objective.modules, self._average)


class _AroundStep(TrainerCallback):
    """Tells the trainer that the weights are about to move, and that they have moved."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.after_step()
