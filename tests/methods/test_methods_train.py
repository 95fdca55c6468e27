"""Every method on every kind of model: it builds and takes a step, or it is refused while planning."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from potstill.errors import NeedsError
from potstill.knowledge.live import LiveTeacher
from potstill.losses.contract import StudentView
from potstill.methods import catalogue
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, facts_of
from potstill.models.taps import TapReader, Taps
from potstill.tasks import answers_of
from potstill.training.objective import Objective
from potstill.training.preparation import check_needs, shapes_of_student, shapes_of_teacher
from potstill.training.terms import read_terms

CLASSES, ROWS = 4, 4
REFUSED = {
    ("review_kd", "text"): "needs feature maps",
    ("review_kd", "vit"): "needs feature maps",
    ("minilm", "resnet"): "needs attention",
    ("tinybert", "resnet"): "needs attention",
    ("sskd", "text"): "turns images",
    ("pkd", "resnet"): "needs a first token",
}


def bert(width: int, layers: int) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=40,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        num_labels=CLASSES,
    )
    return BertForSequenceClassification(config)


def vit(width: int, layers: int, patch: int = 8) -> PreTrainedModel:
    config = ViTConfig(
        image_size=16,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8,
        intermediate_size=2 * width,
        num_labels=CLASSES,
    )
    return ViTForImageClassification(config)


def resnet(width: int, stages: int) -> PreTrainedModel:
    widths = [width * 2**stage for stage in range(stages)]
    config = ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=[1] * stages, layer_type="basic", num_labels=CLASSES)
    return ResNetForImageClassification(config)


@functools.cache
def pair(kind: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    torch.manual_seed(0)
    if kind == "text":
        return bert(8, 2), bert(16, 4).eval()
    if kind == "vit":
        return vit(8, 2), vit(16, 3).eval()
    if kind == "resnet":
        return resnet(8, 3), resnet(16, 3).eval()
    return (vit(8, 2), resnet(16, 3).eval()) if kind == "vit from resnet" else (resnet(8, 3), vit(16, 3).eval())


def batch_of(kind: str) -> dict[str, torch.Tensor]:
    labels, row_id = torch.tensor([0, 1, 2, -100]), torch.arange(10, 10 + ROWS)
    if kind != "text":
        size = 32 if kind == "resnet" else 16
        return {"pixel_values": torch.randn(ROWS, 3, size, size), "labels": labels, "row_id": row_id}
    ids = torch.randint(1, 40, (ROWS, 7))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row_id": row_id}


def step(stage: Phase, student: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, torch.Tensor]) -> float:
    """Prepare the stage's terms and take the gradient of one step, half way through training."""
    terms, source = read_terms(stage.losses()), LiveTeacher(teacher, TapReader(), dtype="float32")
    check_needs(terms, student, source)
    objective = Objective(terms, torch.device("cpu"))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "row_id")}
    taps = Taps(student, objective.needs_student())
    student_shapes = shapes_of_student(taps, inputs, answers_of(student))
    teacher_shapes = shapes_of_teacher(source, batch, terms)
    for term in terms:
        term.loss.prepare(student_shapes, teacher_shapes if term.loss.needs_teacher() else None, num_rows=ROWS)
    objective.begin_step(0.5, objective.count([batch]))
    student.train()
    student.zero_grad()
    logits, values = taps.run(inputs)
    needs = objective.active_needs_teacher()
    signal = source.signal(batch, needs) if needs else None
    total = objective(StudentView(logits, values, inputs.get("attention_mask"), student_shapes.modules), signal, batch)
    total.backward()
    gradients = [parameter.grad.norm() for parameter in student.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(norm) for norm in gradients)
    assert max(gradients) > 0
    return float(total.detach())


@pytest.mark.parametrize("kind", ["text", "vit", "resnet"])
@pytest.mark.parametrize("name", catalogue.names())
def test_every_method_takes_a_step_or_is_refused(name, kind):
    student, teacher = pair(kind)
    facts = facts_of(student), facts_of(teacher)
    if (name, kind) in REFUSED:
        with pytest.raises(NeedsError, match=REFUSED[name, kind]) as caught:
            catalogue.build(name, *facts)
        assert catalogue.build(caught.value.todo.rpartition("distill.method: ")[2], *facts)
        return
    torch.manual_seed(1)
    for stage in catalogue.build(name, *facts):
        assert math.isfinite(step(stage, student, teacher, batch_of(kind)))


def built(name: str, student: PreTrainedModel, teacher: PreTrainedModel, **wishes: object) -> tuple[Phase, ...] | NeedsError:
    try:
        return catalogue.build(name, facts_of(student), facts_of(teacher), MethodOptions(**wishes))
    except NeedsError as err:
        return err


@pytest.mark.parametrize("kind", ["vit from resnet", "resnet from vit"])
@pytest.mark.parametrize("name", catalogue.names())
def test_across_architectures_a_method_works_or_names_one_that_does(name, kind):
    student, teacher = pair(kind)
    stages = built(name, student, teacher)
    if isinstance(stages, NeedsError):
        stages = built(stages.todo.rpartition("distill.method: ")[2], student, teacher)
    assert not isinstance(stages, NeedsError)
    torch.manual_seed(1)
    for stage in stages:
        assert math.isfinite(step(stage, student, teacher, batch_of(kind)))


@pytest.mark.parametrize("name", catalogue.names())
def test_other_tokens_leave_methods_that_do_not_compare_them(name):
    stages = built(name, *pair("text"), has_same_tokens=False)
    if isinstance(stages, NeedsError):
        assert "tokens" in stages.given or "turns images" in stages.given
        return
    layers = [layer for stage in stages for term in stage.terms if term.name != "pkd" for layer in term.options.get("layers", ())]
    assert all(layer == ("head.in", "head.in") for layer in layers)


@pytest.mark.parametrize("name", ["dkd", "nkd", "logit_std"])
def test_two_classes_are_too_few_for_the_others(name):
    two = ModelFacts(2, 8, 2, "text", num_classes=2)
    with pytest.raises(NeedsError, match=r"needs 3 classes or more, the student has 2.*distill.method: kd"):
        catalogue.build(name, two, two)
    assert catalogue.build("kd", two, two)


@pytest.mark.parametrize("name", ["ab", "fsp", "ofd"])
def test_grids_of_two_sizes_are_refused(name):
    student = ModelFacts(3, 8, None, "image", strides=(8, 16, 32))
    teacher = ModelFacts(3, 8, None, "image", strides=(4, 8, 16))
    options = MethodOptions(layers=[[1, 1], [2, 2], [3, 3]])
    with pytest.raises(NeedsError, match="a step of 8 pixels and block 1 of the teacher of 4"):
        catalogue.build(name, student, teacher, options)
    pairs = catalogue.build(name, student, teacher)[0].terms[0].options["layers"]
    assert pairs == [(1, 2), (2, 3)]


def test_patches_of_two_sizes_are_refused():
    student, teacher = facts_of(vit(8, 2, patch=4)), facts_of(vit(8, 2, patch=8))
    with pytest.raises(NeedsError, match="a step of 4 pixels"):
        catalogue.build("at", student, teacher)
    assert [term.name for term in catalogue.build("kd", student, teacher)[0].terms] == ["kl", "ce"]
