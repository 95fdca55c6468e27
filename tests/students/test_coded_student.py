"""Students with coded embeddings: planned where the vocabulary is large, then cut, saved, exported and quantized like others."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import potstill.models.architectures  # noqa: F401  makes the type known to transformers
from potstill.exports.onnx import OnnxRunner, export_onnx
from potstill.exports.ways.dynamic import quantize_dynamic
from potstill.models.architectures.coded import CodedForSequenceClassification
from potstill.models.families.product_codes import product_codes, rebuilt
from potstill.students.cut import cut_student
from potstill.students.plan import plan

VOCABULARY = 4000


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=3, **sizes)
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(4):
        ids = torch.randint(5, VOCABULARY, (16, 9), generator=generator)
        mask = (torch.arange(9) < torch.randint(3, 10, (16, 1), generator=generator)).long()
        found.append({"input_ids": ids * mask, "attention_mask": mask, "row_id": torch.arange(16) + 16 * number})
    return found


@pytest.fixture(scope="module")
def student(teacher, batches):
    return cut_student(teacher, plan(teacher, ratio=0.6), batches)


def test_a_large_vocabulary_is_coded_and_a_table_can_be_asked_for(teacher):
    counts = np.ones(VOCABULARY, dtype=int)
    assert plan(teacher, ratio=0.6, token_counts=counts).model_type == "potstill-encoder"
    assert plan(teacher, ratio=0.6, token_counts=counts).vocabulary is None
    plain = plan(teacher, ratio=0.6, token_counts=counts, embeddings="table")
    assert plain.model_type in ("bert", "electra")


def test_the_student_reads_every_token_of_the_teacher(student, teacher):
    assert isinstance(student, CodedForSequenceClassification)
    words = student.get_input_embeddings()
    assert words.weight.shape == teacher.get_input_embeddings().weight.shape
    assert int(words.codes.min()) >= 0
    assert int(words.codes.max()) < words.groups * words.codes_per_group


def test_its_embeddings_are_nearer_to_the_teachers_than_any_one_row(student, teacher):
    table, mine = teacher.get_input_embeddings().weight, student.get_input_embeddings().weight
    assert (mine - table).square().sum() < (table - table.mean(0)).square().sum()


def test_the_whole_vocabulary_in_codes_loses_nothing(teacher):
    table = teacher.get_input_embeddings().weight.detach()[:50]
    assigned, tables = product_codes(table, torch.ones(50), groups=4, codes=50)
    torch.testing.assert_close(rebuilt(assigned, tables), table, atol=1e-5, rtol=1e-4)


def test_it_is_saved_and_loaded_by_the_auto_classes(student, batches, tmp_path):
    student.save_pretrained(tmp_path)
    inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = student(**inputs).logits
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        assert torch.equal(loaded(**inputs).logits, expected)
        bare = AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(bare(**inputs).last_hidden_state, student.electra(**inputs).last_hidden_state)


def test_types_and_positions_may_be_left_out(student, batches):
    ids = batches[0]["input_ids"]
    told = {"token_type_ids": torch.zeros_like(ids), "position_ids": torch.arange(ids.shape[1])[None]}
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids, **told).logits, student(input_ids=ids).logits)


def test_it_is_exported_and_quantized_with_its_narrow_attention_fused(student, batches, tmp_path):
    inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    path = tmp_path / "model.onnx"
    export_onnx(student, path, example_inputs=inputs, dynamic_axes=axes)
    small = quantize_dynamic(path, tmp_path / "model.int8.onnx")
    kinds = collections.Counter(node.op_type for node in onnx.load(str(small)).graph.node)
    assert kinds["QAttention"] == student.config.num_hidden_layers
    arrays = {name: batches[1][name].numpy() for name in inputs}
    with torch.no_grad():
        expected = student(**{name: batches[1][name] for name in inputs}).logits.numpy()
    difference = np.abs(OnnxRunner(small, threads=1, precision="int8").run(arrays)["logits"] - expected).max()
    assert difference < 0.15 * np.abs(expected).max()
