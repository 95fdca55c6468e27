"""Whether a folder holds a finished run, known by its files: no library of models is imported for it."""

from __future__ import annotations

from pathlib import Path

from potstill.contracts.task import TOKEN_TASKS
from potstill.errors import OutputError
from potstill.ground.disk import read_json

FILES = ("recipe.yaml", "student/config.json")


def check_finished_run(folder: Path) -> None:
    """Make sure that a folder is one of a finished run whose rows have answers.

    Raises:
        OutputError: It is none, or its student predicts tokens.
    """
    if not all((folder / file).is_file() for file in FILES):
        raise OutputError(
            f"{folder} holds no finished run", "the output folder of potstill distill", "run potstill distill -o there first"
        )
    names = (read_json(folder / "student" / "config.json") or {}).get("architectures") or ()
    if any(name.endswith(endings) for name in names for endings in TOKEN_TASKS.values()):
        raise OutputError(
            f"{folder} holds a student that predicts tokens",
            "a run whose rows have answers: labels, numbers, tags, spans or vectors",
            f"generate with it: transformers.AutoModelForCausalLM.from_pretrained('{folder / 'student'}')",
        )
