"""The number of threads is measured once, remembered, and put back."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from potstill.training.precision import fastest_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_are_measured_remembered_and_put_back(two_threads, tmp_path):
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    model = BertForSequenceClassification(config).eval()
    batch = {"input_ids": torch.randint(0, 50, (4, 6)), "labels": torch.zeros(4, dtype=torch.long), "row_id": torch.arange(4)}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    with fastest_threads(model, batch, tmp_path, steps=100) as chosen:
        assert torch.get_num_threads() == chosen
        assert chosen in (1, 2)
    assert torch.get_num_threads() == 2
    assert json.loads((tmp_path / "threads.json").read_text("utf-8")) == {"threads": chosen}
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    (tmp_path / "threads.json").write_text('{"threads": 1}', "utf-8")
    with fastest_threads(model, batch, tmp_path, steps=100) as again:
        assert again == 1
