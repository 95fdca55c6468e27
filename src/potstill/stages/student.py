"""Stage `student`: the first version of the student, planned and cut out of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from potstill.contracts.slot import Given
from potstill.contracts.stage import Observer
from potstill.data.run_rows import Rows, places_in, read_facts
from potstill.knowledge.widened import widened_teacher
from potstill.models.party import Student, Teacher
from potstill.students.make import StudentOptions, make_student


@dataclass(frozen=True)
class CutOptions(StudentOptions):
    """What the stage reads of a recipe."""

    tasks: tuple[str, ...] = ()


def cut(given: Given, options: CutOptions, folder: Path, observer: Observer) -> Sequence[str]:
    """Plan the student, cut it out of the teacher, and encode the rows in its tokens."""
    rows: Rows = given.rows
    teacher: Teacher = given.teacher
    if options.tasks:
        teacher = widened_teacher(teacher, given.teachers, options.seed)
    return make_student(options, rows, replace(teacher, rows=rows), folder, observer, given.scores)


def open_student(folder: Path, given: Given, *, name: str = "student") -> Student:
    """The first version of a student."""
    rows: Rows = given.rows
    own = places_in(folder / "encoded")
    return Student(name, rows, own or rows.places, folder / "model", folder, read_facts(folder))


def open_version(folder: Path, given: Given, *, model: str = "") -> Student:
    """A later version of the student that it builds on."""
    before: Student = given.student
    return before.version(folder / model)
