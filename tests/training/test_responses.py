"""A run with a cache of any kind of response is the run with a live source of the same responses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import Rows, arguments, collate, encoder, opinionated

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError
from potstill.knowledge.cache import CachedTeacher, write_cache
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.responses import read_keep
from potstill.training.trainer import DistillationTrainer

KINDS = [
    "dense",
    {"name": "head_and_tail", "entries": 2, "temperature": 2.0},
    {"name": "samples", "draws": 6, "temperature": 2.0},
]


class CacheRows(Rows):
    """Rows with what a cache asks for."""

    fingerprint = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.row_ids = np.array([row["row_id"] for row in self.rows])


class Answered:
    """A source of responses that were kept of one forward over all rows, found by row id."""

    fingerprint = "answered"

    def __init__(self, rows: CacheRows, keep: Any) -> None:
        order = np.lexsort((rows.row_ids, -np.asarray(rows.lengths)))  # of writing, on which draws depend
        batch = collate([rows[int(index)] for index in order])
        self.ids, self.kept = batch["row_id"], read_keep(keep)
        self.arrays = self.kept.of(LiveTeacher(opinionated(), dtype="float32").signal(batch).logits, seed=0).pack()

    def can_provide(self, need: str) -> bool:
        return need == "logits"

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        places = (batch["row_id"][:, None] == self.ids).int().argmax(1).numpy()
        found = {name: array[places] if array.ndim else array for name, array in self.arrays.items()}
        return TeacherSignal(self.kept.kind.unpack(found))


def trained(folder: Path, source: Any, losses: Any) -> dict[str, torch.Tensor]:
    student, rows = encoder(seed=1), CacheRows()
    options = {"train_dataset": rows, "eval_dataset": rows, "data_collator": collate}
    trainer = DistillationTrainer(student, arguments(folder), teacher=source, losses=losses, **options)
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    return student.state_dict()


@pytest.mark.parametrize("keep", KINDS, ids=lambda keep: keep if isinstance(keep, str) else keep["name"])
def test_cached_run_is_the_live_run(keep: Any, tmp_path: Path) -> None:
    rows, losses = CacheRows(), [{"name": "kl", "temperature": 2.0, "weight": 0.7}, {"name": "ce", "weight": 0.3}]
    write_cache(LiveTeacher(opinionated(), dtype="float32"), rows, collate, tmp_path / "cache", keep=keep, batch_size=len(rows))
    cached = trained(tmp_path / "a", CachedTeacher.open(tmp_path / "cache"), losses)
    live = trained(tmp_path / "b", Answered(rows, keep), losses)
    assert all(torch.equal(value, live[name]) for name, value in cached.items())


@pytest.mark.parametrize("keep", KINDS[1:])
def test_a_loss_of_every_logit_is_refused_before_the_first_step(keep: Any, tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match=r"loss 'dkd' reads dense answers.*take 'kl', or keep every logit"):
        trained(tmp_path, Answered(CacheRows(), keep), ["dkd"])
