"""The table of the comparison of methods, and how well it agrees with the published one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_nets import PAIRS
from method_cells import METHODS
from potstill.ground.disk import read_json

# CIFAR-100, top-1 in percent, 240 epochs. Teacher, student alone, KD to CRD: README of RepDistiller (last epoch); DKD: README of
# mdistiller (best epoch); ReviewKD: arXiv 2104.09044; DIST: arXiv 2205.10536; SimKD: arXiv 2203.14001, which keeps the teacher's
# classifier, where ours teaches the student's own. Of the pair across
# architectures no published row is given here.
PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "resnet56-resnet20": {
        "teacher": 72.34,
        "baseline": 69.06,
        "kd": 70.66,
        "at": 70.55,
        "sp": 69.67,
        "rkd": 69.61,
        "crd": 71.16,
        "review_kd": 71.89,
        "dkd": 71.97,
        "dist": 71.75,
    },
    "resnet32x4-resnet8x4": {
        "teacher": 79.42,
        "baseline": 72.50,
        "kd": 73.33,
        "at": 73.44,
        "sp": 72.94,
        "rkd": 71.90,
        "crd": 75.51,
        "review_kd": 75.63,
        "dkd": 76.32,
        "dist": 76.31,
        "simkd": 78.08,
    },
    "vgg13-vgg8": {
        "teacher": 74.64,
        "baseline": 70.36,
        "kd": 72.98,
        "at": 71.43,
        "sp": 72.68,
        "rkd": 71.48,
        "crd": 73.94,
        "review_kd": 74.84,
        "dkd": 74.68,
    },
}
# CIFAR-10, top-1 in percent: README of Knowledge-Distillation-Zoo (AberHu), ResNet-110 to ResNet-20, one run each; its "ST" is
# soft targets alone. A published table for CIFAR-10 itself, with this student and several of these methods.
PUBLISHED_CIFAR10: Mapping[str, Mapping[str, float]] = {
    "resnet56-resnet20": {"baseline": 92.37, "kd": 92.82, "at": 93.21, "sp": 93.30, "rkd": 93.21, "crd": 92.92},
}
HEADER = "| pair | method | seeds | epochs | last % | best % | gain over baseline | published gain (CIFAR-100) | seconds |"


def table(folder: Path, pairs: Sequence[str]) -> list[dict[str, Any]]:
    """Print what is done as markdown, last (best) epoch, mean over seeds ± their deviation, and return it as rows."""
    rows = [row for pair in pairs for row in _rows_of(folder, pair)]
    print(HEADER)
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        spread = f" ± {100 * row['spread']:.2f}" if "spread" in row else ""
        print(
            f"| {row['pair']} | {row['method']} | {row['seeds']} | {row['epochs']} | {100 * row['last']:.2f}{spread} |"
            f" {100 * row['best']:.2f} | {_signed(row['gain'], 100)} | {_signed(row['published_gain'])} | {row['seconds']} |"
        )
    _tell_unfinished(rows)
    _tell_plans(rows)
    return rows


def agreement(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Print and return, per pair and published table, Spearman's correlation of the order of methods with the published order."""
    found = []
    print("\n| pair | published on | methods in common | Spearman with the published order | without SimKD |")
    print("|---|---|---|---|---|")
    for data, tables in (("CIFAR-100", PUBLISHED), ("CIFAR-10", PUBLISHED_CIFAR10)):
        for pair, published in tables.items():
            ours = {row["method"]: row["last"] for row in rows if row["pair"] == pair and row["method"] != "teacher"}
            common = [method for method in METHODS if method in ours and method in published]
            if len(common) < 3:
                continue
            whole = spearman([ours[method] for method in common], [published[method] for method in common])
            plain = [method for method in common if method != "simkd"]
            rest = spearman([ours[method] for method in plain], [published[method] for method in plain])
            order = {"pair": pair, "published": data, "methods": len(common), "spearman": whole, "spearman_without_simkd": rest}
            found.append(order)
            print(f"| {pair} | {data} | {len(common)} | {whole:+.2f} | {rest:+.2f} |")
    return found


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Correlation of ranks.

    Example:
        >>> spearman([0.1, 0.3, 0.2], [1.0, 3.0, 2.0])
        1.0
    """
    from scipy.stats import spearmanr

    return round(float(spearmanr(ours, theirs).statistic), 4)


def _rows_of(folder: Path, pair: str) -> list[dict[str, Any]]:
    teacher = read_json(folder / f"teacher-{PAIRS[pair].teacher}.json")
    if not isinstance(teacher, dict):
        return []
    cells = [cell for file in sorted((folder / pair).glob("*-seed*.json")) if isinstance(cell := read_json(file), dict)]
    if not cells:
        return []
    rows = [{"pair": pair, "method": "teacher", "seeds": 1, **_figures([teacher])}]
    for method in METHODS:
        own = [cell for cell in cells if cell["method"] == method]
        if own:
            rows.append({"pair": pair, "method": method, "seeds": len(own), **_figures(own)})
    base = next((row["last"] for row in rows if row["method"] == "baseline"), None)
    published = PUBLISHED.get(pair, {})
    for row in rows:
        is_taught = row["method"] not in ("teacher", "baseline")
        row["gain"] = row["last"] - base if is_taught and base is not None else None
        is_published = is_taught and row["method"] in published
        row["published_gain"] = published[row["method"]] - published["baseline"] if is_published else None
    return rows


def _figures(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    last = [cell["last"] for cell in cells]
    lacking = [cell for cell in cells if len(cell["epochs"]) < cell.get("planned", 0) or cell.get("fault")]
    return {
        "last": statistics.mean(last),
        "best": statistics.mean(cell["best"] for cell in cells),
        **({"spread": statistics.stdev(last)} if len(last) > 1 else {}),
        "epochs": max(len(cell["epochs"]) for cell in cells),
        "seconds": round(statistics.mean(cell["seconds"] for cell in cells), 1),
        "unfinished": len(lacking),
        "plans": sorted({(cell["planned"], cell.get("batch", 0)) for cell in cells if "planned" in cell}),
        "faults": [cell["fault"] for cell in cells if cell.get("fault")],
    }


def _tell_unfinished(rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        if row["unfinished"]:
            faults = f" ({'; '.join(row['faults'])})" if row["faults"] else ""
            print(f"\n{row['pair']} {row['method']}: {row['unfinished']} of {row['seeds']} cells did not end{faults}")


def _tell_plans(rows: Sequence[Mapping[str, Any]]) -> None:
    """Say where one folder holds what was trained by several plans, which cannot be compared."""
    for pair in dict.fromkeys(row["pair"] for row in rows):
        plans = sorted({plan for row in rows if row["pair"] == pair and row["method"] != "teacher" for plan in row["plans"]})
        if len(plans) > 1:
            told = ", ".join(f"{epochs} epochs in batches of {batch}" for epochs, batch in plans)
            print(f"\n{pair}: cells of different plans ({told}); compare what has the same, or start with another --output")


def _signed(value: float | None, factor: float = 1.0) -> str:
    return "" if value is None else f"{factor * value:+.2f}"
