"""Students cut out of a language model, taught in several ways at equal tokens: loss, divergence, calibration, bytes a token.

    python benchmarks/language_students.py --teacher FOLDER --data FILE_OR_FOLDER --output out/students [--quick]

Every way starts from the same student and sees the same windows in the same order; `random` is the student's shape with
random weights, taught as `sampled`. What is done lies in `cells.jsonl` and is not done again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from potstill.evaluate.language import measure_tokens
from potstill.flows.observer import LoggingObserver
from potstill.knowledge.language import LanguageTeacher
from potstill.modalities.language.packing import PackedRows
from potstill.modalities.language.rows import RowsOptions, TokenRows, encode_splits, rows_in
from potstill.models.decoder import Decoder
from potstill.models.language_model import LanguageModel, RenumberedModel, language_model
from potstill.recipe.language import LanguageOptions
from potstill.recipe.model import DataRecipe, StudentRecipe
from potstill.stages.language.ask import AskOptions, ask, open_answers
from potstill.stages.language.learn import terms_of
from potstill.students.decoders.make import cut_student
from potstill.training.language_phase import train_language
from potstill.training.phase_settings import PhaseSettings

WAYS: dict[str, dict[str, Any]] = {
    "ce": {},
    "live": {"divergence": "kl"},
    "sampled": {"scheme": "sampled", "samples": 50},
    "top-12": {"scheme": "top_k", "entries": 12, "tail": False},
    "top-12 + tail": {"scheme": "top_k", "entries": 12},
    "top-50": {"scheme": "top_k", "entries": 50, "tail": False},
    "top-50 + tail": {"scheme": "top_k", "entries": 50},
    "random": {"scheme": "sampled", "samples": 50},
}
FIGURES = ("loss", "teacher_kl", "teacher_agreement", "ece", "bytes_per_token")


class Slots(dict[str, Any]):
    """Results by name, as a stage is given them."""

    __getattr__ = dict.__getitem__


@dataclass
class World:
    """One ratio: the student, its rows, and the teacher that answers in its tokens."""

    folder: Path
    student: Any
    tokenizer: Any
    rows: TokenRows
    teacher: LanguageModel
    tested: int

    def answers(self, name: str, options: LanguageOptions, seed: int) -> Any:
        """Kept distributions, asked for once."""
        folder = self.folder / f"cache-{name.replace(' ', '')}-{seed}"
        slots: Any = Slots(rows=self.rows, teacher=self.teacher)
        if not (folder / "facts.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            ask(slots, AskOptions(options, seed, is_wanted=True), folder, LoggingObserver())
        facts = json.loads((folder / "facts.json").read_text("utf-8"))
        return open_answers(folder, slots), facts["bytes_per_token"]


def main() -> None:
    """Teach every student in every way, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=250, help="training documents, seen once")
    parser.add_argument("--tested", type=int, default=200, help="documents of the test split")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one ratio, one seed, 150 documents, 50 tested")
    asked = parser.parse_args()
    if asked.quick:
        asked.ratios, asked.seeds, asked.rows, asked.tested = asked.ratios[:1], 1, min(asked.rows, 150), 50
    torch.set_num_threads(asked.threads)
    asked.output.mkdir(parents=True, exist_ok=True)
    cells = asked.output / "cells.jsonl"
    done = [json.loads(line) for line in cells.read_text("utf-8").splitlines()] if cells.is_file() else []
    for ratio in asked.ratios:
        world = None
        for seed, way in itertools.product(range(asked.seeds), asked.ways):
            key = {"ratio": ratio, "seed": seed, "way": way}
            if any(key.items() <= cell.items() for cell in done):
                continue
            world = world or world_of(asked, ratio)
            cell = key | taught(world, way, seed, asked.rate)
            done.append(cell)
            with cells.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(cell) + "\n")
            print(json.dumps(cell), flush=True)
    print("\n".join(table(done)))


def world_of(asked: argparse.Namespace, ratio: float) -> World:
    """The student of a ratio, with everything that it learns from."""
    folder = asked.output / f"ratio-{ratio}"
    source = DataRecipe(source=asked.data, max_rows=asked.rows)
    options = RowsOptions(source, asked.window, packing=True, loss_on="assistant", template=None, seed=0)
    teacher = language_model("teacher", asked.teacher)
    rows = encode_splits(asked.data, options, teacher.tokenizer, folder / "rows")
    made = cut_student(StudentRecipe(ratio=ratio), teacher, rows)
    if made.vocabulary is not None:
        encode_splits(asked.data, options, made.tokenizer, folder / "own-rows")
        rows, ids = rows_in(folder / "own-rows"), torch.as_tensor(made.vocabulary.kept_ids)
        teacher = RenumberedModel(
            teacher.name, teacher.source, teacher.load_model, lambda: made.tokenizer, original=teacher, ids=ids
        )
    print(f"ratio {made.plan.ratio:.3f}: {'; '.join(made.plan.notes)}", flush=True)
    return World(folder, made.model, made.tokenizer, rows, teacher, asked.tested)


def taught(world: World, way: str, seed: int, rate: float) -> dict[str, float]:
    """One student taught in one way, and its figures on the test split."""
    options = LanguageOptions(**WAYS[way])
    model = copy.deepcopy(world.student)
    torch.manual_seed(seed)
    if way == "random":
        model = AutoModelForCausalLM.from_config(model.config)
    source, size = None, 0.0
    if way == "live":
        source = LanguageTeacher(world.teacher.decoder)
    elif way != "ce":
        source, size = world.answers("sampled" if way == "random" else way, options, seed)
    settings = PhaseSettings(epochs=1, learning_rate=rate, batch_size=8, seed=seed, schedule="cosine", select="last")
    outcome = train_language(
        model,
        rows=world.rows.windows("train"),
        collator=world.rows.collator,
        folder=world.folder / f"training-{way.replace(' ', '')}-{seed}",
        terms=terms_of(options, len(world.tokenizer), has_teacher=way != "ce"),
        source=source,
        settings=settings,
    )
    documents = world.rows.documents("test")
    span = range(min(world.tested, len(documents)))
    windows = PackedRows(documents, world.rows.facts["window"], only=span)
    figures = measure_tokens(Decoder(model), windows, world.rows.collator, teacher=world.teacher.decoder)
    found = figures.figures(num_bytes=int(documents.num_bytes[: len(span)].sum()))
    kept = {name: found[name] for name in (*FIGURES, "perplexity", "bits_per_byte") if name in found}
    return kept | {"bytes_per_token": size, "seconds": outcome.seconds, "steps": outcome.steps}


def table(cells: list[dict[str, Any]]) -> Iterator[str]:
    """Means over seeds, with the standard deviation where there are several."""
    yield "| ratio | way | " + " | ".join(FIGURES) + " | seeds |"
    yield "|---" * (len(FIGURES) + 3) + "|"
    keys = dict.fromkeys((cell["ratio"], cell["way"]) for cell in cells)
    for ratio, way in keys:
        mine = [cell for cell in cells if (cell["ratio"], cell["way"]) == (ratio, way)]
        shown = [_mean([cell[name] for cell in mine]) for name in FIGURES]
        yield f"| {ratio} | {way} | {' | '.join(shown)} | {len(mine)} |"


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    main()
