"""Teachers and students that a recipe names as ``package.module:function``, and networks given in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.ground.devices import seeded
from potstill.models.factory import is_factory, make, trust, trust_module
from potstill.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from potstill.models.load import LoadedTeacher
    from potstill.stages.context import Run


def trust_named(recipe: Recipe) -> None:
    """Let the networks that the recipe names, and allows, be made and loaded in this process."""
    named = [section.model for section in (recipe.teacher, recipe.student) if section.trust_remote_code and section.model]
    for name in filter(is_factory, named):
        from potstill.models.module import register

        trust(name)
        register()


def wrap_teacher(network: nn.Module, processor: Any) -> PreTrainedModel:
    """A network in memory as the teacher of a run.

    Raises:
        ModelError: It does not run on an image of the processor's size.
    """
    from potstill.models.module import register, wrap

    register()
    return wrap(network, trust_module(network), processor)


def module_config(run: Run) -> Any:
    """The configuration of the teacher that the recipe names as code."""
    return _teacher(run, None)[0].config


def module_teacher(run: Run, label_names: tuple[str, ...] | None) -> LoadedTeacher:
    """The teacher that the recipe names as code, at rest; with `from_scratch` its head counts as new.

    Raises:
        ModelError: It fails, has other classes than the data, or has no image processor.
    """
    from potstill.models.frozen import freeze
    from potstill.models.load import LoadedTeacher

    model, processor = _teacher(run, label_names)
    if processor is None:
        raise ModelError(
            f"the teacher {run.recipe.teacher.model} came without an image processor",
            "a processor from the function, as (network, processor), or teacher.processor",
            "set teacher.processor to a folder with preprocessor_config.json",
        )
    freeze(model)
    notes = ("the teacher starts from random weights",) if run.recipe.teacher.from_scratch else ()
    return LoadedTeacher(model, processor, run.recipe.teacher.from_scratch, notes)


def module_student(run: Run, processor: Any) -> tuple[PreTrainedModel, Any]:
    """The student that the recipe names as code, from the run's seed, and what it reads with: its own, or None.

    Raises:
        ModelError: It fails, or has other classes than the data.
    """

    from potstill.models.module import wrap

    name = str(run.recipe.student.model)
    with seeded(run.recipe.seed):
        network, own = make(name, len(run.label_names))
    return wrap(network, name, own or processor, label_names=run.label_names).eval(), own


def _teacher(run: Run, label_names: tuple[str, ...] | None) -> tuple[PreTrainedModel, Any]:
    from potstill.models.module import wrap

    recipe = run.recipe.teacher
    network, processor = make(recipe.model, None if label_names is None else len(label_names))
    if recipe.processor is not None:
        processor = load_processor(recipe.processor)
    return wrap(network, recipe.model, processor, label_names=label_names), processor


def load_processor(name: str) -> Any:
    """The image processor of a folder or hub id.

    Raises:
        ModelError: There is none.
    """
    from potstill.tasks import build

    return build("image-classification").load_processor(str(Path(name).expanduser()))
