"""The choice of a way: the fastest that holds, failures recorded, and what a target that is not here gets."""

from __future__ import annotations

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from exports.trained_model import accuracy, sentences
from potstill.contracts import way as way_contract
from potstill.contracts.target import TARGETS
from potstill.contracts.way import INT8, Way
from potstill.errors import DataError, MissingExtra, ModelError, RecipeError
from potstill.exports.catalogue import check_ways, way_named, ways_of
from potstill.exports.choose import Candidate, choose, pick
from potstill.exports.onnx import export_onnx
from potstill.exports.ways.dynamic import int8_share
from potstill.targets import target_named
from potstill.targets.cpu import CPU, Cpu
from potstill.targets.nvidia_gpu import NVIDIA_GPU


class OneThread(Cpu):
    def thread_counts(self):
        return (1,)


def made(name, p50, drop, size=100, max_drop=0.01):
    return Candidate(way(name), None, size, 1 - drop, drop, p50, 1, drop <= max_drop, "measured")


def way(name):
    return Way(name, "onnx", "onnx", INT8, "file", lambda source, target, calibration: source)


def test_pick_takes_the_fastest_that_holds():
    slow, fast, wrong = made("slow", 2.0, 0.0), made("fast", 1.0, 0.01), made("wrong", 0.1, 0.2)
    failed = Candidate(way("failed"), None, reason="failed: no")
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
        {"onnx": trained},
        tmp_path,
        ways=ways_of("int8", CPU),
        target=OneThread(),
        metric_of=accuracy,
        calibration=[],  # static candidates must fail and be recorded
        latency_inputs=rows,
        on_try=seen.append,
    )
    by_name = {candidate.name: candidate for candidate in choice.tries}
    assert list(by_name) == seen
    assert by_name["static-minmax"].reason.startswith("failed: static quantization got no calibration batch")
    assert by_name["static-minmax"].p50_ms is None
    assert choice.chosen.accepted
    assert choice.chosen.way.precision is INT8
    assert choice.chosen.p50_ms == min(c.p50_ms for c in choice.tries if c.accepted) or "smallest" in choice.reason
    runner = choice.chosen.open()
    assert accuracy(runner) == choice.chosen.metric
    none = choose(
        {"onnx": trained},
        tmp_path,
        ways=ways_of("none", CPU),
        target=OneThread(),
        metric_of=accuracy,
        calibration=[],
        latency_inputs=rows,
        reference=2.0,
    )
    assert not none.chosen.accepted
    assert "no candidate stays within" in none.reason


def test_modes_and_messages(trained, tmp_path):
    for target in map(target_named, TARGETS):
        assert [way.name for way in ways_of("auto", target) if way.is_installed] == [
            name for name in target.ways if way_named(name).is_installed
        ]
    assert [way.name for way in ways_of("static-minmax", CPU)] == ["static-minmax"]
    assert {way.precision.name for way in ways_of("int8", CPU)} == {"int8"}
    with pytest.raises(RecipeError, match=r"quantization 'dynamik' does not exist.*did you mean 'dynamic'"):
        ways_of("dynamik", CPU)
    with pytest.raises(
        RecipeError, match=r"mode is 'static' and target is 'nvidia_gpu', which does not run that. Accepted: auto"
    ):
        ways_of("static", NVIDIA_GPU)
    with pytest.raises(DataError, match=r"no row was given to measure latency"):
        choose({"onnx": trained}, tmp_path, ways=[], target=CPU, metric_of=accuracy, calibration=[], latency_inputs=[])


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(way_contract, "find_spec", lambda package: None)
    assert "openvino-int8" not in {way.name for way in ways_of("int8", CPU)}
    with pytest.raises(MissingExtra, match=r"quantize: openvino needs a package.*pip install 'potstill\[openvino\]'"):
        check_ways("openvino", CPU)
    check_ways("auto", CPU)


def test_a_target_that_is_not_here_gets_the_smallest_file_and_no_speed(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(type(NVIDIA_GPU), "absent", lambda self: "there is none here")
    choice = choose(
        {"onnx": trained},
        tmp_path,
        ways=ways_of("auto", NVIDIA_GPU),
        target=NVIDIA_GPU,
        metric_of=accuracy,
        calibration=[],
        latency_inputs=[sentences(1, 5, 5)[0]],
    )
    assert choice.chosen.name == "fp16"
    assert choice.chosen.p50_ms is None
    assert choice.reason.startswith("fp16 is the smallest of 2 candidates within a drop of 0.01: drop")
    assert choice.reason.endswith("speeds were not measured: there is none here")


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
        {"onnx": exported.path},
        tmp_path / "tries",
        ways=ways_of("int8", CPU),
        target=OneThread(),
        metric_of=lambda runner: 1.0,
        calibration=inputs,
        latency_inputs=inputs,
    )
    by_name = {candidate.name: candidate for candidate in choice.tries}
    assert "stay in fp32" in by_name["dynamic"].reason
    assert by_name["static-minmax"].p50_ms is not None
    assert int8_share(choice.chosen.path) >= 0.5
