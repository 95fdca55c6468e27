"""Students on a GPU: cut out of the teacher there, coded embeddings, convolutions and vision transformers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_models import arguments
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification

import potstill.models.architectures  # noqa: F401  makes the coded type known to transformers
from flows.small_families import image_teacher
from potstill import answers
from potstill.evaluate.cost import cost
from potstill.evaluate.similarity import attention_difference, layer_similarity
from potstill.exports.onnx import OnnxRunner, export_onnx
from potstill.exports.runtimes import TorchRunner
from potstill.ground.devices import compute_device, device_of, placed
from potstill.ground.hardware import bf16_pays
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader
from potstill.students.cut import cut_student
from potstill.students.importance import measure
from potstill.students.plan import plan
from potstill.training.precision import Computing, computing_of, precision_facts
from potstill.training.trainer import DistillationTrainer

pytestmark = pytest.mark.gpu
VOCABULARY = 4000


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=3, **sizes)
    return BertForSequenceClassification(config).eval()


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number in range(4):
        ids = torch.randint(5, VOCABULARY, (16, 9), generator=generator)
        mask = (torch.arange(9) < torch.randint(3, 10, (16, 1), generator=generator)).long()
        row_id, labels = torch.arange(16) + 16 * number, torch.arange(16) % 3
        found.append({"input_ids": ids * mask, "attention_mask": mask, "row_id": row_id, "labels": labels})
    return found


class BatchRows(Dataset):
    """The rows of some batches."""

    def __init__(self, found: list[dict[str, torch.Tensor]]) -> None:
        self.rows = [
            {name: value[row] for name, value in batch.items()} for batch in found for row in range(len(batch["labels"]))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def stack(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def losses_of(folder: Path, student: Any, teacher: Any, rows: Any, losses: Any, *, gpu: bool) -> list[float]:
    """What each step logged, from the same weights."""
    run = DistillationTrainer(
        copy.deepcopy(student),
        arguments(folder, use_cpu=not gpu, logging_steps=1, per_device_train_batch_size=8),
        teacher=LiveTeacher(copy.deepcopy(teacher), TapReader(), dtype="float32"),
        losses=losses,
        train_dataset=rows,
        data_collator=stack,
    )
    run.train()
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def assert_learn_alike(folder: Path, student: Any, teacher: Any, rows: Any, losses: Any) -> None:
    """The first step is the same on both devices; rounding drives later ones apart, the more the smaller the nets."""
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    cpu, gpu = (losses_of(folder, student, teacher, rows, losses, gpu=gpu) for gpu in (False, True))
    assert gpu[0] == pytest.approx(cpu[0], rel=5e-3)
    np.testing.assert_allclose(gpu, cpu, rtol=0.3)


def test_this_process_has_a_gpu_and_16_bits_pay_on_it() -> None:
    assert compute_device().type == "cuda"
    assert bf16_pays("cuda") or torch.cuda.get_device_capability() < (8, 0)


def test_a_model_comes_back_from_the_gpu() -> None:
    model = bert()
    with placed(model) as there:
        assert device_of(there).type == "cuda"
    assert device_of(model).type == "cpu"


def test_importance_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bert()
    there = measure(model, batches())
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    here = measure(model, batches())
    for name in ("heads", "neurons", "hidden", "layers"):
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=5e-3, atol=1e-7)
    torch.testing.assert_close(there.neuron_grams[0], here.neuron_grams[0], rtol=1e-3, atol=1e-2)
    assert there.embedding_metric is not None
    assert there.embedding_metric.device.type == "cpu"
    assert device_of(model).type == "cpu"


@pytest.mark.parametrize("embeddings", ["auto", "table"])
@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_students_are_cut_trained_and_exported(home: str, embeddings: str, tmp_path: Path) -> None:
    teacher = bert().to(home)
    planned = plan(teacher, ratio=0.6, token_counts=np.ones(VOCABULARY, dtype=int), embeddings=embeddings)  # type: ignore[arg-type]
    assert (planned.model_type == "potstill-encoder") == (embeddings == "auto")
    if planned.vocabulary is not None:
        planned = plan(teacher, ratio=0.5, embeddings=embeddings)  # type: ignore[arg-type]
    student = cut_student(teacher, planned, batches())
    assert device_of(student).type == "cpu"
    assert device_of(teacher).type == home
    found = losses_of(tmp_path, student, teacher, BatchRows(batches()), ["kl", {"name": "hidden_mse"}], gpu=True)
    assert np.isfinite(found).all()
    inputs = {name: batches()[0][name] for name in ("input_ids", "attention_mask")}
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    exported = export_onnx(student.cuda(), tmp_path / "model.onnx", example_inputs=inputs, dynamic_axes=axes)
    answers = TorchRunner(student).run(inputs)["logits"]
    assert device_of(student).type == "cuda"
    np.testing.assert_allclose(OnnxRunner(exported.path, threads=1).run(inputs)["logits"], answers, atol=2e-3)
    assert cost(student, inputs).flops > 0


def test_coded_students_learn_as_on_the_cpu(tmp_path: Path) -> None:
    teacher = bert()
    student = cut_student(teacher, plan(teacher, ratio=0.6, token_counts=np.ones(VOCABULARY, dtype=int)), batches())
    losses = ["kl", "ce", {"name": "hidden_mse"}]
    assert_learn_alike(tmp_path, student, teacher, BatchRows(batches()), losses)


KINDS: dict[str, list[Any]] = {
    "resnet": ["kl", "ce", {"name": "at", "layers": [[1, 1], [2, 2]]}, {"name": "hidden_mse", "layers": [[2, 2]]}],
    "convnext": ["kl", "ce"],
    "mobilenet_v2": ["kl", "ce"],
    "vit": ["kl", "ce", {"name": "hidden_mse", "layers": [[1, 3]]}, {"name": "tinybert_attention", "layers": [[1, 3]]}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_images(kind: str, tmp_path: Path) -> None:
    folder = image_teacher(tmp_path / "teacher", kind)
    teacher = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(4, 8, 3, 16, 16, generator=generator), torch.arange(8) % 2
    found = [{"pixel_values": part, "labels": labels, "row_id": torch.arange(8) + 8 * at} for at, part in enumerate(pixels)]
    student = cut_student(teacher, plan(teacher, ratio=0.5), found)
    assert_learn_alike(tmp_path, student, teacher, BatchRows(found), KINDS[kind])


def test_insides_are_compared_where_the_models_are() -> None:
    teacher = bert()
    needs, pairs = ("embedding", "hidden:1", "hidden:4"), [(1, 2), (4, 4)]
    found = []
    for device in ("cpu", "cuda"):
        one, other, read = copy.deepcopy(teacher).to(device), copy.deepcopy(teacher).to(device), TapReader().read
        layers = layer_similarity(one, other, batches(), student_needs=needs, teacher_needs=needs, read=read)
        found.append((layers, attention_difference(one, other, batches(), pairs=pairs, read=read).divergence))
    np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-4)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-5)


def test_precision_is_measured_on_the_gpu(tmp_path: Path) -> None:
    found = computing_of("auto", bert(), batches()[0], tmp_path)
    assert found.step_fp32_ms
    assert found.step_bf16_ms
    assert computing_of("auto", bert(), batches()[0], tmp_path) == found
    facts = precision_facts(Computing(bf16=True), bert().to("cuda"), batches(), answers.build("class"))
    assert 0 < facts["mean_difference"] <= facts["largest_difference"] < 1
