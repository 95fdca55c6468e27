"""Command `compare`: several finished runs on the same test rows, with the paired differences between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk

from potstill.answers.fidelity import interval_of
from potstill.answers.judging import judged
from potstill.contracts.answers import Answers, Judge, Predictions
from potstill.data.arrow import table_of
from potstill.data.fingerprint import row_hashes
from potstill.data.run_rows import read_facts
from potstill.errors import DataError, OutputError, RecipeError
from potstill.evaluate.quality import predict
from potstill.exports.runtimes import TorchRunner
from potstill.flows.finished import FinishedRun
from potstill.ground.devices import placed
from potstill.report import headline
from potstill.report.comparison import ComparedRun, Comparison, Difference
from potstill.report.metrics import Metrics
from potstill.report.speedup import fastest

RESAMPLES, SLOW_RESAMPLES, CONFIDENCE, SEED = 1_000, 200, 0.95, 0
IDENTITY = ("row_id", "group")
PLACES = ("output", "store")  # keys that say where results lie
Value = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Answered:
    """A run's answers to its test rows.

    Args:
        keys: What each answered row is [N], alike in all runs that read it.
        mark: Fingerprint of all rows of the run.
        value_of: The metric of some of the rows, by their places, which may repeat; and how often it is worth drawing.
    """

    finished: FinishedRun
    metrics: Metrics
    served_as: str
    metric: str
    quality: Mapping[str, float]
    keys: np.ndarray
    mark: str
    value_of: tuple[Value, int]


def compare(folders: Sequence[str | Path], *, runtime: str | None = None, paired: bool = True) -> Comparison:
    """Compare the students of finished runs with that of the first.

    Args:
        folders: Output folders, two or more.
        runtime: How each student is served; None takes what each run chose.
        paired: Whether all runs must have the same test rows; else each is measured on its own.

    Raises:
        RecipeError: Fewer than two folders, or one twice.
        OutputError: A folder holds no finished run, or no longer its rows.
        DataError: Other tasks, labels, metrics, or (where paired) other test rows.
    """
    _check_folders(folders)
    finished = [FinishedRun(folder) for folder in folders]
    for other in finished[1:]:
        _check_tasks(finished[0], other)
    runs = [_answer(one, runtime) for one in finished]
    for run in runs[1:]:
        _check_metrics(runs[0], run)
    values = [run.quality[run.metric] for run in runs]
    drawn = _drawn(runs, [_order(runs[0], run) for run in runs] if paired else None)
    names, differences = [str(folder) for folder in folders], []
    for name, value, draws in list(zip(names, values, drawn, strict=True))[1:]:
        interval = interval_of(value - values[0], draws - drawn[0], CONFIDENCE)
        differences.append(Difference(name, names[0], interval.value, interval.low, interval.high))
    return Comparison(
        task=finished[0].task.name,
        metric=runs[0].metric,
        rows=len(runs[0].keys) if paired else None,
        paired=paired,
        runs=tuple(_figures(name, run) for name, run in zip(names, runs, strict=True)),
        differences=tuple(differences),
        settings=_settings(finished),
        notes=tuple(_notes(runs)),
    )


# -- answers


def _answer(finished: FinishedRun, runtime: str | None) -> Answered:
    """The answers of a run's student to its test rows."""
    place = finished.rows_folder / "splits" / "test"
    if not place.is_dir():
        raise OutputError(
            f"{finished.folder} no longer holds its test rows ({place})",
            "a run with its folder work/",
            "run potstill distill again with its recipe",
        )
    rows, facts, task = load_from_disk(str(place)), read_facts(finished.rows_folder), finished.task
    task.label_names = tuple(facts["label_names"])
    runner, answers = finished.served(runtime), task.answers()
    with TemporaryDirectory(prefix="potstill-compare-") as scratch:
        encoded = task.encode(rows, finished.processor, Path(scratch), max_tokens=finished.recipe.data.max_tokens)
        found = predict(runner, encoded, task.collator(finished.processor), answers)
    metric = task.metric_for(found.labels)
    is_by_teacher = answers.from_labels is None and metric == answers.metric
    teacher = _teacher(finished) if is_by_teacher else None
    judge = judged(answers.judge(), found, teacher)
    texts = answers.text_quality(found, rows)
    figures = Metrics.read(finished.folder / "report" / "metrics.json")
    keys, value_of = _by_row(answers, judge, found, rows, metric, is_of_texts=metric in texts)
    return Answered(finished, figures, runner.name, metric, judge.quality() | texts, keys, facts["fingerprint"], value_of)


def _teacher(finished: FinishedRun) -> Predictions:
    """What the teacher answers, for measures against it."""
    teacher = finished.flow.open(finished.flow.teacher)
    with placed(teacher.model) as model:
        return predict(TorchRunner(model), teacher.encoded("test"), teacher.collator, teacher.rows.answers)


def _by_row(
    answers: Answers, judge: Judge, found: Predictions, rows: Dataset, metric: str, *, is_of_texts: bool
) -> tuple[np.ndarray, tuple[Value, int]]:
    """What each row is, and the metric of any of them: out of sums of rows, or measured anew where it is no such function."""
    keys = _keys(rows)
    if is_of_texts:
        values = answers.text_scores(found, rows)[metric]
        return keys, (lambda places: float(values[places].mean()), RESAMPLES)
    given = judge.row_sums(metric)
    if given is not None and len(keys) in (len(given[0]), 2 * len(given[0])):
        sums, value = given
        pairs = len(keys) // len(sums)
        return keys[::pairs], (lambda places: value(sums[places].mean(0)), RESAMPLES)

    def measured(places: np.ndarray) -> float:
        parts = {name: part[places] for name, part in found._asdict().items() if part is not None}
        return float(judged(answers.judge(), Predictions(**parts)).quality()[metric])

    return keys, (measured, SLOW_RESAMPLES)


