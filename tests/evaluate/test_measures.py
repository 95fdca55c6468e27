"""Predictions come in row order; timing takes turns; cost counts what runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from potstill.answers import build
from potstill.errors import DataError, ModelError
from potstill.evaluate.cost import cost, flops
from potstill.evaluate.measure import measure_energy
from potstill.evaluate.quality import predict, sample_batches
from potstill.exports.timing import LEAST_CALLS, latency, time_interleaved


class FakeRows:
    groups = None

    def __init__(self, lengths):
        self.lengths = np.array(lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitems__(self, indices):
        return [{"row_id": 100 + i, "labels": i % 2, "input_ids": np.full(self.lengths[i], i + 1)} for i in indices]


def collate(rows):
    width = max(len(row["input_ids"]) for row in rows)
    ids = np.stack([np.pad(row["input_ids"], (0, width - len(row["input_ids"]))) for row in rows])
    columns = {name: torch.tensor([row[name] for row in rows]) for name in ("labels", "row_id")}
    return columns | {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor((ids > 0).astype(np.int64))}


class FakeRunner:
    precision, bytes, threads = "fp32", 1, 1

    def __init__(self, name="fake", log=None, bad=None):
        self.name, self.log, self.bad, self.widths = name, log if log is not None else [], bad, []

    def run(self, inputs):
        self.log.append(self.name)
        self.widths.append(inputs["input_ids"].shape[1])
        first = inputs["input_ids"][:, 0].astype(np.float32)
        first[first == self.bad] = np.nan
        return {"logits": np.stack([first, -first], axis=1)}


def test_predictions_come_in_row_order_from_batches_of_like_length():
    lengths = [5, 1, 9, 2, 2, 7, 3]
    runner = FakeRunner()
    answers = predict(runner, FakeRows(lengths), collate, build("class"), batch_size=3)
    np.testing.assert_array_equal(answers.logits[:, 0], np.arange(1, 8))
    np.testing.assert_array_equal(answers.row_ids, 100 + np.arange(7))
    np.testing.assert_array_equal(answers.labels, np.arange(7) % 2)
    assert runner.widths == [2, 7, 9]
    logits, labels, row_ids = answers[:3]
    assert len(logits) == len(labels) == len(row_ids)


def test_prediction_messages():
    with pytest.raises(ModelError, match=r"fake gives logits that are not finite for rows \[102\].*What to do"):
        predict(FakeRunner(bad=3), FakeRows([1, 2, 3]), collate, build("class"))
    with pytest.raises(DataError, match=r"no rows were given to be predicted"):
        predict(FakeRunner(), FakeRows([]), collate, build("class"))


def test_samples_have_the_lengths_of_the_data_and_only_inputs():
    drawn = sample_batches(FakeRows([3, 8, 5]), collate, sizes=(1, 4), num_batches=20)
    assert {batch["input_ids"].shape[1] for batch in drawn[1]} == {3, 8, 5}
    assert all(batch["input_ids"].shape[0] == 4 for batch in drawn[4])
    assert set(drawn[1][0]) == {"input_ids", "attention_mask"}


def test_runners_take_turns():
    log: list[str] = []
    runners = {name: FakeRunner(name, log) for name in "abc"}
    inputs = sample_batches(FakeRows([1, 2]), collate, sizes=(1,), num_batches=4)[1]
    times = time_interleaved(runners, inputs, repeats=3, warm_up=1)
    counted = log[3 * 4 :]
    rounds = [counted[start : start + 3] for start in range(0, len(counted), 3)]
    assert len(rounds) == 12
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert {turn[0] for turn in rounds} == {"a", "b", "c"}
    assert all(len(timing.wall_ms) == len(timing.cpu_ms) == 12 for timing in times.values())
    with pytest.raises(DataError, match=r"0 runners and 4 inputs were given to be timed"):
        time_interleaved({}, inputs)


def test_timing_stops_in_the_middle_of_a_round_and_times_only_what_was_warmed_up():
    log: list[str] = []
    runners = {name: FakeRunner(name, log) for name in "ab"}
    inputs = sample_batches(FakeRows([1, 2]), collate, sizes=(1,), num_batches=20)[1]
    times = time_interleaved(runners, inputs, repeats=50, warm_up=2, seconds=0.0)
    assert len(log) == 2 * (LEAST_CALLS + LEAST_CALLS)
    assert all(len(timing.wall_ms) == LEAST_CALLS for timing in times.values())


def test_latency_table():
    table = latency({"a": FakeRunner("a")}, sample_batches(FakeRows([1, 2]), collate, sizes=(1, 2), num_batches=3), repeats=2)
    assert set(table["a"]) == {1, 2}
    entry = table["a"][2]
    assert len(entry.wall_ms) == 6
    assert 0 < entry.percentile(50) <= entry.percentile(95) <= entry.percentile(99)
    assert entry.rows_per_second(2) > 0
    assert entry.threads == 1


def test_flops_of_a_linear_layer_and_shared_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4, bias=False)
            self.again = self.layer

        def forward(self, x):
            return self.layer(x)

    net = Net().train()
    made = cost(net, {"x": torch.zeros(3, 6)})
    assert (made.flops, made.parameters, made.bytes) == (2 * 6 * 4, 24, 96)
    assert net.training


def test_flops_count_attention_and_leave_the_model_alone():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30}
    model = BertForSequenceClassification(BertConfig(**sizes)).train()
    before = model.config._attn_implementation
    ids = torch.ones(2, 7, dtype=torch.long)
    tokens, width, inner = 7, 16, 24
    dense = tokens * (4 * width * width + 2 * width * inner) + width * width + width * 2
    attention = 2 * tokens * tokens * width
    assert flops(model, {"input_ids": ids, "attention_mask": ids}) == 2 * (dense + attention)
    assert model.training
    assert model.config._attn_implementation == before


def test_energy_says_when_it_cannot_be_read_and_reads_across_a_wrap(tmp_path):
    done = []
    missing, reason = measure_energy(lambda: done.append(1), powercap=tmp_path / "none")
    assert missing is None
    assert "no energy counters" in reason
    assert done == [1]
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()
    (package / "max_energy_range_uj").write_text("10000000\n")
    (package / "energy_uj").write_text("9000000\n")
    read, reason = measure_energy(lambda: (package / "energy_uj").write_text("1000000\n"), powercap=tmp_path)
    assert read == pytest.approx(2.0)
    assert reason == ""
