"""The comparison of ways to teach a cut language model runs end to end, and goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "language"))

from language_builders import save_decoder, write_chats

from language_students import main


def test_every_way_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save_decoder(tmp_path / "teacher", num_hidden_layers=3, hidden_size=64, intermediate_size=96, num_attention_heads=8)
    data, output = write_chats(tmp_path / "chats.jsonl"), tmp_path / "out"
    arguments = ["--teacher", str(teacher), "--data", str(data), "--output", str(output), "--window", "64", "--quick"]
    monkeypatch.setattr(sys, "argv", ["language_students.py", *arguments, "--ways", "ce", "sampled", "random"])
    main()
    cells = [json.loads(line) for line in (output / "cells.jsonl").read_text("utf-8").splitlines()]
    assert [cell["way"] for cell in cells] == ["ce", "sampled", "random"]
    assert cells[0]["bytes_per_token"] == 0 < cells[1]["bytes_per_token"]
    assert all(cell["steps"] == cells[0]["steps"] > 0 for cell in cells)
    assert "| 0.5 | sampled |" in capsys.readouterr().out
    main()
    assert len((output / "cells.jsonl").read_text("utf-8").splitlines()) == 3
