"""The law of formats, for every format and for one written here, which also goes through a choice with a way of its own."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from potstill.contracts.format import FORMATS, Artefact, Format
from potstill.contracts.way import INT8, WAYS, Way
from potstill.errors import ModelError
from potstill.exports.catalogue import format_named, ways_of
from potstill.exports.choose import choose
from potstill.exports.delivery import deliver, kept_in, plain_in
from potstill.exports.runtimes import TorchRunner
from potstill.targets.cpu import Cpu

LENGTH = 7


class Net(nn.Module):
    """Two named outputs: a class for each row, and a number for each token."""

    output_names = ("logits", "places")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.place = nn.Embedding(300, 16), nn.Linear(16, 3), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        known = attention_mask.unsqueeze(-1).to(torch.float32)
        read = torch.tanh(self.table(input_ids)) * known
        return {"logits": self.head(read.sum(1) / known.sum(1)), "places": self.place(read)}


def rows(num_rows, tokens, seed=0):
    ids = torch.randint(1, 300, (num_rows, tokens), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


AXES = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask")}


def check_format(name, folder):
    """The law of formats."""
    form, model = format_named(name), Net().train()
    assert (form.name, form.suffix[0]) == (name, ".")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = folder / "deep" / f"model{form.suffix}"
    artefact = form.export(model, path, example_inputs=rows(2, LENGTH), dynamic_axes=AXES)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert artefact.path == path
    assert artefact.max_abs_difference < 1e-4
    assert sorted(path.parent.iterdir()) == sorted(form.files(path))  # no more and no less than it names
    assert artefact.bytes == form.bytes(path) == sum(file.stat().st_size for file in path.parent.iterdir())
    expected, runner = TorchRunner(model), form.open(path, threads=1)
    assert runner.name == f"{form.runtime}-{runner.precision}"
    assert (runner.threads, runner.bytes) == (1, artefact.bytes)
    for num_rows, tokens in ((1, 3), (5, 11)):  # traced with 2 rows of 7 tokens
        batch = {key: value.numpy() for key, value in rows(num_rows, tokens, seed=1).items()}
        answers = runner.run(batch | {"row_id": np.arange(num_rows)})
        assert list(answers) == ["logits", "places"]
        for output, values in expected.run(batch).items():
            assert answers[output].dtype == np.float32
            np.testing.assert_allclose(answers[output], values, atol=1e-4)
    del runner
    moved = form.move(path, folder / f"moved{form.suffix}")
    assert not list(path.parent.iterdir())
    np.testing.assert_allclose(form.open(moved, threads=1).run(batch)["logits"], answers["logits"], atol=1e-6)
    with pytest.raises(ModelError, match=r"could not be exported|differs by"):
        form.export(model, path, example_inputs=rows(2, LENGTH), dynamic_axes=AXES, tolerance=-1.0)
    assert not list(path.parent.iterdir())
    (folder / f"broken{form.suffix}").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"Accepted: .*What to do: "):
        form.open(folder / f"broken{form.suffix}")


class Arrays(Format):
    """A toy: the weights as arrays, read by numpy, their names in a file of its own."""

    name, title, runtime, suffix = "arrays", "Arrays", "numpy", ".npz"

    def export(self, model, path, *, example_inputs, dynamic_axes, tolerance=1e-4):
        if tolerance < 0:
            raise ModelError("the model could not be exported", "a tolerance of 0 or more", "raise the tolerance")
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        np.savez(path, **weights)
        path.with_suffix(".names").write_text(" ".join(weights))
        return Artefact(path, self.bytes(path), 0.0)

    def open(self, path, *, threads=None, precision=None, device="cpu"):
        return ArraysRunner(path, threads or 1, precision or "fp32")

    def files(self, path):
        return tuple(file for file in (path, path.with_suffix(".names")) if file.exists())

    def move(self, path, target):
        for file in self.files(path):
            file.rename(target.with_suffix(file.suffix))
        return target


class ArraysRunner:
    def __init__(self, path, threads, precision):
        try:
            self.weights = {name: value.astype(np.float32) for name, value in np.load(path).items()}
        except ValueError as error:
            raise ModelError(f"{path} cannot be read", "an .npz file", "export the model again") from error
        self.name, self.precision, self.threads, self.bytes = f"numpy-{precision}", precision, threads, ARRAYS.bytes(path)

    def run(self, inputs):
        weights, known = self.weights, np.asarray(inputs["attention_mask"], np.float32)[..., None]
        read = np.tanh(weights["table.weight"][inputs["input_ids"]]) * known
        logits = (read.sum(1) / known.sum(1)) @ weights["head.weight"].T + weights["head.bias"]
        return {"logits": logits, "places": read @ weights["place.weight"].T + weights["place.bias"]}


def halve(source, target, calibration):
    np.savez(target, **{name: value.astype(np.float16) for name, value in np.load(source).items()})
    target.with_suffix(".names").write_text("halved")
    return target


ARRAYS = Arrays()
HALVED = Way("arrays-int8", "arrays", "arrays", INT8, "model.halved.npz", halve)


class ArraysTarget(Cpu):
    formats, ways = ("onnx", "arrays"), ("fp32", "arrays-int8")

    def thread_counts(self):
        return (1,)


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(FORMATS, "arrays", f"{__name__}:ARRAYS")
    monkeypatch.setitem(WAYS, "arrays-int8", f"{__name__}:HALVED")


@pytest.mark.parametrize("name", FORMATS)
def test_law_of_formats(name, tmp_path):
    if name == "openvino":
        pytest.importorskip("openvino")
    check_format(name, tmp_path)


@pytest.mark.usefixtures("toys")
def test_the_law_holds_for_a_format_written_here(tmp_path):
    check_format("arrays", tmp_path)


@pytest.mark.usefixtures("toys")
def test_a_format_and_a_way_written_here_are_delivered(tmp_path):
    model, target, tried = Net().eval(), ArraysTarget(), []
    expected = TorchRunner(model).run(rows(20, 9))["logits"].argmax(-1)
    choosing = functools.partial(
        choose,
        metric_of=lambda runner: float((runner.run(rows(20, 9))["logits"].argmax(-1) == expected).mean()),
        calibration=[],
        latency_inputs=[{name: value.numpy() for name, value in rows(1, 5).items()}],
        on_try=tried.append,
    )
    facts, notes = deliver(
        model,
        tmp_path,
        target=target,
        example_inputs=rows(2, LENGTH),
        dynamic_axes=AXES,
        ways=ways_of("auto", target),
        choosing=choosing,
    )
    assert tried == ["fp32", "arrays-int8"]
    assert notes[0].startswith("ONNX equals PyTorch within")
    assert {one["name"]: one["accepted"] for one in facts["tries"]} == {"fp32": True, "arrays-int8": True}
    (kept,) = kept_in(facts).values()  # served, or kept for comparison
    assert (kept.format, kept.file, kept.model_name) == (ARRAYS, "model.int8.npz", "student-int8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.int8.names", "model.int8.npz", "model.onnx"]
    for one in (plain_in(facts), kept):
        answers = one.open(tmp_path, threads=1).run({name: value.numpy() for name, value in rows(3, 4).items()})
        np.testing.assert_allclose(answers["logits"], TorchRunner(model).run(rows(3, 4))["logits"], atol=1e-2)


def test_facts_of_older_runs_are_read(tmp_path):
    served = {"name": "openvino-int8", "runtime": "openvino", "precision": "int8", "file": "model.int8.xml", "threads": 2}
    facts = {"onnx": "model.onnx", "served": served}
    assert plain_in(facts).model_name == "student-onnxruntime"
    assert kept_in(facts)["served"].format.name == "openvino"
    assert not kept_in({"onnx": "model.onnx", "served": served | {"runtime": "onnxruntime", "file": "model.onnx"}})


def test_weights_outside_of_an_onnx_file_move_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("potstill.exports.onnx.SINGLE_FILE_LIMIT_BYTES", 100)
    form = format_named("onnx")
    form.export(Net(), tmp_path / "model.onnx", example_inputs=rows(2, LENGTH), dynamic_axes=AXES)
    assert [file.name for file in form.files(tmp_path / "model.onnx")] == ["model.onnx", "model.onnx.data"]
    moved = form.move(tmp_path / "model.onnx", tmp_path / "other.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other.onnx", "other.onnx.data"]
    assert form.open(moved, threads=1).run(rows(1, 3))["logits"].shape == (1, 3)
