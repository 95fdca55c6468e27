"""Sentence encoders: the embedding is what sentence-transformers would compute, from its files and into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, BertConfig, BertModel, DistilBertConfig, DistilBertModel

from potstill import tasks
from potstill.models.sentence_model import AutoSentenceEncoder, pool

SIZES = {"vocab_size": 40, "max_position_embeddings": 16}


def bert(folder: Path) -> Path:
    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **SIZES)
    BertModel(config).save_pretrained(folder)
    return folder


def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def embedding(model: Any) -> torch.Tensor:
    return model.eval()(**inputs()).logits


def pooling_files(folder: Path, **modes: bool) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{key}": value for key, value in modes.items()}))


@torch.no_grad()
def test_a_plain_encoder_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    model, found = AutoSentenceEncoder.from_pretrained(bert(tmp_path), output_loading_info=True)
    states = AutoModel.from_pretrained(tmp_path).eval()(**inputs()).last_hidden_state
    rows = [states[i, : int(count)].mean(0) for i, count in enumerate(inputs()["attention_mask"].sum(1))]
    expected = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
    assert not [key for key in found["missing_keys"] if key.startswith("sentence_head")]
    torch.testing.assert_close(embedding(model), expected)


def test_padding_changes_nothing() -> None:
    states = torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(pool(states, mask, "mean")[0], states[0, :3].mean(0))
    torch.testing.assert_close(pool(states, mask, "cls"), states[:, 0])


def test_sentence_transformers_files_are_read_and_written(tmp_path: Path) -> None:
    folder = bert(tmp_path / "plain")
    pooling_files(folder, cls_token=True, mean_tokens=False)
    model = AutoSentenceEncoder.from_pretrained(folder)
    assert model.config.sentence_pooling == "cls"
    with torch.no_grad():
        model.sentence_head.weight.add_(0.1 * torch.randn_like(model.sentence_head.weight))
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    model.save_extras(saved)
    torch.testing.assert_close(embedding(AutoSentenceEncoder.from_pretrained(saved)), embedding(model))
    plain = tmp_path / "from-files"
    AutoModel.from_pretrained(saved).save_pretrained(plain)
    for name in ("modules.json", "1_Pooling", "2_Dense"):
        (saved / name).rename(plain / name)
    torch.testing.assert_close(embedding(AutoSentenceEncoder.from_pretrained(plain)), embedding(model))


def test_encoders_without_token_types_work_too(tmp_path: Path) -> None:
    DistilBertModel(DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SIZES)).save_pretrained(tmp_path)
    model = AutoSentenceEncoder.from_pretrained(tmp_path)
    with torch.no_grad():
        found = model(**inputs(), token_type_ids=torch.zeros(3, 7, dtype=torch.long)).logits
    torch.testing.assert_close(found, embedding(model))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_a_saved_encoder_tells_its_task(tmp_path: Path) -> None:
    model = AutoSentenceEncoder.from_pretrained(bert(tmp_path / "plain"))
    model.save_pretrained(tmp_path / "saved")
    assert tasks.infer(type(model.config).from_pretrained(tmp_path / "saved")).name == "sentence-embeddings"
