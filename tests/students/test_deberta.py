"""DeBERTa-v3: relative positions in taps, counts and cuts, its tokenizer, its narrow table, and its files for ONNX Runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from flows.small_families import texts, tokenizer_of
from potstill import tasks
from potstill.exports.onnx import OnnxRunner, export_onnx
from potstill.exports.ways.dynamic import quantize_dynamic
from potstill.exports.ways.fuse import fuse
from potstill.models.size import parameters, parameters_of
from potstill.models.taps import Taps
from potstill.students.cut import cut_student
from potstill.students.plan import plan
from potstill.students.vocabulary import count_tokens, cut_vocabulary
from students.builders import tiny_batches, tiny_model

VARIANTS: dict[str, dict[str, Any]] = {
    "v3": {},
    "own projections of positions": {"share_att_key": False},
    "one relative term": {"share_att_key": False, "pos_att_type": ["c2p"]},
    "absolute positions, types, narrow table": {
        "norm_rel_ebd": "none",
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 16,
    },
    "no relative positions": {"relative_attention": False, "pos_att_type": [], "position_biased_input": True},
    "v2 with a convolution": {"conv_kernel_size": 3},
}


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("labels", "row_id")}


@pytest.mark.parametrize("name", VARIANTS)
def test_counts_scores_and_cuts_of_every_kind_of_deberta(name: str) -> None:
    model, batches = tiny_model("deberta-v2", **VARIANTS[name]), tiny_batches("deberta-v2")
    assert parameters(model.config) == parameters_of(model)
    batch = inputs_of(batches[0])
    scores = Taps(model, ["attention:1"]).run(batch)[1]["attention:1"]
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions[0]
    mask = batch["attention_mask"].bool()
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    found = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min).softmax(-1)
    torch.testing.assert_close(found, weights, atol=1e-6, rtol=1e-5)
    for ratio in (0.0, 0.3, 0.6):
        planned = plan(model, ratio=ratio)
        student = cut_student(model, planned, batches)
        assert student.config.model_type == "deberta-v2"
        assert parameters_of(student) == planned.parameters
        assert student(**batch).logits.isfinite().all()
        if not ratio:
            assert torch.equal(student(**batch).logits, model(**batch).logits)


def test_queries_of_words_are_not_those_of_positions() -> None:
    """The projection runs twice in a forward where positions share it."""
    model, batch = tiny_model("deberta-v2"), inputs_of(tiny_batches("deberta-v2", 1)[0])
    _, values = Taps(model, ["query:2", "hidden:1"]).run(batch)
    query = model.deberta.encoder.layer[1].attention.self.query_proj(values["hidden:1"])
    torch.testing.assert_close(values["query:2"].transpose(1, 2).flatten(2), query)


def test_a_full_rank_narrow_table_gives_the_same_embeddings() -> None:
    """Only what the rank cannot hold is lost: rows in a subspace of that rank come back."""
    teacher, batches = tiny_model("deberta-v2"), tiny_batches("deberta-v2")
    table = teacher.deberta.embeddings.word_embeddings.weight
    with torch.no_grad():
        table.copy_(table @ torch.linalg.qr(torch.randn(32, 16))[0] @ torch.randn(16, 32))
    whole = plan(teacher, ratio=0)
    narrow = dataclasses.replace(whole, config=dict(whole.config) | {"embedding_size": 16})
    student = cut_student(teacher, narrow, batches)
    batch = inputs_of(batches[0])
    difference = (student(**batch).logits - teacher(**batch).logits).abs().max()
    assert difference < 0.05 * teacher(**batch).logits.std()


def test_its_tokenizer_is_cut() -> None:
    pieces = [(token, score) for token, score in _unigram() if not token.startswith("<")]
    special = [(name, 0.0) for name in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    tokenizer = transformers.DebertaV2Tokenizer(vocab=[*special, *pieces, ("[MASK]", 0.0)])
    rows = texts(200)[0]
    before = [tokenizer(row)["input_ids"] for row in rows]
    cut = cut_vocabulary(tokenizer, count_tokens(before, len(tokenizer)))
    assert len(cut.tokenizer) == len(cut.kept_ids) < len(tokenizer)
    assert [cut.kept_ids[cut.tokenizer(row)["input_ids"]].tolist() for row in rows] == before


def _unigram() -> list[tuple[str, float]]:
    import json

    return [(token, score) for token, score in json.loads(tokenizer_of("Unigram").backend_tokenizer.to_str())["model"]["vocab"]]


def test_its_files_for_onnx_runtime_answer_as_it_does(tmp_path: Path) -> None:
    model, task = tiny_model("deberta-v2", max_position_embeddings=64), tasks.build("text-classification")
    example, axes = task.example_inputs(model, batch=2, tokens=12), task.dynamic_axes(model)
    export_onnx(model, tmp_path / "model.onnx", example_inputs=example, dynamic_axes=axes)
    fuse(tmp_path / "model.onnx", tmp_path / "fused.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    for tokens in (5, 12, 40):
        ids = torch.randint(5, 120, (4, tokens), generator=torch.Generator().manual_seed(tokens))
        inputs = {"input_ids": ids, "attention_mask": (torch.arange(tokens) < torch.tensor([[tokens], [2], [3], [4]])).long()}
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        for name, tolerance in (("model", 1e-5), ("fused", 1e-5), ("int8", 0.1)):
            found = OnnxRunner(tmp_path / f"{name}.onnx").run({key: value.numpy() for key, value in inputs.items()})["logits"]
            np.testing.assert_allclose(found, expected, atol=tolerance)
