"""The teacher and the data as the user gave them: loaded, checked, fingerprinted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig

from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.ground.devices import seeded
from potstill.ground.disk import fingerprint
from potstill.recipe.model import TeacherRecipe

if TYPE_CHECKING:
    from potstill.models.load import LoadedTeacher
    from potstill.stages.context import Given, Run


IN_MEMORY = "<in memory>"


def named_tasks(teachers: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """The recipe's `tasks` of teachers and data that are given as mappings from the names of tasks.

    Raises:
        RecipeError: The two are not of the same tasks.
    """
    if not isinstance(data, Mapping) or list(data) != list(teachers):
        told = f"data of {', '.join(data)}" if isinstance(data, Mapping) else f"data that are {type(data).__name__}"
        raise RecipeError(
            f"teachers of the tasks {', '.join(teachers)} are given, and {told}",
            "data for the same tasks, in the same order",
            "pass data={'task': …} with an entry for each teacher",
        )
    return {name: {"teacher": {"model": _name(teachers[name])}, "data": {"source": _name(data[name])}} for name in teachers}


def given_tasks(teachers: Mapping[str, Any], data: Any, processors: Any) -> dict[str, Given]:
    """What is in memory of each task.

    Raises:
        RecipeError: A teacher in memory without its tokenizer or image processor.
    """
    from potstill.stages.context import Given

    found = {}
    for name, teacher in teachers.items():
        processor = processors.get(name) if isinstance(processors, Mapping) else None
        if not _is_named(teacher) and processor is None:
            raise RecipeError(
                f"the teacher of task {name!r} is in memory and came without its tokenizer or image processor",
                "processor={'task': …} with an entry for each teacher in memory",
                f"pass processor={{{name!r}: …}} beside teacher_model",
            )
        rows = data.get(name) if isinstance(data, Mapping) else None
        found[name] = Given(*(None if _is_named(value) else value for value in (teacher, processor, rows)))
    return found


def _is_named(value: Any) -> bool:
    return isinstance(value, str | Path)


def _name(value: Any) -> str:
    return str(value) if _is_named(value) else IN_MEMORY


def read_config(teacher: TeacherRecipe) -> Any:
    """The teacher's configuration.

    Raises:
        ModelError: Nothing that can be read as a model is there.
    """
    from potstill.models.checkpoint import check_folder

    if not teacher.from_scratch:
        check_folder(os.path.expanduser(teacher.model))  # no Path, which drops the ./ that tells a folder from a hub id
    try:
        return AutoConfig.from_pretrained(Path(teacher.model).expanduser(), trust_remote_code=teacher.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"teacher {teacher.model!r} cannot be read as a model: {first_line}",
            "a folder that save_pretrained wrote, or a hub id",
            "check --teacher; offline, download the model first and give its folder",
        ) from error


def load_given(run: Run, label_names: tuple[str, ...] | None) -> LoadedTeacher:
    """The given teacher at rest; with `from_scratch`, a model of its configuration with random weights.

    Raises:
        ModelError: It cannot be loaded, is for another task, or has other labels.
        RecipeError: Its head is new and `teacher.finetune` is never.
    """
    from potstill.models.factory import is_factory
    from potstill.models.load import LoadedTeacher, load_teacher
    from potstill.stages.module_models import module_teacher

    recipe = run.recipe.teacher
    with seeded(run.recipe.seed):  # a new head starts from the same weights in every sitting
        if run.given_teacher is not None:
            loaded = load_teacher(run.given_teacher, run.task, label_names=label_names or None)
            loaded = LoadedTeacher(loaded.model, run.given_processor or loaded.processor, loaded.head_is_new, loaded.notes)
        elif is_factory(recipe.model):
            loaded = module_teacher(run, label_names)
        elif recipe.from_scratch:
            loaded = _from_scratch(run, label_names)
        else:
            names, trusted = label_names or None, recipe.trust_remote_code
            loaded = load_teacher(recipe.model, run.task, label_names=names, trust_remote_code=trusted)
    if loaded.head_is_new and recipe.finetune == "never":
        raise RecipeError(
            f"teacher {recipe.model!r} has no trained head for {run.task.name}, and teacher.finetune is never",
            "a fine-tuned teacher",
            "set teacher.finetune: auto to train its head on the data first",
        )
    return loaded


def _from_scratch(run: Run, label_names: tuple[str, ...] | None) -> LoadedTeacher:
    from potstill.models.load import LoadedTeacher, new_model

    config = read_config(run.recipe.teacher)
    names = label_names or tuple(config.id2label.values())
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    model = new_model(run.task, config)
    processor = run.task.load_processor(run.recipe.teacher.model, model_config=config)
    return LoadedTeacher(model, processor, head_is_new=True, notes=("the teacher starts from random weights",))


def wants_training(run: Run) -> bool:
    """Whether the teacher is trained in this run."""
    if run.recipe.teacher.finetune == "always" or run.recipe.teacher.from_scratch:
        return True
    return run._once("head is new", "", lambda: load_given(run, run.label_names).head_is_new)


def labels_tell(run: Run) -> str | None:
    """``"labels"``, ``"numbers"``, ``"tags"`` or ``"spans"`` where the columns say so by themselves; None where they do not."""
    from potstill.answers.label_columns import tells_of_labels
    from potstill.data.sources import read_source
    from potstill.modalities.text.token_columns import tells_of_units

    found = read_source(run.given_data if run.given_data is not None else run.recipe.data.source, modality="text")
    rows = found.splits.get("train") or next(iter(found.splits.values()))
    return tells_of_units(rows.features, run.recipe.data.columns) or tells_of_labels(rows, run.recipe.data.columns)


def given_fingerprint(run: Run) -> str:
    """Of teacher and data by content; hub ids by name."""
    if run.recipe.tasks:
        from potstill.stages.task_run import task_runs

        return fingerprint([[one.name, given_fingerprint(one)] for one in task_runs(run)])
    recipe = run.recipe
    parts: dict[str, Any] = {"teacher": content_of(recipe.teacher.model), "task": recipe.task}
    if run.given_teacher is not None:
        from potstill.models.frozen import fingerprint_of

        parts["teacher"] = fingerprint_of(run.given_teacher)
    for key in ("source", "validation", "test", "unlabelled"):
        value = getattr(recipe.data, key)
        parts[key] = None if value is None else content_of(value)
    if run.given_data is not None:
        parts["source"] = _in_memory(run.given_data)
    return fingerprint(parts)


def content_of(name: str) -> Any:
    """What the fingerprint of a name is made from: the files where they are on this machine, else the name."""
    path = Path(name).expanduser()
    return path if path.exists() else name


def _in_memory(data: Any) -> Any:
    if hasattr(data, "_fingerprint"):
        return str(data._fingerprint)
    if hasattr(data, "items"):
        return {str(key): _in_memory(value) for key, value in data.items()}
    raise PotstillError(
        f"data in memory is {type(data).__name__}", "a datasets.Dataset or DatasetDict", "wrap it: datasets.Dataset.from_dict(…)"
    )
