"""Stage `export`: the student as ONNX, checked, then quantized by measurement on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data.collate import NOT_INPUTS
from potstill.data.encoded import EncodedRows
from potstill.evaluate.quality import predict
from potstill.exports.onnx import export_onnx
from potstill.exports.runtimes import TorchRunner
from potstill.exports.ways.choose import Candidate, Choice, choose
from potstill.ground.devices import placed
from potstill.ground.disk import write_json_atomic

if TYPE_CHECKING:
    from potstill.exports.runtimes import Runner
    from potstill.stages.context import Run

LATENCY_ROWS = 48
CALIBRATION_BATCH = 8


def export_student(run: Run, folder: Path) -> Sequence[str]:
    """Export the student, try the ways of serving it, and keep the fp32 file and what was chosen."""
    from potstill.stages.student import load_student

    student, processor = load_student(run, run.folder / "student")
    exported = export_onnx(
        student,
        folder / "model.onnx",
        example_inputs=run.task.example_inputs(student, batch=2),
        dynamic_axes=run.task.dynamic_axes(student),
    )
    notes = [f"ONNX equals PyTorch within {exported.max_abs_difference:.1e} (largest logit difference)"]
    facts: dict[str, Any] = {"onnx": "model.onnx", "max_abs_difference": exported.max_abs_difference}
    if run.recipe.quantize.mode != "none":
        choice = _choose(run, exported.path, folder / "candidates", run.task.collator(processor))
        facts |= _keep(choice, folder)
        notes.append(choice.reason)
    write_json_atomic(folder / "facts.json", facts)
    shutil.rmtree(folder / "candidates", ignore_errors=True)
    return notes


def _choose(run: Run, source: Path, folder: Path, collator: Callable[..., Mapping[str, Any]]) -> Choice:
    validation, train = run.student_rows("validation"), run.student_rows("train")
    teacher = _teacher_answers(run) if run.answers.from_labels is None else None
    tried: list[str] = []

    def metric_of(runner: Runner) -> float:
        found = predict(runner, validation, collator)
        return float(run.task.quality(found.logits, found.labels, teacher=teacher)[run.metric])

    def on_try(name: str) -> None:
        tried.append(name)
        run.observer.stage_advanced(len(tried), 12, {})

    return choose(
        source,
        folder,
        metric_of=metric_of,
        calibration=batches(train, collator, run.recipe.quantize.calibration_rows, CALIBRATION_BATCH, run.recipe.seed),
        latency_inputs=batches(validation, collator, LATENCY_ROWS, 1, run.recipe.seed),
        mode=run.recipe.quantize.mode,
        max_drop=run.recipe.quantize.max_drop,
        on_try=on_try,
    )


def _teacher_answers(run: Run) -> np.ndarray:
    """What the teacher answers on the validation rows, for measures against it."""
    with placed(run.teacher.model) as teacher:
        return predict(TorchRunner(teacher), run.teacher_rows("validation"), run.task.collator(run.teacher.processor)).logits


def batches(
    rows: EncodedRows, collator: Callable[..., Any], num_rows: int, batch_size: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """Batches of rows drawn by the seed, as arrays, without labels and row ids.

    Args:
        rows: Where to draw from.
        collator: Makes a batch.
        num_rows: Rows in all, at most.
        batch_size: Rows per batch; the last one may have fewer.
        seed: Of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[:num_rows]
    made = []
    for start in range(0, len(drawn), batch_size):
        batch = collator(rows.__getitems__(drawn[start : start + batch_size].tolist()))
        made.append({name: value.numpy() for name, value in batch.items() if name not in NOT_INPUTS})
    return made


def _keep(choice: Choice, folder: Path) -> dict[str, Any]:
    """Move the chosen candidate, and the best INT8 one for comparison, into the export folder."""
    served = _move(choice.chosen, folder)
    kept = {"served": served}
    if choice.chosen.precision != "int8":
        rivals = [candidate for candidate in choice.tries if candidate.precision == "int8" and candidate.p50_ms is not None]
        if rivals:
            kept["int8"] = _move(min(rivals, key=lambda one: (not one.accepted, one.p50_ms)), folder)
    tries = [asdict(candidate) | {"path": candidate.path.name} for candidate in choice.tries]
    return {
        **kept,
        "chosen": choice.chosen.name,
        "reason": choice.reason,
        "max_drop": choice.max_drop,
        "reference": choice.reference,
        "tries": tries,
    }


def _move(candidate: Candidate, folder: Path) -> dict[str, Any]:
    """Give the candidate's file its plain name: ``model.int8.onnx``, or ``.xml`` with its ``.bin``."""
    target = folder / f"model.{candidate.precision}{candidate.path.suffix}"
    if candidate.path.name == "model.onnx":
        target = folder / "model.onnx"
    else:
        shutil.move(candidate.path, target)
        for beside in (candidate.path.with_suffix(".bin"), Path(f"{candidate.path}.data")):
            if beside.exists():
                shutil.move(beside, target.with_suffix(".bin") if beside.suffix == ".bin" else Path(f"{target}.data"))
    return {
        "name": candidate.name,
        "runtime": candidate.runtime,
        "precision": candidate.precision,
        "file": target.name,
        "threads": candidate.threads,
    }
