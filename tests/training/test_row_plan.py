"""Which rows are learnt from: weights of mean one, curricula, draws; the law of normalisation and of resuming holds for all."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_models import Remembered, Rows, arguments, collate, encoder, opinionated

from potstill.answers import build
from potstill.answers.one_class import class_uncertainty
from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import catalogue
from potstill.losses.contract import StudentView
from potstill.losses.functional import kl
from potstill.tasks import answers_of
from potstill.training.order import PlannedBatches
from potstill.training.row_memory import RowMemory, row_losses, weighted_view
from potstill.training.row_plan import RowPlan, read_row_plan
from potstill.training.row_statistics import refuse_certain
from potstill.training.trainer import DistillationTrainer

KL_CE = [{"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3}]
PLANS = [
    {"focus": "teacher_uncertainty"},
    {"focus": "student_loss"},
    {"focus": "student_loss", "by": "sampling", "strength": 0.7},
    {"order": "curriculum", "difficulty": "length"},
    {"order": "curriculum", "focus": "teacher_uncertainty", "by": "sampling"},
]


def memory(plan: RowPlan, count: int = 40, seed: int = 0) -> RowMemory:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, generator=generator)
    return RowMemory(plan, torch.randperm(count, generator=generator) + 500, values, values, build("class"))


def trainer_for(folder, rows_plan, *, losses=KL_CE, teacher=None, rows=None, student=None, **options):
    rows = rows or Rows()
    return DistillationTrainer(
        student or encoder(seed=1),
        arguments(folder, **options),
        teacher=teacher or opinionated(),
        losses=losses,
        train_dataset=rows,
        data_collator=collate,
        rows=rows_plan,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("focus", ["teacher_uncertainty", "student_loss"])
def test_weights_have_mean_one_and_rise_with_what_they_follow(focus, strength):
    held = memory(RowPlan(focus=focus, strength=strength))
    values = held.uncertainty
    if focus == "student_loss":
        assert torch.equal(held.weights(), torch.ones(40)), "nothing is known yet"
        values = torch.rand(40) * 3
        held.remember(held.row_ids, values)
        held.after_step(1)
    found = held.weights()
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(found.min()) >= 1 - strength - 1e-6
    if strength:
        assert torch.equal(found.argsort(stable=True), values.argsort(stable=True))


def test_a_loss_that_is_not_finite_leaves_the_row_as_it_was():
    held = memory(RowPlan(focus="student_loss"), 3)
    held.remember(held.row_ids, torch.tensor([1.0, 2.0, 3.0]))
    held.after_step(1)
    held.remember(held.row_ids[:1], torch.tensor([float("nan")]))
    held.after_step(1)
    assert held.losses.tolist() == [1.0, 2.0, 3.0]


def test_rows_are_found_by_id_and_strangers_are_named():
    held = memory(RowPlan(focus="student_loss"))
    assert held.row_ids[held.places(held.row_ids[[3, 1]])].tolist() == held.row_ids[[3, 1]].tolist()
    with pytest.raises(NeedsError, match=r"row 7 has no weight, it is not in the training set\."):
        held.places(torch.tensor([7]))


def test_the_gradient_is_that_of_weighted_rows_and_the_value_is_not_changed():
    torch.manual_seed(0)
    student, teacher, weight = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4), torch.rand(5)
    view = weighted_view(StudentView(student), weight)
    value = kl(view.logits, teacher, reduction="sum")
    (found,) = torch.autograd.grad(value, student)
    expected = (weight * kl(student, teacher, reduction="none")).sum()
    (wanted,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(value, kl(student, teacher, reduction="sum"))


def test_rows_of_words_are_weighed_and_measured_by_the_words_that_count():
    torch.manual_seed(0)
    student, teacher, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4), torch.tensor([0.5, 1.5])
    counts = torch.tensor([[True, True, False], [True, False, False]])
    words = StudentView(student, token_mask=torch.ones(2, 9), unit_mask=counts)
    view, signal = weighted_view(words, weight), TeacherSignal(DenseLogits(teacher))
    (found,) = torch.autograd.grad(catalogue.build("kl")(view, signal, {}).sum, student)
    (wanted,) = torch.autograd.grad((weight * kl(student, teacher, mask=counts, reduction="none")).sum(), student)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        row_losses(words, signal, {}, build("class")), kl(student, teacher, temperature=1.0, mask=counts, reduction="none")
    )


def test_uncertainty_runs_from_sure_to_undecided_and_skips_padding():
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0], [float("-inf"), 0.0, 0.0]])
    assert class_uncertainty(logits).tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-5)
    tokens = torch.stack([logits[:2], logits[:2]])
    mask = torch.tensor([[1, 0], [0, 1]])
    assert class_uncertainty(tokens, mask).tolist() == pytest.approx([0.0, 1.0], abs=1e-5)


def test_uncertainty_is_of_the_choices_that_a_row_has():
    two_of_many = torch.full((1, 20), -1e4)
    two_of_many[0, :2] = 0.0
    assert class_uncertainty(two_of_many).tolist() == pytest.approx([1.0], abs=1e-5)
    sure, undecided, half = torch.tensor([8.0, 8.0]), torch.tensor([0.0, 0.0]), torch.tensor([8.0, 0.0])
    assert build("labels").uncertainty(torch.stack([sure, undecided, half])).tolist() == pytest.approx([0, 1, 0.5], abs=0.01)
    for kind in ("numbers", "embedding"):
        with pytest.raises(NeedsError, match=r"its answers \(.*\) do not say.*rows.focus: student_loss"):
            refuse_certain(RowPlan(focus="teacher_uncertainty"), build(kind))


def test_the_loss_of_a_row_fits_its_answers():
    student, teacher = torch.tensor([[8.0, 8.0], [2.0, 1.0]]), torch.tensor([[-8.0, -8.0], [2.0, 1.0]])
    signal, view = TeacherSignal(DenseLogits(teacher)), StudentView(student)
    assert row_losses(view, signal, {}, build("labels")).tolist() == pytest.approx([8.0, 0.0], abs=0.01)
    assert row_losses(view, signal, {}, build("numbers")).tolist() == pytest.approx([256.0, 0.0])
    assert row_losses(view, signal, {}, build("embedding")).tolist() == pytest.approx([2.0, 0.0], abs=1e-5)
    labels = {"labels": torch.tensor([[1.0, -100.0], [float("nan"), float("nan")]])}
    assert row_losses(view, None, labels, build("numbers")).tolist() == pytest.approx([49.0, np.nan], nan_ok=True)
    assert row_losses(view, None, labels, build("labels")).tolist() == pytest.approx([0.0003, np.nan], abs=1e-3, nan_ok=True)


def test_the_configuration_says_what_a_model_answers():
    model = encoder()
    assert answers_of(model).kind == "class"
    model.config.problem_type = "multi_label_classification"
    assert answers_of(model).kind == "labels"
    model.config.problem_type = "regression"
    assert answers_of(model).kind == "numbers"


def test_peers_that_see_the_same_row_count_alike():
    held = memory(RowPlan(focus="student_loss"), 3)
    for losses in ([1.0, 4.0], [3.0, float("nan")]):
        held.remember(held.row_ids[:2], torch.tensor(losses))
    held.after_step(1)
    assert held.losses.tolist() == [2.0, 4.0, -1.0]


def test_the_loss_of_a_row_is_towards_the_teacher_else_the_label():
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([0, -100, 2, 1])
    found = row_losses(StudentView(student), TeacherSignal(DenseLogits(teacher)), {"labels": labels}, build("class"))
    torch.testing.assert_close(found, kl(student, teacher, temperature=1.0, reduction="none"))
    found = row_losses(StudentView(student), None, {"labels": labels}, build("class"))
    assert torch.isnan(found).tolist() == [False, True, False, False]
    torch.testing.assert_close(found[0], torch.nn.functional.cross_entropy(student[0], labels[0]))
    assert torch.isnan(row_losses(StudentView(student), None, {}, build("class"))).all()


def test_a_curriculum_begins_with_the_easiest_and_ends_with_all():
    plan = RowPlan(order="curriculum", start=0.25, pace=0.5)
    held = memory(plan, 80)
    batches = PlannedBatches(held, 4, seed=0, total_batches=100)
    rank = held.difficulty.argsort().argsort().numpy() / 80
    means, seen = [], set()
    for epoch in range(5):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 20
        assert all(len(set(batch)) == 4 for batch in drawn)
        means.append(float(np.mean([rank[row] for batch in drawn for row in batch])))
        seen |= {row for batch in drawn for row in batch} if epoch < 4 else set()
        assert epoch < 4 or {row for batch in drawn for row in batch} == set(range(80)), "the last epoch has every row once"
    assert means == sorted(means)
    assert means[0] < 0.3 < means[-1]
    first = next(iter(PlannedBatches(held, 4, seed=0, total_batches=100)))
    assert max(rank[row] for row in first) <= 0.26


def test_competence_rises_from_start_to_one_at_pace():
    plan = RowPlan(order="curriculum", start=0.2, pace=0.6)
    values = [plan.competence(step / 20) for step in range(21)]
    assert values[0] == pytest.approx(0.2)
    assert values == sorted(values)
    assert plan.competence(0.6) == plan.competence(1.0) == 1.0
    assert RowPlan().competence(0.0) == 1.0


def test_draws_follow_the_weights():
    plan = RowPlan(focus="teacher_uncertainty", by="sampling")
    held = memory(plan, 40)
    batches = PlannedBatches(held, 4, seed=0, total_batches=10 * 400)
    counts = np.zeros(40)
    for epoch in range(100):
        batches.set_epoch(epoch)
        for batch in batches:
            np.add.at(counts, batch, 1)
    assert counts.sum() == 100 * 40
    assert np.abs(counts / 100 - held.weights().numpy()).max() < 0.2


def test_the_order_is_a_function_of_seed_and_epoch():
    plan = RowPlan(order="curriculum")
    held = memory(plan)

    def drawn(seed, epoch):
        batches = PlannedBatches(held, 4, seed=seed, total_batches=50, lengths=list(range(40)))
        batches.set_epoch(epoch)
        return list(batches)

    assert drawn(1, 2) == drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_plan_trains_and_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path, plan):
    def trainer(folder, **options):
        return trainer_for(folder, plan, num_train_epochs=3, save_strategy="steps", save_steps=4, **options)

    whole = trainer(tmp_path / "whole")
    whole.train()
    assert whole.state.global_step == 18
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-8"))
    assert same(weights(whole.model), weights(resumed.model))
    for name, value in whole.objective.rows.state_dict().items():
        torch.testing.assert_close(value, resumed.objective.rows.state_dict()[name], msg=name)
    plain = trainer_for(tmp_path / "plain", None, num_train_epochs=3)
    plain.train()
    assert not same(weights(plain.model), weights(whole.model)), "the plan has an effect"


@pytest.mark.parametrize("plan", PLANS[:2], ids=str)
def test_weighted_rows_give_the_same_gradient_however_the_batch_is_cut(tmp_path, plan):
    found = []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        trainer = trainer_for(
            tmp_path / str(size),
            plan,
            rows=Rows(with_lengths=False),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=2,
            optim="sgd",
        )
        trainer.train()
        found.append(weights(trainer.model))
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_a_remembered_teacher_is_asked_once_for_every_row(tmp_path):
    rows = Rows()
    teacher = opinionated()
    live = trainer_for(tmp_path / "live", {"focus": "teacher_uncertainty"}, rows=rows, teacher=teacher)
    cached = trainer_for(
        tmp_path / "cached", {"focus": "teacher_uncertainty"}, rows=rows, teacher=Remembered(copy.deepcopy(teacher), rows)
    )
    for trainer in (live, cached):
        trainer.prepare()
    torch.testing.assert_close(live.objective.rows.uncertainty, cached.objective.rows.uncertainty, atol=1e-5, rtol=1e-4)
    assert 0 < float(live.objective.rows.uncertainty.mean()) < 1


def test_what_the_rows_cannot_give_is_refused_before_the_first_step(tmp_path):
    without = {"losses": ["ce"]}
    with pytest.raises(NeedsError, match=r"rows.focus: teacher_uncertainty needs the teacher's logits, and there are none\."):
        DistillationTrainer(
            encoder(),
            arguments(tmp_path),
            train_dataset=Rows(),
            data_collator=collate,
            rows={"focus": "teacher_uncertainty"},
            **without,
        ).prepare()
    with pytest.raises(NeedsError, match=r"rows.difficulty: length needs the length of every row"):
        trainer_for(tmp_path, {"order": "curriculum", "difficulty": "length"}, rows=Rows(with_lengths=False)).prepare()
    alike = Rows()
    alike.lengths = [1] * len(alike)  # as images have
    with pytest.raises(NeedsError, match=r"and all rows have length 1\. .*set rows.difficulty: teacher"):
        trainer_for(tmp_path, {"order": "curriculum", "difficulty": "length"}, rows=alike).prepare()
    bare = Rows()
    for row in bare.rows:
        del row["row_id"]
    with pytest.raises(NeedsError, match=r"find rows by their id, and the rows have none"):
        DistillationTrainer(
            encoder(),
            arguments(tmp_path),
            teacher=opinionated(),
            train_dataset=bare,
            data_collator=lambda rows: collate([{**row, "row_id": 0} for row in rows]),
            rows={"focus": "student_loss"},
        ).prepare()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"focus": "teacher"}, r"rows.focus is 'teacher'\. Accepted: none, teacher_uncertainty, student_loss\."),
        ({"foc": "none"}, r"rows has the key 'foc', which does not exist\. Accepted: order, .*What to do: write 'focus'\."),
        ({"pace": 0}, r"rows.pace is 0\. Accepted: a share from above 0 to 1\."),
        ({"strength": 2.0}, r"rows.strength is 2.0\. Accepted: a share from 0 to 1\."),
    ],
)
def test_plans_that_do_not_exist_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        read_row_plan(given)


def test_rows_of_one_difficulty_come_in_a_drawn_order():
    plan = RowPlan(order="curriculum", difficulty="length", start=0.2)
    held = RowMemory(plan, torch.arange(100), torch.ones(100), torch.zeros(100), build("class"))
    drawn = [PlannedBatches(held, 10, seed=seed, total_batches=100) for seed in (0, 0, 1)]
    first = [next(iter(batches)) for batches in drawn]
    assert first[0] == first[1] != first[2]
    assert max(first[0]) > 20  # not the first of the file, which may be sorted by class
