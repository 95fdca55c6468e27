"""Teacher and data as the user gave them: loaded, checked, fingerprinted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets.fingerprint import Hasher

from potstill import modalities
from potstill.contracts.slot import Declared, Slot
from potstill.contracts.task import Task
from potstill.data.sources import read_source
from potstill.data.splits import Splits, load
from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.ground.code import fingerprint_of_code
from potstill.ground.devices import seeded
from potstill.models import checkpoint
from potstill.models.factory import is_factory, make, trust, trust_module
from potstill.models.frozen import fingerprint_of, fingerprint_of_processor, freeze
from potstill.models.labels import teacher_labels
from potstill.models.load import LoadedTeacher, load_teacher, new_model
from potstill.models.module import register, wrap
from potstill.models.sentence_model import is_sentence_transformer, unpacked
from potstill.models.weights import in_float32
from potstill.recipe import Recipe
from potstill.recipe.model import IN_MEMORY, DataRecipe, OneTeacherRecipe, StudentRecipe
from potstill.tasks import build as build_task
from potstill.tasks import infer as infer_task
from potstill.tasks import of_several
from potstill.tasks.inference import kind_of_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class InMemory(NamedTuple):
    """What is in memory of a teacher and its data; None where the recipe names it."""

    teacher: Any = None
    processor: Any = None
    data: Any = None
    callbacks: tuple[Any, ...] = ()


NOTHING = InMemory()


@dataclass(frozen=True)
class Inputs:
    """A teacher and its data as the user gave them.

    Args:
        name: Of the task, where there are several; else empty.
        task_name: Of the recipe's task; "auto" where teacher and data say it.
        shared_task: The task, for a further teacher of the same rows.
    """

    name: str
    teacher: OneTeacherRecipe
    data: DataRecipe
    seed: int
    task_name: str = "auto"
    memory: InMemory = NOTHING
    shared_task: Callable[[], Task] | None = None
    _loaded: dict[Any, LoadedTeacher] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def task(self) -> Task:
        """The task: as the recipe says, else as teacher and data show."""
        if self.shared_task is not None:
            return self.shared_task()
        if self.task_name != "auto":
            return build_task(self.task_name)
        return infer_task(self.config, labels=self._kind_of_labels)

    @cached_property
    def config(self) -> Any:
        """The configuration of the teacher."""
        if self.memory.teacher is not None:
            return self.memory.teacher.config
        return self._module(None)[0].config if is_factory(self.teacher.model) else read_config(self.teacher)

    def wants_training(self, label_names: tuple[str, ...] | None) -> bool:
        """Whether the teacher is trained in this run: the recipe says so, or its head is new."""
        is_asked = self.teacher.finetune == "always" or self.teacher.from_scratch
        return is_asked or self.load(label_names).head_is_new

    def load(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        """The teacher, frozen, loaded once for these labels; with `from_scratch`, of its configuration with random weights.

        Raises:
            ModelError: It cannot be loaded, is for another task, or has other labels.
            RecipeError: Its head is new and `teacher.finetune` is never.
        """
        if label_names not in self._loaded:
            self._loaded[label_names] = self.load_anew(label_names)
        return self._loaded[label_names]

    def forget(self) -> None:
        """Free what was loaded; the trained teacher takes its place."""
        self._loaded.clear()

    def load_anew(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        """As `load`, in a copy of its own, which may be trained."""
        with seeded(self.seed):  # a new head starts from the same weights in every sitting
            loaded = self._load(label_names)
        if loaded.head_is_new and self.teacher.finetune == "never":
            raise RecipeError(
                f"teacher {self.teacher.model!r} has no trained head for {self.task.name}, and teacher.finetune is never",
                "a fine-tuned teacher",
                "set teacher.finetune: auto to train its head on the data first",
            )
        return loaded

    def _load(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        given, names = self.teacher, label_names or None
        if self.memory.teacher is not None:
            loaded = load_teacher(self.memory.teacher, self.task, label_names=names)
            return replace(loaded, processor=self._fitting(loaded))
        if is_factory(given.model):
            return self._module_teacher(label_names)
        if given.from_scratch:
            return self._from_scratch(label_names)
        return load_teacher(given.model, self.task, label_names=names, trust_remote_code=given.trust_remote_code)

    def _fitting(self, loaded: LoadedTeacher) -> Any:
        """The processor in memory, which stays as it is: a copy with the model's limits where these are narrower.

        Raises:
            ModelError: It makes what the model cannot read.
        """
        processor, modality, config = self.memory.processor, self.task.modality, loaded.model.config
        if processor is None:
            return loaded.processor
        modality.check_reads(type(loaded.model).__name__, config, processor)
        return modality.fitted(processor, config) or processor

    def _from_scratch(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        config = read_config(self.teacher)
        names = label_names or tuple(config.id2label.values())
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}
        model = new_model(self.task, config)
        processor = self.task.load_processor(self.teacher.model, model_config=config)
        return LoadedTeacher(model, processor, head_is_new=True, notes=("the teacher starts from random weights",))

    def _module_teacher(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        """The teacher that the recipe names as code; with `from_scratch` its head counts as new."""
        given = self.teacher
        model, processor = self._module(label_names)
        if processor is None:
            raise ModelError(
                f"the teacher {given.model} came without an image processor",
                "a processor from the function, as (network, processor), or teacher.processor",
                "set teacher.processor to a folder with preprocessor_config.json",
            )
        freeze(model)
        notes = ("the teacher starts from random weights",) if given.from_scratch else ()
        return LoadedTeacher(model, processor, given.from_scratch, notes)

    def _module(self, label_names: tuple[str, ...] | None) -> tuple[PreTrainedModel, Any]:
        given = self.teacher
        network, processor = make(given.model, None if label_names is None else len(label_names))
        if given.processor is not None:
            processor = modalities.build("image").load_processor(str(Path(given.processor).expanduser()))
        return wrap(network, given.model, processor, label_names=label_names), processor

    def read(self) -> Splits:
        """The rows of the data, with the labels in the order of the teacher's."""
        data = self.data
        return load(
            self.memory.data if self.memory.data is not None else data.source,
            task=self.task,
            columns=data.columns,
            label_names=self._teacher_names(),
            validation=data.validation,
            test=data.test,
            unlabelled=data.unlabelled,
            seed=self.seed,
            max_rows=data.max_rows,
            skip_corrupt=data.skip_corrupt,
            label_map=data.label_map,
            use_unlabelled=data.unlabeled_rows == "use",
        )

    def _teacher_names(self) -> tuple[str, ...] | None:
        """The teacher's label order, where it has a head with names worth keeping."""
        if self.teacher.from_scratch:
            return None
        loaded = self.load_anew(None)
        return None if loaded.head_is_new else teacher_labels(loaded.model.config)

    def _kind_of_labels(self, task: Task) -> str | None:
        """The kind of answers that the columns call for, where they say so and rows are those of this task."""
        source = self.memory.data if self.memory.data is not None else self.data.source
        found = read_source(source, modality=task.modality)
        return kind_of_labels(found.splits.get("train") or next(iter(found.splits.values())), self.data.columns)

    def content(self) -> Any:
        """What the teacher and the data are, for fingerprints: by content where they are on this machine, else by name."""
        named = {key: getattr(self.data, key) for key in ("source", "validation", "test", "unlabelled")}
        data = {key: None if value is None else content_of(value) for key, value in named.items()}
        if self.memory.data is not None:
            data |= {"source": _in_memory(self.memory.data)}
        return {"name": self.name, "task": self.task_name, "teacher": self.teacher_content(), "data": data}

    def teacher_content(self) -> Any:
        """The same of the teacher alone, and of the processor where it is given apart."""
        memory, processor = self.memory, self.teacher.processor
        found = model_content(self.teacher) if memory.teacher is None else fingerprint_of(memory.teacher)
        if memory.processor is not None:
            return [found, fingerprint_of_processor(memory.processor)]
        return found if processor is None else [found, content_of(processor)]


