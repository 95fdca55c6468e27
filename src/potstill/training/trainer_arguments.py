"""Arguments of a `DistillationTrainer`: checked, copied and brought into form before it is built."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainingArguments

from potstill.contracts.answers import Answers
from potstill.errors import TrainingError
from potstill.models.sentence_model import is_sentence_transformer, unpacked
from potstill.models.taps import TapReader
from potstill.models.weights import in_float32, other_type, quantization_of, to_float32
from potstill.training.companions.average import Averaging
from potstill.training.companions.class_pairs import ClassPairs
from potstill.training.companions.contract import Companion
from potstill.training.companions.peers import Peers

logger = logging.getLogger(__name__)

DEFAULT_LOSSES: tuple[Mapping[str, Any], ...] = ({"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3})


def refuse_no_model(student: Any) -> None:
    """A trainer needs a student."""
    if not isinstance(student, nn.Module):
        raise TrainingError(
            f"the student is {type(student).__name__}, and no model"
            if student is not None
            else "no student was given: model is None",
            "a transformers model or a torch.nn.Module",
            "pass model=AutoModelForSequenceClassification.from_pretrained(...), or potstill.cut_student(...)",
        )


def refuse_other_types(args: Any, teacher: Any) -> None:
    """Arguments and teachers of types that nothing can be made of."""
    if args is not None and not isinstance(args, TrainingArguments):
        raise TrainingError(
            f"args is {type(args).__name__}",
            "transformers.TrainingArguments",
            "pass args=TrainingArguments(output_dir=..., num_train_epochs=...)",
        )
    for one in (teacher or [None]) if isinstance(teacher, list | tuple) else [teacher]:
        is_none = one is None and teacher is None
        if not (is_none or isinstance(one, (nn.Module, Companion)) or hasattr(one, "signal")):
            raise TrainingError(
                f"the teacher is {one!r}" if isinstance(one, str) else f"the teacher is {type(one).__name__}, and no model",
                "a model in memory, a list of models, a source of knowledge, or None for losses that read labels alone",
                "pass teacher=AutoModelForSequenceClassification.from_pretrained(...)",
            )


def refuse_one_model(student: nn.Module, teacher: Any) -> None:
    theirs = teacher if isinstance(teacher, nn.Module) else getattr(teacher, "model", None)
    if not isinstance(theirs, nn.Module):
        return
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in theirs.parameters()):
        raise TrainingError(
            "teacher and student have weights in common, so the student would be frozen, or its teacher trained",
            "two models, or the student's average as its teacher",
            "pass teacher=copy.deepcopy(student), or teacher=SelfAverage() with average_decay",
        )


def all_companions(
    companions: Sequence[Companion], teacher: Any, peers: Peers | None, average_decay: float | None, class_pairs: bool
) -> list[Companion]:
    """The companions that are given, and those that other arguments stand for."""
    found = [*companions, *(one for one in (teacher, peers) if isinstance(one, Companion))]
    found += [] if average_decay is None else [Averaging(average_decay)]
    return [*found, ClassPairs()] if class_pairs else found


def refuse_combinations(companions: Sequence[Companion], teacher: Any, average_decay: float | None, balance: str) -> None:
    """Refuse a teacher, an average or a balance where a companion does not fit with it."""
    others = {"a teacher": teacher, "average_decay": average_decay, "balance": None if balance == "none" else balance}
    for companion in companions:
        companion.check([name for name, value in others.items() if value is not None])


def default_losses(answers: Answers, *, has_teacher: bool, companions: Sequence[Companion] = ()) -> Sequence[Mapping[str, Any]]:
    """What a model with these answers learns from where nothing is given."""
    own = next((companion.default_losses for companion in companions if companion.default_losses), ())
    if own and not has_teacher:
        return own
    if answers.is_distribution or answers.from_labels is None:
        return DEFAULT_LOSSES if has_teacher else ({"name": "ce"},)
    theirs = [{**each, "weight": 0.7 * float(each.get("weight", 1.0))} for each in answers.from_teacher]
    return (*theirs, {**answers.from_labels, "weight": 0.3}) if has_teacher else (answers.from_labels,)


def own_arguments(args: TrainingArguments | None) -> TrainingArguments:
    args = TrainingArguments(output_dir="trainer_output") if args is None else copy.copy(args)
    if args.n_gpu > 1:
        raise TrainingError(
            f"this process sees {args.n_gpu} GPUs, and DataParallel would drop what the losses read",
            "one GPU a process",
            f"run with torchrun --nproc_per_node {args.n_gpu}, or set CUDA_VISIBLE_DEVICES=0",
        )
    if args.label_smoothing_factor:
        raise TrainingError(
            f"label_smoothing_factor is {args.label_smoothing_factor}, and the losses are those of the list",
            "smoothing of the loss that reads the labels",
            f'write {{"name": "ce", "label_smoothing": {args.label_smoothing_factor}}} in losses',
        )
    _refuse_ignored(args)
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False
    return args


def _refuse_ignored(args: TrainingArguments) -> None:
    """Settings of transformers that would be passed over here without a word."""
    for name, (is_set, accepted, todo) in _ignored(args).items():
        if is_set:
            raise TrainingError(f"{name} is set, and has no effect in a DistillationTrainer", accepted, todo)
    if args.label_names is not None and list(args.label_names) != ["labels"]:
        raise TrainingError(
            f"label_names is {args.label_names}, and the losses read the column labels",
            "the column labels",
            "rename the column to labels, or let data_collator do so",
        )
    others = [name for name in args.include_for_metrics if name not in ("inputs", "loss")]
    if others:
        raise TrainingError(f"include_for_metrics holds {others[0]!r}", "inputs and loss", "take these alone")


def _ignored(args: TrainingArguments) -> dict[str, tuple[bool, str, str]]:
    """Setting → whether it is set, what is done, and what to write."""
    full = "evaluation in the type that is trained in"
    split: bool = getattr(args.accelerator_config, "split_batches", False)
    return {
        "batch_eval_metrics": (args.batch_eval_metrics, "compute_metrics of all rows", "leave batch_eval_metrics out"),
        "eval_do_concat_batches=False": (not args.eval_do_concat_batches, "compute_metrics of all rows", "leave it out"),
        "fp16_full_eval": (args.fp16_full_eval, full, "leave it out, or set fp16=True for training and evaluation"),
        "bf16_full_eval": (args.bf16_full_eval, full, "leave it out, or set bf16=True for training and evaluation"),
        "accelerator_config.split_batches": (split, "batches of per_device_train_batch_size on each rank", "leave it out"),
        f"train_sampling_strategy={args.train_sampling_strategy!r}": (
            args.train_sampling_strategy not in ("random", "group_by_length"),
            "random and group_by_length",
            "for rows in their own order pass train_dataset.to_iterable_dataset()",
        ),
    }


@contextlib.contextmanager
def unchanged_config(model: nn.Module) -> Iterator[None]:
    """Keep the caller's configuration as it was; the base trainer writes `use_cache` into it."""
    config = getattr(model, "config", None)
    before = dict(config.__dict__) if config is not None else {}
    yield
    if config is not None and "use_cache" in before:
        config.use_cache = before["use_cache"]
    elif config is not None:
        config.__dict__.pop("use_cache", None)


def as_source(teacher: Any, device: torch.device, answers: Answers) -> Any:
    """What the trainer asks: a frozen model, several together (the mean of their probabilities), or a source as it is."""
    if isinstance(teacher, (list, tuple)):
        from potstill.knowledge.ensemble import EnsembleTeacher

        return EnsembleTeacher([as_source(one, device, answers) for one in teacher])
    if not isinstance(teacher, nn.Module):
        return teacher
    from potstill.knowledge.live import LiveTeacher

    dtype: Literal["float32", "auto"] = "float32" if device.type == "cpu" else "auto"
    if is_sentence_transformer(teacher):
        teacher = unpacked(teacher)[0]
    if quantization_of(teacher) is None:  # quantized weights lie where they were put
        teacher = in_float32(teacher).to(device)
    return LiveTeacher(teacher, TapReader(), dtype=dtype, answers=answers)


def bring_to_float32(student: nn.Module) -> None:
    """Bring a student in half precision to float32, in place, since its weights are trained: small steps vanish in half of it."""
    other = other_type(student)
    if other in ("bfloat16", "float16") and quantization_of(student) is None:
        logger.warning(
            "the student has weights in %s; it is trained in float32, and left in it (bf16=True computes faster)", other
        )
        to_float32(student)
