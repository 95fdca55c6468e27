"""The real pipeline, once on each kind of teacher, tokenizer, data and objective; as small as it can be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset

from flows.small_families import KIND, dataset, image_folder, image_teacher, text_teacher, texts, tokenizer_of
from potstill import DistillationPipeline
from potstill.report.metrics import Metrics

TINY: dict[str, Any] = {
    "epochs": 1,
    "quantize": "none",
    "precision": "fp32",
    "data": {"augment": "none"},
    "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16},
}
TABLE = {
    "backbone": {"type": "mse", "weight": 0.6},
    "neck": {"type": "attention", "weight": 0.3},
    "head": {"type": "ce", "weight": 0.1},
}
NARROW: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
KINDS = [kind if kind in ("roberta", "distilbert") else pytest.param(kind, marks=pytest.mark.slow) for kind in KIND]


def distilled(output: Path, teacher: Any, rows: Any, *, processor: Any = None, **config: Any) -> Metrics:
    """A whole run, and what must hold after any run."""
    config = {key: value for key, value in {**TINY, "ratio": 0.5, **config}.items() if value is not None}
    metrics = DistillationPipeline(teacher, rows, config=config, output_dir=output, processor=processor).run()
    assert metrics.models["student"].quality["accuracy"] is not None
    assert set(metrics.models["student"].latency_ms) == {"pytorch-fp32", "onnxruntime-fp32"}
    assert not list(output.rglob("*.partial"))
    return metrics


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures."""
    return image_folder(tmp_path_factory.mktemp("pictures") / "bars", count=60)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT."""
    return text_teacher(tmp_path_factory.mktemp("teachers") / "bert", "bert")


@pytest.mark.parametrize("ratio", [0.5, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_text_families(kind: str, ratio: float, tmp_path: Path) -> None:
    metrics = distilled(tmp_path / "out", text_teacher(tmp_path / "teacher", kind), dataset(100), ratio=ratio)
    assert metrics.ratio.achieved == pytest.approx(ratio, abs=0.03)


@pytest.mark.parametrize("ratio", [0.5, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["resnet", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("vit", "deit", "convnext", "mobilenet_v2"))]
)
def test_image_families(kind: str, ratio: float, pictures: Path, tmp_path: Path) -> None:
    metrics = distilled(tmp_path / "out", image_teacher(tmp_path / "teacher", kind), pictures, ratio=ratio)
    assert metrics.ratio.achieved == pytest.approx(ratio, abs=0.06)


def test_pairs_of_texts(tmp_path: Path) -> None:
    teacher = text_teacher(tmp_path / "teacher", "bert", labels=("other", "same"))
    labels = ["same" if row % 2 else "other" for row in range(100)]
    pairs = Dataset.from_dict({"premise": texts(100)[0], "hypothesis": texts(100, seed=3)[0], "label": labels})
    metrics = distilled(tmp_path / "out", teacher, pairs, data={"augment": 1})
    assert metrics.data is not None


def test_a_teacher_and_data_in_memory(tmp_path: Path) -> None:
    folder = text_teacher(tmp_path / "teacher", "bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    before = model.config.to_dict()
    metrics = distilled(tmp_path / "out", model, dataset(100), processor=transformers.AutoTokenizer.from_pretrained(folder))
    assert metrics.models["student"].parameters is not None
    assert model.config.to_dict() == before


def test_a_named_configuration_with_the_teachers_tokens(bert: Path, tmp_path: Path) -> None:
    student = transformers.BertConfig(vocab_size=len(tokenizer_of("WordPiece")), max_position_embeddings=8, **NARROW)
    student.save_pretrained(tmp_path / "student")
    metrics = distilled(tmp_path / "out", bert, dataset(100), ratio=None, student_arch=str(tmp_path / "student"))
    assert metrics.ratio.asked is None
    assert metrics.plan is not None
    assert metrics.plan.student["hidden_size"] == 16


def test_a_named_configuration_with_tokens_of_its_own(bert: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("bytes", size=300)
    tokenizer.save_pretrained(tmp_path / "student")
    transformers.RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **NARROW).save_pretrained(
        tmp_path / "student"
    )
    distilled(tmp_path / "out", bert, dataset(100), ratio=None, student_arch=str(tmp_path / "student"))
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "out/student")
    assert len(saved) == len(tokenizer)


def test_a_named_configuration_with_pixels_of_its_own(pictures: Path, tmp_path: Path) -> None:
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(tmp_path / "student")
    transformers.DeiTConfig(image_size=8, patch_size=4, **NARROW).save_pretrained(tmp_path / "student")
    teacher = image_teacher(tmp_path / "teacher", "resnet")
    metrics = distilled(tmp_path / "out", teacher, pictures, ratio=None, student_arch=str(tmp_path / "student"))
    assert metrics.models["student"].flops is not None


VARIANTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "same architecture": lambda folder: {"ratio": 0},
    "tinybert": lambda folder: {"method": "tinybert"},
    "list of losses": lambda folder: {"losses": ["kl", {"name": "hidden_mse", "weight": 0.5}, {"name": "ce", "weight": 0.2}]},
    "table of losses": lambda folder: {"losses": TABLE},
    "unlabelled": lambda folder: {"data": {"augment": "none", "unlabelled": str(unlabelled(folder))}},
}


def unlabelled(folder: Path) -> Path:
    """A file of texts without labels, one a line."""
    file = folder / "more.txt"
    file.write_text("\n".join(texts(60, seed=9)[0]), "utf-8")
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, bert: Path, tmp_path: Path) -> None:
    distilled(tmp_path / "out", bert, dataset(100), **VARIANTS[name](tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_chinese(kind: str, tmp_path: Path) -> None:
    distilled(tmp_path / "out", text_teacher(tmp_path / "teacher", kind), dataset(100, chinese=True), data={"augment": 1})


@pytest.mark.slow
def test_integer_labels_are_positions_in_the_teachers_labels(bert: Path, tmp_path: Path) -> None:
    rows = dataset(100)
    numbered = Dataset.from_dict({"text": rows["text"], "label": [int(label == "good") for label in rows["label"]]})
    assert distilled(tmp_path / "out", bert, numbered).per_class[1].label == "good"


@pytest.mark.slow
def test_an_image_student_runs_without_potstill(pictures: Path, tmp_path: Path) -> None:
    distilled(tmp_path / "out", image_teacher(tmp_path / "teacher", "vit"), pictures)
    picture = next(pictures.rglob("*.png"))
    code = f"""
