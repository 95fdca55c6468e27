"""The student that the recipe names: its weights, and the tokenizer or image processor that it reads with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.ground.devices import seeded
from potstill.models.checkpoint import has_own_processor
from potstill.models.load import new_model
from potstill.students.cost import parameters_of
from potstill.tasks.image_classification import size_of
from potstill.tasks.text_classification import position_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.stages.context import Run
    from potstill.students.plan import StudentPlan


def named_student(run: Run, planned: StudentPlan, processor: Any) -> PreTrainedModel:
    """The student of the recipe, with its own weights where it has them.

    Args:
        run: The run; its recipe names a student.
        planned: The plan made from the student's configuration.
        processor: The tokenizer or image processor that it is to read with.

    Raises:
        ModelError: It cannot be loaded, or cannot read what the processor makes.
    """
    name = str(run.recipe.student.model)
    check_reads(name, planned.build_config(), processor)
    if _has_weights(name):
        student = run.task.load_model(name, num_labels=run.num_answers, label_names=run.label_names)
    else:
        with seeded(run.recipe.seed):
            student = new_model(run.task, planned.build_config())
    if run.label_names:
        student.config.id2label = dict(enumerate(run.label_names))
        student.config.label2id = {label: index for index, label in enumerate(run.label_names)}
    if parameters_of(student) >= parameters_of(run.teacher.model):
        run.observer.warn(f"the student {name} is not smaller than the teacher")
    return student.eval()


def named_processor(run: Run, planned: StudentPlan, teachers: Any) -> Any:
    """What the student reads with; None where that is just what the teacher reads with.

    Args:
        run: The run; its recipe names a student.
        planned: The plan made from the student's configuration.
        teachers: The teacher's tokenizer or image processor.
    """
    config = planned.build_config()
    if has_own_processor(run.recipe.student.model):
        return run.task.load_processor(str(run.recipe.student.model), model_config=config)
    limit = position_limit(config) if run.task.modality == "text" else None
    if limit is None or limit >= teachers.model_max_length:
        return None
    shorter = copy.deepcopy(teachers)
    shorter.model_max_length = limit
    return shorter


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
    if hasattr(config, "hidden_sizes") or config.model_type == "mobilenet_v2":
        return  # a convolutional net takes images of any size
    wanted, made = getattr(config, "image_size", None), size_of(processor)
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
