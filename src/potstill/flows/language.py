"""The flow of language models: from a teacher and texts to a measured student that predicts tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Slot
from potstill.contracts.stage import Observer, Stage
from potstill.errors import RecipeError
from potstill.flows.folder import unrepeatable_in
from potstill.flows.run import Run
from potstill.ground.tables import nearest
from potstill.knowledge.tokens.schemes import Sampled
from potstill.methods.catalogue import DEFAULT, OF_TOKENS
from potstill.modalities.language.rows import RowsOptions, TokenRows
from potstill.models.language_model import LanguageModel, language_model
from potstill.planning.inputs import NOTHING, InMemory
from potstill.planning.learning import reporting_of
from potstill.recipe import Recipe
from potstill.recipe.language import LanguageOptions
from potstill.recipe.located import located
from potstill.stages.language.ask import AskOptions, ask, open_answers
from potstill.stages.language.learn import LearnOptions, learn
from potstill.stages.language.measure import MeasureOptions, measure
from potstill.stages.language.rows import open_rows, read_rows
from potstill.stages.language.student import (
    StudentOptions,
    make_student,
    open_asked_teacher,
    open_student,
    open_student_rows,
    tokens_of,
)
from potstill.stages.report import ReportOptions, write_report
from potstill.training.phase_settings import PhaseSettings

EPOCHS, LEARNING_RATE = 1.0, 1e-4
START = "work/student"  # the student before it learns


class LanguageFlow:
    """The slots and stages of a recipe whose task is ``causal-lm``."""

    def __init__(self, recipe: Recipe, memory: InMemory = NOTHING, tasks: Mapping[str, InMemory] | None = None) -> None:
        self.asked, recipe = recipe, located(recipe)
        self.recipe, self.memory = recipe, memory
        self.language: LanguageOptions = recipe.language  # type: ignore[attr-defined]  # a section of its own
        self.run: Run | None = None
        given = Slot("given", lambda folder, given: memory, content=lambda: [recipe.data.source])
        self.teacher: Slot[LanguageModel] = Slot(
            "teacher", lambda folder, given: self._teacher(), content=lambda: [recipe.teacher.model]
        )
        self.rows: Slot[TokenRows] = Slot("rows", open_rows, "work/data", kind="rows")
        self._given = given
        self.stages = tuple(self._stages())

    def start(self, folder: Path, observer: Observer, store: Path | None = None) -> Run:
        """A run of this flow, new or finished, in an output folder."""
        self.run = Run(folder, observer, store=store)
        return self.run

    def check_answers(self) -> None:
        """Refuse what the task cannot do, before anything is read."""
        method = self.recipe.distill.method
        if method not in OF_TOKENS:
            guess = nearest(method, OF_TOKENS)
            raise RecipeError(
                f"method {method!r} is not one of language models",
                ", ".join(OF_TOKENS),
                f"did you mean {guess!r}?" if guess else "leave distill.method out",
            )

        if self.recipe.student.architecture is not None:
            raise RecipeError(
                f"student.architecture: {self.recipe.student.architecture} is no network that predicts tokens",
                "a student cut out of the teacher (--ratio, student.params, student.bytes), or a named one",
                "leave student.architecture out, or give --student FOLDER_OR_HUB_ID",
            )

    def check_models(self) -> None:
        """Nothing more is known once the rows are read."""

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self.recipe.data.max_tokens or self.language.window

    def _teacher(self) -> LanguageModel:
        if self.memory.teacher is not None:
            return LanguageModel("teacher", "", lambda: self.memory.teacher, lambda: self.memory.processor)
        given = self.recipe.teacher
        return language_model("teacher", given.model, trust_remote_code=given.trust_remote_code)

    def _settings(self) -> PhaseSettings:
        distill = self.recipe.distill
        return PhaseSettings(
            epochs=distill.epochs or EPOCHS,
            learning_rate=distill.learning_rate or LEARNING_RATE,
            batch_size=distill.batch_size,
            accumulation=distill.accumulation,
            seed=self.recipe.seed,
            schedule="cosine",
        )

    def resolved(self) -> dict[str, Any]:
        """Dotted key → value of what the recipe leaves open."""
        settings, method = self._settings(), self.recipe.distill.method
        found: dict[str, Any] = {"distill.method": DEFAULT} if method == "auto" else {}
        rates = {"epochs": settings.epochs, "learning_rate": settings.learning_rate}
        return found | {f"distill.{key}": value for key, value in rates.items() if getattr(self.recipe.distill, key) is None}

    @property
    def method(self) -> str:
        """How the student learns."""
        asked = self.recipe.distill.method
        return DEFAULT if asked == "auto" else asked

    @property
    def keeps_answers(self) -> bool:
        """Whether the student learns from kept distributions: as asked, else where the scheme holds enough for the divergence."""
        asked = self.recipe.distill.cache
        if self.method == "sft" or asked == "never":
            return False
        return asked == "always" or self.language.scheme != Sampled.name or self.language.divergence == "kl"

    def _stages(self) -> list[Stage]:
        recipe, language = self.recipe, self.language
        start = Slot("student.start", open_student, START, kind=None)
        started: Slot[Path] = Slot("start folder", lambda folder, given: folder, START, {"student": start})
        own_rows: Slot[TokenRows] = Slot(
            "student.rows", open_student_rows, START, {"student": start, "rows": self.rows}, lambda: self._tokens(self.rows)
        )
        asked_teacher: Slot[LanguageModel] = Slot(
            "asked teacher",
            open_asked_teacher,
            START,
            {"student": start, "teacher": self.teacher},
            lambda: self._tokens(self.teacher),
        )
        encoding = RowsOptions(recipe.data, self.window, language.packing, language.loss_on, language.template, recipe.seed)
        student = Slot("student", open_student, "student")
        folder: Slot[Path] = Slot("student folder", lambda folder, given: folder, "student", {"student": student})
        answers = Slot("answers", open_answers, "work/cache", kind="answers")
        kept: Slot[Path] = Slot("cache folder", lambda folder, given: folder, "work/cache", {"answers": answers})
        measured = Slot("measurements", lambda folder, given: folder, "work/evaluate")
        report = Slot("report", lambda folder, given: folder, "report")
        return [
            Stage(
                name="data",
                title="read the texts, split them and encode them",
                writes=self.rows,
                reads={"given": self._given, "teacher": self.teacher},
                options=encoding,
                work=read_rows,
            ),
            Stage(
                name="student",
                title="make the student",
                writes=start,
                reads={"teacher": self.teacher, "rows": self.rows, "given": self._given},
                options=StudentOptions(recipe.student, encoding),
                work=make_student,
            ),
            Stage(
                name="cache",
                title="keep the teacher's distributions",
                writes=answers,
                reads={"rows": own_rows, "teacher": asked_teacher},
                options=AskOptions(language, recipe.seed, self.keeps_answers),
                work=ask,
                is_needed=lambda given, asked: asked.is_wanted,
            ),
            Stage(
                name="distill",
                title="teach the student",
                writes=student,
                reads={"rows": own_rows, "teacher": asked_teacher, "answers": answers, "student": start},
                options=LearnOptions(self.method, language, self._settings(), reporting_of(recipe, self.memory.callbacks)),
                work=learn,
                trains=True,
            ),
            Stage(
                name="evaluate",
                title="measure quality, fidelity and speed",
                writes=measured,
                reads={
                    "rows": self.rows,
                    "teacher": self.teacher,
                    "student_rows": own_rows,
                    "asked_teacher": asked_teacher,
                    "start_folder": started,
                    "student": student,
                    "student_folder": folder,
                    "cache_folder": kept,
                },
                options=MeasureOptions(
                    self.asked.teacher.model,
                    self.asked.data.source,
                    recipe.seed,
                    Path(self.asked.output) / "recipe.yaml",
                ),
                work=measure,
            ),
            Stage(
                name="report",
                title="write the report",
                writes=report,
                reads={"measurements": measured},
                options=lambda: ReportOptions(Path(recipe.output), self._about_run),
                work=write_report,
            ),
        ]

    def _tokens(self, slot: Slot[Any]) -> Any:
        """What a view in the student's tokens is: the result that it shows, and which tokens there are unless all are there."""
        assert self.run is not None
        return [self.run.mark(slot), tokens_of(self.run.folder / START)]

    def _about_run(self) -> Mapping[str, Any]:
        assert self.run is not None
        results = self.run.results
        seconds = {name: result.seconds for name, result in results.items() if result.seconds > 0}
        return {
            "stages": seconds,
            "unrepeatable": unrepeatable_in(self.asked),
            "store": {kind: dict(count) for kind, count in self.run.counts.items()},
        }
