"""Laws of losses and teachers of several tasks: a mixed batch is the sum of its tasks, and other tasks' logits do not count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from potstill.answers.units import FLOOR, of_own_task
from potstill.contracts.signal import TeacherSignal
from potstill.errors import ModelError, NeedsError
from potstill.knowledge.per_task import PerTaskTeacher
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import catalogue
from potstill.losses.contract import Loss, StudentView
from potstill.losses.per_task import PerTask

BLOCKS = torch.tensor([[0, 3], [3, 8]])
ROW_TASKS = torch.tensor([1, 0, 1, 0, 0, 1, 1])
OF_OTHER_ANSWERS = {"bce", "regression", "bounded_regression", "output_cosine", "similarity_kl"}
OVER_ROWS = {"dist", "mlkd"}  # compare rows with each other, so a part of a batch is no part of their sum


def _allowed() -> list[str]:
    found = []
    for name in sorted(set(catalogue.names()) - OF_OTHER_ANSWERS):
        try:
            PerTask(catalogue.build(name))
        except NeedsError:
            continue
        found.append(name)
    return found


ALLOWED = _allowed()


def _batch() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(len(ROW_TASKS), 8, generator=chance, dtype=torch.float64) * 2 for _ in range(2))
    labels = torch.tensor([3, 0, 7, 2, -100, 5, 4])
    return student, teacher, {"labels": labels, "row_id": torch.arange(len(ROW_TASKS)), "task_classes": BLOCKS[ROW_TASKS]}


def _value(loss: Loss, student: Tensor, teacher: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, float, Tensor]:
    logits = student.clone().requires_grad_()
    value = loss(StudentView(logits), TeacherSignal(DenseLogits(teacher)), batch)
    value.sum.backward()
    assert logits.grad is not None
    return value.sum.detach(), float(value.count), logits.grad


def test_all_plain_response_losses_are_allowed() -> None:
    assert {"ce", "kl", "reverse_kl", "jsd", "skew_kl", "tvd", "logit_mse", "soft_ce", "dkd", "nkd", "logit_std_kl"} <= set(
        ALLOWED
    )


@pytest.mark.parametrize("name", ALLOWED)
def test_a_mixed_batch_is_the_sum_of_single_task_losses(name: str) -> None:
    student, teacher, batch = _batch()
    total, count, gradient = _value(PerTask(catalogue.build(name)), student, teacher, batch)
    summed, counted, expected = torch.zeros((), dtype=torch.float64), 0.0, torch.zeros_like(student)
    for number, (start, stop) in enumerate(BLOCKS.tolist()):
        rows = torch.eq(ROW_TASKS, number)
        labels = torch.where(batch["labels"][rows] < 0, -100, batch["labels"][rows] - start)
        single = {"labels": labels, "row_id": batch["row_id"][rows]}
        found = _value(catalogue.build(name), student[rows, start:stop], teacher[rows, start:stop], single)
        summed, counted = summed + found[0], counted + found[1]
        expected[rows, start:stop] = found[2]
    torch.testing.assert_close(total, summed.to(total), rtol=1e-9, atol=1e-12)
    assert count == counted
    torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ALLOWED)
def test_logits_of_other_tasks_do_not_count(name: str) -> None:
    student, teacher, batch = _batch()
    total, _, gradient = _value(PerTask(catalogue.build(name)), student, teacher, batch)
    assert torch.equal(of_own_task(gradient, batch) == FLOOR, of_own_task(torch.zeros_like(gradient), batch) == FLOOR)
    outside = of_own_task(torch.zeros_like(student), batch) == FLOOR
    assert not gradient[outside].any()
    changed, _, _ = _value(PerTask(catalogue.build(name)), student + 50 * outside, teacher.masked_fill(outside, FLOOR), batch)
    assert torch.equal(changed, total)


@pytest.mark.parametrize("name", sorted(set(ALLOWED) - OVER_ROWS))
def test_micro_batches_add_up(name: str) -> None:
    student, teacher, batch = _batch()
    whole = _value(PerTask(catalogue.build(name)), student, teacher, batch)
    parts = [
        _value(PerTask(catalogue.build(name)), student[cut], teacher[cut], {key: value[cut] for key, value in batch.items()})
        for cut in (slice(0, 3), slice(3, 7))
    ]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), whole[2], rtol=1e-7, atol=1e-10)
    assert sum(part[1] for part in parts) == whole[1]


@pytest.mark.parametrize("name", ["hidden_mse", "rkd_distance", "crd", "jacobian"])
def test_inner_values_are_refused(name: str) -> None:
    with pytest.raises(NeedsError, match=f"loss '{name}' .*each task has a teacher of its own.*take the loss kl"):
        PerTask(catalogue.build(name))


def test_a_schedule_reaches_the_temperature() -> None:
    loss = PerTask(catalogue.build("kl"))
    loss.temperature = 3.0
    assert loss.loss.temperature == loss.temperature == 3.0
    assert not hasattr(PerTask(catalogue.build("ce")), "temperature")


class Source:
    """Answers its own number, with as many classes as it is told."""

    fingerprint = "source"

    def __init__(self, number: float, width: int) -> None:
        self.number, self.width, self.asked = number, width, []

    def can_provide(self, need: str) -> bool:
        return need == "logits"

    def signal(self, batch: dict[str, Tensor], needs: tuple[str, ...] = ("logits",)) -> TeacherSignal:
        self.asked += batch["row_id"].tolist()
        return TeacherSignal(DenseLogits(torch.full((len(batch["row_id"]), self.width), self.number)))


@pytest.mark.parametrize("second_width", [5, 8])
def test_each_teacher_is_asked_about_its_own_rows(second_width: int) -> None:
    _, _, batch = _batch()
    first, second = Source(1.0, 3), Source(2.0, second_width)
    logits = PerTaskTeacher({(0, 3): first, (3, 8): second}).signal(batch).logits
    assert first.asked == [1, 3, 4]
    assert second.asked == [0, 2, 5, 6]
    assert torch.equal(logits, of_own_task((ROW_TASKS + 1.0)[:, None].expand(-1, 8), batch))


def test_a_teacher_must_have_the_classes_of_its_task() -> None:
    _, _, batch = _batch()
    with pytest.raises(ModelError, match=r"the teacher of the classes 3 to 7 has 4 classes\. Accepted: 5, or all 8"):
        PerTaskTeacher({(0, 3): Source(1.0, 3), (3, 8): Source(1.0, 4)}).signal(batch)
    with pytest.raises(NeedsError):
        PerTaskTeacher({(0, 3): Source(1.0, 3)}).signal(batch, ("hidden:1",))