def inputs_of(recipe: Recipe, memory: InMemory, tasks: Mapping[str, InMemory]) -> tuple[Inputs, ...]:
    """What was given of each teacher: of every task its own teacher and data, or of one task the teachers and their data."""
    if recipe.tasks:
        return tuple(
            Inputs(
                name,
                one.teacher,
                DataRecipe(**{**recipe.data.model_dump(), **one.data.model_dump()}),
                recipe.seed,
                recipe.task,
                tasks.get(name, NOTHING),
            )
            for name, one in recipe.tasks.items()
        )
    own = OneTeacherRecipe(**recipe.teacher.model_dump(include=set(OneTeacherRecipe.model_fields)))
    first = Inputs("", own, recipe.data, recipe.seed, recipe.task, memory)
    others = (Inputs("", other, recipe.data, recipe.seed, shared_task=lambda: first.task) for other in recipe.teacher.others)
    return (first, *others)


def joint_task(inputs: Sequence[Inputs]) -> Task:
    """The task of a run: its own, or the one whose rows belong to several tasks of one kind.

    Raises:
        RecipeError: Tasks of different kinds, or of a kind without one class for each row.
    """
    if not inputs[0].name:
        return inputs[0].task
    kinds = {}
    for one in inputs:
        with errors_of_task(one.name):
            kinds[one.name] = one.task
    names = {name: task.name for name, task in kinds.items()}
    if len(set(names.values())) > 1:
        raise RecipeError(
            f"the tasks are of different kinds: {', '.join(f'{name} is {kind}' for name, kind in names.items())}",
            "tasks of one kind for one student: all of one task",
            "give each kind a recipe of its own",
        )
    return of_several(next(iter(kinds.values())))


