"""Kept distributions are those of the teacher, whoever writes them and in whatever windows they are read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_builders import VOCABULARY, tiny_decoder

from potstill.contracts.answers import NO_LABEL
from potstill.errors import CacheError
from potstill.knowledge.language import LanguageTeacher
from potstill.knowledge.responses.samples import Samples
from potstill.knowledge.tokens import cache as token_cache
from potstill.knowledge.tokens.cache import Identity, TokenCache, write_token_cache
from potstill.knowledge.tokens.coding import best_scale, decode, drawn_of, encode
from potstill.knowledge.tokens.schemes import Dense, Sampled, Scheme, TopK
from potstill.losses import functional as F
from potstill.modalities.language.documents import Document, Documents, write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator
from potstill.models.decoder import Decoder

WINDOW = 40
IDENTITY = Identity("teacher", "tokenizer", "documents", VOCABULARY)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "SHARD_TOKENS", 30)


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    random = np.random.default_rng(0)
    made = []
    for length in (30, 7, 21, 3, 12, 32, 2, 9, 25, 5):
        learned = random.random(length) < 0.7
        learned[0], learned[-1] = False, True
        made.append(Document(random.integers(2, VOCABULARY, length), learned, int(learned.sum())))
    return write_documents(made, tmp_path / "documents", {})


@pytest.fixture(scope="module")
def teacher() -> Decoder:
    decoder = Decoder(tiny_decoder())
    with torch.no_grad():  # far from even, as a trained one
        decoder.layer.weight.mul_(40)
    return decoder


def write(teacher: Decoder, documents: Documents, folder: Path, scheme: Scheme, **options: Any) -> dict[str, Any]:
    def windows(span: range) -> PackedRows:
        return PackedRows(documents, WINDOW, only=list(span))

    given = {"scheme": scheme, "identity": IDENTITY, "windows": windows, "collator": WindowCollator(1)} | options
    return write_token_cache(teacher, documents, folder, **given)


def batch_of(documents: Documents, **options: Any) -> dict[str, torch.Tensor]:
    rows = PackedRows(documents, WINDOW, **options)
    return WindowCollator(1)([rows[index] for index in range(len(rows))])


def test_all_entries_give_the_divergence_of_the_live_teacher(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    write(teacher, documents, tmp_path / "cache", Dense())
    batch, student = batch_of(documents), Decoder(tiny_decoder(seed=1))
    with torch.no_grad():
        hidden = student.hidden(batch)
    live = LanguageTeacher(teacher).signal(batch, ("logits",))
    kept = TokenCache(tmp_path / "cache").signal(batch, ("logits",)).response
    mask = batch["targets"] != NO_LABEL
    expected = F.linear_divergence(hidden, student.head, (live.taps["head.in"], live.head), mask=mask)
    found = F.linear_divergence(hidden, student.head, kept, mask=mask)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=2e-3)


@pytest.mark.parametrize("scheme", [Sampled(20), TopK(8), Dense()])
def test_windows_change_nothing(teacher: Decoder, documents: Documents, tmp_path: Path, scheme: Scheme) -> None:
    write(teacher, documents, tmp_path / "cache", scheme)
    source, found = TokenCache(tmp_path / "cache"), {}
    for is_packed in (True, False):
        batch = batch_of(documents, is_packed=is_packed)
        response = source.signal(batch, ("logits",)).response
        values = response.counts if isinstance(response, Samples) else response.log_probabilities
        for row, column in (batch["targets"] != NO_LABEL).nonzero().tolist():
            key = int(batch["sample_ids"][row, column]), int(batch["position_ids"][row, column])
            order = response.ids[row, column].argsort(stable=True)
            pair = torch.stack([response.ids[row, column][order].double(), values[row, column][order].double()])
            pair = pair[:, pair[1] != 0] if isinstance(response, Samples) else pair
            if is_packed:
                found[key] = pair
            else:
                assert torch.equal(found[key], pair)
    assert len(found) == int(documents.learned.sum())


def test_workers_write_what_one_writes(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    one = write(teacher, documents, tmp_path / "one", Sampled(20))
    for worker in (2, 0, 1):
        write(teacher, documents, tmp_path / "three", Sampled(20), shard=(worker, 3))
    files = sorted(file.name for file in (tmp_path / "one").glob("*.bin"))
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes()
    assert one["tokens"] == int(documents.learned.sum())


def test_an_interrupted_writer_goes_on(
    teacher: Decoder, documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "cache", []
    ask = token_cache._ask

    def counted(*arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(*arguments)

    monkeypatch.setattr(token_cache, "_ask", counted)
    with pytest.raises(KeyboardInterrupt):
        write(teacher, documents, folder, Sampled(20))
    with pytest.raises(CacheError, match="lacks shard 2"):
        TokenCache(folder)
    write(teacher, documents, folder, Sampled(20))
    write(teacher, documents, tmp_path / "whole", Sampled(20))
    for file in (tmp_path / "whole").glob("*.bin"):
        assert file.read_bytes() == (folder / file.name).read_bytes()


@pytest.mark.parametrize("name", ["teacher", "tokenizer", "documents"])
def test_a_cache_of_something_else_is_refused(teacher: Decoder, documents: Documents, tmp_path: Path, name: str) -> None:
    write(teacher, documents, tmp_path / "cache", Sampled(20))
    other = replace(IDENTITY, **{name: "other"})
    with pytest.raises(CacheError, match=name):
        TokenCache(tmp_path / "cache", other)
    with pytest.raises(CacheError, match=name):
        write(teacher, documents, tmp_path / "cache", Sampled(20), identity=other)
    with pytest.raises(CacheError, match="scheme"):
        write(teacher, documents, tmp_path / "cache", Sampled(21))


def test_damage_is_found(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    write(teacher, documents, tmp_path / "cache", Sampled(20))
    TokenCache(tmp_path / "cache").check()
    shutil.copytree(tmp_path / "cache", tmp_path / "cut")
    file = tmp_path / "cut" / "shard-00001.bin"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CacheError, match="shard 1"):
        TokenCache(tmp_path / "cut")
    file = tmp_path / "cache" / "shard-00001.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 255
    file.write_bytes(data)
    with pytest.raises(CacheError, match="shard 1"):
        TokenCache(tmp_path / "cache").check()


def test_another_mask_is_not_misread(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    write(teacher, documents, tmp_path / "cache", Sampled(20))
    batch = batch_of(documents)
    batch["targets"][batch["targets"] != NO_LABEL] = torch.where(torch.rand((batch["targets"] != NO_LABEL).sum()) < 0.5, 3, -100)
    with pytest.raises(CacheError, match="learned tokens"):
        TokenCache(tmp_path / "cache").signal(batch, ("logits",))


def test_draws_are_the_teachers_on_average(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    write(teacher, documents, tmp_path / "cache", Sampled(4000))
    batch = batch_of(documents)
    response = TokenCache(tmp_path / "cache").signal(batch, ("logits",)).response
    row, column = (batch["targets"] != NO_LABEL).nonzero()[5].tolist()
    with torch.no_grad():
        p = teacher.head.logits(teacher.hidden(batch)[row, column : column + 1]).softmax(-1)[0]
    shares = torch.zeros(VOCABULARY).index_add_(0, response.ids[row, column], response.counts[row, column] / 4000)
    assert (shares - p).abs().max() < 5 * float((p * (1 - p) / 4000).sqrt().max())


def test_without_a_tail_the_head_sums_to_one(teacher: Decoder, documents: Documents, tmp_path: Path) -> None:
    mask = batch_of(documents)["targets"] != NO_LABEL
    for tail in (True, False):
        write(teacher, documents, tmp_path / f"{tail}", TopK(5, tail=tail))
        response = TokenCache(tmp_path / f"{tail}").signal(batch_of(documents), ("logits",)).response
        head, rest = response.log_probabilities[mask].exp().sum(-1), response.tail[mask].exp()
        assert torch.allclose(head + rest, torch.ones_like(head), atol=3e-3)
        assert bool((rest.max() > 1e-3) if tail else (rest.max() == 0))


@settings(max_examples=60, deadline=None)
@given(
    draws=st.lists(st.lists(st.integers(0, 70_000), min_size=6, max_size=6), max_size=12),
    scale=st.integers(2, 20),
)
def test_draws_are_read_as_they_were_written(draws: list[list[int]], scale: int) -> None:
    drawn = drawn_of(np.array(draws, np.int64).reshape(-1, 6))
    found = decode(encode(drawn, scale=scale), num_draws=6, scale=scale)
    for before, after in zip(drawn, found, strict=True):
        assert np.array_equal(before, after)
    assert best_scale([drawn]) in range(2, 21)
