"""Laws of every source of knowledge: it gives what it says, refuses the rest, and does not depend on how rows are batched."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_teacher import NUM_CLASSES, Rows, collate, make_bert
from torch import Tensor

import potstill
from language.language_builders import VOCABULARY, tiny_decoder
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, require
from potstill.data.collate import TASK_CLASSES
from potstill.errors import CacheError, NeedsError
from potstill.knowledge.cache import CachedTeacher, estimate, write_cache
from potstill.knowledge.ensemble import EACH, EnsembleTeacher
from potstill.knowledge.language import LanguageTeacher
from potstill.knowledge.live import LiveTeacher
from potstill.knowledge.noisy import NoisyTeacher
from potstill.knowledge.per_task import PerTaskTeacher
from potstill.knowledge.responses import RESPONSES, read_keep
from potstill.knowledge.responses.dense import DenseLogits
from potstill.knowledge.teachers import LayeredSource, RowsTeacher
from potstill.knowledge.tokens.cache import Identity, TokenCache, write_token_cache
from potstill.knowledge.tokens.schemes import Dense, Sampled, TopK
from potstill.modalities.language.documents import Document, write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator
from potstill.models.decoder import Decoder
from potstill.models.taps import TapReader
from potstill.training.companions.average import SelfAverage
from potstill.training.companions.peers import Peers
from potstill.training.trainer import DistillationTrainer
from training.small_models import Rows as SmallRows
from training.small_models import arguments, encoder
from training.small_models import collate as collate_small


def check_source(source: TeacherSource, batch: Mapping[str, Any], *, gives: Collection[str], refuses: Collection[str]) -> None:
    """Assert what every source of knowledge has to keep.

    Args:
        source: The source.
        batch: Six rows or more.
        gives: Need names that it has.
        refuses: Need names that it has not.
    """
    assert isinstance(source, TeacherSource)
    fingerprint = source.fingerprint
    whole = _values(source.signal(batch, tuple(gives)))
    num_rows = len(batch["row_id"])
    for need in gives:
        assert source.can_provide(need)
        assert any(name == need or (need == "logits" and name.startswith("response.")) for name in whole), need
    for need in refuses:
        assert not source.can_provide(need)
        with pytest.raises(NeedsError) as refusal:
            source.signal(batch, (need,))
        assert need in refusal.value.given
        assert refusal.value.todo
    for value in whole.values():
        assert len(value) == num_rows
        assert not value.requires_grad
    parts = [_values(source.signal(_part(batch, rows), tuple(gives))) for rows in (slice(0, 1), slice(1, num_rows))]
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), value, rtol=1e-4, atol=1e-5)
    weight = torch.ones(1, requires_grad=True)
    torch.stack([(weight * value).square().mean() for value in whole.values()]).sum().backward()  # saved for the backward pass
    assert source.fingerprint == fingerprint


def _values(signal: TeacherSignal) -> dict[str, Tensor]:
    packed = {} if signal.response is None else signal.response.pack()
    assert signal.response is None or not any(
        value.requires_grad for value in vars(signal.response).values() if isinstance(value, Tensor)
    )
    answers = {f"response.{name}": torch.from_numpy(array) for name, array in packed.items() if array.ndim}
    return answers | dict(signal.taps)


def _part(batch: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    return {name: value[rows] for name, value in batch.items()}


@pytest.fixture
def batch(rows: Rows) -> dict[str, Any]:
    return dict(collate([rows[index] for index in range(8)]))


def live(seed: int = 0, reader: TapReader | None = None, **settings: Any) -> LiveTeacher:
    return LiveTeacher(make_bert(seed, **settings), reader, dtype="float32")


def test_live(batch: dict[str, Any]) -> None:
    check_source(live(), batch, gives=("logits", "hidden:1", "embedding"), refuses=("attention:1", "pooled"))
    check_source(live(reader=TapReader()), batch, gives=("logits", "mean:1", "attention:-1", "head.in"), refuses=())


@pytest.mark.parametrize("name", RESPONSES)
def test_cached(name: str, rows: Rows, batch: dict[str, Any], tmp_path: Any) -> None:
    write_cache(live(), rows, collate, tmp_path, keep=name, needs=("logits", "hidden:1"), batch_size=4, shard_rows=8)
    cached = CachedTeacher.open(tmp_path)
    check_source(cached, batch, gives=("logits", "hidden:1"), refuses=("hidden:2", "attention:1"))
    assert type(cached.signal(batch).response) is read_keep(name).kind
    assert cached.manifest.num_classes == NUM_CLASSES


@pytest.mark.parametrize("mode", ["probability", "logit"])
def test_several_teachers(mode: Any, batch: dict[str, Any]) -> None:
    check_source(EnsembleTeacher([live(0), live(1)], mode=mode), batch, gives=("logits", EACH), refuses=("hidden:1",))


def test_a_teacher_for_each_task(batch: dict[str, Any]) -> None:
    sources = {(0, 3): live(0), (3, 5): live(1, num_labels=2)}
    task_classes = torch.tensor([[0, 3], [3, 5]])[torch.arange(8) % 2]
    check_source(PerTaskTeacher(sources), batch | {TASK_CLASSES: task_classes}, gives=("logits",), refuses=("hidden:1",))


def test_noisy(batch: dict[str, Any]) -> None:
    check_source(NoisyTeacher(live()), batch, gives=("logits", "hidden:1"), refuses=("attention:1",))


def test_answers_from_one_source_and_inner_values_from_another(rows: Rows, batch: dict[str, Any], tmp_path: Any) -> None:
    write_cache(live(), rows, collate, tmp_path, needs=("logits",), batch_size=4, shard_rows=8)
    layered = LayeredSource(CachedTeacher.open(tmp_path), live())
    check_source(layered, batch, gives=("logits", "hidden:1", "embedding"), refuses=("attention:1",))


@pytest.mark.parametrize("token_values", [True, False])
def test_a_teacher_that_reads_the_rows_in_its_own_tokens(rows: Rows, batch: dict[str, Any], token_values: bool) -> None:
    source = RowsTeacher(live(reader=TapReader()), Listed(rows), collate, token_values=token_values)
    gives = ("logits", "mean:1", "head.in")
    check_source(source, batch, gives=gives, refuses=() if token_values else ("hidden:1",))
    assert source.can_provide("hidden:1") is token_values
    torch.testing.assert_close(source.signal(batch).logits, live().signal(batch).logits)
    with pytest.raises(CacheError, match="no row with the id 999"):
        source.signal({**batch, "row_id": torch.tensor([999])})


class Listed:
    """Rows with their ids, several of which can be had at once."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.row_ids = rows, np.array([int(rows[index]["row_id"]) for index in range(len(rows))])

    def __getitems__(self, places: list[int]) -> list[Any]:
        return [self.rows[place] for place in places]


