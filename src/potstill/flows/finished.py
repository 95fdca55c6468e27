"""A finished run as its folder holds it: the student in every way it is served, and the rows; the teacher is not needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from potstill.contracts.runner import Runner
from potstill.data.run_rows import read_facts
from potstill.data.task_rows import blocks_of
from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.exports.delivery import Kept, kept_in, plain_in
from potstill.exports.runtimes import TorchRunner
from potstill.flows.distill import DistillFlow
from potstill.flows.folder import check_answers_rows
from potstill.flows.observer import LoggingObserver
from potstill.ground.devices import compute_device
from potstill.models import checkpoint
from potstill.planning.inputs import read_config
from potstill.recipe import make_recipe, read_file
from potstill.recipe.model import DataRecipe
from potstill.targets import target_named
from potstill.tasks import infer, of_several
from potstill.tasks.loading import load

TORCH_NAMES = ("torch", "pytorch", "pytorch-fp32")


class FinishedRun:
    """A finished output folder.

    Raises:
        OutputError: The folder is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        check_answers_rows(self.folder)
        self.recipe = make_recipe(read_file(self.folder / "recipe.yaml"), {"output": str(self.folder)})
        self.flow = DistillFlow(self.recipe)
        self.run = self.flow.start(self.folder, LoggingObserver())

    @cached_property
    def task(self) -> Any:
        """The student's task, with the names of its labels."""
        config = checkpoint.read_config(str(self.folder / "student"))
        task = infer(config)
        task = of_several(task) if self.recipe.tasks else task
        names = getattr(config, "id2label", None) or {}
        task.label_names = tuple(str(names[index]) for index in sorted(names)) if task.answers().has_label_names else ()
        return task

    @cached_property
    def rows_folder(self) -> Path:
        """Where the run's rows lie."""
        return self.run.place(self.flow.rows)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load(self.folder / "student", trust_remote_code=self.recipe.student.trust_remote_code)

    @property
    def model(self) -> Any:
        """The student in PyTorch."""
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        """Its tokenizer or image processor."""
        return self._loaded[1]

    @cached_property
    def measure(self) -> Any:
        """The tokenizer that splits long texts: the first teacher's where it is still there, else the student's."""
        modality = self.task.modality
        if not modality.has_tokens:
            return self.processor
        teacher = next(iter(self.flow.inputs)).teacher
        try:
            return self.task.load_processor(teacher.processor or teacher.model, model_config=read_config(teacher))
        except (PotstillError, OSError):
            return self.processor

    def data_of(self, number: int | None) -> DataRecipe:
        """What the recipe says of the rows, of one of several tasks where a number is given."""
        return self.flow.inputs[number or 0].data

    def columns_of(self, number: int | None) -> dict[str, str]:
        """Role → column of the rows that the run was trained on; empty where the run did not keep them."""
        name = "" if number is None else list(self.recipe.tasks)[number]
        try:
            found: dict[str, str] = read_facts(self.rows_folder).get("columns", {}).get(name, {})
        except ModelError:
            return {}
        return found

    def block_of(self, number: int | None) -> tuple[int, int] | None:
        """The number of a task and its first class; None where there is one task."""
        if number is None:
            return None
        return number, list(blocks_of(self.task.label_names).values())[number][0]

    @cached_property
    def kept(self) -> list[Kept]:
        """The exported files, the one that was chosen first."""
        facts = read_facts(self.folder / "export")
        plain, others = plain_in(facts), kept_in(facts)
        chosen = others.get("served", plain)
        return [chosen, *(one for one in (plain, *others.values()) if one != chosen)]

    def served(self, runtime: str | None = None) -> Runner:
        """The student as the run chose to serve it, or in a runtime, format or precision.

        Raises:
            RecipeError: The run has no such file.
        """
        if runtime in TORCH_NAMES:
            return TorchRunner(self.model.to(compute_device()))
        fitting = [one for one in self.kept if runtime is None or runtime.lower() in names_of(one)]
        if not fitting:
            held = ", ".join(dict.fromkeys(name for one in self.kept for name in names_of(one)))
            raise RecipeError(
                f"{self.folder} has no export for {runtime!r}",
                f"{TORCH_NAMES[0]}, {held}",
                f"take one of these, or make it: potstill export {self.folder} --to {runtime}",
            )
        return fitting[0].open(self.folder / "export", device=target_named(self.recipe.target).usable_device)


def names_of(kept: Kept) -> tuple[str, ...]:
    """What a file may be asked for by: its format, its runtime, its precision, its way, and as figures name it."""
    return tuple(dict.fromkeys((kept.format.name, kept.format.runtime, kept.precision.name, kept.name, kept.model_name)))