@contextmanager
def errors_of_task(name: str) -> Iterator[None]:
    """Errors inside name the task that they are about; an empty name changes nothing."""
    try:
        yield
    except PotstillError as error:
        if not name or not getattr(error, "given", None) or error.given.startswith("task "):
            raise
        raise type(error)(f"task {name!r}: {error.given}", error.accepted, error.todo) from error


def trust_named(recipe: Recipe) -> None:
    """Let the networks that the recipe names, and allows, be made and loaded in this process."""
    named = [section.model for section in (recipe.teacher, recipe.student) if section.trust_remote_code and section.model]
    for name in filter(is_factory, named):
        trust(name)
        register()


def taken(teacher: Any, processor: Any) -> tuple[Any, Any]:
    """A teacher in memory and its processor as a run takes them: in float32, the processor out of a sentence-transformers model.

    Raises:
        ModelError: A network that does not run on an image of the processor's size, or an encoder without counterpart here.
    """
    if is_sentence_transformer(teacher):
        texts = modalities.build("text")
        model, own = unpacked(teacher, lambda folder, config: texts.load_processor(folder, model_config=config))
        return model, processor or own
    if processor is None:
        return teacher, None
    teacher = in_float32(teacher)
    if hasattr(teacher, "config"):
        return teacher, processor
    register()
    return wrap(teacher, trust_module(teacher), processor), processor


def named_tasks(teachers: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """The recipe's `tasks` of teachers and data that are given as mappings from the names of tasks.

    Raises:
        RecipeError: The two are not of the same tasks.
    """
    if not isinstance(data, Mapping) or list(data) != list(teachers):
        given = f"data of {', '.join(data)}" if isinstance(data, Mapping) else f"data that are {type(data).__name__}"
        raise RecipeError(
            f"teachers of the tasks {', '.join(teachers)} are given, and {given}",
            "data for the same tasks, in the same order",
            "pass data={'task': …} with an entry for each teacher",
        )
    return {name: {"teacher": {"model": _name(teachers[name])}, "data": {"source": _name(data[name])}} for name in teachers}


def given_tasks(teachers: Mapping[str, Any], data: Any, processors: Any) -> dict[str, InMemory]:
    """What is in memory of each task.

    Raises:
        RecipeError: A teacher in memory without its tokenizer or image processor.
    """
    found = {}
    for name, teacher in teachers.items():
        processor = processors.get(name) if isinstance(processors, Mapping) else None
        if not _is_named(teacher):
            teacher, processor = taken(teacher, processor)
        if not _is_named(teacher) and processor is None:
            raise RecipeError(
                f"the teacher of task {name!r} is in memory and came without its tokenizer or image processor",
                "processor={'task': …} with an entry for each teacher in memory",
                f"pass processor={{{name!r}: …}} together with teacher_model",
            )
        rows = data.get(name) if isinstance(data, Mapping) else None
        teacher, processor, rows = (None if _is_named(value) else value for value in (teacher, processor, rows))
        found[name] = InMemory(teacher, processor, rows)
    return found


def _is_named(value: Any) -> bool:
    return isinstance(value, str | Path)


def _name(value: Any) -> str:
    return str(value) if _is_named(value) else IN_MEMORY


def read_config(teacher: OneTeacherRecipe) -> Any:
    """The teacher's configuration.

    Raises:
        ModelError: Nothing that can be read as a model is there.
    """
    name = os.path.expanduser(teacher.model)  # no Path, which drops the ./ that makes it a folder and no hub id
    if not teacher.from_scratch:
        checkpoint.check_folder(name)
    return checkpoint.read_config(name, trust_remote_code=teacher.trust_remote_code)


def content_of(name: str) -> Any:
    """What the fingerprint of a name is made from: the files where they are on this machine, else the name."""
    path = Path(name).expanduser()
    return path if path.exists() else name


def model_content(asked: OneTeacherRecipe | StudentRecipe) -> Any:
    """The same of the model that a part of the recipe names; of code that may run, its file."""
    assert asked.model is not None
    if is_factory(asked.model) and asked.trust_remote_code:
        return [asked.model, fingerprint_of_code(asked.model)]
    return content_of(asked.model)


def of_student(asked: StudentRecipe) -> Declared:
    """What making the student depends on where the recipe names one: the model there, under its role."""
    if asked.model is None:
        return {}
    return {"named": Slot("named student", lambda folder, given: asked.model, content=lambda: model_content(asked))}


def _in_memory(data: Any) -> Any:
    if hasattr(data, "_fingerprint"):
        return str(data._fingerprint)
    is_table = hasattr(data, "to_dict") and hasattr(data, "columns")  # a DataFrame
    if is_table or (isinstance(data, list) and all(isinstance(row, Mapping) for row in data)):
        return Hasher.hash(data)
    if hasattr(data, "items"):
        return {str(key): _in_memory(value) for key, value in data.items()}
    accepted = "a Dataset, DatasetDict, DataFrame or list of mappings"
    raise PotstillError(f"data in memory is {type(data).__name__}", accepted, "wrap it: datasets.Dataset.from_dict(…)")
