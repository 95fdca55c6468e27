"""The stages of a run, in order. Nothing else knows it."""

from __future__ import annotations

from dataclasses import replace

from potstill.recipe import Recipe
from potstill.recipe.model import OneTeacherRecipe
from potstill.stages.cached_block_means import wants_states
from potstill.stages.chain import FOLDER as CHAIN
from potstill.stages.chain import train_chain, wants_chain
from potstill.stages.distill import distill, train_baseline, wants_baseline
from potstill.stages.evaluate import evaluate, write_report
from potstill.stages.export import export_student
from potstill.stages.rows import augment_data, read_data, wants_augmentation
from potstill.stages.several_tasks import with_tasks
from potstill.stages.several_teachers import stages_of_others, wants_teaching
from potstill.stages.stage import Stage
from potstill.stages.student import make_student
from potstill.stages.teach import cache_answers, teach, wants_cache
from potstill.stages.teacher_snapshots import route_content

TEACHING_KEYS = tuple(f"teacher.{name}" for name in (*OneTeacherRecipe.model_fields, "anchors"))
TRAINING_KEYS = ("distill", "seed", "precision")

STAGES: tuple[Stage, ...] = (
    Stage(
        name="data",
        title="read, split and encode the rows",
        folder="work/data",
        reads=("data", "task", "seed", "teacher.model", "teacher.from_scratch", "teacher.trust_remote_code"),
        depends_on=(),
        work=read_data,
    ),
    Stage(
        name="teach",
        title="train the teacher's new head",
        folder="teacher",
        reads=(*TEACHING_KEYS, "seed", "precision"),
        depends_on=("data",),
        work=teach,
        is_needed=wants_teaching,
    ),
    Stage(
        name="augment",
        title="make rows for the teacher to label",
        folder="work/augment",
        reads=("data.augment", "data.max_tokens", "seed"),
        depends_on=("data", "teach"),
        work=augment_data,
        is_needed=wants_augmentation,
    ),
    Stage(
        name="cache",
        title="keep the teacher's answers",
        folder="work/cache",
        reads=("distill.cache",),
        depends_on=("data", "teach", "augment"),
        work=cache_answers,
        is_needed=wants_cache,
        given=wants_states,
    ),
    Stage(
        name="student",
        title="plan the student and cut it out of the teacher",
        folder="work/student",
        reads=("student", "data.max_tokens", "seed"),
        depends_on=("data", "teach", "augment"),
        work=make_student,
    ),
    Stage(
        name="baseline",
        title="train the student without distillation, for comparison",
        folder="work/baseline",
        reads=TRAINING_KEYS,
        depends_on=("student",),
        work=train_baseline,
        is_needed=wants_baseline,
    ),
    Stage(
        name="chain",
        title="train the models between teacher and student",
        folder=CHAIN,
        reads=(*TRAINING_KEYS, "teacher.combine", "teacher.weights", "student.vocabulary", "data.max_tokens"),
        depends_on=("student", "cache"),
        work=train_chain,
        is_needed=wants_chain,
    ),
    Stage(
        name="distill",
        title="teach the student",
        folder="student",
        reads=(*TRAINING_KEYS, "teacher.combine", "teacher.weights"),
        depends_on=("student", "cache", "chain"),
        work=distill,
        given=route_content,
    ),
    Stage(
        name="export",
        title="export to ONNX, quantize, choose by measurement",
        folder="export",
        reads=("quantize", "target", "seed"),
        depends_on=("distill",),
        work=export_student,
    ),
    Stage(
        name="evaluate",
        title="measure quality, fidelity and speed",
        folder="work/evaluate",
        reads=("evaluate", "baseline", "seed"),
        depends_on=("baseline", "distill", "export"),
        work=evaluate,
    ),
    Stage(
        name="report",
        title="write the report",
        folder="report",
        reads=(),
        depends_on=("evaluate",),
        work=write_report,
    ),
)


def stages_for(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe in order: those of every run, and two for each further teacher or task."""
    if recipe.tasks:
        return with_tasks(recipe, STAGES)
    taught, asked = stages_of_others(recipe)
    if not taught:
        return STAGES
    after = {"teach": taught, "cache": asked}
    needs = tuple(stage.name for stage in asked)
    found = []
    for stage in STAGES:
        hears = stage.name in ("chain", "distill")
        found += [replace(stage, depends_on=(*stage.depends_on, *needs)) if hears else stage, *after.get(stage.name, [])]
    return tuple(found)
