"""The knowledge cache as a teacher: answers that were written once are read by row id.

Shapes: B batch, C classes, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.answers.units import arranged, has_units, is_span
from potstill.contracts.response import Response
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import require
from potstill.errors import CacheError
from potstill.ground.devices import device_of_batch
from potstill.knowledge.cache_budget import TAP_BUDGET_BYTES, CacheEstimate, estimate, measure_seconds_per_row
from potstill.knowledge.cache_manifest import Fingerprints, Manifest, check_fingerprints, check_whole, load_manifest
from potstill.knowledge.cache_store import ShardStore
from potstill.knowledge.cache_write import token_mask, write_cache
from potstill.knowledge.responses.dense import DenseLogits
from potstill.knowledge.responses.tensors import placed

__all__ = [
    "TAP_BUDGET_BYTES",
    "CacheEstimate",
    "CachedTeacher",
    "Fingerprints",
    "Manifest",
    "estimate",
    "measure_seconds_per_row",
    "write_cache",
]


class CachedTeacher:
    """A teacher that reads its answers from disk, by ``row_id``.

    Shuffling, accumulation, ranks and resume cannot misalign it. It can be pickled: a worker opens the files again.
    Open it with `CachedTeacher.open`, which checks it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._store = ShardStore(folder, manifest)

    @classmethod
    def open(cls, folder: Path | str, expect: Fingerprints | None = None) -> CachedTeacher:
        """Open a cache after comparing its fingerprints and the checksum of every file.

        Args:
            folder: Where it is.
            expect: What it must belong to; empty fingerprints are not compared.

        Raises:
            CacheError: Absent, unfinished, damaged, or of something else; the difference is named.
        """
        folder = Path(folder)
        manifest = load_manifest(folder)
        check_fingerprints(folder, manifest.fingerprints, expect or Fingerprints())
        check_whole(folder, manifest)
        return cls(folder, manifest)

    @property
    def fingerprint(self) -> str:
        """Of the teacher that the answers came from."""
        return self.manifest.fingerprints.teacher

    def __len__(self) -> int:
        return self.manifest.num_rows

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.manifest = state["folder"], state["manifest"]
        self._store = ShardStore(self.folder, self.manifest)

    def can_provide(self, need: str) -> bool:
        """What was kept when the cache was written."""
        return need in self.manifest.needs

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """What the teacher said of these rows.

        Args:
            batch: With ``row_id`` [B]; values with one entry per token also need the teacher's attention mask.
            needs: Need names.

        Returns:
            Float32 tensors on the device of the batch (its ``row_id`` may lie on the CPU, which spares a wait for the GPU);
            padding is zero in values with one entry per token.

        Raises:
            CacheError: A row is not held, or the batch has no row ids.
            NeedsError: A need was not kept.
        """
        require(
            needs,
            self.can_provide,
            source=f"the cache in {self.folder}",
            remedy="use the live teacher (teacher.cache: never), or write the cache with these values",
        )
        if "row_id" not in batch:
            raise CacheError("the batch has no row_id", "batches of encoded rows", "keep the column: remove_unused_columns=False")
        positions, device = self._store.find(batch["row_id"].cpu().numpy()), device_of_batch(batch)
        mask = token_mask(batch)
        values = {need: torch.from_numpy(self._value(need, positions, mask)) for need in dict.fromkeys(needs) if need != "logits"}
        response = self._response(positions, batch).to(device) if "logits" in needs else None
        return TeacherSignal(response, {need: placed(value, device) for need, value in values.items()}, mask)

    def _response(self, positions: np.ndarray, batch: Mapping[str, Any]) -> Response:
        answers, kind = self.manifest.answers, self.manifest.kept.kind
        names = [name for name, array in answers.items() if array.ndim]
        if "logits" not in self.manifest.ragged:
            return kind.unpack(answers | {name: self._store.gather(name, positions) for name in names})
        if not has_units(batch):
            raise CacheError("the cache holds answers with several units a row, the batch has whole rows", "rows with units")
        num_units = batch["unit_positions"].shape[1]
        found = kind.unpack(answers | {name: self._store.gather_tokens(name, positions, num_units) for name in names})
        if not is_span(batch):
            return found
        return DenseLogits(arranged(found.logits.to(batch["unit_positions"].device), batch))

    def _value(self, need: str, positions: np.ndarray, mask: Tensor | None) -> np.ndarray:
        if need not in self.manifest.ragged:
            return self._store.gather(need, positions)
        if mask is None:
            raise CacheError(f"the batch has no attention mask, which {need} is padded by", "batches of tokens")
        return self._store.gather_tokens(need, positions, mask.shape[1])
