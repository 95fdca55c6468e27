"""A teacher whose answer is the mean of two heads has both in the order of the labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from potstill.errors import ModelError
from potstill.models.labels import final_linear, final_linears, reorder_head
from potstill.students.cut import cut_student
from potstill.students.plan import plan


def deit(classes: int = 3) -> DeiTForImageClassificationWithTeacher:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=16, patch_size=8, num_labels=classes, **sizes)).eval()


def roberta() -> RobertaForSequenceClassification:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    return RobertaForSequenceClassification(RobertaConfig(num_labels=3, **sizes)).eval()


def distilbert(classes: int = 3) -> DistilBertForSequenceClassification:
    config = DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=64, num_labels=classes)
    return DistilBertForSequenceClassification(config).eval()


IMAGES = {"pixel_values": torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
TEXTS = {"input_ids": torch.arange(3, 15).view(2, 6)}


@pytest.mark.parametrize(("make", "inputs"), [(deit, IMAGES), (roberta, TEXTS), (distilbert, TEXTS)])
def test_answers_follow_the_new_order(make: object, inputs: dict[str, torch.Tensor]) -> None:
    model = make()  # type: ignore[operator]
    with torch.no_grad():
        before = model(**inputs).logits
        reorder_head(model, (2, 0, 1))
        after = model(**inputs).logits
    assert torch.equal(after, before[:, [2, 0, 1]])


def test_what_may_be_no_head_is_not_guessed_at() -> None:
    assert len(final_linears(deit(), 3)) == 2
    with pytest.raises(ModelError, match="are heads cannot be said"):
        reorder_head(distilbert(32), tuple(reversed(range(32))))  # its first layer has as many rows as there are classes
    with pytest.raises(ModelError, match="mean of several heads"):
        final_linear(deit(), 3)
    with pytest.raises(ModelError, match="no final linear layer"):
        reorder_head(nn.Sequential(nn.Conv2d(3, 3, 1)), (0, 1))


def test_a_student_is_cut_out_of_it() -> None:
    teacher = deit()
    with torch.no_grad():
        teacher.cls_classifier.weight.mul_(3)
    student = cut_student(teacher, plan(teacher, ratio=0.5), batches=[IMAGES])
    assert type(student).__name__ == "DeiTForImageClassification"
