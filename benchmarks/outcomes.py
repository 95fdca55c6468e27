"""Outcomes of small whole runs, to be compared before and after a change that claims to be neutral.

    python benchmarks/outcomes.py --write FILE [--only NAME …]      # with the code as it was
    python benchmarks/outcomes.py --against FILE [--only NAME …]    # with the changed code; exit code 1 where figures differ
    python benchmarks/outcomes.py --list

Each flow trains a tiny model through the public API and keeps the figures of `metrics.json`, the notes, the stages that ran, and
a hash of the student's weights. Left out is what a stopwatch, the machine or the place of a file decides. Figures of two runs
are comparable on one kind of CPU and one set of package versions alone: other instructions add up in another order. On CPUs with
bfloat16 matrix units a live teacher may answer in bfloat16; ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI keeps both runs in float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads add up in another order than one
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors.torch import load_file
from transformers import set_seed

from outcome_flows import COMMON, FLOWS, merged
from outcome_world import World
from potstill import DistillationPipeline

TOLERANCE = 1e-6  # of a figure, or of its share where it is larger than 1
ABSENT = "absent"
Differences = dict[str, tuple[Any, Any]]
# Facts of the day, the machine and the clock, wherever they stand in metrics.json. Of several quantized models the fastest one is
# kept, by a stopwatch: which one it is and its figures are left out, and the candidates with their metric and bytes are compared.
LEFT_OUT = frozenset(
    {"created", "command", "machine", "target", "versions", "stages", "energy", "latency_ms", "throughput", "p50_ms"}
)
OF_FASTEST = re.compile(r"^(chosen|reason|served|student-int8.*)$")
OF_TIME = re.compile(r"runtime|per_second|seconds")  # names of figures in the history
TIMES = re.compile(r"\d[\d,.]*\s*(?:µs|ms|s|min|h|seconds?|minutes?|hours?|rows/s|rows per second)\b")
FASTEST = re.compile(r"\S+ is the fastest of")  # in a note; what follows it is about that candidate
BUSY = re.compile(r"(warning: )?The machine was busy while times were taken")


class Recorder:
    """Observer that keeps the stages that ran, and notes and warnings in their order."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage_started(self, name: str, title: str) -> None:
        """Keep the name."""
        self.stages.append(name)

    def stage_step(self, text: str) -> None:
        """Nothing: a name of what is being done."""

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Nothing: how often a stage reports depends on the clock."""

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Nothing: no stage of a new folder is done already."""

    def stage_left_out(self, name: str) -> None:
        """Nothing: only what ran counts."""

    def note(self, text: str) -> None:
        """Keep it, but for the choice of the fastest candidate."""
        if not FASTEST.match(text):
            self.notes.append(TIMES.sub("<time>", text))

    def warn(self, text: str) -> None:
        """Keep it as a warning."""
        self.notes.append(TIMES.sub("<time>", f"warning: {text}"))


def outcome(name: str, world: World, output: Path) -> dict[str, Any]:
    """Run one flow into a new folder.

    Returns:
        Its `figures`, `notes`, `stages`, and the hash of the student's `weights`; or its `error`.
    """
    torch.set_num_threads(1)
    set_seed(0)
    recorder = Recorder()
    try:
        flow = FLOWS[name](world)
        pipeline = DistillationPipeline(
            teacher_model=flow.teacher, data=flow.data, config=merged(COMMON, flow.config), output_dir=output
        )
        pipeline.run(recorder)
        figures = json.loads((output / "report" / "metrics.json").read_text("utf-8"))
        weights = hash_of_weights(output / "student")
    except Exception as error:  # a flow that breaks is a finding; the others go on
        return {"error": without_places(f"{type(error).__name__}: {error}", [output, world.folder])}
    kept = {"figures": comparable(figures), "notes": comparable(recorder.notes), "stages": recorder.stages, "weights": weights}
    return json.loads(without_places(json.dumps(kept), [output, world.folder]))