import sys
sys.modules["potstill"] = None
import numpy, onnxruntime
from PIL import Image
from transformers import AutoImageProcessor, pipeline
picture = Image.open({str(picture)!r}).convert("RGB")
processor = AutoImageProcessor.from_pretrained({str(tmp_path / "out/student")!r}, backend="pil")
classify = pipeline("image-classification", {str(tmp_path / "out/student")!r}, image_processor=processor)
best = classify(picture)[0]["label"]
pixels = processor(picture, return_tensors="np")["pixel_values"].astype(numpy.float32)
session = onnxruntime.InferenceSession({str(tmp_path / "out/export/model.onnx")!r})
logits = session.run(None, {{"pixel_values": pixels}})[0]
assert classify.model.config.id2label[int(logits.argmax())] == best
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_live_teacher_says_what_the_cache_says_though_the_student_reads_a_cut_vocabulary(bert: Path, tmp_path: Path) -> None:
    from potstill.flows.distill import DistillFlow
    from potstill.flows.observer import LoggingObserver
    from potstill.knowledge.teachers import training_source
    from potstill.recipe import make_recipe

    distilled(tmp_path / "out", bert, dataset(100), ratio=0.9, student={"vocabulary": 100}, distill={"cache": "always"})
    recipe = make_recipe({"teacher": str(bert), "data": "in memory", "task": "text-classification"})
    flow = DistillFlow(recipe)
    flow.start(tmp_path / "out", LoggingObserver())
    student = flow.student
    assert student.has_other_rows
    rows = student.encoded("test")
    batch = student.collator(rows.__getitems__(list(range(len(rows)))))
    answers = []
    for cache in ("cache", "no-cache"):
        answers.append(
            training_source(flow.teachers, student, flow.learning.combination).signal(batch, ("logits",)).response.values
        )
        if cache == "cache":
            (tmp_path / "out/work/cache").rename(tmp_path / "out/work/no-cache")
            flow.start(tmp_path / "out", LoggingObserver())
    torch.testing.assert_close(answers[0], answers[1], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_deberta_is_distilled_and_quantized(tmp_path: Path) -> None:
    teacher = text_teacher(tmp_path / "teacher", "deberta-v2")
    config = TINY | {"ratio": 0.5, "quantize": "int8"}
    metrics = DistillationPipeline(teacher, dataset(100), config=config, output_dir=tmp_path / "out").run()
    assert {"student", "student-int8"} <= set(metrics.models)