@pytest.mark.parametrize("source", [Peers(2), Peers(3, mix="logits"), SelfAverage()])
def test_what_learns_together_with_the_student(source: Any, tmp_path: Any) -> None:
    given = {"peers": source} if isinstance(source, Peers) else {"teacher": source, "average_decay": 0.9}
    run = DistillationTrainer(
        encoder(seed=1),
        arguments(tmp_path, max_steps=1),
        losses=["kl", "ce"],
        train_dataset=SmallRows(),
        data_collator=collate_small,
        **given,
    )
    run.prepare()
    batch = collate_small([SmallRows()[index] for index in range(8)])
    check_source(source, batch, gives=("logits",), refuses=("hidden:1", "head.in"))


@pytest.fixture
def windows(tmp_path: Any) -> Any:
    """Documents of tokens, and all their windows as one batch."""
    chance = np.random.default_rng(0)
    made = []
    for length in (30, 7, 21, 3, 12, 32, 2, 9, 25, 5, 31, 30):
        learned = np.arange(length) > 0
        made.append(Document(chance.integers(2, VOCABULARY, length), learned, length - 1))
    documents = write_documents(made, tmp_path / "documents", {})
    rows = PackedRows(documents, 32)
    batch = WindowCollator(1)([rows[index] for index in range(len(rows))])
    return documents, {**batch, "row_id": torch.arange(len(rows))}


def test_a_teacher_of_tokens(windows: Any) -> None:
    source = LanguageTeacher(Decoder(tiny_decoder()))
    check_source(source, windows[1], gives=("head.in",), refuses=("hidden:1", "attention:1"))
    assert source.can_provide("logits")
    head = source.signal(windows[1], ("logits",)).head
    assert head is not None
    assert head.weight is source.decoder.layer.weight


