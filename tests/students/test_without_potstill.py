"""Saved models of Potstill's own types load without Potstill, from the files they bring, and answer bit for bit the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig

from isolated import run_without
from potstill.models.architectures import ARCHITECTURES, coded, register
from potstill.models.sentence_model import AutoSentenceEncoder

SOURCES = Path(coded.__file__).parent
CODED = {
    "vocab_size": 40,
    "embedding_size": 24,
    "hidden_size": 24,
    "head_dim": 8,
    "num_attention_heads": 2,
    "code_groups": 4,
    "codes_per_group": 16,
    "position_rank": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}
SIZES: dict[str, dict[str, Any]] = {
    "bilstm": {"vocab_size": 40, "embedding_size": 8, "num_units": 6, "num_hidden_layers": 2, "classifier_size": 5},
    "textcnn": {"vocab_size": 40, "embedding_size": 8, "num_filters": 5},
    "static": {"vocab_size": 40, "embedding_size": 8, "classifier_size": 5},
    "cnn": {"image_size": 16, "hidden_sizes": [4, 6], "depths": [1, 2], "stem_stride": 2},
}
PROGRAM = """
import json, torch, transformers
model = transformers.{auto}.from_pretrained("student", trust_remote_code=True).eval()
inputs = torch.load("inputs.pt")
with torch.no_grad():
    found = model(**inputs)[0]
torch.save(found, "found.pt")
print(type(model).__name__, type(model).__module__.startswith("transformers_modules"))
"""
CASES = {
    **{name: (ARCHITECTURES[name].part("config").model_type, SIZES[name], ARCHITECTURES[name].classifier) for name in SIZES},
    "texts": ("potstill-encoder", CODED, "coded:CodedForSequenceClassification"),
    "tokens": ("potstill-encoder", CODED, "coded:CodedForTokenClassification"),
    "spans": ("potstill-encoder", CODED, "coded:CodedForQuestionAnswering"),
}


def inputs_for(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name == "cnn":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(0, 40, (3, 9), generator=generator), "attention_mask": mask}


def auto_of(name: str) -> str:
    return f"AutoModelFor{name.rpartition('For')[2]}"


def test_every_own_architecture_is_tried() -> None:
    assert set(SIZES) == set(ARCHITECTURES)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_answers_are_the_same_bit_for_bit_without_potstill(tmp_path: Path, name: str) -> None:
    register()
    model_type, sizes, place = CASES[name]
    kind = place.partition(":")[2]
    labels = {"num_labels": 2 if name == "spans" else 3}
    torch.manual_seed(0)
    model = getattr(transformers, auto_of(kind)).from_config(AutoConfig.for_model(model_type, **sizes, **labels)).eval()
    assert type(model).__name__ == kind
    model.save_pretrained(tmp_path / "student")
    for file in (tmp_path / "student").glob("*.py"):
        assert file.read_bytes() == (SOURCES / file.name).read_bytes(), "one source of truth"
    auto_map = json.loads((tmp_path / "student" / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", auto_of(kind)}
    torch.save(inputs_for(name), tmp_path / "inputs.pt")
    assert run_without(["potstill"], PROGRAM.format(auto=auto_of(kind)), tmp_path).split() == [kind, "True"]
    assert torch.equal(torch.load(tmp_path / "found.pt"), model(**inputs_for(name))[0])


@torch.no_grad()
def test_a_sentence_encoder_of_an_own_type_is_read_by_the_encoder_alone(tmp_path: Path) -> None:
    register()
    torch.manual_seed(0)
    model = AutoSentenceEncoder.from_config(AutoConfig.for_model("potstill-encoder", **CODED, num_labels=5)).eval()
    model.save_pretrained(tmp_path / "student")
    torch.save(inputs_for("texts"), tmp_path / "inputs.pt")
    said = run_without(["potstill"], PROGRAM.format(auto="AutoModel"), tmp_path)
    assert said.split() == ["CodedEncoderModel", "True"]
    body = getattr(model, model.base_model_prefix)
    assert torch.equal(torch.load(tmp_path / "found.pt"), body(**inputs_for("texts"))[0])


def test_with_potstill_its_own_classes_are_taken(tmp_path: Path) -> None:
    register()
    model = transformers.AutoModelForSequenceClassification.from_config(AutoConfig.for_model("potstill-encoder", **CODED))
    model.save_pretrained(tmp_path)
    for trust in (None, False, True):
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(loaded).__module__ == "potstill.models.architectures.coded"