def hash_of_weights(folder: Path) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, sorted by name."""
    digest = hashlib.sha256()
    tensors = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def comparable(value: Any) -> Any:
    """`value` without facts of time and machine, and without times in its texts."""
    if isinstance(value, Mapping):
        kept = (key for key in value if key not in LEFT_OUT and not OF_TIME.search(key) and not OF_FASTEST.match(key))
        return {key: comparable(value[key]) for key in kept}
    if isinstance(value, list):
        return [comparable(part) for part in value if not (isinstance(part, str) and BUSY.match(part))]
    return TIMES.sub("<time>", value) if isinstance(value, str) else value


def without_places(text: str, folders: Sequence[Path]) -> str:
    """`text` with a plain word where it names a temporary folder."""
    for folder in folders:
        text = text.replace(str(folder), "<folder>")
    return text


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of everything in a nested document that is no mapping and no list."""
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        yield path, value
        return
    for key, part in parts:
        yield from leaves(part, f"{path}.{key}" if path else str(key))


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], *, tolerance: float = TOLERANCE
) -> dict[str, tuple[Any, Any]]:
    """Path → both values, of everything but the hash that differs by more than the tolerance."""
    held, found = dict(leaves(before)), dict(leaves(after))
    paths = [path for path in [*held, *(path for path in found if path not in held)] if path != "weights"]
    pairs = {path: (held.get(path, ABSENT), found.get(path, ABSENT)) for path in paths}
    return {path: pair for path, pair in pairs.items() if not is_close(*pair, tolerance=tolerance)}


def is_close(before: Any, after: Any, *, tolerance: float) -> bool:
    """Whether two values are equal, or two fractions as good as equal."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=tolerance, abs_tol=tolerance)
    return type(before) is type(after) and before == after


def verdict(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, Differences]:
    """How two outcomes of one flow compare, in words, and what differs."""
    found = differences(before, after)
    if found:
        return f"{len(found)} differences", found
    is_same_hash = before.get("weights") == after.get("weights")
    if is_same_hash and not differences(before, after, tolerance=0.0):
        return "same", {}
    return f"same figures within {TOLERANCE:g}, {'same' if is_same_hash else 'other'} hash", {}


def outcomes(names: Collection[str]) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Name, outcome and seconds of each flow, all with one set of models and rows."""
    with tempfile.TemporaryDirectory(prefix="potstill-outcomes-") as scratch:
        world = World(Path(scratch) / "world")
        world.folder.mkdir()
        for name in names:
            started = time.perf_counter()
            found = outcome(name, world, Path(scratch) / name)
            yield name, found, time.perf_counter() - started


def write(file: Path, names: Collection[str]) -> int:
    """Record the flows; exit code 1 where one of them failed."""
    found = {}
    for name, one, seconds in outcomes(names):
        print(f"{name}: {one.get('error', 'recorded')} ({seconds:.1f} s)", flush=True)
        found[name] = one
    file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return int(any("error" in one for one in found.values()))


def compare(file: Path, names: Collection[str], *, most: int) -> int:
    """Print how each flow compares with the file; exit code 1 where figures differ or a flow is missing on either side."""
    held = json.loads(file.read_text("utf-8"))
    tally: dict[str, int] = {}
    for name, one, seconds in outcomes(names):
        words, found = verdict(held[name], one) if name in held else ("not in the file", {"flow": (ABSENT, "recorded")})
        print(f"{name}: {words} ({seconds:.1f} s)", flush=True)
        for path, (before, after) in list(found.items())[:most]:
            print(f"    {path}: {before!r} -> {after!r}", flush=True)
        if len(found) > most:
            print(f"    and {len(found) - most} more", flush=True)
        kind = "different" if found else words
        tally[kind] = tally.get(kind, 0) + 1
    print("; ".join(f"{count} {kind}" for kind, count in tally.items()))
    return int("different" in tally)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="record the outcomes")
    action.add_argument("--against", type=Path, metavar="FILE", help="compare with recorded outcomes")
    action.add_argument("--list", action="store_true", help="names of the flows")
    parser.add_argument("--only", nargs="+", choices=list(FLOWS), metavar="NAME", help="these flows; default: all")
    parser.add_argument("--most", type=int, default=20, help="differences shown for each flow")
    given = parser.parse_args()
    names = given.only or list(FLOWS)
    if given.list:
        print("\n".join(names))
        return 0
    warnings.filterwarnings("ignore")
    return write(given.write, names) if given.write else compare(given.against, names, most=given.most)


if __name__ == "__main__":
    sys.exit(main())