@pytest.mark.parametrize("scheme", [Sampled(20), TopK(8), Dense()])
def test_kept_distributions_of_tokens(scheme: Any, windows: Any, tmp_path: Any) -> None:
    documents, batch = windows
    write_token_cache(
        Decoder(tiny_decoder()),
        documents,
        tmp_path / "cache",
        scheme=scheme,
        identity=Identity("teacher", "tokenizer", "documents", VOCABULARY),
        windows=lambda span: PackedRows(documents, 32, only=list(span)),
        collator=WindowCollator(1),
    )
    check_source(TokenCache(tmp_path / "cache"), batch, gives=("logits",), refuses=("head.in", "hidden:1"))


CHECKED = {
    *(LiveTeacher, CachedTeacher, EnsembleTeacher, PerTaskTeacher, NoisyTeacher, LayeredSource, RowsTeacher),
    *(Peers, SelfAverage, LanguageTeacher, TokenCache),
}


def test_every_source_there_is_keeps_the_laws_above() -> None:
    """A class that gives signals and says what it can provide is a source, and belongs into `CHECKED` with a test of its own."""
    members, found = {"fingerprint", "can_provide", "signal"}, set()
    for file in Path(potstill.__file__).parent.rglob("*.py"):
        for one in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(one, ast.ClassDef) and members <= {part.name for part in one.body if isinstance(part, ast.FunctionDef)}:
                found.add(one.name)
    assert found == {one.__name__ for one in CHECKED} | {"TeacherSource"}


class Numbered:
    """A source of one's own, with the fewest members: it knows the number of a row and nothing else."""

    fingerprint = "numbers"

    def can_provide(self, need: str) -> bool:
        return need == "logits"

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        require(needs, self.can_provide, source="a source of numbers", remedy="choose losses on logits")
        return TeacherSignal(DenseLogits(batch["row_id"].float().unsqueeze(1) * torch.ones(3)))


def test_of_ones_own(batch: dict[str, Any]) -> None:
    check_source(Numbered(), batch, gives=("logits",), refuses=("hidden:1",))


@pytest.mark.parametrize("keep", [{"name": "head_and_tail", "entries": 2, "temperature": 2.0}, {"name": "samples", "draws": 5}])
class TestKeptInPart:
    def test_bytes_are_what_the_disk_holds(self, keep: dict[str, Any], rows: Rows, tmp_path: Any) -> None:
        write_cache(live(), rows, collate, tmp_path, keep=keep, batch_size=4, shard_rows=64)
        files = list(tmp_path.glob("*.npy"))
        held = sum(item.stat().st_size for item in files) - 128 * len(files)
        assert estimate(len(rows), NUM_CLASSES, passes=2, keep=keep).bytes == held

    def test_half_precision_and_pickling(self, keep: dict[str, Any], rows: Rows, batch: dict[str, Any], tmp_path: Any) -> None:
        write_cache(live(), rows, collate, tmp_path, keep=keep, dtype="float16")
        cached = CachedTeacher.open(tmp_path)
        response = cached.signal(batch).response
        assert response is not None
        assert response.fixed_temperature == keep.get("temperature", 1.0)
        for name, array in response.pack().items():
            assert array.dtype in (np.float32, np.float64, np.int32), name
        with pytest.raises(NeedsError, match="every logit"):
            _ = cached.signal(batch).logits

    def test_a_cache_of_other_options_is_another(self, keep: dict[str, Any], rows: Rows, tmp_path: Any) -> None:
        write_cache(live(), rows, collate, tmp_path / "cache", keep=keep)
        before = CachedTeacher.open(tmp_path / "cache").manifest
        assert write_cache(live(), rows, collate, tmp_path / "cache", keep=keep) == before
        with pytest.raises(Exception, match="result of other inputs"):
            write_cache(live(), rows, collate, tmp_path / "cache", keep=keep | {"temperature": 3.0})

    def test_rows_that_are_not_finite_are_named(self, keep: dict[str, Any], rows: Rows, tmp_path: Any) -> None:
        bad = int(rows.row_ids[17])

        class Broken(LiveTeacher):
            def signal(self, batch: Any, needs: Any = ("logits",)) -> TeacherSignal:
                answer = super().signal(batch, needs)
                answer.logits[batch["row_id"] == bad] = float("nan")
                return answer

        with pytest.raises(Exception, match=rf"NaN or infinite logits of 1 row \(row ids {bad}\)"):
            write_cache(Broken(make_bert(), dtype="float32"), rows, collate, tmp_path / "cache", keep=keep)
