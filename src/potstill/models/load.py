"""Loading a teacher: what is in the folder, whether it fits the task, and whether its head is new."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from potstill.contracts.task import Task
from potstill.errors import ModelError, first_line
from potstill.ground.counted import counted
from potstill.ground.tables import resolve
from potstill.models.checkpoint import (
    check_config,
    check_fits_task,
    check_folder,
    has_own_processor,
    quantized,
    read_config,
    read_model,
)
from potstill.models.frozen import freeze
from potstill.models.labels import align_labels, name_classes, reorder_head
from potstill.models.sentence_model import is_sentence_transformer, unpacked
from potstill.models.weights import in_float32, quantization_of, to_float32

logger = logging.getLogger(__name__)

OWN_HEADS = {"ForSentenceEmbedding": "potstill.models.sentence_model:AutoSentenceEncoder"}
"""Heads that transformers has no Auto class for."""


def auto_class(head: str) -> Any:
    """The class whose `from_pretrained` and `from_config` give a model with a head, such as ``ForSequenceClassification``."""
    import transformers

    return resolve(OWN_HEADS, head, kind="head") if head in OWN_HEADS else getattr(transformers, f"AutoModel{head}")


def new_model(task: Task, config: Any) -> PreTrainedModel:
    """A model of a configuration with random weights, in evaluation mode."""
    for key, value in task.config_values.items():
        setattr(config, key, value)
    if config.architectures is None:
        config.architectures = []  # DeiT's Auto class cannot read None
    model: PreTrainedModel = auto_class(task.head).from_config(config).eval()
    return to_float32(model)  # whatever type the configuration was saved with


@dataclass(frozen=True)
class LoadedTeacher:
    """A frozen teacher and what was found out about it.

    Args:
        model: In eval mode, without gradients, its classes in the order of the data.
        processor: Its tokenizer or image processor; None where a model was given without one.
        head_is_new: Whether its head has random weights and must be trained first.
        notes: What was taken for granted, for the log and the report.
    """

    model: PreTrainedModel
    processor: Any
    head_is_new: bool
    notes: tuple[str, ...] = field(default=())


def load_teacher(
    source: str | Path | PreTrainedModel | Any,
    task: Task,
    *,
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> LoadedTeacher:
    """Load a teacher for a task.

    Args:
        source: A folder or hub name that transformers can load, or a model of transformers or sentence-transformers. A model is
            frozen and else left as it is; one in another type than float32 is left alone, and a copy in float32 is taken.
        task: Names the task and loads the processor.
        num_labels: Classes of the data; taken from `label_names`, else from the teacher, where left out.
        label_names: Labels of the data in the order of their ids; the head's rows are brought into this order.
        trust_remote_code: Whether code that comes with the checkpoint may run.

    Raises:
        ModelError: No such folder, not a model, for another task, weights missing or damaged or pickled, or
            classes other than the data's.
    """
    num_labels = len(label_names) if num_labels is None and label_names is not None else num_labels
    if is_sentence_transformer(source):
        model, processor = unpacked(source, lambda folder, config: _load_processor(folder, config, task))
        head_is_new, notes = False, list[str]()
    elif isinstance(source, PreTrainedModel):
        model, processor, head_is_new, notes = *_take_model(source, task), False, list[str]()
    else:
        name = os.path.expanduser(str(source))
        check_folder(name)
        config = read_config(name, trust_remote_code=trust_remote_code)
        check_config(name, config, task)
        has_head = check_fits_task(name, config, task)
        model, head_is_new, notes = _load_model(
            name, config, task, num_labels=num_labels, has_head=has_head, trust_remote_code=trust_remote_code
        )
        processor = _load_processor(name, model.config, task)
    for key, value in task.config_values.items():
        setattr(model.config, key, value)
    _check_finite(model, str(source) if not isinstance(source, PreTrainedModel) else type(model).__name__)
    if head_is_new:
        name_classes(model, label_names)
        notes.append("the teacher has no head for this task yet; it is trained on the data first")
    elif label_names is not None:
        model = _align_head(model, label_names, notes, is_ours=not isinstance(source, PreTrainedModel))
    elif num_labels is not None and model.config.num_labels != num_labels:
        raise _wrong_count(str(source), model.config.num_labels, num_labels)
    for note in notes:
        logger.info(note)
    freeze(model)
    return LoadedTeacher(model, processor, head_is_new, tuple(notes))


def _take_model(model: PreTrainedModel, task: Task) -> tuple[PreTrainedModel, Any]:
    check_config(type(model).__name__, model.config, task)
    packed, model = quantization_of(model), in_float32(model)
    if packed is not None:
        raise quantized(type(model).__name__, packed)
    check_fits_task(type(model).__name__, model.config, task, architectures=[type(model).__name__])
    path = getattr(model.config, "_name_or_path", "") or ""
    has_processor = bool(path) and Path(path).is_dir() and has_own_processor(path)
    return model, _load_processor(path, model.config, task) if has_processor else None


def _load_model(
    name: str, config: Any, task: Task, *, num_labels: int | None, has_head: bool | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, bool, list[str]]:
    if has_head and num_labels is not None and config.num_labels != num_labels:
        raise _wrong_count(name, config.num_labels, num_labels)
    settings: dict[str, Any] = {"config": config} if has_head or num_labels is None else {"num_labels": num_labels}
    settings |= {"dtype": torch.float32, "ignore_mismatched_sizes": True, "trust_remote_code": trust_remote_code}
    model, info = read_model(name, auto_class(task.head), **settings)
    body = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    missing_body = [key for key in missing if key.startswith(body) and ".pooler." not in key]
    if missing_body:
        more = f" and {len(missing_body) - 1} more" if len(missing_body) > 1 else ""
        raise ModelError(
            f"{name} lacks weights of its own architecture: {missing_body[0]}{more}",
            f"all weights of a {model.config.model_type}",
            "save the model again with save_pretrained, or download it again",
        )
    mismatched = sorted(str(key[0]) if isinstance(key, tuple) else str(key) for key in info["mismatched_keys"])
    if any(key.startswith(body) for key in mismatched):
        raise ModelError(
            f"weights of {name} have other shapes than its config.json says, for example {mismatched[0]}",
            "a config.json and weights that were saved together",
            "save the model again with save_pretrained, or download it again",
        )
    if mismatched:
        raise _wrong_count(name, "another number of", model.config.num_labels)
    head_is_new = any(not key.startswith(body) for key in missing)
    notes = ["config.json promises a head, but the weights have none"] if head_is_new and has_head else []
    return model, head_is_new, notes


def _load_processor(name: str, config: Any, task: Task) -> Any:
    try:
        return task.load_processor(name, model_config=config)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError) as err:
        kind = task.modality.processor_noun
        raise ModelError(
            f"{name} has no usable {kind.split(maxsplit=1)[1]}: {first_line(err)}",
            f"{kind} in the same folder as the model",
            "save it there with save_pretrained",
        ) from err


def _check_finite(model: PreTrainedModel, name: str) -> None:
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"{name} has NaN or infinite weights in {key}", "finite weights", "train or download the teacher again"
            )


def _wrong_count(name: str, theirs: int | str | None, ours: int | None) -> ModelError:
    return ModelError(
        f"{name} has {theirs if isinstance(theirs, str) else counted(theirs or 0, 'class', 'classes')} and the data has {ours}",
        "a teacher for the data's classes, or one without a head, which is then trained on the data",
        "check data.columns (which column is the label), or choose another teacher",
    )


def _align_head(model: PreTrainedModel, label_names: Sequence[str], notes: list[str], *, is_ours: bool) -> PreTrainedModel:
    alignment = align_labels(model.config, label_names)
    notes.extend(alignment.notes)
    if not alignment.is_identity:
        model = model if is_ours else copy.deepcopy(model)
        reorder_head(model, alignment.permutation)
        notes.append("the teacher's classes were brought into the order of the data's")
    if is_ours or not alignment.is_identity:
        name_classes(model, label_names)
    return model
