"""Losses and methods of one's own in whole runs: what changed is done again, and only that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from potstill import DistillationPipeline
from potstill.errors import OutputError
from potstill.methods.contract import Phase, TermSpec

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 1, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "quantize": "none",
    "baseline": False,
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}
OWN = """
def gap(student_logits, teacher_logits):
    return POWER * (student_logits - teacher_logits).square().mean(-1)

POWER = 1.0
"""


def pulled(strength: float) -> Any:
    def gap(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return strength * (student_logits - teacher_logits).square().mean(-1)

    return gap


def weights(output: Path) -> bytes:
    return next((output / "student").glob("*.safetensors")).read_bytes()


def done_at(output: Path) -> dict[str, int]:
    """When the teacher's answers and the student were written."""
    found = {stage.parent.name: stage.stat().st_mtime_ns for stage in (output / "work").rglob("stage.json")}
    return found | {"distill": (output / "student" / "config.json").stat().st_mtime_ns}


def test_functions_in_memory_decide_a_run(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def run(*losses: Any, overwrite: bool = False) -> bytes:
        config = CONFIG | {"distill": {"epochs": 1, "losses": [*losses]}}
        DistillationPipeline(small_bert, reviews, config, output).run(False, overwrite=overwrite)
        return weights(output)

    first = run(pulled(1.0), pulled(5.0))
    before = done_at(output)
    assert run(pulled(1.0), pulled(5.0)) == first
    assert done_at(output) == before  # the same code, made again
    with pytest.raises(OutputError, match="another recipe"):
        run(pulled(1.0), pulled(2.0))
    assert run(pulled(1.0), pulled(2.0), overwrite=True) != first
    after = done_at(output)
    assert after["distill"] != before["distill"]
    assert after["cache"] == before["cache"]
    assert "was in memory; save it in a file" in (output / "recipe.yaml").read_text("utf-8")


def test_a_changed_file_of_code_teaches_the_student_anew(
    small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, file = tmp_path / "out", tmp_path / "gap_of_mine.py"
    file.write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    config = CONFIG | {"trust_code": True, "distill": {"epochs": 1, "losses": ["gap_of_mine:gap"]}}

    def run() -> bytes:
        sys.modules.pop("gap_of_mine", None)  # as a new process finds it
        DistillationPipeline(small_bert, reviews, config, output).run(False)
        return weights(output)

    first, before = run(), done_at(output)
    assert run() == first
    assert done_at(output) == before
    file.write_text(OWN.replace("1.0", "9.0"), "utf-8")
    assert run() != first
    assert done_at(output)["cache"] == before["cache"]
    sys.modules.pop("gap_of_mine", None)


def test_a_method_in_memory_runs(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    def twice(student: Any, teacher: Any, options: Any) -> tuple[Phase, ...]:
        return (
            Phase("first", (TermSpec("kl", 1.0, 2.0),), epochs=1.0, learning_rate=1e-3),
            Phase("then", (TermSpec("ce"),), epochs=1.0, learning_rate=1e-3),
        )

    config = CONFIG | {"distill": {"method": twice}}
    result = DistillationPipeline(small_bert, reviews, config, tmp_path / "out").run(False)
    assert {"distill: first", "distill: then"} <= set(result.history)
    written = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text("utf-8"))
    assert written["distill"]["method"].startswith("test_own_code:twice_")
