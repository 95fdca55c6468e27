"""Writing a knowledge cache: one pass of the teacher over the rows, shard by shard, resumable.

Shapes: N rows, B batch, C classes, T tokens, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.answers.units import by_unit, is_span, real_units
from potstill.contracts.response import Response
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, require
from potstill.data.encoded import EncodedRows
from potstill.errors import CacheError
from potstill.ground.counted import counted
from potstill.ground.disk import StageFolder, fingerprint, read_json
from potstill.knowledge.cache_budget import TAP_BUDGET_BYTES, plan_layout
from potstill.knowledge.cache_manifest import (
    MANIFEST,
    TOKEN_COUNTS,
    Fingerprints,
    Manifest,
    find_damage,
    load_manifest,
    numpy_dtype,
    shard_file,
)
from potstill.knowledge.cache_store import POSITIONS, ROW_IDS, index_rows, listed_rows, save_array
from potstill.knowledge.live import TEACHER_PREFIX
from potstill.knowledge.responses import read_keep
from potstill.knowledge.responses.dense import DenseLogits

logger = logging.getLogger(__name__)

Collator = Callable[[list[dict[str, Any]]], Mapping[str, Tensor]]
Progress = Callable[[int, int], None]


def write_cache(
    source: TeacherSource,
    rows: EncodedRows,
    collator: Collator,
    folder: Path | str,
    *,
    needs: Sequence[str] = ("logits",),
    keep: str | Mapping[str, Any] = "dense",
    dtype: str = "float32",
    tap_dtype: str = "",
    batch_size: int = 64,
    shard_rows: int | None = None,
    processor_fingerprint: str = "",
    tap_budget_bytes: int = TAP_BUDGET_BYTES,
    replace_other: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Ask the teacher once for every row and keep the answers; gives the manifest of the finished cache.

    Rows go through the teacher sorted by length, longest first, so that a batch has little padding and a batch that
    is too big fails at once. A shard is written whole or not at all; after a kill the same call goes on with the next
    shard and ends with the same bytes. A finished cache of the same inputs is left as it is.

    Args:
        source: The teacher.
        rows: N encoded rows with `row_ids`, `lengths` and `fingerprint`.
        collator: Makes a batch of rows; the batch has ``row_id`` [B].
        folder: Where the cache goes.
        needs: What to keep: logits, and pooled or hidden values within the budget.
        keep: Which kind of response stands for the logits: its name in `potstill.knowledge.responses.RESPONSES`, or a mapping
            with its options, for example ``{"name": "head_and_tail", "entries": 64, "temperature": 2.0}``.
        dtype: Of what is kept, "float32" (equal to the live teacher) or "float16" (half the bytes).
        tap_dtype: Of everything but the logits, where it is another.
        batch_size: Rows per batch.
        shard_rows: Rows per shard, rounded up to whole batches; chosen where left out.
        processor_fingerprint: Of the teacher's tokenizer or image processor.
        tap_budget_bytes: What everything but the logits may take on disk.
        replace_other: Whether a cache of other inputs may be replaced.
        progress: Called after every batch with rows done and rows in all.

    Raises:
        CacheError: No rows, doubled row ids, logits that are not finite (rows named), or values over the budget.
        NeedsError: The teacher does not provide a need.
        RecipeError: No such kind of response, or no such option.
        OutputError: The disk is full or the folder cannot be used; what is whole is kept.
    """
    require(needs, source.can_provide, source="this teacher", remedy="ask for what it provides")
    if len(rows) == 0:
        raise CacheError("there are no rows to cache", "one row or more", "check the data source")
    kept = read_keep(keep)
    layout = plan_layout(
        source,
        rows,
        collator,
        needs,
        itemsize=numpy_dtype(tap_dtype or dtype).itemsize,
        batch_size=batch_size,
        shard_rows=shard_rows,
    )
    layout.check(Path(folder), tap_budget_bytes)
    if kept.kind is not DenseLogits and is_span(collator([rows[0]])):
        raise CacheError(
            f"answers that are spans cannot be kept as {kept.kind.name!r}", "every logit of them", "leave keep out: 'dense'"
        )
    order = np.lexsort((np.asarray(rows.row_ids), -np.asarray(rows.lengths, dtype=np.int64)))
    manifest = Manifest(
        fingerprints=Fingerprints(source.fingerprint, processor_fingerprint, rows.fingerprint),
        num_rows=len(rows),
        num_classes=0,
        dtype=dtype,
        needs=tuple(needs),
        ragged=layout.ragged,
        shard_rows=layout.shard_rows,
        scheme=kept.scheme,
        tap_dtype=tap_dtype,
    )
    identity = fingerprint([manifest, np.asarray(rows.row_ids), batch_size])
    with StageFolder(folder, identity, replace=replace_other) as stage:
        if not stage.is_finished():
            _Writer(source, rows, collator, batch_size, order, stage.path, progress).run(manifest)
            stage.finish()
        return load_manifest(stage.path)


