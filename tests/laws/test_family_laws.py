"""Laws of the table of families, checked on every entry and on a toy family that is written here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, BertConfig, BertForSequenceClassification

from potstill.models import families
from potstill.models.families import FAMILIES, family_of
from potstill.models.families.base import BLOCK_ROLES, Family
from potstill.models.families.bert import Bert
from potstill.models.families.encoder import Encoder
from potstill.models.families.stages import Stages
from potstill.models.size import parameters_of
from potstill.models.taps import Taps, available
from potstill.students import cut
from potstill.students.cut import cut_student
from potstill.students.importance import Importance, measure
from potstill.students.plan import plan
from students.builders import ALL_TYPES, tiny_batches, tiny_model

EAGER = [name for name in ALL_TYPES if family_of(name).roles]


class ToyConfig(BertConfig):
    """BERT under another name."""

    model_type = "toy"


class ToyForSequenceClassification(BertForSequenceClassification):
    """BERT under another name."""

    config_class = ToyConfig


class Toy(Bert):
    """A family that is one class in one file: BERT whose students have no other type."""

    model_type = "toy"
    architecture = "ToyForSequenceClassification"
    narrow_type = None
    coded_type = None


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("labels", "row_id")}


def check_family(model: Any, batches: list[dict[str, Any]]) -> None:
    """What holds for a model of every family."""
    family, config, batch = family_of(model), model.config, inputs_of(batches[0])
    assert family.model_type == config.model_type
    assert family is family_of(config) is family_of(config.model_type)
    check_parts(family, model)
    assert family.parameters(config) == parameters_of(model)
    small, large = (family.flops(config, tokens=tokens, image_size=8 * tokens) for tokens in (8, 16))
    assert 0 < small <= large
    for need, k in ((need, int(need.split(":")[1])) for need in available(model) if need.startswith("hidden:")):
        value = Taps(model, [need]).run(batch)[1][need]
        width = family.size(config, "hidden")
        assert width == value.shape[2] if value.dim() == 3 else width[k - 1] == value.shape[1]
    with torch.no_grad():
        whole = plan(model, ratio=0)
        assert torch.equal(cut_student(model, whole)(**batch).logits, model(**batch).logits)
        assert whole.build_config().to_dict() | {"architectures": None} == config.to_dict() | {"architectures": None}
    planned = plan(model, ratio=0.5)
    own = family_of(planned.build_config())
    assert own.parameters(planned.build_config()) == planned.parameters
    student = cut_student(model, planned, batches)
    assert parameters_of(student) == planned.parameters
    assert student(**batch).logits.isfinite().all()


def check_parts(family: Family, model: Any) -> None:
    """Roles lead to layers of the sizes that the configuration says."""
    config = model.config
    assert len(family.blocks(model)) == np.size(family.size(config, "layers")) or family.roles
    assert family.head(model).out_features == config.num_labels
    assert isinstance(family.embedding(model), nn.Module)
    assert isinstance(family, Encoder if family.roles else Stages)
    if isinstance(family, Encoder):
        shape = family.shape_of(config)
        assert set(BLOCK_ROLES) <= set(family.roles)
        assert family.with_shape(config, shape).to_dict().items() >= config.to_dict().items()
        for k in range(1, shape.layers + 1):
            assert family.part(model, k, "query").out_features == shape.heads * family.head_size(config)
            assert family.part(model, k, "up").weight.shape == (shape.ffn, shape.hidden)
            assert family.part(model, k, "down").weight.shape == (shape.hidden, shape.ffn)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_keeps_its_laws(model_type: str) -> None:
    check_family(tiny_model(model_type), tiny_batches(model_type))


def test_a_family_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    AutoConfig.register("toy", ToyConfig, exist_ok=True)
    monkeypatch.setitem(families.FAMILIES, "toy", f"{__name__}:Toy")
    monkeypatch.setattr(cut.transformers, "ToyForSequenceClassification", ToyForSequenceClassification, raising=False)
    bert = tiny_model("bert")
    model = ToyForSequenceClassification(ToyConfig(**bert.config.to_dict() | {"model_type": "toy"})).eval()
    model.load_state_dict(bert.state_dict())
    check_family(model, tiny_batches("bert"))


@pytest.mark.parametrize("model_type", EAGER)
def test_attention_scores_are_what_the_softmax_takes(model_type: str) -> None:
    model, batch = tiny_model(model_type), inputs_of(tiny_batches(model_type, 1)[0])
    model.set_attn_implementation("eager")
    scores = Taps(model, ["attention:1"]).run(batch)[1]["attention:1"]
    with torch.no_grad():
        weights = model(**batch, output_attentions=True).attentions[0]
    mask = batch.get("attention_mask", torch.ones(len(scores), scores.shape[-1])).bool()
    found = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min).softmax(-1)
    kept = mask[:, None, :, None].expand_as(found)
    torch.testing.assert_close(found[kept], weights[kept], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "vit", "resnet"])
def test_importance_is_saved_loaded_and_given(model_type: str, tmp_path: Any) -> None:
    teacher, batches = tiny_model(model_type), tiny_batches(model_type)
    scores = measure(teacher, batches, seed=3)
    scores.save(tmp_path / "scores")
    loaded = Importance.load(tmp_path / "scores")
    planned = plan(teacher, ratio=0.4)
    students = [cut_student(teacher, planned, batches, seed=3, importance=each) for each in (None, scores, loaded)]
    assert loaded.rows == scores.rows
    for name, value in students[0].state_dict().items():
        assert all(torch.equal(value, student.state_dict()[name]) for student in students[1:])
