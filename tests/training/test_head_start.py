"""The final layer of features that were taught without it."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import CLASSES, Rows, collate, encoder, opinionated

from potstill.data.row_files import PADDING
from potstill.knowledge.live import LiveTeacher
from potstill.training.head_start import start_head
from potstill.training.phase_settings import PhaseSettings
from potstill.training.phases import train_phase


def batches(count: int = 64) -> list[dict]:
    rows = Rows(count)
    return [collate([rows[index] for index in range(start, start + 16)]) for start in range(0, count, 16)]


def headless(teacher: torch.nn.Module) -> torch.nn.Module:
    """The teacher's features under a final layer that knows nothing."""
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.classifier.weight.normal_(std=0.02)
        student.classifier.bias.zero_()
    return student


def agreement(student: torch.nn.Module, teacher: torch.nn.Module) -> float:
    inputs = [{key: batch[key] for key in ("input_ids", "attention_mask")} for batch in batches()]
    with torch.no_grad():
        pairs = [(student.eval()(**each).logits.argmax(-1), teacher.eval()(**each).logits.argmax(-1)) for each in inputs]
    return torch.cat([one == other for one, other in pairs]).float().mean().item()


def test_the_teachers_layer_is_found_again_on_its_own_features() -> None:
    teacher = opinionated()
    student = headless(teacher).train()
    assert agreement(student, teacher) < 0.9
    student.train()
    rest = {name: value.clone() for name, value in student.state_dict().items() if not name.startswith("classifier")}
    assert start_head(student, LiveTeacher(teacher, dtype="float32"), batches())
    assert student.training
    assert student.bert.training
    assert all(torch.equal(student.state_dict()[name], value) for name, value in rest.items())
    assert agreement(student, teacher) == 1.0


def test_units_of_rows_count_one_by_one() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, CLASSES))

    class Tagger(torch.nn.Module):
        def __init__(self, layers: torch.nn.Module) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.layers(input_ids)

    teacher, student = Tagger(net), Tagger(copy.deepcopy(net))
    with torch.no_grad():
        student.layers[1].weight.zero_()
    ids = torch.randint(50, (6, 5))
    positions = torch.tensor([[0, 2, 4], [1, 3, PADDING]] * 3)
    assert start_head(student, LiveTeacher(teacher, dtype="float32"), [{"input_ids": ids, "unit_positions": positions}] * 4)
    torch.testing.assert_close(student(ids), teacher(ids), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("case", ["nobody to ask", "other classes", "no linear layer"])
def test_it_is_left_alone_where_it_cannot_be_fitted(case: str) -> None:
    teacher, student = opinionated(), encoder()
    source = LiveTeacher(teacher, dtype="float32")
    if case == "nobody to ask":
        source = None
    elif case == "other classes":
        student.classifier = torch.nn.Linear(16, CLASSES + 1)
    else:
        student.classifier = torch.nn.Sequential(student.classifier)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert not start_head(student, source, batches())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_stage_starts_with_it(tmp_path) -> None:
    teacher = opinionated()
    student = headless(teacher)
    settings = PhaseSettings(epochs=1, learning_rate=1e-9, starts_head=True, select="last", batch_size=16)
    train_phase(student, rows=Rows(64), collator=collate, folder=tmp_path, terms=["kl"], teacher=teacher, settings=settings)
    assert agreement(student, teacher) == 1.0
