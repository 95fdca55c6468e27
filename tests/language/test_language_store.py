"""Language runs with a store, and without kept distributions, end as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from language_builders import save_decoder, write_chats

from potstill import DistillationPipeline
from potstill.report.metrics import Metrics


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A teacher, conversations and a student."""
    folder = tmp_path_factory.mktemp("world")
    teacher, student = save_decoder(folder / "teacher"), save_decoder(folder / "student", seed=1, num_hidden_layers=1)
    return str(teacher), str(write_chats(folder / "chats.jsonl", 16)), str(student)


def distilled(world: tuple[str, str, str], output: Path, store: Path | None, **distill: Any) -> Metrics:
    config = {"student": {"model": world[2]}, "distill": {"epochs": 1, **distill}}
    return DistillationPipeline(world[0], world[1], config, output_dir=output, store=store).run()


def test_runs_that_differ_in_distill_alone_ask_the_teacher_once(world: tuple[str, str, str], tmp_path: Path) -> None:
    rates = (1e-3, 2e-3, 3e-3)
    found = [distilled(world, tmp_path / f"out-{rate}", tmp_path / "store", learning_rate=rate, cache="always") for rate in rates]
    assert found[0].store == {kind: {"made": 1, "found": 0} for kind in ("rows", "answers")}
    assert all(metrics.store == {kind: {"made": 0, "found": 1} for kind in ("rows", "answers")} for metrics in found[1:])
    assert len({str(metrics.cache) for metrics in found}) == 1
    assert found[0].cache is not None
    assert found[0].cache.tokens > 0
    alone = distilled(world, tmp_path / "alone", None, learning_rate=rates[0], cache="always")
    assert alone.models["student"].quality == found[0].models["student"].quality


@pytest.mark.parametrize("distill", [{"cache": "never"}, {"method": "sft"}])
@pytest.mark.parametrize("has_store", [True, False])
def test_without_kept_distributions(
    distill: dict[str, Any], has_store: bool, world: tuple[str, str, str], tmp_path: Path
) -> None:
    metrics = distilled(world, tmp_path / "out", tmp_path / "store" if has_store else None, **distill)
    assert metrics.cache is None
    assert metrics.models["student"].quality["perplexity"] > 1


def test_changed_conversations_are_read_again(world: tuple[str, str, str], tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", 16)
    first = distilled((world[0], str(chats), world[2]), tmp_path / "one", tmp_path / "store")
    write_chats(chats, 24)
    second = distilled((world[0], str(chats), world[2]), tmp_path / "two", tmp_path / "store")
    assert second.store["rows"] == {"made": 1, "found": 0}
    assert first.data is not None
    assert second.data is not None
    assert sum(second.data.rows.values()) == sum(first.data.rows.values()) + 8
