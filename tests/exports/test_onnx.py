"""An exported file computes what PyTorch computes, whatever the shape, and the model is left alone."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from torch import nn

from potstill.contracts.runner import Runner
from potstill.errors import ModelError, OutputError
from potstill.exports import onnx as onnx_export
from potstill.exports.onnx import ONNX, OnnxRunner, export_onnx, read_metadata, set_metadata
from potstill.exports.openvino import OpenVinoRunner
from potstill.exports.runtimes import TorchRunner

TEXT_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
DISTIL_SIZES = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48, "vocab_size": 100, "num_labels": 3}
IMAGE_SIZES = TEXT_SIZES | {"image_size": 16, "patch_size": 4}
FAMILIES = {
    "Bert": TEXT_SIZES,
    "Electra": TEXT_SIZES | {"embedding_size": 16},
    "Roberta": TEXT_SIZES,
    "XLMRoberta": TEXT_SIZES,
    "DistilBert": DISTIL_SIZES,
    "ViT": IMAGE_SIZES,
    "DeiT": IMAGE_SIZES,
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3},
}


def make(family: str) -> tuple[nn.Module, dict, dict]:
    torch.manual_seed(0)
    head = "ImageClassification" if family in ("ViT", "DeiT", "ResNet") else "SequenceClassification"
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family])
    model = getattr(transformers, f"{family}For{head}")(config)
    if family != "ResNet":  # whose normalisation would make them huge
        for parameter in model.parameters():
            parameter.data.mul_(3.0)  # logits of a size at which a fault shows
    if head == "ImageClassification":
        return model, {"pixel_values": torch.randn(2, 3, 16, 16)}, {"pixel_values": {0: "batch"}}
    inputs = {"input_ids": torch.randint(3, 100, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    if family in ("Bert", "Electra"):
        inputs["token_type_ids"] = torch.zeros(2, 7, dtype=torch.long)
    return model, inputs, {name: {0: "batch", 1: "tokens"} for name in inputs}


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_equals_pytorch_and_model_is_unchanged(family, tmp_path):
    model, inputs, axes = make(family)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    result = export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    assert result.max_abs_difference < 1e-4
    assert result.bytes == (tmp_path / "model.onnx").stat().st_size
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    pytorch, runner = TorchRunner(model, threads=1), OnnxRunner(tmp_path / "model.onnx", threads=1)
    for num_rows in (1, 5):
        batch = {name: value[torch.arange(num_rows) % 2].numpy() for name, value in inputs.items()}
        np.testing.assert_allclose(runner.run(batch)["logits"], pytorch.run(batch)["logits"], atol=1e-4)
    assert model.training


def test_padding_changes_nothing(tmp_path):
    model, inputs, axes = make("Bert")
    export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    runner = OnnxRunner(tmp_path / "model.onnx", threads=1)
    padded = {name: np.pad(value.numpy(), ((0, 0), (0, 9))) for name, value in inputs.items()}
    np.testing.assert_allclose(runner.run(padded)["logits"], runner.run(inputs)["logits"], atol=1e-5)


def test_metadata_names_labels_and_one_file(tmp_path):
    model, inputs, axes = make("Bert")
    model.config.id2label = {0: "schlecht", 1: "好", 2: "egal"}
    path = export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes).path
    metadata = read_metadata(path)
    assert json.loads(metadata["potstill.labels"]) == ["schlecht", "好", "egal"]
    assert metadata["potstill.precision"] == "fp32"
    loaded = onnx.load(str(path))
    assert not loaded.graph.value_info
    set_metadata(loaded, {"potstill.precision": "int8"})
    kept = {entry.key: entry.value for entry in loaded.metadata_props}
    assert kept["potstill.precision"] == "int8"
    assert "potstill.labels" in kept


def test_runners_drop_extra_keys_and_cast(tmp_path):
    model, inputs, axes = make("Roberta")
    export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    batch = {name: value.numpy().astype(np.int32) for name, value in inputs.items()}
    extra = batch | {"labels": np.array([0, 1]), "row_id": np.array([5, 6]), "teacher_input_ids": batch["input_ids"]}
    for runner in (TorchRunner(model, threads=1), OnnxRunner(tmp_path / "model.onnx", threads=1)):
        assert isinstance(runner, Runner)
        logits = runner.run(extra)["logits"]
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, runner.run(inputs)["logits"], atol=1e-5)
        assert runner.bytes > 0
    assert OnnxRunner(tmp_path / "model.onnx").name == "onnxruntime-fp32"


def test_openvino_runner_agrees(tmp_path):
    pytest.importorskip("openvino")
    model, inputs, axes = make("Bert")
    export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    runner = OpenVinoRunner(tmp_path / "model.onnx", threads=1)
    np.testing.assert_allclose(runner.run(inputs)["logits"], TorchRunner(model, threads=1).run(inputs)["logits"], atol=1e-4)
    assert runner.name == "openvino-fp32"


def test_plain_module_with_tensor_output(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.layer(pixel_values.mean((2, 3)))

    path = tmp_path / "deep" / "net.onnx"
    export_onnx(
        Net(), path, example_inputs={"pixel_values": torch.randn(2, 4, 3, 3)}, dynamic_axes={"pixel_values": {0: "batch"}}
    )
    assert OnnxRunner(path, threads=1).run({"pixel_values": np.zeros((7, 4, 3, 3), np.float32)})["logits"].shape == (7, 2)


@pytest.mark.slow
def test_the_second_exporter_covers_what_cannot_be_traced(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("cannot be traced")

    monkeypatch.setattr(onnx_export, "_trace", broken)
    model, inputs, axes = make("Bert")
    result = export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    assert result.max_abs_difference < 1e-4
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert not onnx.load(str(result.path)).graph.value_info


def test_a_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_export_program", onnx_export._trace)
    model, inputs, axes = make("ResNet")
    with pytest.raises(ModelError, match=r"could not be exported to ONNX.*differs by.*Accepted: .*What to do:"):
        export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes, tolerance=-1.0)
    assert list(tmp_path.iterdir()) == []


def test_messages(tmp_path):
    model, inputs, axes = make("Bert")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"cannot be made.*What to do"):
        export_onnx(model, tmp_path / "file" / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"cannot be loaded by ONNX Runtime.*What to do: export the model again"):
        OnnxRunner(tmp_path / "broken.onnx")
    export_onnx(model, tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ModelError, match=r"ONNX Runtime cannot use cuda here.*What to do: pip install onnxruntime-gpu"):
            OnnxRunner(tmp_path / "model.onnx", device="cuda")
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot use mps here"):
        OnnxRunner(tmp_path / "model.onnx", device="mps")
    with pytest.raises(ModelError, match=r"the batch lacks 'attention_mask'"):
        OnnxRunner(tmp_path / "model.onnx", threads=1).run({"input_ids": inputs["input_ids"]})
    assert ONNX.bytes(tmp_path / "model.onnx") > 0
