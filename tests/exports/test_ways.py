"""Quantized files are smaller and nearly as right, on a tiny model that has learned something."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PretrainedConfig, ResNetConfig, ResNetForImageClassification

from exports.trained_model import accuracy, calibration, sentences
from potstill.contracts.way import INT8, WAYS, Way
from potstill.errors import RecipeError
from potstill.exports.catalogue import format_named, way_named
from potstill.exports.onnx import ONNX, OnnxRunner, export_onnx, read_metadata
from potstill.exports.openvino import OpenVinoRunner
from potstill.exports.ways import fuse as fuse_module
from potstill.exports.ways.dynamic import quantize_dynamic
from potstill.exports.ways.embeddings import quantize_embeddings, quantize_rows
from potstill.exports.ways.floats import convert_fp16
from potstill.exports.ways.fuse import fuse
from potstill.exports.ways.graph_rewrites import compute_read_tokens, small_products
from potstill.exports.ways.openvino import quantize_openvino
from potstill.exports.ways.static import CALIBRATIONS, quantize_static


def test_the_model_has_learned(trained):
    assert accuracy(OnnxRunner(trained, threads=1)) > 0.9


BUILDS = {
    "dynamic": lambda source, target: quantize_dynamic(source, target),
    "plain": lambda source, target: quantize_dynamic(source, target, fused=False),
    "embeddings": lambda source, target: quantize_dynamic(source, target, fuse_embeddings=True),
} | {
    method: (lambda source, target, method=method: quantize_static(source, target, calibration(), method=method))
    for method in CALIBRATIONS
}


@pytest.mark.parametrize("build", BUILDS)
def test_int8_is_smaller_and_as_right(build, trained, tmp_path):
    path = BUILDS[build](trained, tmp_path / "model.int8.onnx")
    reference, runner = OnnxRunner(trained, threads=1), OnnxRunner(path, threads=1)
    assert runner.name == "onnxruntime-int8"
    assert runner.bytes < 0.62 * reference.bytes  # of so small a file much is not weights
    assert accuracy(runner) >= accuracy(reference) - 0.02
    assert read_metadata(path)["potstill.labels"] == read_metadata(trained)["potstill.labels"]
    for num_rows, tokens in ((1, 3), (5, 20)):
        assert runner.run(sentences(num_rows, tokens, 1)[0])["logits"].shape == (num_rows, 2)


def test_openvino_int8_is_smaller_and_as_right(trained, tmp_path):
    pytest.importorskip("nncf")
    path = quantize_openvino(trained, tmp_path / "model.xml", calibration())
    runner = OpenVinoRunner(path, threads=1, precision="int8")
    assert accuracy(runner) >= accuracy(OnnxRunner(trained, threads=1)) - 0.02
    assert (tmp_path / "model.bin").stat().st_size < 0.5 * ONNX.bytes(trained)
    assert runner.bytes == path.stat().st_size + (tmp_path / "model.bin").stat().st_size


def test_fusing_changes_no_answer(trained, tmp_path):
    path = fuse(trained, tmp_path / "fused.onnx")
    operators = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert operators.count("Attention") == 2
    assert "SkipLayerNormalization" not in operators
    assert len(operators) < 0.5 * len(onnx.load(str(trained)).graph.node)
    inputs, _ = sentences(3, 9, 5)
    inputs["attention_mask"][1, 4:] = 0
    np.testing.assert_allclose(
        OnnxRunner(path, threads=1).run(inputs)["logits"],
        OnnxRunner(trained, threads=1).run(inputs)["logits"],
        atol=1e-4,
        rtol=1e-4,
    )


class Scaled(nn.Module):
    """An encoder of one block whose attention divides its scores by a number of its own."""

    def __init__(self, model_type, divisor):
        super().__init__()
        torch.manual_seed(0)
        self.config = PretrainedConfig(num_labels=2, num_attention_heads=4, hidden_size=32)
        self.config.model_type, self.divisor = model_type, divisor
        self.table, self.first, self.second = nn.Embedding(400, 32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        self.head = nn.Linear(32, 2)
        for matrix in (one for one in self.parameters() if one.dim() > 1):
            nn.init.normal_(matrix, std=0.4)

    def forward(self, input_ids, attention_mask):
        mask = (1.0 - attention_mask[:, None, None, :].to(torch.float32)) * -10000.0
        read = self.first(self.table(input_ids))
        query, key, value = (
            layer(read).view(*input_ids.shape, 4, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-1, -2) / self.divisor + mask).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(*input_ids.shape, 32)
        return {"logits": self.head(self.second(read + self.out(mixed))[:, 0])}


def scaled_file(folder, model_type, divisor):
    examples = {name: torch.tensor(value) for name, value in plain_rows(2, 9, 0).items()}
    path = folder / "model.onnx"
    axes = {name: {0: "batch", 1: "tokens"} for name in examples}
    export_onnx(Scaled(model_type, divisor).eval(), path, example_inputs=examples, dynamic_axes=axes)
    return path


def plain_rows(num_rows, tokens, seed):
    return {name: value for name, value in sentences(num_rows, tokens, seed)[0].items() if name != "token_type_ids"}


@pytest.mark.parametrize("model_type", ["a type of no family", "bert"])
@pytest.mark.parametrize("way", ["fp32-fused", "dynamic", "dynamic-embeddings"])
def test_a_fusion_that_would_change_the_answer_is_not_taken(way, model_type, tmp_path):
    """Operators are recognised without their scale: √8 is that of the fused operator, 1.5 is another."""
    rows = [plain_rows(4, tokens, seed=tokens) for tokens in (6, 9)]
    rows[1]["attention_mask"][1, 4:] = 0
    for divisor, is_fused in ((8**0.5, True), (1.5, False)):
        source = scaled_file(tmp_path, model_type, divisor)
        file = fuse(source, tmp_path / "fused.onnx", rows=rows)
        attention = [node.op_type for node in onnx.load(str(file)).graph.node].count("Attention")
        assert attention == int(is_fused)
        made = way_named(way).make(source, tmp_path / "made.onnx", rows)
        expected, found = (OnnxRunner(path, threads=1).run(rows[1])["logits"] for path in (source, made))
        np.testing.assert_allclose(found, expected, atol=1e-4 if way == "fp32-fused" else 0.1 * np.abs(expected).max())


def test_a_type_of_no_family_is_fused_only_where_rows_show_that_it_may_be(tmp_path):
    source = scaled_file(tmp_path, "a type of no family", 8**0.5)
    operators = [node.op_type for node in onnx.load(str(fuse(source, tmp_path / "fused.onnx"))).graph.node]
    assert operators == [node.op_type for node in onnx.load(str(source)).graph.node]


def test_only_the_token_that_the_head_reads_is_computed_behind_the_last_attention(trained, tmp_path):
    graph = onnx.load(str(fuse(trained, tmp_path / "fused.onnx"))).graph
    last = max(place for place, node in enumerate(graph.node) if node.op_type == "Attention")
    behind = [node.op_type for node in graph.node[last + 1 :]]
    assert behind.count("Gather") == 2  # of what attention gives, and of what goes around it
    assert behind[-1] == "Gemm"
    shapes = {}
    model = onnx.ModelProto()
    model.CopyFrom(onnx.load(str(tmp_path / "fused.onnx")))
    for node in graph.node[last + 1 :]:
        if node.op_type == "LayerNormalization":
            model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
            shapes[node.output[0]] = None
    import onnxruntime

    found = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        list(shapes), sentences(3, 9, 5)[0]
    )
    assert [value.shape for value in found] == [(3, 64), (3, 64)]


def test_tokens_that_something_else_reads_are_computed(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(fuse_module, "compute_read_tokens", lambda model: 0)
    model = onnx.load(str(fuse(trained, tmp_path / "fused.onnx")))
    last = [node for node in model.graph.node if node.op_type == "LayerNormalization"][-1]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    before = [node.op_type for node in model.graph.node]
    assert compute_read_tokens(model) == 0
    assert [node.op_type for node in model.graph.node] == before
    del model.graph.output[-1]
    assert compute_read_tokens(model) > 5


def test_products_too_small_to_gain_stay_in_fp32(trained, tmp_path):
    model = onnx.load(str(quantize_dynamic(trained, tmp_path / "int8.onnx")))
    whole = {tuple(one.dims) for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) == 2}
    assert (2, 64) in whole or (64, 2) in whole  # the classes
    assert not {(64, 64), (32, 64)} & whole
    assert len(small_products(onnx.load(str(trained)))) == 2  # one product, under both of its names


def test_fp16_halves_the_file(trained, tmp_path):
    path = convert_fp16(trained, tmp_path / "model.fp16.onnx")
    runner, reference = OnnxRunner(path, threads=1), OnnxRunner(trained, threads=1)
    assert runner.name == "onnxruntime-fp16"
    assert runner.bytes < 0.65 * reference.bytes
    assert accuracy(runner) >= accuracy(reference) - 0.02


def test_convolutions_are_quantized_statically(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic", num_labels=3)
    images = torch.randn(8, 3, 16, 16)
    source = tmp_path / "model.onnx"
    export_onnx(
        ResNetForImageClassification(config),
        source,
        example_inputs={"pixel_values": images[:2]},
        dynamic_axes={"pixel_values": {0: "batch"}},
    )
    target = quantize_static(source, tmp_path / "int8.onnx", [{"pixel_values": images}])
    assert ONNX.bytes(target) < 0.4 * ONNX.bytes(source)
    reference = OnnxRunner(source, threads=1).run({"pixel_values": images})["logits"]
    difference = np.abs(OnnxRunner(target, threads=1).run({"pixel_values": images})["logits"] - reference).max()
    assert difference < 0.1 * np.abs(reference).max()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 9), st.sampled_from([1e-6, 1.0, 1e4]))
def test_no_entry_moves_by_more_than_half_its_rows_scale(seed, num_rows, width, scale):
    generator = np.random.default_rng(seed)
    table = (generator.normal(0, scale, (num_rows, width)) * generator.choice([0, 1, 100], (num_rows, 1))).astype(np.float32)
    entries, scales = quantize_rows(table)
    assert entries.dtype == np.int8
    error = np.abs(entries.astype(np.float64) * scales - table)
    assert (error <= scales / 2 * (1 + 1e-5)).all()
    assert not error[scales[:, 0] == 0].any()


def test_rows_beat_one_scale_for_the_table_and_lookups_stay_equal(trained):
    model = onnx.load(str(trained))
    names = quantize_embeddings(model)
    assert any("word_embeddings" in name for name in names)
    onnx.checker.check_model(model)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs, _ = sentences(4, 9, 3)
    reference = OnnxRunner(trained, threads=1).run(inputs)["logits"]
    assert np.abs(session.run(None, inputs)[0] - reference).max() < 0.1 * (1 + np.abs(reference).max())
    generator = np.random.default_rng(0)
    table = (generator.normal(size=(50, 16)) * np.geomspace(0.01, 1, 50)[:, None]).astype(np.float32)
    entries, scales = quantize_rows(table)
    step = np.abs(table).max() / 127
    whole = np.abs(np.rint(table / step) * step - table).mean()
    assert np.abs(entries * scales - table).mean() < whole / 2


def test_a_calibration_that_does_not_exist(trained, tmp_path):
    with pytest.raises(RecipeError, match=r"calibration method 'median' does not exist. Accepted: minmax, entropy, percentile"):
        quantize_static(trained, tmp_path / "x.onnx", calibration(), method="median")


def check_way(name, trained, folder):
    """The law of ways: from a file in its format a file in the other's, as right, no larger, labels and the source kept."""
    way = way_named(name)
    assert way.name == name
    assert way.is_named(way.group)
    before = trained.read_bytes()
    source = format_named(way.reads)
    made = way.make(trained, folder / way.file, calibration())
    written = format_named(way.writes)
    assert made.suffix == written.suffix
    assert trained.read_bytes() == before
    assert written.bytes(made) <= 1.15 * source.bytes(trained)  # fused operators say more of themselves than they save
    if way.precision.bits < 32:
        assert written.files(made)[-1].stat().st_size < 0.65 * source.bytes(
            trained
        )  # weights, where they have a file of their own
    runner = written.open(made, threads=1, precision=way.precision.name)
    assert runner.name == f"{written.runtime}-{way.precision.name}"
    assert accuracy(runner) >= accuracy(source.open(trained, threads=1)) - 0.02
    assert way.reached is None or way.reached(made) > 0.5


def toy_way(source, target, calibration):
    """Matrices in int8 by onnxruntime's own function, written here."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)
    return target


TOY = Way("toy-int8", "onnx", "onnx", INT8, "model.toy.onnx", toy_way)


def test_the_law_holds_for_a_way_written_here(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(WAYS, "toy-int8", f"{__name__}:TOY")
    check_way("toy-int8", trained, tmp_path)


@pytest.mark.parametrize("name", WAYS)
def test_law_of_ways(name, trained, tmp_path):
    if not way_named(name).is_installed:
        pytest.skip("its packages are not installed")
    check_way(name, trained, tmp_path)
