"""Stage `chain`: the models between teacher and student, or the generations before it, each trained once and kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.ground.devices import compute_device, placed
from potstill.ground.disk import StageFolder, fingerprint, write_json_atomic
from potstill.methods.contract import Phase
from potstill.recipe.model import StudentRecipe
from potstill.stages.student import load_student, make_student
from potstill.stages.teach import wants_cache
from potstill.stages.teacher_sources import training_source
from potstill.students.cost import parameters_of

if TYPE_CHECKING:
    from potstill.contracts.source import TeacherSource
    from potstill.data.encoded import EncodedRows
    from potstill.stages.context import Run
    from potstill.training.teacher_weights import TeacherWeights

FOLDER = "work/chain"
MODELS = ("takd", "ban")  # methods that train further models
LEAST_RATIO = 0.10
CACHE_BATCH = 64


def wants_chain(run: Run) -> bool:
    """Whether the recipe's method trains models before the student."""
    return run.recipe.distill.losses is None and run.recipe.distill.method in MODELS


def train_chain(run: Run, folder: Path) -> Sequence[str]:
    """Train every model of the chain but the student, each taught by the one before."""
    from potstill.stages.distill import stages_of

    student, _ = load_student(run, run.folder / run.places.student / "model", without_dropout=True)
    links = [spec for spec in stages_of(run, student) if spec.learner != "student"]
    told = [_train_link(run, folder, replace(spec, settings=_settings(run, spec, place))) for place, spec in enumerate(links)]
    for place in folder.glob("*/training"):  # kept until here, so that a finished model is not trained again after a kill
        shutil.rmtree(place)
    return told


def source_of(run: Run, spec: Phase, *, chain: str = FOLDER, weights: TeacherWeights | None = None) -> TeacherSource:
    """Whom a stage listens to: the run's teachers, an earlier state of the teacher, or a model of the chain.

    Args:
        run: The run, as the learner sees it.
        spec: The stage.
        chain: Where the models of the chain lie, below the output folder.
        weights: Learned weights of several teachers.
    """
    if spec.teacher == "teacher":
        return training_source(run, weights)
    if spec.teacher.startswith("anchor-"):
        from potstill.stages.teacher_snapshots import anchor_source

        return anchor_source(run, spec.teacher)
    return _link_source(run, chain, spec.teacher)


def link(run: Run, name: str, *, chain: str = FOLDER) -> tuple[Run, Any, Any]:
    """A trained model of the chain: the run as it sees it, the model, and its tokenizer or image processor."""
    place = run.folder / chain / name
    own = f"{chain}/{name}/start" if (place / "start").is_dir() else "work/student"
    seen = run.variant(places=replace(run.places, student=own))
    return seen, *load_student(seen, place / "model")


def links(run: Run) -> list[str]:
    """Names of the models of the chain that this run keeps, in order."""
    if not wants_chain(run):
        return []
    found = [place.name for place in (run.folder / FOLDER).iterdir() if (place / "model").is_dir()]
    return sorted(found, key=lambda name: int(name.rpartition("-")[2]))


def _train_link(run: Run, folder: Path, spec: Phase) -> str:
    from potstill.stages.distill import told, train
    from potstill.stages.several_teachers import last_shares, learned_weights

    place = folder / spec.learner
    chain = folder.relative_to(run.folder).as_posix()
    seen = _start(run, place, chain, spec)
    model, processor = load_student(seen, run.folder / seen.places.student / "model", without_dropout=True)
    weights = learned_weights(run) if spec.teacher == "teacher" else None
    teacher = source_of(seen, spec, chain=chain, weights=weights)
    outcome = train(seen, model, processor, spec, place / "training", teacher=teacher, weights=weights)
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    shares = last_shares(outcome.history, len(run.recipe.teacher.all))
    facts = {key: getattr(outcome, key) for key in ("history", "best", "steps", "precision")}
    write_json_atomic(place / "facts.json", {**facts, "teacher_weights": shares})
    if wants_cache(run):
        _keep_answers(seen, model, processor, place / "answers")
    return told(run, f"{spec.learner}, {parameters_of(model):,} parameters", outcome)


def _start(run: Run, place: Path, chain: str, spec: Phase) -> Run:
    """The run as the learner sees it, its first weights in place: cut out of the teacher, or those of the student."""
    if spec.parameters is None:
        return run
    whole = parameters_of(run.teacher.model)
    ratio = max(LEAST_RATIO, 1.0 - spec.parameters / whole)
    student = StudentRecipe(ratio=ratio, vocabulary=run.recipe.student.vocabulary)
    with StageFolder(place / "start", fingerprint({"learner": spec.learner, "ratio": ratio})) as start:
        rest = start.path.relative_to(run.folder).as_posix()
        if not start.is_finished():
            make_student(run.variant(places=replace(run.places, student=rest), student=student), start.path)
            start.finish()
    return run.variant(places=replace(run.places, student=f"{chain}/{spec.learner}/start"), student=student)


def _link_source(run: Run, chain: str, name: str) -> TeacherSource:
    from potstill.knowledge.cache import CachedTeacher
    from potstill.knowledge.live import LiveTeacher
    from potstill.stages.teacher_sources import RowsTeacher

    answers = run.folder / chain / name / "answers"
    if answers.is_dir():
        return CachedTeacher.open(answers)
    seen, model, processor = link(run, name, chain=chain)
    return RowsTeacher(
        LiveTeacher(model, device=compute_device()), _all_rows(seen), run.task.collator(processor), token_values=False
    )


def _keep_answers(seen: Run, model: Any, processor: Any, folder: Path) -> None:
    from potstill.knowledge.cache import write_cache
    from potstill.knowledge.live import LiveTeacher

    with placed(model):
        write_cache(LiveTeacher(model), _all_rows(seen), seen.task.collator(processor), folder, batch_size=CACHE_BATCH)


def _all_rows(run: Run) -> EncodedRows:
    return run.student_rows(*(name for name in ("train", "validation", "test", "unlabelled", "augmented") if run.has(name)))


def _settings(run: Run, spec: Phase, place: int) -> dict[str, Any]:
    """Generations of one shape see their rows in other orders."""
    return {**spec.settings, **({"seed": run.recipe.seed + 1 + place} if spec.parameters is None else {})}