def _keys(rows: Dataset) -> np.ndarray:
    """The hash of each row as it was before it was split [N] uint64, in the order in which rows first occur."""
    table = table_of(rows)
    hashes = row_hashes(table.drop_columns([name for name in IDENTITY if name in table.column_names]))
    if "group" not in rows.column_names:
        return hashes
    groups = np.asarray(rows["group"])
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros(len(first), np.uint64)
    np.add.at(sums, member, hashes)
    return sums[np.argsort(first, kind="stable")]


# -- differences


def _order(first: Answered, other: Answered) -> np.ndarray:
    """Where each row of the first run is among those of another [N].

    Raises:
        DataError: They are not the same rows.
    """
    is_same_data = first.mark == other.mark and len(first.keys) == len(other.keys)
    if is_same_data or np.array_equal(first.keys, other.keys):
        return np.arange(len(first.keys))
    mine, theirs = np.argsort(first.keys, kind="stable"), np.argsort(other.keys, kind="stable")
    if not np.array_equal(first.keys[mine], other.keys[theirs]):
        shared = sum((Counter(first.keys.tolist()) & Counter(other.keys.tolist())).values())
        raise DataError(
            f"the test rows differ: {first.finished.folder} has {len(first.keys)}, {other.finished.folder} {len(other.keys)},"
            f" and {shared} are in both",
            "runs with the same test rows and labels",
            "give both runs the same data.test, or compare figures without pairing: add --unpaired",
        )
    order = np.empty(len(mine), np.int64)
    order[mine] = theirs
    return order


def _drawn(runs: Sequence[Answered], orders: Sequence[np.ndarray] | None) -> list[np.ndarray]:
    """The metric of each run on resampled rows [R]: on the same rows where there are orders, else each on its own."""
    count = min(draws for _, draws in (run.value_of for run in runs))
    drawn = []
    for number, run in enumerate(runs):
        rows, value = len(run.keys), run.value_of[0]
        generator = np.random.default_rng(SEED if orders is not None else SEED + number)
        places = (generator.integers(rows, size=rows) for _ in range(count))
        drawn.append(np.array([value(at if orders is None else orders[number][at]) for at in places]))
    return drawn


# -- what is said of the runs


def _figures(name: str, run: Answered) -> ComparedRun:
    served = headline.served_name(run.metrics)
    model = run.metrics.models[served] if served is not None else None
    best = fastest(model) if model is not None else None
    return ComparedRun(
        name,
        run.served_as,
        run.quality[run.metric],
        dict(run.quality),
        model.parameters if model else None,
        model.bytes if model else None,
        best.p50_ms if best else None,
        best.form if best else None,
    )


def _settings(runs: Sequence[FinishedRun]) -> dict[str, tuple[str, ...]]:
    """Recipe key → its value in each run, where these differ."""
    flat = [dict(_leaves(run.recipe.model_dump(mode="json"))) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = {key: tuple(one.get(key, "–") for one in flat) for key in keys if key not in PLACES}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _notes(runs: Sequence[Answered]) -> list[str]:
    machines = {run.metrics.machine.cpu for run in runs}
    notes = [f"times were measured on different machines: {', '.join(map(str, machines))}"] if len(machines) > 1 else []
    served = {run.served_as for run in runs}
    return notes + ([f"students are served in different ways: {', '.join(sorted(served))}"] if len(served) > 1 else [])


# -- refusals


def _check_folders(folders: Sequence[str | Path]) -> None:
    places = [Path(folder).resolve() for folder in folders]
    if len(places) < 2:
        raise RecipeError("one run is given", "two or more output folders", "write potstill compare out/a out/b")
    twice = [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]
    if twice:
        raise RecipeError(f"{twice[0]} is given twice", "each run once", "leave one out")


def _check_tasks(first: FinishedRun, other: FinishedRun) -> None:
    one, two = first.task, other.task
    if one.name != two.name or set(first.recipe.tasks) != set(other.recipe.tasks):
        raise DataError(
            f"{first.folder} is for {_of(first)}, {other.folder} for {_of(other)}", "runs of one task", "leave one out"
        )
    if set(one.label_names) != set(two.label_names):
        mine, theirs = (", ".join(sorted(task.label_names)) for task in (one, two))
        raise DataError(
            f"the labels differ: {first.folder} has {mine}; {other.folder} has {theirs}",
            "runs with the same labels",
            "leave one out",
        )


def _of(run: FinishedRun) -> str:
    tasks = list(run.recipe.tasks)
    return f"{run.task.name} ({', '.join(tasks)})" if tasks else str(run.task.name)


def _check_metrics(first: Answered, other: Answered) -> None:
    if first.metric != other.metric:
        raise DataError(
            f"{first.finished.folder} is measured by {first.metric}, {other.finished.folder} by {other.metric}",
            "runs with the same kind of test labels",
            "leave one out",
        )
