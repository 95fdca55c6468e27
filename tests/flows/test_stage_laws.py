"""Laws of stages: what a stage declares is what it reads, it writes into its folder, and it is done once and not twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from potstill import DistillationPipeline
from potstill.contracts.slot import Given, Slot, UndeclaredSlotError
from potstill.contracts.stage import Observer, Stage
from potstill.flows import distill as flow_of_distill
from potstill.flows.distill import DistillFlow, learn
from potstill.flows.observer import silent_observer
from potstill.flows.run import Run
from potstill.models.party import Student
from potstill.recipe import make_recipe
from potstill.stages.student import open_version

RECIPES: dict[str, dict[str, Any]] = {
    "one teacher": {"teacher": "a", "data": "x.csv"},
    "several teachers": {"teachers": ["a", "b", "c"], "data": "x.csv"},
    "several tasks": {"tasks": {name: {"teacher": name, "data": "x.csv"} for name in ("a", "b")}},
    "a chain": {"teacher": "a", "data": "x.csv", "distill": {"method": "takd"}},
    "states of the teacher": {"teacher": "a", "data": "x.csv", "distill": {"method": "rco"}},
}
OPENS = {  # what each stage opens of what it declares, where one teacher has one task
    "data": ("inputs", "task"),
    "teach": ("inputs", "rows"),
    "augment": ("rows", "teacher", "teachers"),
    "cache": ("rows", "teacher"),
    "student": ("rows", "teacher", "scores"),
    "baseline": ("rows", "teachers", "student"),
    "distill": ("rows", "teachers", "student", "chain"),
    "export": ("student",),
    "evaluate": ("rows", "teacher", "teachers", "student", "baseline", "chain", "export"),
    "report": ("measurements",),
}
QUICK: dict[str, Any] = {
    "teacher": {"epochs": 1, "learning_rate": 3e-3},
    "data": {"augment": 1},
    "compression_ratio": 0.5,
    "distill": {"method": "kd", "epochs": 1, "cache": "always"},
    "baseline": True,
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 2, "similarity_rows": 16},
}


def slots_of(declared: Any) -> list[Slot[Any]]:
    """The slots of a declaration, and those that they build on."""
    found: list[Slot[Any]] = []
    for slots in declared.values():
        for slot in slots if isinstance(slots, tuple) else (slots,):
            found += [slot, *slots_of(slot.builds_on)]
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_slot_is_written_before_it_is_read(name: str) -> None:
    flow = DistillFlow(make_recipe(RECIPES[name]))
    written: set[str] = set()
    for stage in flow.stages:
        for slot in slots_of(stage.reads):
            assert not slot.folder or slot.name in written, f"{stage.name} reads {slot.name} before it is there"
        assert stage.writes.name not in written, f"{stage.name} writes {stage.writes.name} a second time"
        assert stage.writes.folder, stage.name
        written.add(stage.writes.name)
    assert len({stage.name for stage in flow.stages}) == len(flow.stages)
    assert len({stage.writes.folder for stage in flow.stages}) == len(flow.stages)


@pytest.mark.parametrize("name", RECIPES)
def test_shared_results_do_not_depend_on_how_the_student_learns(name: str) -> None:
    """Rows, teachers and augmented rows have one identity for all runs that differ in `distill` alone."""
    other = {**RECIPES[name], "distill": {**RECIPES[name].get("distill", {}), "epochs": 3, "temperature": 3.0}}
    marks = [shared_marks(make_recipe(recipe)) for recipe in (RECIPES[name], other)]
    assert marks[0] == marks[1]
    assert marks[0] != shared_marks(make_recipe({**RECIPES[name], "seed": 1}))


def shared_marks(recipe: Any) -> dict[str, str]:
    flow = DistillFlow(recipe)
    run, found = flow.start(Path("nowhere"), silent_observer()), {}
    for stage in flow.stages:
        if stage.writes.kind in ("rows", "teacher", "further-teacher", "augmented"):
            found[stage.name] = run._marks[stage.writes.name] = run.fingerprint_of(stage)
    return found


# -- a stage written here


@dataclass(frozen=True)
class CopyOptions:
    """Of the stage that copies the student."""

    strength: float = 1.0
    shown: str = field(default="", compare=False)


def copy_student(given: Given, options: CopyOptions, folder: Path, tell: Observer) -> Sequence[str]:
    """The student as it is, as its next version."""
    del options, tell
    model, processor = given.student.load()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return ["the student was copied"]


def copying(flow: DistillFlow, student: Slot[Student], options: CopyOptions = CopyOptions(), **changes: Any) -> list[Stage]:
    """The step as it stands in a flow."""
    del flow
    copied = Slot("student.copied", partial(open_version, model="model"), "work/copied", {"student": student})
    stage = Stage("copy", "copy the student", copied, {"student": student}, options, copy_student)
    return [replace(stage, **changes)]


def check_stage(run: Run, stage: Stage, other: Any, shown: Any) -> None:
    """The laws of a stage whose inputs are there.

    Args:
        run: A run in which every earlier stage is done.
        stage: The stage.
        other: Options of it with another result.
        shown: Options of it that do not decide the result.
    """
    mark = run.fingerprint_of(stage)
    assert run.fingerprint_of(stage) == mark, "a fingerprint is the same twice"
    before = files_of(run.folder)
    first = run.perform(stage)
    assert not first.skipped
    assert all(path.is_relative_to(first.place) for path in files_of(run.folder) - before), "it writes into its folder alone"
    assert run.perform(stage).skipped, "it is done once"
    assert run.perform(replace(stage, options=shown)).skipped, "an option that decides nothing does not matter"
    assert not run.perform(replace(stage, options=other)).skipped, "another option is another result"
    assert not run.perform(replace(stage, options=other, version=stage.version + 1)).skipped
    undeclared = replace(stage, reads={}, version=stage.version + 2)
    with pytest.raises(UndeclaredSlotError, match=f"{stage.name} opens 'student', which it does not declare"):
        run.perform(undeclared)


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


@pytest.fixture(scope="module")
def world(small_bert: Path, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DistillationPipeline, Path]:
    """A run that is done, with a stage of its own between the cut student and its training."""
    out = tmp_path_factory.mktemp("stages") / "out"
    pipeline = DistillationPipeline(small_bert, reviews, QUICK, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_of_distill, "STUDENT_STEPS", (copying, learn))
        pipeline.run()
    return pipeline, out


def test_a_stage_between_two_others_is_one_step(
    world: tuple[DistillationPipeline, Path], small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, out = world
    assert (out / "work/copied/model/model.safetensors").is_file()
    plain = DistillationPipeline(small_bert, reviews, QUICK, tmp_path / "plain")
    expected = plain.run()
    monkeypatch.setattr(flow_of_distill, "STUDENT_STEPS", (copying, learn))
    names = [stage.name for stage in pipeline.stages]
    assert names.index("student") + 1 == names.index("copy") == names.index("baseline") - 1
    found = pipeline.run()
    for name in ("teacher", "baseline", "student"):
        assert found.models[name].quality == expected.models[name].quality
    student = (path / "student/model.safetensors" for path in (out, tmp_path / "plain"))
    assert len({path.read_bytes() for path in student}) == 1, "an identity changes nothing"


def test_laws_of_a_stage(world: tuple[DistillationPipeline, Path]) -> None:
    pipeline, out = world
    flow = DistillFlow(pipeline.recipe)
    run = flow.start(out, silent_observer())
    for stage in flow.stages:
        run.perform(stage)
        if stage.writes is flow.student_versions[0]:
            break
    [stage] = copying(flow, flow.student_versions[0], version=7)
    check_stage(run, stage, CopyOptions(2.0), CopyOptions(shown="elsewhere"))


def test_every_stage_of_a_run_declares_what_it_opens(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    """Each stage is done with what it declares; one slot taken away, the stage that opens it fails."""
    flow = DistillFlow(make_recipe({**QUICK, "teacher_model": str(small_bert), "data": {"source": str(reviews), "augment": 1}}))
    run = flow.start(tmp_path, silent_observer())
    for stage in flow.stages:
        if not run.perform(stage).is_needed or stage.name not in OPENS:
            continue
        for role in OPENS[stage.name]:
            fewer = replace(stage, reads={name: slots for name, slots in stage.reads.items() if name != role})
            with pytest.raises(UndeclaredSlotError, match=f"opens '{role}'"):
                stage.work(run._given(fewer), options_of(stage), tmp_path / "scratch", silent_observer())


def options_of(stage: Stage) -> Any:
    return stage.options() if callable(stage.options) else stage.options