@dataclass(frozen=True)
class _Writer:
    source: TeacherSource
    rows: EncodedRows
    collator: Collator
    batch_size: int
    order: np.ndarray
    folder: Path
    progress: Progress | None

    def run(self, manifest: Manifest) -> None:
        manifest = self._resume(manifest)
        ordered, positions = index_rows(np.asarray(self.rows.row_ids, dtype=np.int64)[self.order])
        index = {ROW_IDS: ordered, POSITIONS: positions}
        manifest = manifest.with_checksums({name: save_array(self.folder / name, array) for name, array in index.items()})
        for shard in range(manifest.num_shards):
            if not set(manifest.files_of(shard).values()) <= manifest.checksums.keys():
                manifest = self._write_shard(manifest, shard)
            self._report(manifest.rows_of(shard).stop)
        replace(manifest, is_complete=True).save(self.folder)

    def _resume(self, manifest: Manifest) -> Manifest:
        """Take over the shards that an interrupted run left whole."""
        if read_json(self.folder / MANIFEST) is None:
            return manifest
        held = load_manifest(self.folder)
        damaged = {line.split(maxsplit=1)[0] for line in find_damage(self.folder, held.checksums)}
        whole = {name: digest for name, digest in held.checksums.items() if name not in damaged}
        logger.info("going on with %d files of an interrupted cache, %d damaged", len(whole), len(damaged))
        return replace(held, checksums=whole, is_complete=False)

    def _write_shard(self, manifest: Manifest, shard: int) -> Manifest:
        arrays, num_classes = self._ask(manifest, manifest.rows_of(shard))
        manifest = replace(manifest, num_classes=num_classes)
        names = {shard_file(name, shard): array for name, array in arrays.items()}
        manifest = manifest.with_checksums({name: save_array(self.folder / name, array) for name, array in names.items()})
        manifest.save(self.folder)
        return manifest

    def _ask(self, manifest: Manifest, span: slice) -> tuple[dict[str, np.ndarray], int]:
        """The arrays of the rows at these positions, by name, and how many classes the answers have (0 without answers)."""
        parts: dict[str, list[Tensor]] = {name: [] for name in manifest.stored if name not in manifest.answers}
        answers: list[Response] = []
        for start in range(span.start, span.stop, self.batch_size):
            indices = self.order[start : min(start + self.batch_size, span.stop)]
            batch = self.collator(fetch(self.rows, indices))
            if not np.array_equal(batch["row_id"].numpy(), np.asarray(self.rows.row_ids)[indices]):
                raise CacheError("the collator changed the order or number of rows", "a batch with the rows as they were given")
            signal = self.source.signal(batch, manifest.needs)
            # What belongs to whole rows stays on the device until the shard is full, and the next batch is collated meanwhile.
            if "logits" in manifest.needs:
                answers.append(self._answers(manifest, signal.logits, batch, slice(start, start + len(indices))))
            for need, value in self._values(manifest, signal, batch).items():
                parts[need].append(value.cpu() if need in manifest.ragged else value)
            self._report(start + len(indices))
        arrays = {need: torch.cat(values).cpu().numpy() for need, values in parts.items()}
        packed = [answer.pack() for answer in answers]
        arrays |= {name: np.concatenate([part[name] for part in packed]) for name in manifest.stored if name in manifest.answers}
        stored = {name: self._stored(manifest, name, array, span) for name, array in arrays.items()}
        return stored, answers[0].shape[-1] if answers else 0

    def _answers(self, manifest: Manifest, logits: Tensor, batch: Mapping[str, Tensor], span: slice) -> Response:
        """What is kept of the logits, one entry for each row, or for each unit of all rows."""
        if "logits" in manifest.ragged:
            logits = by_unit(logits, batch)[real_units(batch).to(logits.device)]
        if manifest.kept.kind is not DenseLogits:  # draws and sorting need numbers; of every logit the whole shard is looked at
            self._stored(manifest, "logits", logits.cpu().numpy(), span)
        return manifest.kept.of(logits, seed=span.start)

    def _values(self, manifest: Manifest, signal: TeacherSignal, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {need: signal.taps[need] for need in manifest.needs if need != "logits"}
        if not manifest.ragged:
            return values
        if "logits" in manifest.ragged:
            return values | {TOKEN_COUNTS: real_units(batch).sum(1)}
        mask = token_mask(batch)
        assert mask is not None  # the layout calls a value ragged only where there is a mask
        if bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise CacheError("rows are padded on the left", "padding on the right", "set the tokenizer's padding_side to right")
        is_real = mask.bool()
        values |= {need: values[need][is_real.to(values[need].device)] for need in manifest.ragged}
        return values | {TOKEN_COUNTS: is_real.sum(1)}

    def _stored(self, manifest: Manifest, name: str, array: np.ndarray, span: slice) -> np.ndarray:
        if name == TOKEN_COUNTS:
            return array.astype(np.int32)
        with np.errstate(over="ignore"):  # refused below, with the rows
            stored = array.astype(manifest.dtype_of(name), copy=False)
        if np.isfinite(stored).all():
            return stored
        where = ""
        if name not in (*manifest.ragged, *manifest.ragged_arrays):
            is_bad = ~np.isfinite(stored).reshape(len(stored), -1).all(1)
            row_ids = np.asarray(self.rows.row_ids)[self.order[span]][is_bad]
            where = f" of {counted(len(row_ids), 'row')} (row ids {listed_rows(row_ids)})"
        if np.isfinite(array).all():
            raise CacheError(
                f"{name}{where} are too large for {manifest.dtype_of(name)}", "finite values", "set the cache's dtype to float32"
            )
        raise CacheError(
            f"the teacher gives NaN or infinite {name}{where}",
            "finite values",
            "look at these rows and at the teacher's weights; compute in float32 where it ran in bfloat16",
        )

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.rows))


def fetch(rows: EncodedRows, indices: np.ndarray) -> list[dict[str, Any]]:
    """Rows by position, in one call where the rows can do that."""
    wanted = [int(index) for index in indices]
    get_many = getattr(rows, "__getitems__", None)
    return list(get_many(wanted)) if get_many is not None else [rows[index] for index in wanted]


def token_mask(batch: Mapping[str, Tensor]) -> Tensor | None:
    """The mask of the teacher's tokens, [B, T], or None where the batch has no tokens."""
    has_own = any(key.startswith(TEACHER_PREFIX) for key in batch)
    return batch.get(f"{TEACHER_PREFIX}attention_mask" if has_own else "attention_mask")
