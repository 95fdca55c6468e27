"""DistillationPipeline: the stages in order, each done once, resumable after any interruption."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from potstill import __version__
from potstill.contracts.stage import Observer, Stage
from potstill.errors import OutputError, RecipeError
from potstill.flows.choice import flow_for
from potstill.flows.observer import LoggingObserver, silent_observer
from potstill.ground import ranks
from potstill.ground.disk import explained_full_disk, explained_os_errors
from potstill.ground.lock import FolderLock
from potstill.planning.inputs import IN_MEMORY, InMemory, given_tasks, named_tasks, wrap_teacher
from potstill.recipe import Recipe, make_recipe
from potstill.report.metrics import Metrics

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PLACES = ("output", "store")  # keys that say where results lie, and nothing about them
_HEADER = "# Resolved recipe of a Potstill"


class DistillationPipeline:
    """Teacher and data in; distilled, quantized, exported and measured student out.

    Args:
        teacher_model: Folder, hub id, a list of these, ``package.module:function``, or a model in memory: of transformers, or any
            `torch.nn.Module` that gives the logits of images. For several tasks a mapping from each task's name to its teacher.
        data: File, folder, hub id, or a `datasets.Dataset` or `DatasetDict` in memory; for several tasks a mapping likewise.
        config: Recipe keys, nested or by their well-known names (``compression_ratio``, ``temperature`` …).
        output_dir: Folder that receives everything.
        processor: Tokenizer or image processor of a teacher in memory; for several tasks a mapping likewise.
        store: Folder where runs share rows, teachers and their answers; None: the recipe's, or none.

    Raises:
        RecipeError: A key or value of the configuration cannot work.

    Example:
        >>> DistillationPipeline(teacher_model="./my-bert", data="reviews.csv", output_dir="out").recipe.student.budget
        {'ratio': 0.9}
    """

    recipe: Recipe
    _memory: InMemory
    _tasks: dict[str, InMemory]

    def __init__(
        self,
        teacher_model: str | Path | Sequence[str | Path] | PreTrainedModel | nn.Module | Mapping[str, Any],
        data: str | Path | datasets.Dataset | datasets.DatasetDict | Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        output_dir: str | Path = "out",
        processor: Any = None,
        store: str | Path | None = None,
    ) -> None:
        named: dict[str, Any] = {"output": str(output_dir)} | ({} if store is None else {"store": str(store)})
        self._memory, self._tasks = InMemory(), {}
        if isinstance(teacher_model, Mapping):
            self._tasks = given_tasks(teacher_model, data, processor)
            named["tasks"] = named_tasks(teacher_model, data)
            in_order: dict[str, Any] = {"tasks": {name: {} for name in teacher_model}}  # the first one's teacher is cut
            self.recipe = make_recipe(in_order, dict(config or {}), named)
            return
        if isinstance(teacher_model, list | tuple):
            named["teachers"] = [str(one) for one in teacher_model]
        else:
            named["teacher_model"] = str(teacher_model) if isinstance(teacher_model, str | Path) else IN_MEMORY
        named["data"] = {"source": str(data) if isinstance(data, str | Path) else IN_MEMORY}
        self.recipe = make_recipe(dict(config or {}), named)
        teacher: Any = None if isinstance(teacher_model, str | Path | Sequence) else teacher_model
        if teacher is not None and not hasattr(teacher, "config") and processor is not None:
            teacher = wrap_teacher(teacher, processor)
        self._memory = InMemory(teacher, processor, None if isinstance(data, str | Path) else data)
        if teacher is not None and processor is None:
            raise RecipeError(
                "a teacher in memory came without its tokenizer or image processor",
                todo="pass processor=… together with teacher_model=…",
            )

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> DistillationPipeline:
        """A pipeline for a recipe that is complete in itself."""
        pipeline = cls.__new__(cls)
        pipeline.recipe, pipeline._memory, pipeline._tasks = recipe, InMemory(), {}
        return pipeline

    @property
    def stages(self) -> Sequence[Stage]:
        """The stages in the order in which they run; a run may need fewer."""
        return flow_for(self.recipe, self._memory, self._tasks).stages

    def run(self, observer: Observer | None = None, *, overwrite: bool = False) -> Metrics:
        """Do what is not done yet, and return the figures of the report.

        Args:
            observer: Receives progress; the log by default.
            overwrite: Allow results of another recipe in the output folder to be replaced. Only what depends on
                the difference is done again.

        Raises:
            RecipeError: The method or a loss does not exist, or has no such option.
            OutputError: The output folder belongs to another recipe, or cannot be written.
            DataError: The data cannot be used.
            ModelError: The teacher cannot be used.
        """
        folder = Path(self.recipe.output)
        flow = flow_for(self.recipe, self._memory, self._tasks)
        observer = (observer or LoggingObserver()) if ranks.is_first() else silent_observer()
        store = None if self.recipe.store is None else Path(self.recipe.store).expanduser()
        with _claimed(folder, self.recipe, overwrite=overwrite), explained_full_disk(folder):
            run = flow.start(folder, observer, store)
            ranks.join()
            if ranks.is_first():
                flow.check_answers()
            for stage in flow.stages:
                run.perform(stage)
                if stage.writes is flow.rows:
                    flow.check_models()
            ranks.wait_for_all()
        ranks.leave()
        return Metrics.read(folder / "report" / "metrics.json")


@contextlib.contextmanager
def _claimed(folder: Path, recipe: Recipe, *, overwrite: bool) -> Iterator[None]:
    """Hold the output folder; of several ranks the first one holds it for all."""
    if not ranks.is_first():
        yield
        return
    with explained_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder / "run")
    lock.acquire()
    try:
        claim_folder(folder, recipe, overwrite=overwrite)
        yield
    finally:
        lock.release()


def claim_folder(folder: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Write ``recipe.yaml``, unless the folder holds something else.

    A run that ended before its first stage was done holds nothing to lose: the next one may have another recipe.

    Raises:
        OutputError: It holds foreign files or results of another recipe, and `overwrite` is not given.
    """
    wanted = recipe.model_dump(mode="json")
    file = folder / "recipe.yaml"
    held = _held_recipe(file)
    if held is None and _names_in(folder) and not overwrite:
        raise OutputError(
            f"{folder} holds files that are no run of Potstill",
            "a new or empty folder, or the folder of the same recipe",
            "choose another folder with -o, or allow it with --overwrite",
        )
    differences = [] if held is None else _differences(held, {key: value for key, value in wanted.items() if key not in PLACES})
    if differences and not overwrite and _holds_results(folder):
        raise OutputError(
            f"{folder} holds the run of another recipe; different: {'; '.join(differences[:4])}",
            "the same recipe, or a new folder",
            "choose another folder with -o, or --overwrite to do again what depends on the difference",
        )
    with explained_os_errors(file):
        text = yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True)
        file.write_text(f"{_HEADER} {__version__} run; repeat it with: potstill distill recipe.yaml\n{text}", "utf-8")


def _holds_results(folder: Path) -> bool:
    """Whether a stage of the run in this folder was done, or something lies there that a person may have put there."""
    if not (folder / "recipe.yaml").read_text("utf-8").startswith(_HEADER) or _names_in(folder) - {"recipe.yaml", "work"}:
        return True
    work = folder / "work"
    return work.is_dir() and any(not item.name.endswith(".partial") for item in work.iterdir())


def _names_in(folder: Path) -> set[str]:
    """What lies in the output folder but for locks and hidden files."""
    return {item.name for item in folder.iterdir() if not item.name.startswith((".", "run"))}


def _held_recipe(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        held = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError:
        return None
    return {key: value for key, value in held.items() if key not in PLACES} if isinstance(held, dict) else None


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for key in [*held, *(key for key in wanted if key not in held)]:
        before, after = held.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{path}{key}.")
        elif before != after:
            found.append(f"{path}{key} was {before!r}, is {after!r}")
    return found
