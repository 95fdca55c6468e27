"""The code on page and card runs where Potstill is not installed, and the code for ONNX without transformers and PyTorch too."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, ViTImageProcessor

from isolated import run_without
from potstill import tasks
from potstill.contracts.task import TASKS
from potstill.exports.onnx import OnnxFormat
from potstill.models.load import new_model
from potstill.report.card import card
from potstill.report.loading import facts_of, statement
from potstill.report.metrics import Metrics
from potstill.report.onnx_snippets import load_with_onnxruntime
from potstill.report.page import page
from potstill.report.snippets import load_with_transformers
from potstill.report.table import summary_table

LIMIT = 12
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "second", "text", "of", "yours", "which", "may", "be", "longer", "A", ","]
SIZES = {
    "bert": {"vocab_size": 15, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "roberta": {"vocab_size": 15, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1},
    "potstill-encoder": {"vocab_size": 15, "embedding_size": 24, "hidden_size": 24, "head_dim": 8, "num_attention_heads": 2}
    | {"code_groups": 4, "codes_per_group": 8, "position_rank": 4, "num_hidden_layers": 1, "intermediate_size": 16},
    "potstill-bilstm": {"vocab_size": 15, "embedding_size": 8, "num_units": 6, "classifier_size": 5},
    "potstill-textcnn": {"vocab_size": 15, "embedding_size": 8, "num_filters": 5},
    "potstill-static": {"vocab_size": 15, "embedding_size": 8, "classifier_size": 5},
    "potstill-cnn": {"image_size": 16, "hidden_sizes": [4, 6], "depths": [1, 1], "stem_stride": 2},
    "vit": {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"intermediate_size": 16},
}
LONG = " ".join(["a text of yours which may be longer"] * 8)
SECOND = "a second text of yours, which may be longer"
CASES = [  # those that no test below runs
    ("text-classification", "potstill-textcnn"),
    ("text-classification", "potstill-static"),
    ("token-classification", "bert"),
    ("question-answering", "bert"),
    ("image-multi-label", "potstill-cnn"),
    ("image-regression", "potstill-cnn"),
]
TEXTS = [
    ("potstill-encoder", SECOND),
    ("potstill-encoder", ""),
    *((model_type, LONG) for model_type in ("bert", "roberta", "potstill-encoder", "potstill-bilstm")),
]


def tokenizer(side: str = "right") -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "padding_side": side}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=40, model_input_names=inputs, **names)


class World:
    """A student saved and exported in a folder as a run leaves it, with the document that tells of it."""

    def __init__(self, folder: Path, task_name: str, model_type: str, *, pairs: bool = False, side: str = "right") -> None:
        torch.manual_seed(0)
        self.folder, self.task = folder, tasks.build(task_name)
        self.is_image, kind = TASKS[task_name].modality == "image", TASKS[task_name].answers
        labels = ["good", "bad", "so, so"] if kind != "span" else ["start", "end"]
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
        config = AutoConfig.for_model(model_type, **SIZES[model_type], **(names if kind != "embedding" else {"num_labels": 5}))
        self.model = new_model(self.task, config)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        own = ViTImageProcessor(size={"height": 16, "width": 16}) if self.is_image else tokenizer(side)
        self.model.save_pretrained(folder / "student")
        own.save_pretrained(folder / "student")
        self.processor = self.task.load_processor(str(folder / "student"), model_config=self.model.config)
        loaded = type(self.model).from_pretrained(folder / "student").eval()
        example, axes = self.task.example_inputs(loaded, batch=2, tokens=8), self.task.dynamic_axes(loaded)
        OnnxFormat().export(loaded, folder / "export" / "model.onnx", example_inputs=example, dynamic_axes=axes)
        columns = ["text", *(["text_pair"] if pairs else [])] if TASKS[task_name].modality == "text" else self.task.modality.roles
        files = {"student": "student", "onnx": "export/model.onnx"}
        loading = facts_of(loaded, self.processor, self.task.modality, columns, LIMIT)
        self.metrics = Metrics(task=task_name, metric="accuracy", files=files, loading=loading)
        for index, name in enumerate(("an_image_of_yours.png", "another_image_of_yours.png")):
            pixels = np.random.default_rng(index).integers(0, 255, (23 + index, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)

    @torch.no_grad()
    def logits(self, *rows: Any, pairs: Any = None, **options: Any) -> torch.Tensor:
        """The student's answers, as the run that made it would read the rows."""
        if self.is_image:
            images = [Image.open(self.folder / row).convert("RGB") for row in rows]
            return self.model(self.processor(images, return_tensors="pt")["pixel_values"]).logits
        given = {"truncation": True, "max_length": LIMIT, "padding": True, "return_tensors": "pt"} | options
        return self.model(**self.processor(list(rows), pairs, **given)).logits

    def run(self, code: str | None, *blocked: str) -> list[str]:
        assert code is not None
        return run_without(["potstill", *blocked], code, self.folder).strip().splitlines()

    def torch(self, **changes: str) -> list[str]:
        return self.run(changed(load_with_transformers(self.metrics), changes))

    def onnx(self, **changes: str) -> list[str]:
        return self.run(changed(load_with_onnxruntime(self.metrics), changes), "torch", "transformers")


