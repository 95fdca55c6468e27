"""What the stages of one run share: the recipe, the output folder, and the results that lie there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from datasets import Dataset, load_from_disk

from potstill.contracts.answers import Answers
from potstill.data.encoded import EncodedRows, concatenate, open_rows
from potstill.errors import ModelError
from potstill.ground.disk import read_json
from potstill.recipe import Recipe
from potstill.recipe.model import OneTeacherRecipe, StudentRecipe, TeacherRecipe
from potstill.stages.module_models import trust_named
from potstill.tasks import build as build_task
from potstill.tasks import infer as infer_task
from potstill.tasks.contract import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.models.load import LoadedTeacher
    from potstill.stages.observer import Observer
    from potstill.stages.stage import StageResult

SPLITS = ("train", "validation", "test", "unlabelled")


class Given(NamedTuple):
    """What is in memory of one of several tasks; None where the recipe names it."""

    teacher: Any = None
    processor: Any = None
    data: Any = None


@dataclass(frozen=True)
class Places:
    """Where a run's teacher and student lie, below the output folder; further teachers and models of a chain have their own.

    Args:
        teacher: The trained teacher.
        encoded: Rows in the teacher's tokens, a folder for each split.
        augmented: The same of the augmented rows.
        cache: The teacher's answers.
        student: The cut student and the rows in its tokens.
    """

    teacher: str = "teacher"
    encoded: str = "work/data/encoded"
    augmented: str = "work/augment/encoded"
    cache: str = "work/cache"
    student: str = "work/student"


class Run:
    """One run. Stages hand results to each other through the output folder; this opens them, each once.

    Args:
        recipe: The resolved recipe.
        folder: The output folder.
        observer: Receives progress.
        given_teacher: A teacher in memory; None where the recipe names one.
        given_processor: Its tokenizer or image processor.
        given_data: Data in memory; None where the recipe names them.
        given_tasks: The same of each of several tasks.
        places: Where teacher and student lie.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        observer: Observer,
        *,
        given_teacher: PreTrainedModel | None = None,
        given_processor: Any = None,
        given_data: Any = None,
        given_tasks: Mapping[str, Given] | None = None,
        places: Places | None = None,
    ) -> None:
        self.recipe, self.folder, self.observer = recipe, folder, observer
        self.places = places or Places()
        self.given_teacher, self.given_processor, self.given_data = given_teacher, given_processor, given_data
        self.given_tasks = dict(given_tasks or {})
        self.results: dict[str, StageResult] = {}
        trust_named(recipe)
        self._opened: dict[str, tuple[str, Any]] = {}

    def variant(self, *, places: Places, teacher: OneTeacherRecipe | None = None, student: StudentRecipe | None = None) -> Run:
        """The same run with another teacher or student, which lies elsewhere; rows and results are shared.

        Args:
            places: Where they lie.
            teacher: Another teacher; None for the same.
            student: Another student; None for the same.
        """
        changes: dict[str, Any] = {"task": self.task.name}
        if teacher is not None:
            changes["teacher"] = TeacherRecipe(**teacher.model_dump(include=set(OneTeacherRecipe.model_fields)))
        if student is not None:
            changes["student"] = student
        given = {"given_teacher": self.given_teacher, "given_processor": self.given_processor} if teacher is None else {}
        recipe = self.recipe.model_copy(update=changes)
        other = Run(recipe, self.folder, self.observer, given_data=self.given_data, places=places, **given)
        other.results = self.results
        return other

    # -- what was given

    @property
    def task(self) -> Task:
        """The task: as the recipe says, else as teacher and data tell."""
        return self._once("task", "", self._task_with_labels)

    @property
    def teacher_config(self) -> Any:
        """The configuration of the teacher as it was given."""
        return self._once("teacher config", "", self._find_config)

    def load_given_teacher(self, label_names: tuple[str, ...] | None) -> LoadedTeacher:
        """The teacher as it was given, at rest, checked against the task and the labels."""
        from potstill.stages.user_inputs import load_given

        return load_given(self, label_names)

    def given_fingerprint(self) -> str:
        """Of the teacher and the data that were given, by content where they are on this machine."""
        from potstill.stages.user_inputs import given_fingerprint

        return self._once("given fingerprint", "", partial(given_fingerprint, self))

    # -- results of stages

    def facts(self, folder: str) -> dict[str, Any]:
        """The ``facts.json`` that a stage left in its folder."""
        found = read_json(self.folder / folder / "facts.json")
        if not isinstance(found, dict):
            raise ModelError(
                f"{self.folder / folder} has no facts.json", "the folder as its stage wrote it", "run again with --overwrite"
            )
        return found

    @property
    def answers(self) -> Answers:
        """What is answered and which losses teach it, with the scales of the training labels."""
        return self._once("answers", "work/data", lambda: self.task.answers(self.teacher_rows("train").labels))

    @property
    def metric(self) -> str:
        """The measure that models are compared by on this run's rows."""
        return self._once("metric", "work/data", lambda: self.task.metric_for(self.teacher_rows("test").labels))

    @property
    def num_answers(self) -> int:
        """Width of a row's answer: one for each label, or the teacher's embedding."""
        return len(self.label_names) or int(self.teacher.model.config.num_labels or 0)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Position → name, in the order of all logits of this run."""
        return tuple(self.facts("work/data")["label_names"])

    def split(self, name: str) -> Dataset:
        """Rows as a person reads them: a split of the data, or ``"augmented"``."""
        folder = "work/augment/rows" if name == "augmented" else f"work/data/splits/{name}"
        return self._once(f"split {name}", folder, lambda: load_from_disk(str(self.folder / folder)))

    def has(self, name: str) -> bool:
        """Whether this run has such rows."""
        return (self.folder / ("work/augment/rows" if name == "augmented" else f"work/data/splits/{name}")).is_dir()

    def teacher_rows(self, *names: str) -> EncodedRows:
        """Rows in the teacher's tokens; several splits are joined."""
        return self._rows("teacher", names)

    def student_rows(self, *names: str) -> EncodedRows:
        """Rows in the student's tokens; the teacher's where the student reads the same."""
        return self._rows("student" if (self.folder / self.places.student / "encoded").is_dir() else "teacher", names)

    @property
    def teacher(self) -> LoadedTeacher:
        """The teacher that is distilled: the one trained here, or the one given; of several tasks the first one's."""
        folder = self.places.teacher if (self.folder / self.places.teacher).is_dir() else ""
        return self._once("teacher", folder, self._load_teacher)

    def forget(self, folder: str) -> None:
        """Drop what was opened from a folder that may have changed."""
        self._opened = {key: (place, value) for key, (place, value) in self._opened.items() if not place.startswith(folder)}
        if folder in ("teacher", "work/teacher"):
            self._opened.pop("teacher", None)

    def progress(self) -> Callable[..., None]:
        """A callback (done, total, figures) that moves the bar of the running stage."""

        def advance(done: int, total: int, figures: Mapping[str, Any] | None = None) -> None:
            shown = {key: float(value) for key, value in (figures or {}).items() if isinstance(value, int | float)}
            self.observer.stage_advanced(done, total, shown)

        return advance

    def know_labels(self, names: tuple[str, ...]) -> None:
        """Tell the task its labels, where it judges by their names."""
        if hasattr(self.task, "label_names"):
            self.task.label_names = names

    # -- inside

    def _once(self, key: str, folder: str, make: Callable[[], Any]) -> Any:
        if key not in self._opened:
            self._opened[key] = (folder, make())
        return self._opened[key][1]

    def _rows(self, who: str, names: tuple[str, ...]) -> EncodedRows:
        parts = []
        for name in names:
            if who == "teacher":
                folder = self.places.augmented if name == "augmented" else f"{self.places.encoded}/{name}"
            else:
                folder = f"{self.places.student}/encoded/{name}"
            parts.append(self._once(f"{who} rows {name}", folder, partial(open_rows, self.folder / folder)))
        return concatenate(parts)

    def _task_with_labels(self) -> Task:
        task = self._find_task()
        if hasattr(task, "label_names") and (self.folder / "work/data/facts.json").is_file():
            task.label_names = self.label_names
        return task

    def _find_task(self) -> Task:
        if self.recipe.tasks:
            from potstill.stages.task_run import joint_task

            return joint_task(self)
        if self.recipe.task != "auto":
            return build_task(self.recipe.task)
        from potstill.stages.user_inputs import labels_tell

        return infer_task(self.teacher_config, labels=partial(labels_tell, self))

    def _find_config(self) -> Any:
        if self.recipe.tasks:
            from potstill.stages.task_run import task_run

            return task_run(self, 0).teacher_config
        if self.given_teacher is not None:
            return self.given_teacher.config
        from potstill.models.factory import is_factory
        from potstill.stages.user_inputs import read_config

        if is_factory(self.recipe.teacher.model):
            from potstill.stages.module_models import module_config

            return module_config(self)
        return read_config(self.recipe.teacher)

    def _load_teacher(self) -> LoadedTeacher:
        if self.recipe.tasks:
            from potstill.stages.task_run import task_run

            return task_run(self, 0).teacher
        trained = self.folder / self.places.teacher
        if not trained.is_dir():
            return self.load_given_teacher(self.label_names)
        from potstill.models.load import load_teacher

        return load_teacher(trained, self.task, label_names=self.label_names or None)
