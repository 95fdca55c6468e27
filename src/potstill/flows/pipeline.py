"""DistillationPipeline: the stages in order, each done once, resumable after any interruption."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from potstill.console import ConsoleObserver, console_here, warnings_shown_by
from potstill.contracts.stage import Observer, Stage
from potstill.errors import RecipeError
from potstill.flows.choice import flow_for
from potstill.flows.folder import as_asked, claim_folder, unrepeatable_in, write_recipe
from potstill.flows.observer import LoggingObserver, silent_observer
from potstill.flows.resolved import resolved
from potstill.ground import ranks
from potstill.ground.code import plain_name, remember
from potstill.ground.disk import explained_full_disk, explained_os_errors
from potstill.ground.lock import FolderLock
from potstill.ground.quiet import quieted
from potstill.planning.inputs import InMemory, given_tasks, named_tasks, taken
from potstill.recipe import Recipe, make_recipe
from potstill.recipe.model import IN_MEMORY
from potstill.report.result import Result

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback


class DistillationPipeline:
    """Teacher and data in; distilled, quantized, exported and measured student out.

    Args:
        teacher_model: Folder, hub id, a list of these, ``package.module:function``, or a model in memory: of transformers, of
            sentence-transformers, or any `torch.nn.Module` that gives the logits of images. One in another type than float32 is
            left alone, and a copy in float32 is used. For several tasks a mapping from each task's name to its teacher.
        data: File, folder, hub id, or a `datasets.Dataset`, `DatasetDict`, DataFrame or list of mappings in memory; for several
            tasks a mapping likewise.
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
        config = named_code(config or {})
        named: dict[str, Any] = {"output": str(output_dir)} | ({} if store is None else {"store": str(store)})
        self._memory, self._tasks = InMemory(), {}
        if isinstance(teacher_model, Mapping):
            self._tasks = given_tasks(teacher_model, data, processor)
            named["tasks"] = named_tasks(teacher_model, data)
            in_order: dict[str, Any] = {"tasks": {name: {} for name in teacher_model}}  # the first one's teacher is cut
            self.recipe = make_recipe(in_order, config, named)
            return
        if isinstance(teacher_model, list | tuple):
            named["teachers"] = [str(one) for one in teacher_model]
        else:
            named["teacher_model"] = str(teacher_model) if isinstance(teacher_model, str | Path) else IN_MEMORY
        named["data"] = {"source": str(data) if isinstance(data, str | Path) else IN_MEMORY}
        self.recipe = make_recipe(config, named)
        teacher: Any = None if isinstance(teacher_model, str | Path | Sequence) else teacher_model
        if teacher is not None:
            teacher, processor = taken(teacher, processor)
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

    def run(
        self, observer: Observer | bool | None = None, *, overwrite: bool = False, callbacks: Sequence[TrainerCallback] = ()
    ) -> Result:
        """Do what is not done yet, and return the figures of the report.

        Bars and remarks of the libraries below are switched off meanwhile, and are as before when it returns.

        Args:
            observer: Receives progress. None: it is drawn on a terminal, and as plain lines in a notebook,
                and goes to the log elsewhere; True: it is drawn in any case; False: it goes to the log alone.
            overwrite: Allow results of another recipe in the output folder to be replaced. Only what depends on
                the difference is done again.
            callbacks: Of transformers, called while teacher and students train; those of the recipe are called too.

        Raises:
            RecipeError: The method or a loss does not exist, or has no such option.
            OutputError: The output folder belongs to another recipe, or cannot be written.
            DataError: The data cannot be used.
            ModelError: The teacher cannot be used.
        """
        folder = Path(self.recipe.output)
        recipe = as_asked(folder, self.recipe)
        flow = flow_for(recipe, self._memory._replace(callbacks=tuple(callbacks)), self._tasks)
        store = None if self.recipe.store is None else Path(self.recipe.store).expanduser()
        with (
            quieted(),
            _watched(observer, len(flow.stages)) as watcher,
            _claimed(folder, recipe, overwrite=overwrite),
            explained_full_disk(folder),
        ):
            run = flow.start(folder, watcher, store)
            ranks.join()
            if ranks.is_first():
                flow.check_answers()
            for stage in flow.stages:
                run.perform(stage)
                if stage.writes is flow.rows:
                    flow.check_models()
            ranks.wait_for_all()
            result = Result.of_folder(folder)
            if ranks.is_first():
                write_recipe(folder, recipe, resolved(flow, result), unrepeatable_in(recipe))
        ranks.leave()
        return result


@contextlib.contextmanager
def _watched(observer: Observer | bool | None, num_stages: int) -> Iterator[Observer]:
    """Who follows a run: the observer that was given, a console, or the log; nothing for every rank but the first."""
    if not ranks.is_first():
        yield silent_observer()
        return
    console = (console_here() or Console(stderr=True)) if observer is True else console_here() if observer is None else None
    if console is not None:
        with ConsoleObserver(console, num_stages) as drawn, warnings_shown_by(drawn.warn):
            yield drawn
        return
    yield LoggingObserver() if observer is None or isinstance(observer, bool) else observer


def named_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in which code of losses and methods stands under its name, by which this process finds it."""
    named = dict(config)
    if isinstance(named.get("distill"), Mapping):
        named["distill"] = named_code(named["distill"])
    if callable(named.get("method")):
        named["method"] = remember(named["method"])
    losses = named.get("losses")
    if isinstance(losses, list | tuple) or callable(losses):
        named["losses"] = [_named_loss(entry) for entry in ([losses] if callable(losses) else losses)]
    return named


def _named_loss(entry: Any) -> Any:
    given = entry if isinstance(entry, Mapping) else {"name": entry}
    if not callable(given.get("name")):
        return entry
    return {"as": plain_name(given["name"]), **given, "name": remember(given["name"])}


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