def changed(code: str | None, changes: dict[str, str]) -> str:
    code = code or ""
    for old, new in changes.items():
        before = {"second": SECOND}[old]
        assert before in code
        code = code.replace(before, new)
    return code


@pytest.mark.parametrize(("task", "model_type"), CASES)
def test_the_code_runs_as_it_stands(tmp_path: Path, task: str, model_type: str) -> None:
    world = World(tmp_path, task, model_type)
    assert world.torch()
    assert world.onnx()


def expected(world: World, rows: list[str]) -> list[tuple[str, float]]:
    shares = world.logits(*rows).softmax(-1)
    return [(world.model.config.id2label[int(row.argmax())], float(row.max())) for row in shares]


@pytest.mark.parametrize(("model_type", "second"), TEXTS)
def test_label_names_and_probabilities_of_texts(tmp_path: Path, model_type: str, second: str) -> None:
    world = World(tmp_path, "text-classification", model_type)
    wanted = expected(world, ["a text of yours", second])
    said = [ast.literal_eval(line) for line in world.torch(second=second)]
    assert [one["label"] for one in said] == [name for name, _ in wanted]
    assert [one["score"] for one in said] == pytest.approx([share for _, share in wanted], abs=1e-5)
    for line, (name, share) in zip(world.onnx(second=second), wanted, strict=True):
        assert f" {name} " in line
        assert float(line.rpartition(" ")[2]) == pytest.approx(share, abs=1e-5)


def test_rows_that_are_filled_at_their_start(tmp_path: Path) -> None:
    world = World(tmp_path, "text-classification", "potstill-bilstm", side="left")
    assert world.metrics.loading is not None
    assert world.metrics.loading.pads_left
    for line, (name, share) in zip(world.onnx(), expected(world, ["a text of yours", SECOND]), strict=True):
        assert f" {name} " in line
        assert float(line.rpartition(" ")[2]) == pytest.approx(share, abs=1e-5)


def test_pairs_of_texts(tmp_path: Path) -> None:
    world = World(tmp_path, "text-classification", "potstill-encoder", pairs=True)
    shares = world.logits("a text of yours", SECOND, pairs=["the text that goes with it", "another"]).softmax(-1).amax(-1)
    said = [ast.literal_eval(line)["score"] for line in world.torch()]
    assert said == pytest.approx(shares.tolist(), abs=1e-5)
    first = float(world.onnx()[0].rpartition(" ")[2])
    assert first == pytest.approx(float(shares[0]), abs=1e-5)


@pytest.mark.parametrize(("task", "function"), [("multi-label", torch.sigmoid), ("regression", lambda logits: logits)])
def test_several_labels_and_numbers(tmp_path: Path, task: str, function: Any) -> None:
    world = World(tmp_path, task, "potstill-encoder")
    wanted = function(world.logits("a text of yours", LONG)).tolist()
    names = list(world.model.config.id2label.values())
    for line, values in zip(world.torch(second=LONG), wanted, strict=True):
        said = {one["label"]: one["score"] for one in ast.literal_eval(line)}
        assert said == pytest.approx(dict(zip(names, values)), abs=1e-5)
    for line, values in zip(world.onnx(second=LONG), wanted, strict=True):
        assert ast.literal_eval(line[line.rindex("{") :]) == pytest.approx(dict(zip(names, values)), abs=1e-5)


def test_tags_of_words(tmp_path: Path) -> None:
    world = World(tmp_path, "token-classification", "potstill-encoder")
    words = [["A", "text", "of", "yours"], ["A", "second", "text", "of", "yours", ",", "which", "is", "longer"]]
    shares = world.logits(*words, is_split_into_words=True).softmax(-1)
    wanted = [(word, row[place + 1]) for line, row in zip(words, shares) for place, word in enumerate(line)]
    assert world.torch()
    for line, (word, row) in zip(world.onnx(), wanted, strict=True):
        assert line.startswith(f"{word} {world.model.config.id2label[int(row.argmax())]} ")
        assert float(line.rpartition(" ")[2]) == pytest.approx(float(row.max()), abs=1e-5)


def test_answers_in_a_text_longer_than_the_window(tmp_path: Path) -> None:
    world = World(tmp_path, "question-answering", "potstill-encoder")
    code = load_with_transformers(world.metrics).replace('"a text that holds the answer"', repr(LONG))
    assert world.run(code)[0] in LONG
    assert world.onnx()[0].startswith("a question of yours ")


