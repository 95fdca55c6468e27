"""Numbers stand with their nouns in the right form, everywhere in the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from potstill.ground.counted import counted

SOURCE = Path(__file__).parents[1] / "src" / "potstill"
NOUNS = (
    "rows|texts|steps|labels|classes|words|tags|images|teachers|layers|blocks|candidates|threads|weights|entries|stages|warnings"
)
# A number of a thing in a text that a person reads, written without `counted`: "{len(found)} rows", "teacher(s)".
COUNT = re.compile(
    rf"\{{(?:len\([^{{}}]*\)|num_\w+|count|\w*\.?(?:steps|threads))(?::,)?\}} (?:{NOUNS})\b|\b(?:{NOUNS.replace('s|', '|')})\(s\)"
)
# What cannot be one there: numbers after "of" or above a bound that is checked before.
SEVERAL = {
    "planning/check.py": "teachers are given for",  # two or more
    "training/teacher_weights.py": "do not fit",
    "knowledge/cache_store.py": "that it was written with",
    "data/paired.py": "of the student's",
    "models/labels.py": "rows is found",
    "knowledge/ensemble.py": "do not fit",
}


@pytest.mark.parametrize("number", [0, 1, 2, 1000])
def test_one_is_singular_and_all_else_plural(number: int) -> None:
    assert counted(number, "row") == f"{number:,} {'row' if number == 1 else 'rows'}"
    assert counted(number, "row was", "rows were").endswith("row was" if number == 1 else "rows were")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_messages_count_in_the_right_form(path: Path) -> None:
    name = str(path.relative_to(SOURCE))
    for line in path.read_text("utf-8").splitlines():
        found = COUNT.search(line)
        is_share = found is not None and re.search(r"\} of (the )?$", line[: found.start()])
        if found and not is_share and '"' in line:
            assert name in SEVERAL, line
            assert SEVERAL[name] in line
