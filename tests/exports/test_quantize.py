"""Quantized files are smaller and nearly as right, on a tiny model that has learned something."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ElectraConfig, ElectraForSequenceClassification, ResNetConfig, ResNetForImageClassification

from potstill.errors import DataError, ModelError, RecipeError
from potstill.exports.onnx import export_onnx, file_bytes, read_metadata
from potstill.exports.runtimes import OnnxRunner, OpenVinoRunner
from potstill.exports.ways import fuse as fuse_module
from potstill.exports.ways.candidates import MODES, ways_of
from potstill.exports.ways.choose import Candidate, choose, pick
from potstill.exports.ways.dynamic import int8_share, quantize_dynamic
from potstill.exports.ways.embeddings import quantize_embeddings, quantize_rows
from potstill.exports.ways.fp16 import convert_fp16
from potstill.exports.ways.fuse import fuse
from potstill.exports.ways.graph_rewrites import compute_read_tokens, small_products
from potstill.exports.ways.openvino_int8 import quantize_openvino
from potstill.exports.ways.static import CALIBRATIONS, quantize_static

VOCABULARY, WORD = 400, 7


def sentences(num_rows, tokens, seed):
    """Rows whose label says whether the word 7 is in them."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(10, VOCABULARY, (num_rows, tokens))
    labels = generator.integers(0, 2, num_rows)
    ids[labels == 1, generator.integers(0, tokens, num_rows)[labels == 1]] = WORD
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}, labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=VOCABULARY,
        embedding_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=2,
    )
    model = ElectraForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(80):
        inputs, labels = sentences(64, 12, seed=step)
        tensors = {name: torch.tensor(value) for name, value in inputs.items()}
        model(**tensors, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    examples = {name: torch.tensor(value) for name, value in sentences(2, 9, 0)[0].items()}
    export_onnx(model, path, example_inputs=examples, dynamic_axes={name: {0: "batch", 1: "tokens"} for name in examples})
    return path


def accuracy(runner):
    inputs, labels = sentences(200, 12, seed=999)
    return float((runner.run(inputs).argmax(-1) == labels).mean())


def calibration():
    return [sentences(4, tokens, seed=tokens)[0] for tokens in (6, 9, 12)]


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
        assert runner.run(sentences(num_rows, tokens, 1)[0]).shape == (num_rows, 2)


def test_openvino_int8_is_smaller_and_as_right(trained, tmp_path):
    pytest.importorskip("nncf")
    path = quantize_openvino(trained, tmp_path / "model.xml", calibration())
    runner = OpenVinoRunner(path, threads=1, precision="int8")
    assert accuracy(runner) >= accuracy(OnnxRunner(trained, threads=1)) - 0.02
    assert (tmp_path / "model.bin").stat().st_size < 0.5 * file_bytes(trained)
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
        OnnxRunner(path, threads=1).run(inputs), OnnxRunner(trained, threads=1).run(inputs), atol=1e-4, rtol=1e-4
    )


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
    assert file_bytes(target) < 0.4 * file_bytes(source)
    reference = OnnxRunner(source, threads=1).run({"pixel_values": images})
    difference = np.abs(OnnxRunner(target, threads=1).run({"pixel_values": images}) - reference).max()
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
    reference = OnnxRunner(trained, threads=1).run(inputs)
    assert np.abs(session.run(None, inputs)[0] - reference).max() < 0.1 * (1 + np.abs(reference).max())
    generator = np.random.default_rng(0)
    table = (generator.normal(size=(50, 16)) * np.geomspace(0.01, 1, 50)[:, None]).astype(np.float32)
    entries, scales = quantize_rows(table)
    step = np.abs(table).max() / 127
    whole = np.abs(np.rint(table / step) * step - table).mean()
    assert np.abs(entries * scales - table).mean() < whole / 2


def made(name, p50, drop, size=100, max_drop=0.01):
    return Candidate(name, "onnxruntime", "int8", None, size, 1 - drop, drop, p50, 1, drop <= max_drop, "measured")


def test_pick_takes_the_fastest_that_holds():
    slow, fast, wrong = made("slow", 2.0, 0.0), made("fast", 1.0, 0.01), made("wrong", 0.1, 0.2)
    failed = Candidate("failed", "openvino", "int8", None, reason="failed: no")
    chosen, reason = pick([slow, failed, fast, wrong], 0.01)
    assert chosen is fast
    assert "fastest of 2 candidates within a drop of 0.01" in reason
    assert "1 lost more" in reason
    small = made("small", 1.02, 0.0, size=50)
    assert pick([fast, small], 0.01)[0] is small
    chosen, reason = pick([wrong, made("worse", 0.1, 0.3)], 0.01)
    assert chosen is wrong
    assert "no candidate stays within" in reason
    with pytest.raises(ModelError, match=r"no candidate could be served \(failed: failed: no\).*What to do"):
        pick([failed], 0.01)


def test_choose_records_failures_and_returns_something_that_serves(trained, tmp_path, monkeypatch):
    rows = [sentences(1, tokens, tokens)[0] for tokens in (5, 9)]
    seen: list[str] = []
    choice = choose(
        trained,
        tmp_path,
        metric_of=accuracy,
        calibration=[],  # static candidates must fail and be recorded
        latency_inputs=rows,
        mode="int8",
        threads=(1,),
        on_try=seen.append,
    )
    by_name = {candidate.name: candidate for candidate in choice.tries}
    assert list(by_name) == seen
    assert by_name["static-minmax"].reason.startswith("failed: static quantization got no calibration batch")
    assert by_name["static-minmax"].p50_ms is None
    assert choice.chosen.accepted
    assert choice.chosen.precision == "int8"
    assert choice.chosen.p50_ms == min(c.p50_ms for c in choice.tries if c.accepted) or "smallest" in choice.reason
    runner = choice.chosen.open()
    assert accuracy(runner) == choice.chosen.metric
    none = choose(
        trained, tmp_path, metric_of=accuracy, calibration=[], latency_inputs=rows, mode="none", threads=(1,), reference=2.0
    )
    assert not none.chosen.accepted
    assert "no candidate stays within" in none.reason


def test_modes_and_messages(trained, tmp_path):
    assert all(ways_of(mode) for mode in MODES)
    assert "fp32" in {way.name for way in ways_of("auto")}
    with pytest.raises(RecipeError, match=r"quantization 'dynamik' does not exist.*did you mean 'dynamic'"):
        ways_of("dynamik")
    with pytest.raises(RecipeError, match=r"calibration method 'median' does not exist. Accepted: minmax, entropy, percentile"):
        quantize_static(trained, tmp_path / "x.onnx", calibration(), method="median")
    with pytest.raises(DataError, match=r"no row was given to measure latency"):
        choose(trained, tmp_path, metric_of=accuracy, calibration=[], latency_inputs=[])


def test_a_file_that_is_int8_in_name_only_is_left_out(tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=2)
    images = torch.randn(2, 3, 16, 16)
    exported = export_onnx(
        ResNetForImageClassification(config).eval(),
        tmp_path / "model.onnx",
        example_inputs={"pixel_values": images},
        dynamic_axes={"pixel_values": {0: "batch"}},
    )
    inputs = [{"pixel_values": images[:1].numpy()}]
    choice = choose(
        exported.path, tmp_path / "tries", metric_of=lambda runner: 1.0, calibration=inputs, latency_inputs=inputs, mode="int8"
    )
    by_name = {candidate.name: candidate for candidate in choice.tries}
    assert "stay in fp32" in by_name["dynamic"].reason
    assert by_name["static-minmax"].p50_ms is not None
    assert int8_share(choice.chosen.path) >= 0.5