@pytest.mark.parametrize("model_type", ["potstill-cnn", "vit"])
def test_probabilities_of_images(tmp_path: Path, model_type: str) -> None:
    world = World(tmp_path, "image-classification", model_type)
    shares = world.logits("an_image_of_yours.png", "another_image_of_yours.png").softmax(-1)
    tops = [ast.literal_eval(line)[0] for line in world.torch()]
    assert [one["score"] for one in tops] == pytest.approx(shares.amax(-1).tolist(), abs=1e-3)
    said = [float(line.rpartition(" ")[2]) for line in world.onnx()]
    assert said == pytest.approx(shares.amax(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize("settings", [{"do_resize": False}, {"do_normalize": False}, {"do_rescale": False}, {"resample": 3}])
def test_pixels_are_made_as_the_processor_makes_them(tmp_path: Path, settings: dict[str, Any]) -> None:
    world = World(tmp_path, "image-classification", "potstill-cnn")
    world.processor = ViTImageProcessor(size={"height": 16, "width": 16}, **settings)
    world.metrics.loading = facts_of(world.model, world.processor, world.task.modality, ["image"], None)
    if settings == {"do_resize": False}:
        for name in ("an_image_of_yours.png", "another_image_of_yours.png"):
            Image.open(tmp_path / name).resize((16, 16)).save(tmp_path / name)
    shares = world.logits("an_image_of_yours.png", "another_image_of_yours.png").softmax(-1)
    assert [float(line.rpartition(" ")[2]) for line in world.onnx()] == pytest.approx(shares.amax(-1).tolist(), abs=1e-5)


def test_other_image_processors_are_used_themselves(tmp_path: Path) -> None:
    world = World(tmp_path, "image-classification", "potstill-cnn")
    assert world.metrics.loading is not None
    world.metrics.loading.pixels = None
    shares = world.logits("an_image_of_yours.png", "another_image_of_yours.png").softmax(-1)
    said = world.run(load_with_onnxruntime(world.metrics))
    assert [float(line.rpartition(" ")[2]) for line in said] == pytest.approx(shares.amax(-1).tolist(), abs=1e-3)


@pytest.mark.parametrize(
    ("task", "model_type"), [("text-classification", "potstill-encoder"), ("image-classification", "potstill-cnn")]
)
@pytest.mark.parametrize("pairs", [False, True])
def test_several_tasks(tmp_path: Path, task: str, model_type: str, pairs: bool) -> None:
    world = World(tmp_path, task, model_type, pairs=pairs)
    world.metrics.tasks = {"mood": ["good", "bad"], "rest": ["so, so"]}
    for lines in (world.torch(), world.onnx()):
        assert len(lines) == 4
        assert all(float(line.rpartition(" ")[2]) == 1 for line in lines[1::2])  # a block of one class


def test_vectors_of_texts(tmp_path: Path) -> None:
    world = World(tmp_path, "sentence-embeddings", "bert")
    vectors = world.logits("a text of yours", LONG)
    code = load_with_onnxruntime(world.metrics)
    said = world.run(changed(code, {"second": LONG}).replace("print(logits @ logits.T)", "print((logits @ logits.T).tolist())"))
    assert np.array(json.loads(said[0])) == pytest.approx((vectors @ vectors.T).numpy(), abs=1e-5)


@torch.no_grad()
def test_vectors_by_the_files_of_sentence_transformers(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    world = World(tmp_path, "sentence-embeddings", "potstill-encoder")
    world.model.save_extras(tmp_path / "student")
    assert "tensor" in world.torch()[0]
    assert type(AutoModel.from_pretrained(tmp_path / "student")).__name__ == "CodedEncoderModel"


def test_no_code_without_a_tokenizer_file(tmp_path: Path) -> None:
    world = World(tmp_path, "text-classification", "bert")
    assert world.metrics.loading is not None
    world.metrics.loading.has_tokenizer_file = False
    assert load_with_onnxruntime(world.metrics) is None


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        (
            "bert",
            "The student is a BertForSequenceClassification (bert), a type of transformers' own: it loads without Potstill.",
        ),
        ("potstill-encoder", "it loads with transformers and trust_remote_code=True, without Potstill."),
    ],
)
def test_the_type_and_how_it_loads_is_said_everywhere(tmp_path: Path, model_type: str, said: str) -> None:
    metrics = World(tmp_path, "text-classification", model_type).metrics
    found = statement(metrics)
    assert found is not None
    assert said in found.en
    assert said.replace("'", "&#39;") in page(metrics)
    assert found.zh in page(metrics)
    assert said in card(metrics)
    assert said in str(summary_table(metrics).caption)
    code = load_with_transformers(metrics)
    assert ("trust_remote_code=True" in code) == (model_type != "bert")
    assert "potstill" not in code
    metrics.loading = None
    assert statement(metrics) is None
