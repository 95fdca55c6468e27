"""Models in memory in another type than float32 answer as from disk, and stay as they are; quantized ones are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_teacher import collate, make_bert
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from potstill import DistillationPipeline, DistillationTrainer, tasks
from potstill.errors import ModelError
from potstill.knowledge.live import LiveTeacher
from potstill.models.frozen import fingerprint_of
from potstill.models.load import load_teacher, new_model
from potstill.models.module import wrap
from potstill.models.weights import in_float32, other_type
from potstill.planning.inputs import taken

TYPES = [torch.bfloat16, torch.float16, torch.float64]
TASK = tasks.build("text-classification")
QUIET = {"report_to": [], "use_cpu": True, "max_steps": 2, "save_strategy": "no"}


def vit(seed: int = 0) -> ViTForImageClassification:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **sizes))


def images(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "row_id": torch.tensor([row["row_id"] for row in rows]),
    }


IMAGES = [
    {"pixel_values": torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(i)), "labels": i % 3, "row_id": i}
    for i in range(8)
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_loaded_teacher_is_float32_and_the_callers_model_stays(dtype: torch.dtype) -> None:
    given = make_bert().to(dtype).train()
    before = fingerprint_of(given)
    loaded = load_teacher(given, TASK)
    assert other_type(loaded.model) is None
    assert loaded.model.config.dtype == torch.float32
    assert fingerprint_of(given) == before
    assert given.dtype == dtype
    assert given.training
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_a_teacher_in_float32_is_taken_as_it_is() -> None:
    given = make_bert()
    assert load_teacher(given, TASK).model is given
    assert in_float32(given) is given


def test_parts_in_another_type_are_seen() -> None:
    given = make_bert()
    given.bert.encoder.layer[0].attention.self.query.bfloat16()
    assert other_type(load_teacher(given, TASK).model) is None


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("needs", [("logits",), ("logits", "hidden:1")])
def test_a_live_teacher_answers_as_from_disk(tmp_path: Path, dtype: torch.dtype, needs: tuple[str, ...]) -> None:
    given = vit().to(dtype)
    given.save_pretrained(tmp_path)
    disk = load_teacher(tmp_path, _without_processor("image-classification")).model
    batch = images(IMAGES)
    expected, found = (LiveTeacher(model).signal(batch, needs) for model in (disk, given))
    assert torch.equal(expected.logits, found.logits)
    assert given.dtype == dtype


def _without_processor(name: str) -> Any:
    task = tasks.build(name)
    task.load_processor = lambda name_or_path, *, model_config: None
    return task


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("losses", [None, ["kl", {"name": "hidden_mse"}]], ids=["default", "states"])
def test_a_trainer_asks_a_teacher_in_any_type(tmp_path: Path, dtype: torch.dtype, losses: Any) -> None:
    teacher = vit(1).to(dtype)
    args = TrainingArguments(output_dir=str(tmp_path), **QUIET)
    trainer = DistillationTrainer(vit(2), args, teacher=teacher, losses=losses, train_dataset=IMAGES, data_collator=images)
    assert np.isfinite(trainer.train().training_loss)
    assert teacher.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("teacher_type", [torch.float32, torch.bfloat16], ids=str)
def test_a_student_in_half_precision_is_trained_in_float32(
    tmp_path: Path, dtype: torch.dtype, teacher_type: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = vit(2).to(dtype), vit(1).to(teacher_type)
    args = TrainingArguments(output_dir=str(tmp_path), **QUIET)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=IMAGES, data_collator=images)
    assert "the student has weights in" in caplog.text
    trainer.train()
    assert trainer.model is student
    assert other_type(student) is None
    student.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "float32"


def test_a_saved_student_in_half_precision_starts_in_float32(tmp_path: Path) -> None:
    make_bert().bfloat16().save_pretrained(tmp_path)
    names = ("a", "b", "c")
    assert other_type(TASK.load_model(str(tmp_path), num_labels=3, label_names=names)) is None
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path).config
    assert config.dtype == torch.bfloat16
    assert other_type(new_model(TASK, config)) is None


def test_a_network_of_ones_own_in_half_precision() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).half()
    model, _ = taken(network, ViTImageProcessor(size={"height": 8, "width": 8}))
    assert type(model) is type(wrap(in_float32(network), "x:y", None))
    assert next(network.parameters()).dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_whole_run_from_a_teacher_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    labels = [f"LABEL_{i % 3}" for i in range(60)]
    rows = Dataset.from_dict({"image": [Image.fromarray(one) for one in pixels], "label": labels})
    teacher = vit(1).to(dtype)
    metrics = DistillationPipeline(
        teacher,
        rows,
        config={"compression_ratio": 0.5, "epochs": 1, "baseline": False, "quantize": {"mode": "none"}},
        output_dir=tmp_path / "out",
        processor=ViTImageProcessor(size={"height": 8, "width": 8}),
    ).run()
    assert metrics.models["student"].parameters
    assert teacher.dtype == dtype


def test_quantized_weights_are_refused_by_name() -> None:
    model = make_bert()
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(
        ModelError, match=r"has quantized weights \(bitsandbytes\), which a student cannot be made from\. Accepted:"
    ):
        load_teacher(model, TASK)
    packed = torch.ao.quantization.quantize_dynamic(make_bert(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ModelError, match="BertForSequenceClassification has quantized weights"):
        load_teacher(packed, TASK)


def test_quantized_weights_on_disk_are_refused_before_they_are_read(tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=r"has quantized weights \(gptq\)"):
        load_teacher(str(tmp_path), TASK)


def test_quantized_teachers_can_be_asked_live() -> None:
    packed = torch.ao.quantization.quantize_dynamic(make_bert(), {nn.Linear}, dtype=torch.qint8)
    args = TrainingArguments(output_dir="unused", **QUIET)
    trainer = DistillationTrainer(make_bert(), args, teacher=packed, data_collator=collate)
    assert trainer.source.model is packed


class Saved(nn.Module):
    """A model of sentence-transformers as far as Potstill sees it: its package, and `save`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def save(self, path: str) -> None:
        for file in self.folder.rglob("*"):
            if file.is_file():
                target = Path(path) / file.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


Saved.__module__ = "sentence_transformers.SentenceTransformer"


@pytest.fixture
def sentences(tmp_path: Path) -> Saved:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path / "sentences"
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=6, **sizes)).bfloat16().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    layers = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": f"x.{kind}"} for path, kind in layers]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    return Saved(folder)


def test_a_model_of_sentence_transformers_is_a_teacher(sentences: Saved) -> None:
    loaded = load_teacher(sentences, tasks.build("sentence-embeddings"))
    disk = load_teacher(str(sentences.folder), tasks.build("sentence-embeddings"))
    assert fingerprint_of(loaded.model) == fingerprint_of(disk.model)
    assert (loaded.model.config.sentence_pooling, loaded.processor.model_max_length) == ("cls", 5)
    model, processor = taken(sentences, None)
    assert (type(model).__name__, processor.model_max_length) == ("BertForSentenceEmbedding", 5)
    trainer = DistillationTrainer(
        model, TrainingArguments(output_dir="unused", **QUIET), teacher=sentences, data_collator=collate
    )
    assert fingerprint_of(trainer.source.model) == fingerprint_of(model)
