"""The student that the recipe names: its weights, and the tokenizer or image processor that it reads with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.contracts.stage import Observer
from potstill.ground.devices import seeded
from potstill.models.checkpoint import has_own_processor
from potstill.models.factory import make
from potstill.models.load import new_model
from potstill.models.party import Teacher
from potstill.models.size import parameters_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.students.plan import StudentPlan


def named_student(
    name: str, planned: StudentPlan, processor: Any, teacher: Teacher, seed: int, observer: Observer
) -> PreTrainedModel:
    """The student of the recipe, with its own weights where it has them.

    Args:
        name: Folder or hub id.
        planned: The plan made from the student's configuration.
        processor: The tokenizer or image processor that it is to read with.
        teacher: The teacher, with the rows and their task.
        seed: Of random weights.
        observer: Receives a warning where the student is not smaller than the teacher.

    Raises:
        ModelError: It cannot be loaded, or cannot read what the processor makes.
    """
    task, label_names = teacher.rows.task, teacher.rows.label_names
    task.modality.check_reads(name, planned.build_config(), processor)
    if _has_weights(name):
        student = task.load_model(name, num_labels=teacher.num_answers, label_names=label_names)
    else:
        with seeded(seed):
            student = new_model(task, planned.build_config())
    if label_names:
        student.config.id2label = dict(enumerate(label_names))
        student.config.label2id = {label: index for index, label in enumerate(label_names)}
    if parameters_of(student) >= parameters_of(teacher.model):
        observer.warn(f"the student {name} is not smaller than the teacher")
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
    return task.modality.fitted(teacher.processor, config)


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


def _has_weights(name: str) -> bool:
    folder = Path(name).expanduser()
    return not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin"))
