"""The student that the recipe names: its weights, and the tokenizer or image processor that it reads with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.contracts.stage import Observer
from potstill.errors import ModelError
from potstill.ground.devices import seeded
from potstill.models.checkpoint import has_own_processor
from potstill.models.factory import make
from potstill.models.families import family_or_none
from potstill.models.load import new_model
from potstill.models.party import Teacher
from potstill.models.size import parameters_of
from potstill.tasks.image_classification import size_of
from potstill.tasks.text_classification import position_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.students.plan import StudentPlan


def named_student(
    name: str, planned: StudentPlan, processor: Any, teacher: Teacher, seed: int, tell: Observer
) -> PreTrainedModel:
    """The student of the recipe, with its own weights where it has them.

    Args:
        name: Folder or hub id.
        planned: The plan made from the student's configuration.
        processor: The tokenizer or image processor that it is to read with.
        teacher: The teacher, with the rows and their task.
        seed: Of random weights.
        tell: Receives a warning where the student is not smaller than the teacher.

    Raises:
        ModelError: It cannot be loaded, or cannot read what the processor makes.
    """
    check_reads(name, planned.build_config(), processor)
    task, label_names = teacher.rows.task, teacher.rows.label_names
    if _has_weights(name):
        student = task.load_model(name, num_labels=teacher.num_answers, label_names=label_names)
    else:
        with seeded(seed):
            student = new_model(task, planned.build_config())
    if label_names:
        student.config.id2label = dict(enumerate(label_names))
        student.config.label2id = {label: index for index, label in enumerate(label_names)}
    if parameters_of(student) >= parameters_of(teacher.model):
        tell.warn(f"the student {name} is not smaller than the teacher")
    made: PreTrainedModel = student.eval()
    return made


def named_processor(name: str, planned: StudentPlan, teacher: Teacher) -> Any:
    """What the student reads with; None where that is just what the teacher reads with.

    Args:
        name: Folder or hub id of the student.
        planned: The plan made from the student's configuration.
        teacher: The teacher, with the task.
    """
    config, task = planned.build_config(), teacher.rows.task
    if has_own_processor(name):
        return task.load_processor(name, model_config=config)
    limit = position_limit(config) if task.modality == "text" else None
    if limit is None or limit >= teacher.processor.model_max_length:
        return None
    shorter = copy.deepcopy(teacher.processor)
    shorter.model_max_length = limit
    return shorter


def module_student(name: str, teacher: Teacher, seed: int) -> tuple[PreTrainedModel, Any]:
    """The student that the recipe names as code, from a seed, and what it reads with: its own, or None.

    Raises:
        ModelError: It fails, or has other classes than the data.
    """
    from potstill.models.module import wrap

    label_names = teacher.rows.label_names
    with seeded(seed):
        network, own = make(name, len(label_names))
    return wrap(network, name, own or teacher.processor, label_names=label_names).eval(), own


def check_reads(name: str, config: Any, processor: Any) -> None:
    """Make sure that a model can read what a tokenizer or image processor makes.

    Raises:
        ModelError: More token ids, or images of another size, than the model takes.
    """
    if hasattr(processor, "pad_token_id"):
        held = int(config.vocab_size)
        if len(processor) > held:
            raise ModelError(
                f"the student {name} has {held:,} token embeddings, and its tokenizer {len(processor):,} tokens",
                "a vocab_size that holds every token",
                f"set vocab_size: {len(processor)} in its config.json, or save its own tokenizer beside it",
            )
        return
    family = family_or_none(config)
    if family is None and hasattr(config, "hidden_sizes"):
        return  # a convolutional net takes images of any size
    wanted, made = getattr(config, "image_size", None) if family is None else family.image_sides(config), size_of(processor)
    sides = (wanted, wanted) if isinstance(wanted, int) else tuple(wanted or ())
    if sides and made and sides != made:
        raise ModelError(
            f"the student {name} takes images of {sides[0]} x {sides[1]} pixels, its image processor makes {made[0]} x {made[1]}",
            "the same size in both",
            "set image_size in its config.json, or save its own image processor beside it",
        )


def _has_weights(name: str) -> bool:
    folder = Path(name).expanduser()
    return not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))
