"""Methods of the catalogue against plain distillation on texts: how much of the gap to the teacher each one closes.

    python benchmarks/text_methods.py --data sst2 --teacher ./my-teacher --seeds 0 1 2
    python benchmarks/text_methods.py --data sst2 --table              # of what is done so far

Every method gets the same cut student, the same teacher and the same seeds, with the defaults of its paper or of the toolkit.
*Plain* distillation is that of the published comparisons: KL at τ = 2 (0.7) and labels (0.3) on the labelled rows, 8 passes.
`kd` is the same with the hidden states of the kept blocks. Gap closed is (method − plain) / (teacher − plain) on the test split,
from the means over seeds; each of the two is taken as the plain side once.
Each cell is one run folder under --output; a second start does what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import quality

PLAIN = ("kd, answers alone", "kd")
NOT_SHARED = ("export", "report", "*.lock", "*.partial")
CELLS: Mapping[str, Sequence[str]] = {
    "kd, answers alone": (
        "distill.losses=[{name: kl, weight: 0.7, temperature: 2.0}, {name: ce, weight: 0.3}]",
        "data.augment=none",
    ),
    "kd": ("distill.method=kd", "data.augment=none"),
    "kd, made rows": ("distill.method=kd",),
    "augmented_kd": (),
    "tinybert": ("distill.method=tinybert", "data.augment=none"),
    "pkd": ("distill.method=pkd", "data.augment=none"),
    "minilm": ("distill.method=minilm", "data.augment=none"),
    "distilbert": ("distill.method=distilbert", "data.augment=none"),
    "srd": ("distill.method=srd", "data.augment=none"),
    "rkd": ("distill.method=rkd", "data.augment=none"),
    "dist": ("distill.method=dist", "data.augment=none"),
    "mlkd": ("distill.method=mlkd", "data.augment=none"),
}


def main() -> None:
    """Do what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sst2", help="folder below POTSTILL_DATA, or a path")
    parser.add_argument("--methods", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratio", type=float, default=0.9)
    parser.add_argument("--teacher", help="a trained teacher; else every seed trains the pretrained encoder's head")
    parser.add_argument("--output", type=Path, default=Path("out/text-methods"))
    parser.add_argument("--set", action="append", default=[], dest="settings", help="further recipe keys, key=value")
    parser.add_argument("--table", action="store_true", help="only print what is done")
    arguments = parser.parse_args()
    data = Path(arguments.data) if Path(arguments.data).exists() else quality.DATA / arguments.data
    if not data.exists():
        sys.exit(f"{data} does not exist: set POTSTILL_DATA to the folder that holds the data sets")
    for seed in arguments.seeds if not arguments.table else []:
        for method in arguments.methods:
            cell(arguments, data, method, seed)
    rows = table(arguments.output, data.name, arguments.seeds)
    if not rows:
        sys.exit(f"{arguments.output} holds no finished run on {data.name}")
    (arguments.output / f"{data.name}.json").write_text(json.dumps(rows, indent=2), "utf-8")


def folder_of(output: Path, data: str, method: str, seed: int) -> Path:
    """Where one cell is."""
    return output / f"{data}-seed{seed}" / method.replace(", ", "-").replace(" ", "-")


def cell(arguments: argparse.Namespace, data: Path, method: str, seed: int) -> None:
    """One run, unless its report is there; what does not depend on the method is taken from a run of the same seed."""
    folder = folder_of(arguments.output, data.name, method, seed)
    if (folder / "report/metrics.json").is_file():
        return
    done = [other for other in sorted(folder.parent.glob("*")) if (other / "report/metrics.json").is_file()]
    if done and not folder.exists():
        shutil.copytree(done[0], folder, ignore=shutil.ignore_patterns(*NOT_SHARED))
    settings = argparse.Namespace(no_baseline=True, settings=[*CELLS[method], "quantize.mode=none", *arguments.settings])
    started = time.perf_counter()
    quality.run(settings, data, arguments.teacher or quality.pretrained_encoder(), arguments.ratio, seed, folder)
    print(f"{data.name} {method} seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)


def table(output: Path, data: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Print the table of finished cells, best first, and return its rows."""
    rows: list[dict[str, Any]] = []
    for method in CELLS:
        files = [folder_of(output, data, method, seed) / "report/metrics.json" for seed in seeds]
        found = [json.loads(file.read_text("utf-8")) for file in files if file.is_file()]
        if found:
            rows.append({"method": method, "seeds": len(found), **_figures(found)})
    plain = {row["method"]: row["student"] for row in rows if row["method"] in PLAIN}
    gaps = " | ".join(f"gap of `{name}` closed" for name in plain)
    print(f"| method | seeds | teacher | student | ± | kept | agreement | {gaps} |")
    print("|---" * (7 + len(plain)) + "|")
    for row in sorted(rows, key=lambda row: -row["student"]):
        compared = {name: figure for name, figure in plain.items() if name != row["method"]}
        row["gap_closed"] = {name: (row["student"] - low) / (row["teacher"] - low) for name, low in compared.items()}
        closed = (f"{row['gap_closed'][name]:.0%}" if name in row["gap_closed"] else "" for name in plain)
        print(
            f"| {row['method']} | {row['seeds']} | {row['teacher']:.4f} | {row['student']:.4f} | {row['spread']:.4f} |"
            f" {row['retention']:.2%} | {row['agreement']:.2%} | {' | '.join(closed)} |"
        )
    return rows


def _figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    metric = runs[0]["metric"]
    student = [run["models"]["student"]["quality"][metric] for run in runs]
    return {
        "teacher": statistics.mean(run["models"]["teacher"]["quality"][metric] for run in runs),
        "student": statistics.mean(student),
        "spread": statistics.stdev(student) if len(student) > 1 else 0.0,
        "retention": statistics.mean(run["retention"] for run in runs),
        "agreement": statistics.mean(run["agreement"] for run in runs),
    }


if __name__ == "__main__":
    main()
