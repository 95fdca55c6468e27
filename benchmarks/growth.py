"""How time and memory of a whole run grow with the data, the length of the texts, and the teacher.

    python benchmarks/growth.py --plot docs/growth.png

Every case is a process of its own that runs the real pipeline on texts written here, with a small BERT that is made here:
the base case, ten times the rows, four times the tokens of a row, four times the layers of the teacher. Measured for each
stage: CPU seconds, and the peak of memory that belongs to the process (anonymous pages, sampled every 20 ms). Pages of
mapped files, which the system takes back when it needs them, are the rest of the peak resident size. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CASES: dict[str, dict[str, int]] = {
    "base": {},
    "rows ×10": {"rows": 10},
    "tokens ×4": {"tokens": 4},
    "teacher ×4": {"layers": 4},
}
SHOWN = ("data", "cache", "student", "distill")
WORDS = 600
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def main() -> None:
    """Run the cases one after the other, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--figures", type=Path, help="keep the figures as JSON; with --draw-only they are read from it")
    parser.add_argument("--draw-only", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_case(arguments.inside)))
        return
    if arguments.draw_only:
        found = json.loads(arguments.figures.read_text())
    else:
        found = {name: measured(name, arguments) for name in arguments.cases}
        if arguments.figures:
            arguments.figures.write_text(json.dumps(found, indent=1))
    print_table(found)
    if arguments.plot:
        draw(found, arguments.plot)


def measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one case, from a process of its own."""
    factors = CASES[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        layers = arguments.layers * factors.get("layers", 1)
        write_teacher(folder / "teacher", layers)
        rows, tokens = arguments.rows * factors.get("rows", 1), arguments.tokens * factors.get("tokens", 1)
        write_texts(folder / f"texts.{arguments.format}", rows, tokens)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": place}
        command = [sys.executable, __file__, "--inside", str(folder), "--format", arguments.format]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
        return {"rows": rows, "tokens": tokens, "layers": layers, **json.loads(done.stdout.splitlines()[-1])}


def run_case(folder: Path) -> dict[str, Any]:
    """The whole pipeline; stage by stage its CPU seconds and peak memory."""
    from potstill.cli.printing import quiet_libraries
    from potstill.flows import DistillationPipeline

    quiet_libraries()
    source = next(folder.glob("texts.*"))
    config = {
        "data": {"augment": "none"},
        "student": {"params": 55_000},
        "distill": {"method": "kd", "epochs": 1, "batch_size": 64, "cache": "always", "select": "last"},
        "quantize": {"mode": "none"},
        "evaluate": {"batch_sizes": [1], "repeats": 2, "similarity_rows": 64},
        "precision": "fp32",
    }
    watch = Watch()
    pipeline = DistillationPipeline(folder / "teacher", source, config, folder / "out")
    pipeline.run(observer=watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "stages": watch.stages,
        "peak_rss_mib": peak,
        "peak_own_mib": max(stage["own_mib"] for stage in watch.stages.values()),
    }


class Watch:
    """An observer that measures each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self._peak, self._cpu = 0.0, 0.0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, own_mib())
            time.sleep(0.02)

    def stage_started(self, name: str, title: str) -> None:
        """Begin to measure."""
        self._peak, self._cpu = own_mib(), time.process_time()

    def stage_finished(self, name: str, seconds: float, *, skipped: bool) -> None:
        """Keep the figures."""
        self.stages[name] = {"cpu_seconds": time.process_time() - self._cpu, "own_mib": self._peak, "seconds": seconds}

    def stage_step(self, text: str) -> None:
        """Nothing."""

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def stage_left_out(self, name: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


def own_mib() -> float:
    """Anonymous memory of this process, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def write_texts(file: Path, rows: int, tokens: int) -> None:
    """Texts of so many words whose label follows from the first word."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(WORDS)]
    with file.open("w", encoding="utf-8") as stream:
        if file.suffix == ".csv":
            stream.write("text,label\n")
        for _ in range(rows):
            drawn = chance.choices(words, k=tokens - 2)
            text, label = " ".join(drawn), ("even", "odd")[int(drawn[0][4:]) % 2]
            stream.write(f"{text},{label}\n" if file.suffix == ".csv" else json.dumps({"text": text, "label": label}) + "\n")


def write_teacher(folder: Path, layers: int) -> None:
    """A small BERT with a head and a tokenizer that knows the words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(WORDS))]
    backend = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), names))
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **special).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=512,
        id2label={0: "even", 1: "odd"},
        label2id={"even": 0, "odd": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """CPU seconds and peak memory by stage and case."""
    base = found.get("base")
    names = list(next(iter(found.values()))["stages"])
    print(
        f"{'case':<12} {'rows':>8} {'tokens':>6} {'layers':>6} "
        + " ".join(f"{name:>16}" for name in names)
        + f"{'own MiB':>10} {'RSS MiB':>9}"
    )
    for case, figures in found.items():
        cells = []
        for name in names:
            stage = figures["stages"][name]
            times = "" if base is None else f" ×{stage['cpu_seconds'] / max(base['stages'][name]['cpu_seconds'], 1e-9):.1f}"
            cells.append(f"{stage['cpu_seconds']:.1f} s{times}".rjust(16))
        head = f"{case:<12} {figures['rows']:>8} {figures['tokens']:>6} {figures['layers']:>6} "
        print(head + " ".join(cells) + f"{figures['peak_own_mib']:>10.0f} {figures['peak_rss_mib']:>9.0f}")


def draw(found: dict[str, dict[str, Any]], file: Path) -> None:
    """CPU seconds of the stages beside what proportional growth would be, and peak memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10.5, 4.2), gridspec_kw={"width_ratios": [2.2, 1]})
    cases, base = list(found), found["base"]["stages"]
    colours = ("#5b8db8", "#e0a458", "#8aa87b", "#b5657a")
    wide = 0.8 / len(cases)
    for number, (case, colour) in enumerate(zip(cases, colours)):
        factor = max(CASES[case].values(), default=1)
        places = [position + (number - (len(cases) - 1) / 2) * wide for position in range(len(SHOWN))]
        ratios = [found[case]["stages"][name]["cpu_seconds"] / base[name]["cpu_seconds"] for name in SHOWN]
        left.bar(places, ratios, wide * 0.92, color=colour, label=case)
        for place, ratio in zip(places, ratios):
            left.text(place, ratio * 1.05, f"{ratio:.1f}", ha="center", va="bottom", fontsize=8, bbox=BEHIND)
        if factor > 1:
            left.axhline(factor, color="#999999", linewidth=0.8, linestyle=":")
    left.set_yscale("log")
    left.set_ylim(0.5, 20)
    left.set_yticks([1, 4, 10], ["1", "4", "10"])
    left.minorticks_off()
    left.set_xticks(range(len(SHOWN)), [f"{name}\n{base[name]['cpu_seconds']:.1f} s" for name in SHOWN])
    left.set_title("CPU time of a stage, base case = 1", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8, loc="upper left", ncols=4)
    own = [found[case]["peak_own_mib"] for case in cases]
    rest = [found[case]["peak_rss_mib"] - found[case]["peak_own_mib"] for case in cases]
    right.bar(range(len(cases)), own, 0.6, color=colours[: len(cases)])
    right.bar(range(len(cases)), rest, 0.6, bottom=own, color="#dddddd", label="code and mapped files")
    for place, value in enumerate(own):
        right.text(place, value - 12, f"{value:.0f}", ha="center", va="top", fontsize=8, color="white")
    right.set_xticks(range(len(cases)), cases, fontsize=8)
    right.set_title("Peak memory of the run, MiB", fontsize=10, loc="left")
    right.set_ylim(0, max(a + b for a, b in zip(own, rest)) * 1.2)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
