"""The flow from teacher and data to a measured student: its slots, and its stages in order. Nothing else knows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from potstill.contracts.slot import Declared, Slot
from potstill.contracts.stage import Observer, Stage
from potstill.data.run_rows import Rows
from potstill.evaluate.measured_model import MeasureOptions
from potstill.flows.folder import facts_of_recipe
from potstill.flows.run import Run
from potstill.knowledge.teachers import Combination
from potstill.methods.catalogue import traits
from potstill.models.load import LoadedTeacher
from potstill.models.party import Student, Teacher
from potstill.planning.block_means import has_states, wants_states
from potstill.planning.check import check_answers, check_method, check_states, fingerprints_of_code
from potstill.planning.forecast import Forecast, forecast, passes_of
from potstill.planning.inputs import NOTHING, InMemory, content_of, errors_of_task, inputs_of, joint_task, of_student, trust_named
from potstill.planning.learning import LearningOptions, reporting_of
from potstill.planning.phases import RunFacts, asks_teacher
from potstill.recipe import Recipe
from potstill.recipe.located import located
from potstill.recipe.model import OneTeacherRecipe
from potstill.stages.ask import AskOptions, ask, open_answers
from potstill.stages.augment import AugmentOptions, augment_rows, open_augmented, wants_augmentation
from potstill.stages.baseline import train_baseline
from potstill.stages.chain import ChainOptions, open_chain, train_chain
from potstill.stages.distill import distill
from potstill.stages.evaluate import evaluate
from potstill.stages.export import ExportOptions, export_student
from potstill.stages.report import ReportOptions, write_report
from potstill.stages.rows import RowsOptions, open_rows, open_task_rows, read_rows
from potstill.stages.score import ScoreOptions, open_scores, score
from potstill.stages.student import CutOptions, cut, open_student, open_version
from potstill.stages.teach import TeachOptions, open_teacher, open_with_all_rows, read_and_teach, teach, wants_teaching
from potstill.students.architectures.plan import check_modality


@dataclass(frozen=True)
class TeacherSlots:
    """The slots of one teacher.

    Args:
        name: Empty for the first one; else a number, or the name of a task.
        teacher: It, trained where its head is new; `answers` is it once it was asked.
    """

    name: str
    label: str
    rows: Slot[Rows]
    teacher: Slot[Teacher]
    augmented: Slot[Rows]
    answers: Slot[Teacher]

    @property
    def suffix(self) -> str:
        """Of the names of its stages."""
        return f"-{self.name}" if self.name else ""


class DistillFlow:
    """The slots and stages of a recipe."""

    def __init__(self, recipe: Recipe, memory: InMemory = NOTHING, tasks: Mapping[str, InMemory] | None = None) -> None:
        trust_named(recipe)
        self.asked, recipe = recipe, located(recipe)
        self.reporting = reporting_of(recipe, memory.callbacks)
        self.recipe, self.inputs = recipe, inputs_of(recipe, memory, tasks or {})
        self.run: Run | None = None
        sources = self.inputs if recipe.tasks else self.inputs[:1]
        given = Slot("given", lambda folder, given: sources, content=lambda: [one.content() for one in sources])
        task = Slot("task", lambda folder, given: joint_task(given.inputs), builds_on={"inputs": given})
        self.rows = Slot("rows", open_rows, "work/data", {"task": task}, kind="rows")
        self.augmented = Slot("augmented", open_augmented, "work/augment", {"rows": self.rows}, kind="augmented")
        self.parties = self._parties()
        self.scores = Slot("scores", open_scores, "work/scores", kind="scores")
        first = self.parties[0].teacher
        self.teacher: Slot[Teacher] = first
        if recipe.tasks:
            self.teacher = Slot("teacher of all rows", open_with_all_rows, builds_on={"first": first, "rows": self.rows})
        self._given, self._task = given, task
        self.student_versions: list[Slot[Student]] = []
        self.stages = tuple(self._stages())

    # -- results of a run

    def start(self, folder: Path, observer: Observer, store: Path | None = None) -> Run:
        """A run of this flow, new or finished, in an output folder."""
        self.run = Run(folder, observer, store=store)
        return self.run

    def open(self, slot: Slot[Any]) -> Any:
        """A result of the run that was started."""
        assert self.run is not None
        return self.run.open(slot)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """All teachers of the run, with their answers."""
        return tuple(self.open(party.answers) for party in self.parties)

    @property
    def student(self) -> Student:
        """The newest version of the run's student."""
        found: Student = self.open(self.student_versions[-1])
        return found

    @cached_property
    def facts(self) -> RunFacts:
        """What planning reads of the run, once its rows are read."""
        assert self.run is not None
        rows: Rows = self.open(self.rows)
        kept = list((self.run.place(self.parties[0].teacher) / "anchors").glob("anchor-*"))
        num_states = len(self.recipe.distill.options.get("route", ())) or len(kept)
        return RunFacts(self.recipe, rows.task, self.inputs[0].config, len(rows.label_names), rows.answers, num_states)

    @cached_property
    def forecast(self) -> Forecast | None:
        """The models and phases that are to be expected; None where nothing can be said of them yet."""
        return forecast(self.facts)

    def passes(self) -> float:
        """How often training will read its rows, over all phases of the method."""
        return passes_of(self.recipe, self.forecast)

    # -- refusals

    def check_answers(self) -> None:
        """Refuse what the answers of the task or the kind of the teacher cannot do, before anything is read."""
        check_answers(self.recipe, joint_task(self.inputs))
        if self.recipe.student.architecture is not None:
            for one in self.inputs:
                with errors_of_task(one.name):
                    check_modality(self.recipe.student.architecture, one.config)

    def check_models(self) -> None:
        """Refuse what cannot be taught, once the rows are read and before anything is trained."""
        rows: Rows = self.open(self.rows)
        for party, one in zip(self.parties, self.inputs, strict=False):
            if one.name or party is self.parties[0]:
                with errors_of_task(one.name):
                    check_method(self.recipe, one.load(self.open(party.rows).label_names).model)
        if self.forecast is not None:
            self.forecast.check()
        check_states(self.recipe, lambda: self.inputs[0].wants_training(rows.label_names))

    # -- slots

    def _parties(self) -> tuple[TeacherSlots, ...]:
        if self.recipe.tasks:
            return tuple(self._party(number, one.name) for number, one in enumerate(self.inputs))
        return tuple(self._party(number, str(number + 1) if number else "") for number in range(len(self.inputs)))

    def _party(self, number: int, name: str) -> TeacherSlots:
        inputs, rows, augmented = self.inputs[number], self.rows, self.augmented
        label = "teacher" if not name else f"teacher of {name}" if self.recipe.tasks else f"teacher {name}"
        given = Slot(f"given-{name}", lambda folder, given: inputs, content=lambda: [inputs.name, inputs.teacher_content()])
        if self.recipe.tasks:
            view = partial(open_task_rows, number=number)
            rows = Slot(f"rows-{name}", view, builds_on={"rows": self.rows, "inputs": given})
            augmented = Slot(f"augmented-{name}", view, builds_on={"rows": self.augmented, "inputs": given})
        builds_on = {"inputs": given, "rows": rows}
        if number == 0:
            teacher = Slot("teacher", partial(open_teacher, name=label), "teacher", builds_on, kind="teacher")
            asked = Slot("answers", open_answers, "work/cache", {"teacher": teacher, "rows": augmented}, kind="answers")
            return TeacherSlots("", label, rows, teacher, augmented, asked)
        folder = f"work/tasks/{name}" if self.recipe.tasks else f"work/teachers/{name}"
        opens = partial(open_teacher, name=label, own="model")
        teacher = Slot(f"teacher-{name}", opens, folder, builds_on, kind="further-teacher")
        opens = partial(open_answers, is_first=False)
        builds_on = {"teacher": teacher, "rows": augmented}
        asked = Slot(f"answers-{name}", opens, f"work/answers/{name}", builds_on, kind="further-answers")
        return TeacherSlots(name, label, rows, teacher, augmented, asked)

    # -- stages

    def _stages(self) -> list[Stage]:
        recipe, first = self.recipe, self.parties[0]
        stages = [self._read()]
        stages += [self._teach(party, number) for number, party in enumerate(self.parties)]
        stages += [self._augment(), *(self._ask(party) for party in self.parties), self._score(), self._cut()]
        for step in STUDENT_STEPS:
            made = step(self, self.student_versions[-1])
            stages += made
            self.student_versions.append(made[-1].writes)
        exported = Slot("export", lambda folder, given: folder, "export")
        measured = Slot("measurements", lambda folder, given: folder, "work/evaluate")
        report = Slot("report", lambda folder, given: folder, "report")
        student = self.student_versions[-1]
        return [
            *stages,
            Stage(
                name="export",
                title="export to ONNX, quantize, choose by measurement",
                writes=exported,
                reads={"student": student, "teacher": first.teacher},
                options=ExportOptions(recipe.quantize, recipe.target, recipe.seed),
                work=export_student,
            ),
            Stage(
                name="evaluate",
                title="measure quality, fidelity and speed",
                writes=measured,
                reads={
                    "rows": self.augmented,
                    "teacher": self.teacher,
                    "teachers": tuple(party.teacher for party in self.parties),
                    "student": student,
                    **{stage.name: stage.writes for stage in stages if stage.name in ("baseline", "chain")},
                    "export": exported,
                },
                options=self._measure_options,
                work=evaluate,
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

    def _read(self) -> Stage:
        recipe = self.recipe
        sources = self.inputs if recipe.tasks else self.inputs[:1]
        data = tuple(one.data.model_copy(update={"augment": "none"}) for one in sources)
        loading = tuple((one.teacher.model, one.teacher.from_scratch, one.teacher.trust_remote_code) for one in sources)
        return Stage(
            name="data",
            title="read, split and encode the rows",
            writes=self.rows,
            reads={"inputs": self._given, "task": self._task},
            options=RowsOptions(data, loading, recipe.seed),
            work=read_rows,
        )

    def _teach(self, party: TeacherSlots, number: int) -> Stage:
        recipe, teacher = self.recipe, self.inputs[number].teacher
        anchors = recipe.teacher.anchors if number == 0 else None
        options = TeachOptions(
            teacher,
            anchors,
            recipe.seed,
            recipe.precision,
            recipe.data.max_tokens if number else None,
            party.label,
            reporting=self.reporting,
        )
        common: dict[str, Any] = {"writes": party.teacher, "reads": party.teacher.builds_on, "options": options, "trains": True}
        if number == 0:
            title = "train the teacher's new head"
            return Stage(name="teach", title=title, work=teach, is_needed=wants_teaching, **common)
        title = f"read with {'the ' if recipe.tasks else ''}{party.label}, and train its head where it is new"
        return Stage(name=f"teach{party.suffix}", title=title, work=read_and_teach, **common)

    def _augment(self) -> Stage:
        recipe = self.recipe
        options = AugmentOptions(recipe.data.augment, recipe.data.max_tokens, recipe.seed, tuple(recipe.tasks))
        parties = self.parties if recipe.tasks else self.parties[:1]
        return Stage(
            name="augment",
            title="make rows for the teacher to label",
            writes=self.augmented,
            reads={"rows": self.rows, "teacher": self.teacher, "teachers": tuple(party.teacher for party in parties)},
            options=options,
            work=augment_rows,
            is_needed=wants_augmentation,
        )

    def _ask(self, party: TeacherSlots) -> Stage:
        recipe, is_first = self.recipe, party is self.parties[0]
        whose = f"the answers of {'the ' if recipe.tasks else ''}{party.label}"

        def options() -> AskOptions:
            keeps_states = is_first and self._keeps_states()
            return AskOptions(
                None if is_first else recipe.data.max_tokens, keeps_states, is_first, self._keeps_answers(), self.passes
            )

        return Stage(
            name=f"cache{party.suffix}",
            title="keep the teacher's answers" if is_first else f"keep {whose}",
            writes=party.answers,
            reads=party.answers.builds_on,
            options=options,
            work=ask,
            is_needed=lambda given, asked: asked.keeps_answers or not is_first,
        )

    def _score(self) -> Stage:
        asked, seed = self.recipe.student, self.recipe.seed
        is_cut = asked.model is None and asked.architecture is None and asked.ratio != 0 and not self.recipe.tasks

        def options() -> ScoreOptions:
            return ScoreOptions(seed, is_cut and self.run is not None and self.run.store is not None)

        return Stage(
            name="score",
            title="measure how important the teacher's parts are",
            writes=self.scores,
            reads={"teacher": self.teacher},
            options=options,
            work=score,
            is_needed=lambda given, asked: asked.is_needed,
        )

    def _cut(self) -> Stage:
        recipe, parties = self.recipe, self.parties if self.recipe.tasks else ()
        start = Slot("student.start", open_student, "work/student", {"rows": self.augmented})
        self.student_versions.append(start)
        return Stage(
            name="student",
            title="plan the student and cut it out of the teacher",
            writes=start,
            reads={
                "rows": self.augmented,
                "teacher": self.teacher,
                "teachers": tuple(party.teacher for party in parties),
                "scores": self.scores,
                **of_student(recipe.student),
            },
            options=CutOptions(recipe.student, recipe.data.max_tokens, recipe.seed, tuple(recipe.tasks)),
            work=cut,
        )

    def _keeps_answers(self) -> bool:
        """Whether answers are kept: always, never, or where the losses read all rows and evaluations some of them again."""
        mode = self.recipe.distill.cache
        return mode == "always" or (mode == "auto" and self.passes() >= 1 and asks_teacher(self.facts))

    def _keeps_states(self) -> bool:
        """Whether the teacher's mean states are kept: where the method reads them; in a store, where any run may read them."""
        if self.run is not None and self.run.store is not None and self.forecast is not None:
            is_alone = not self.recipe.tasks and len(self.parties) == 1
            return is_alone and self.facts.task.modality.can_augment and has_states(self.forecast.teacher)
        return wants_states(self.forecast)

    @cached_property
    def learning(self) -> LearningOptions:
        """What training of a student reads of the recipe."""
        recipe = self.recipe
        return LearningOptions(
            distill=recipe.distill,
            student=recipe.student,
            combination=Combination(recipe.teacher.combine, recipe.teacher.weights),
            tasks=tuple(recipe.tasks),
            seed=recipe.seed,
            precision=recipe.precision,
            route=[content_of(folder) for folder in recipe.distill.options.get("route", ())],
            code=fingerprints_of_code(recipe),
            reporting=self.reporting,
            load_teacher=self._load_state,
        )

    def _load_state(self, folder: Path) -> LoadedTeacher:
        """An earlier state of the first teacher."""
        inputs, teacher = self.inputs[0], OneTeacherRecipe(model=str(folder), finetune="never")
        state = replace(inputs, teacher=teacher, memory=NOTHING, shared_task=lambda: inputs.task, _loaded={})
        return state.load_anew(self.open(self.parties[0].rows).label_names)

    def _measure_options(self) -> MeasureOptions:
        recipe = self.asked
        of_tasks = list(recipe.tasks.values())
        return MeasureOptions(
            evaluate=recipe.evaluate,
            seed=recipe.seed,
            teachers=tuple(one.model for one in ([task.teacher for task in of_tasks] or recipe.teacher.all)),
            sources=tuple(one.source for one in ([task.data for task in of_tasks] or [recipe.data])),
            combination=self.learning.combination,
            tasks=tuple(recipe.tasks),
            has_baseline=recipe.baseline,
            has_ratio=recipe.student.model is None,
            ensemble=recipe.distill.options.get("ensemble", False),
            target=recipe.target,
            max_tokens=recipe.data.max_tokens,
            recipe_file=Path(recipe.output) / "recipe.yaml",
        )

    def _about_run(self) -> dict[str, Any]:
        """Wall seconds of every stage, what was found in a store, and where teachers and data come from."""
        assert self.run is not None
        seconds = {name: result.seconds for name, result in self.run.results.items() if result.seconds > 0}
        return {
            "stages": seconds,
            **facts_of_recipe(self.asked),
            "store": {kind: dict(count) for kind, count in self.run.counts.items()},
        }


def learn(flow: DistillFlow, student: Slot[Student]) -> list[Stage]:
    """The stages that train a student: by labels alone, for comparison; a chain of models; by the teacher."""
    recipe = flow.recipe
    reads: Declared = {"rows": flow.augmented, "teachers": tuple(party.answers for party in flow.parties), "student": student}
    baseline = Slot("baseline", partial(open_version, model="model"), "work/baseline", {"student": student})
    chain = Slot("chain", open_chain, "work/chain", {"student": student})
    next_version = Slot("student", open_version, "student", {"student": student})

    def chain_options() -> ChainOptions:
        known = {name: getattr(flow.learning, name) for name in flow.learning.__dataclass_fields__}
        return ChainOptions(**known, max_tokens=recipe.data.max_tokens, keeps_answers=flow._keeps_answers())

    return [
        Stage(
            name="baseline",
            title="train the student without distillation, for comparison",
            writes=baseline,
            reads=reads,
            options=lambda: flow.learning,
            work=train_baseline,
            is_needed=lambda given, options: recipe.baseline,
            trains=True,
        ),
        Stage(
            name="chain",
            title="train the models between teacher and student",
            writes=chain,
            reads=reads,
            options=chain_options,
            work=train_chain,
            is_needed=lambda given, options: recipe.distill.losses is None and traits(recipe.distill.method).trains_models,
            trains=True,
        ),
        Stage(
            name="distill",
            title="teach the student",
            writes=next_version,
            reads={**reads, "chain": chain},
            options=lambda: flow.learning,
            work=distill,
            trains=True,
        ),
    ]


STUDENT_STEPS: tuple[Callable[[DistillFlow, Slot[Student]], list[Stage]], ...] = (learn,)
"""What happens to a student once it is cut: each step reads its newest version, and its last stage writes the next one."""


def stages_for(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in order: those of every run, and two for each further teacher or task."""
    return DistillFlow(recipe).stages
