"""Faults that are found in widely used implementations, each shown to be absent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from potstill import losses
from potstill.contracts.signal import TeacherSignal
from potstill.errors import DataError, NeedsError, RecipeError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import functional as F
from potstill.losses.contract import Shapes, StudentView


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gradient_does_not_shrink_with_temperature() -> None:
    norms = []
    for temperature in (1.0, 2.0, 4.0, 8.0):
        student = logits(64, 10).requires_grad_()
        F.kl(student, logits(64, 10, seed=1), temperature=temperature).backward()
        norms.append(float(student.grad.norm()))
    assert max(norms) / min(norms) < 2


def test_temperature_square_stays_without_labels() -> None:
    view, signal = StudentView(logits(4, 3)), TeacherSignal(DenseLogits(logits(4, 3, seed=1)))
    unlabelled = {"labels": torch.full((4,), -100)}
    soft = losses.build("kl", temperature=4.0)(view, signal, unlabelled).sum / 4
    assert float(soft) == pytest.approx(float(F.kl(view.logits, signal.logits, temperature=4.0)))


def test_mean_is_over_rows_and_not_over_classes_too() -> None:
    student, teacher = logits(8, 10), logits(8, 10, seed=1)
    assert float(F.kl(student, teacher, reduction="sum")) == pytest.approx(8 * float(F.kl(student, teacher)))
    repeated = torch.cat([student, student]), torch.cat([teacher, teacher])
    assert float(F.kl(*repeated)) == pytest.approx(float(F.kl(student, teacher)))
    assert float(F.ickd(logits(2, 3, 4, 4), logits(2, 3, 4, 4, seed=1), reduction="none").mean()) == pytest.approx(
        float(F.ickd(logits(2, 3, 4, 4), logits(2, 3, 4, 4, seed=1)))
    )


def test_softmax_runs_over_classes_for_token_logits() -> None:
    student, teacher = logits(2, 7, 5), logits(2, 7, 5, seed=1)
    assert float(F.kl(student, teacher)) == pytest.approx(float(F.kl(student.view(14, 5), teacher.view(14, 5))))


def test_dist_falls_as_correlation_rises() -> None:
    teacher = logits(16, 5)
    near, far = (teacher + scale * logits(16, 5, seed=1) for scale in (0.1, 3.0))
    assert float(F.dist(teacher, teacher)) == pytest.approx(0.0, abs=1e-6)
    assert float(F.dist(near, teacher)) < float(F.dist(far, teacher))


def test_sp_rows_have_euclidean_length_one() -> None:
    student, teacher = logits(6, 9), logits(6, 9, seed=1)
    grams = [value @ value.T for value in (student, teacher)]
    euclidean = [gram / gram.norm(dim=1, keepdim=True) for gram in grams]
    absolute = [gram / gram.abs().sum(1, keepdim=True) for gram in grams]
    found = float(F.sp(student, teacher))
    assert found == pytest.approx(float((euclidean[0] - euclidean[1]).square().mean()), rel=1e-5)
    assert found != pytest.approx(float((absolute[0] - absolute[1]).square().mean()), rel=1e-2)


def test_vid_variances_are_learned_and_start_at_five() -> None:
    loss = losses.build("vid", layers=[[1, 1], [2, 2]])
    taps = {"hidden:1": (2, 3, 4), "hidden:2": (2, 3, 4)}
    loss.prepare(Shapes(taps, (2, 5)), Shapes(taps, (2, 5)), num_rows=2)
    scales = [name for name, _ in loss.named_parameters() if name.endswith("scale")]
    assert len(scales) == 2
    _, variance = loss.bridges[0](torch.zeros(2, 3, 4))
    assert variance.tolist() == pytest.approx([5.0] * 4)


def test_dkd_is_finite_for_confident_models() -> None:
    student = torch.tensor([[400.0, 0.0, -400.0, 1.0]], requires_grad=True)
    teacher, labels = torch.tensor([[-300.0, 500.0, 0.0, 2.0]]), torch.tensor([0])
    value = F.dkd(student, teacher, labels, temperature=1.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("name", ["dkd", "nkd", "logit_std_kl"])
def test_two_classes_are_refused_where_they_say_nothing(name: str) -> None:
    with pytest.raises(NeedsError) as error:
        losses.build(name).prepare(Shapes({}, (4, 2)), Shapes({}, (4, 2)), num_rows=4)
    assert "at least 3 classes" in str(error.value)
    assert "take the loss kl" in str(error.value)


def test_other_class_numbers_are_refused() -> None:
    with pytest.raises(NeedsError, match="the student has 3 outputs, the teacher 5"):
        losses.build("kl").prepare(Shapes({}, (4, 3)), Shapes({}, (4, 5)), num_rows=4)
    losses.build("uld").prepare(Shapes({}, (4, 3)), Shapes({}, (4, 5)), num_rows=4)


def test_not_a_number_is_not_hidden() -> None:
    student = logits(2, 3)
    student[0, 0] = math.nan
    assert torch.isnan(F.kl(student, logits(2, 3, seed=1)))
    assert torch.isnan(F.hidden_mse(student, logits(2, 3, seed=1)))


def test_mask_is_not_expanded_twice() -> None:
    loss = losses.build("hidden_mse", layers=[[1, 1], [2, 2]])
    taps = {f"hidden:{k}": logits(2, 3, 4, seed=k) for k in (1, 2)}
    others = {f"hidden:{k}": logits(2, 3, 4, seed=k + 5) for k in (1, 2)}
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    value = loss(StudentView(logits(2, 3), taps, mask), TeacherSignal(taps=others, token_mask=mask), {"labels": mask[:, 0]})
    parts = [F.hidden_mse(taps[key], others[key], mask=mask, reduction="sum") for key in taps]
    assert float(value.sum) == pytest.approx(float(sum(parts)) / 2)


def test_widths_without_bridge_are_refused_and_bridged_by_default() -> None:
    student, teacher = Shapes({"hidden:-1": (2, 3, 4)}, (2, 5)), Shapes({"hidden:-1": (2, 3, 6)}, (2, 5))
    with pytest.raises(NeedsError, match="widths 4 and 6") as error:
        losses.build("hidden_mse", project="none").prepare(student, teacher, num_rows=2)
    assert "set project: auto" in str(error.value)
    loss = losses.build("hidden_mse")
    loss.prepare(student, teacher, num_rows=2)
    assert [tuple(value.shape) for value in loss.parameters()] == [(6, 4), (6,)]
    same = losses.build("hidden_mse")
    same.prepare(student, student, num_rows=2)
    assert not list(same.parameters())


def test_head_numbers_are_matched_or_averaged() -> None:
    student, teacher = Shapes({"attention:-1": (2, 2, 3, 3)}, (2, 5)), Shapes({"attention:-1": (2, 4, 3, 3)}, (2, 5))
    with pytest.raises(NeedsError, match="set heads: mean"):
        losses.build("tinybert_attention", heads="match").prepare(student, teacher, num_rows=2)
    losses.build("tinybert_attention").prepare(student, teacher, num_rows=2)
    own = Shapes({**student.taps, "value:-1": (2, 2, 3, 4)}, (2, 5))
    theirs = Shapes({**teacher.taps, "value:-1": (2, 4, 3, 4)}, (2, 5))
    with pytest.raises(NeedsError, match="minilm_v2"):
        losses.build("minilm").prepare(own, theirs, num_rows=2)


@pytest.mark.parametrize("layers", [[], "uniform", [1, 2], [[1, 2, 3]], [[1.5, 2]]])
def test_wrong_layers_are_told(layers: object) -> None:
    with pytest.raises(RecipeError, match=r"layers: \[\[1, 3\], \[2, 6\]\]"):
        losses.build("hidden_mse", layers=layers)


def test_names_are_guessed() -> None:
    with pytest.raises(RecipeError, match="did you mean 'tinybert_attention'"):
        losses.build("tinybert_atention")
    with pytest.raises(RecipeError, match="did you mean 'temperature'"):
        losses.build("kl", temprature=2)
    with pytest.raises(RecipeError, match="'median'"):
        F.kl(logits(2, 3), logits(2, 3), reduction="median")  # type: ignore[arg-type]


def test_ctkd_turns_the_gradient_of_its_temperature_round() -> None:
    loss = losses.build("ctkd", low=1.0, high=3.0)
    student, teacher = 3 * logits(8, 5), 3 * logits(8, 5, seed=1)
    loss(StudentView(student), TeacherSignal(DenseLogits(teacher)), {"labels": torch.zeros(8)}).sum.backward()
    step = 1e-2
    with torch.no_grad():
        values = []
        for offset in (step, -step):
            loss.position.fill_(1.0 + offset)
            values.append(float(loss(StudentView(student), TeacherSignal(DenseLogits(teacher)), {}).sum))
    slope = (values[0] - values[1]) / (2 * step)
    assert float(loss.position.grad) == pytest.approx(-slope, rel=1e-2)
    assert "position" in loss.state_dict()


def crd(num_rows: int = 20, **options: object):
    loss = losses.build("crd", **{"negatives": 9, "width": 4, **options})
    loss.prepare(Shapes({"head.in": (2, 6)}, (2, 3)), Shapes({"head.in": (2, 8)}, (2, 3)), num_rows=num_rows)
    return loss


def crd_step(loss, ids: list[int], seed: int = 0):
    student = logits(len(ids), 6, seed=seed).requires_grad_()
    view = StudentView(logits(len(ids), 3), {"head.in": student})
    signal = TeacherSignal(taps={"head.in": logits(len(ids), 8, seed=seed + 1)})
    return student, loss(view, signal, {"row_id": torch.tensor(ids)})


def test_crd_memory_is_saved_and_rows_keep_their_place() -> None:
    loss = crd()
    crd_step(loss, [900, 5, 77])
    places = loss.rows_of({"row_id": torch.tensor([900, 5, 77])})
    memory = loss.student_memory.clone()
    crd_step(loss, [3, 1000], seed=4)
    assert loss.rows_of({"row_id": torch.tensor([900, 5, 77])}).tolist() == places.tolist()
    changed = (loss.student_memory != memory).any(1).nonzero().flatten()
    assert sorted(changed.tolist()) == sorted(loss.rows_of({"row_id": torch.tensor([3, 1000])}).tolist())
    again = crd()
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.teacher_memory, loss.teacher_memory)
    assert again.rows_of({"row_id": torch.tensor([900, 5, 77])}).tolist() == places.tolist()


def test_crd_draws_other_rows_for_each_member() -> None:
    loss = crd(num_rows=3, negatives=500, share_negatives=False)
    rows = torch.tensor([0, 1, 2])
    draw = loss.draw(rows)
    assert draw.hits is None
    assert not (draw.negatives == rows.unsqueeze(1)).any()
    assert all(len(row.unique()) == 2 for row in draw.negatives)


def test_crd_counts_how_often_shared_negatives_hit_the_own_row() -> None:
    loss = crd(num_rows=3, negatives=500)
    draw = loss.draw(torch.tensor([2, 0]))
    assert draw.negatives.shape == (500,)
    assert draw.hits.tolist() == [int((draw.negatives == row).sum()) for row in (2, 0)]


@pytest.mark.parametrize("share", [True, False])
def test_crd_has_no_negatives_of_a_rows_own_class(share: bool) -> None:
    from potstill.losses.memory import draw_for_each, memory_contrast, shared_draw

    memory, embedding, rows = contrast_case()
    classes = torch.arange(30) % 3
    classes[5] = -1  # met by no batch yet: may be of any class
    own = classes[rows]
    own[1] = -100  # without a label: all other rows are negatives
    torch.manual_seed(0)
    drawn = shared_draw(rows, torch.arange(30), 30) if share else draw_for_each(rows, 40, 30)
    draw = drawn.among_classes(own, classes)
    found = memory_contrast(embedding, memory, draw, temperature=0.2, log_constant=ONE_AND_A_HALF)
    expected = torch.zeros((), dtype=torch.float64)
    for b, row in enumerate(rows.tolist()):
        negatives = drawn.negatives if share else drawn.negatives[b]
        others = [k for k in negatives.tolist() if k != row and (own[b] < 0 or classes[k] != own[b])]
        scores = [(embedding[b] * memory[k]).sum() / 0.2 - 1.5 for k in (row, *others)]
        noise = math.log(len(negatives) / 30)
        expected = expected + torch.nn.functional.softplus(noise - scores[0])
        expected = expected + len(negatives) / len(others) * sum(torch.nn.functional.softplus(x - noise) for x in scores[1:])
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    gradients = [torch.autograd.grad(value, embedding)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_crd_remembers_the_classes_that_training_shows() -> None:
    loss, plain = crd(num_rows=4), crd(num_rows=4, other_classes=False)
    for each in (loss, plain):
        each.set_row_ids(torch.arange(4))
        each.train()
    batch = {"labels": torch.tensor([1, 0]), "row_id": torch.tensor([2, 0])}
    classes = loss.classes_of(batch, loss.rows_of(batch))
    assert loss.known_classes.tolist() == [0, -1, 1, -1]
    assert loss.draw(torch.tensor([2, 0]), classes).classes is not None
    assert plain.classes_of(batch, plain.rows_of(batch)) is None
    assert loss.classes_of({"labels": torch.tensor([0.5, 1.0])}, torch.tensor([0, 1])) is None  # numbers are no classes
    loss.eval()
    loss.classes_of({"labels": torch.tensor([1])}, torch.tensor([1]))
    assert loss.known_classes.tolist() == [0, -1, 1, -1]


def test_crd_gradient_is_of_the_memory_as_it_was() -> None:
    loss = crd()
    loss.train()
    twin = crd()
    twin.load_state_dict(loss.state_dict())
    torch.manual_seed(1)
    student, value = crd_step(loss, [1, 2, 3])
    value.sum.backward()
    torch.manual_seed(1)
    twin.eval()
    other, still = crd_step(twin, [1, 2, 3])
    still.sum.backward()
    assert not torch.equal(loss.student_memory, twin.student_memory)
    assert float(value.sum.detach()) == pytest.approx(float(still.sum.detach()))
    assert torch.allclose(student.grad, other.grad, atol=1e-6)


ONE_AND_A_HALF = torch.tensor(1.5, dtype=torch.float64)


def contrast_case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    unit = torch.nn.functional.normalize
    memory, embedding = unit(logits(30, 4).double(), dim=-1), unit(logits(5, 4, seed=1).double(), dim=-1)
    return memory, embedding.requires_grad_(), torch.tensor([7, 3, 29, 0, 11])


def gathered_crd(embedding: torch.Tensor, memory: torch.Tensor, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    scores = [(memory[places] * embedding.unsqueeze(1)).sum(-1) / 0.2 - 1.5 for places in (rows.unsqueeze(1), index)]
    return F.crd(scores[0][:, 0], scores[1], num_rows=len(memory), reduction="sum")


def test_crd_in_one_pass_equals_gathered_rows() -> None:
    from potstill.losses.memory import Draw, memory_contrast

    memory, embedding, rows = contrast_case()
    index = torch.randint(30, (5, 11), generator=torch.Generator().manual_seed(0))
    plain = gathered_crd(embedding, memory, rows, index)
    found = memory_contrast(embedding, memory, Draw(rows, index, None), temperature=0.2, log_constant=ONE_AND_A_HALF)
    assert float(found.detach()) == pytest.approx(float(plain.detach()), rel=1e-12)
    expected = torch.autograd.grad(3 * plain, embedding)[0]
    assert torch.allclose(torch.autograd.grad(3 * found, embedding)[0], expected, atol=1e-12)


def test_shared_negatives_equal_negatives_of_each_row_in_expectation() -> None:
    from potstill.losses.memory import memory_contrast, shared_draw

    memory, embedding, rows = contrast_case()
    # every row once, own one included: what is left is each member against its 29 others
    draw = shared_draw(rows, torch.arange(30), 30)
    found = memory_contrast(embedding, memory, draw, temperature=0.2, log_constant=ONE_AND_A_HALF)
    scores = (embedding @ memory.T / 0.2 - 1.5).double()
    others = torch.ones(5, 30, dtype=torch.bool)
    others[torch.arange(5), rows] = False
    own = scores[torch.arange(5), rows]
    expected = torch.nn.functional.softplus(-own).sum() + 30 / 29 * torch.nn.functional.softplus(scores[others]).sum()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    gradients = [torch.autograd.grad(value, embedding)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-12)


def test_crd_in_blocks_equals_crd_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.losses import memory as module

    memory, embedding, rows = contrast_case()
    constant = ONE_AND_A_HALF
    for draw in (module.draw_shared(rows, 13, 30), module.draw_for_each(rows, 13, 30)):
        found = []
        for size in (1, 10**6):
            monkeypatch.setattr(module, "SHARED_SCORES", size)
            monkeypatch.setattr(module, "OWN_SCORES", size)
            value = module.memory_contrast(embedding, memory, draw, temperature=0.2, log_constant=constant)
            normaliser = module.log_normaliser(embedding.detach(), memory, draw, temperature=0.2)
            found.append(torch.stack([value.detach(), normaliser, *torch.autograd.grad(value, embedding)[0].flatten()]))
        assert torch.allclose(*found, atol=1e-12)


def test_crd_normaliser_makes_the_mean_score_one_in_n() -> None:
    from potstill.losses.memory import draw_for_each, log_normaliser

    memory, embedding, rows = contrast_case()
    draw = draw_for_each(rows, 9, 30)
    index = torch.cat([rows.unsqueeze(1), draw.negatives], 1)
    scores = (memory[index] * embedding.detach().unsqueeze(1)).sum(-1) / 0.2
    constant = log_normaliser(embedding.detach(), memory, draw, temperature=0.2)
    assert float((scores - constant).exp().mean()) == pytest.approx(1 / 30)


@pytest.mark.parametrize("share", [True, False])
def test_crd_goes_forward_twice_and_backward_after(share: bool) -> None:
    loss, alone = crd(share_negatives=share), crd(share_negatives=share)
    alone.load_state_dict(loss.state_dict())
    torch.manual_seed(1)
    student, value = crd_step(loss, [1, 2])
    crd_step(loss, [1, 2], seed=5)
    value.sum.backward()
    torch.manual_seed(1)
    other, still = crd_step(alone, [1, 2])
    still.sum.backward()
    assert torch.equal(student.grad, other.grad)


def test_crd_refuses_too_many_rows() -> None:
    loss = crd(num_rows=4)
    crd_step(loss, [1, 2, 3, 4])
    with pytest.raises(DataError, match="holds 4"):
        crd_step(loss, [50, 60])


def test_crd_takes_given_row_ids_and_row_index() -> None:
    loss = crd(num_rows=4)
    loss.set_row_ids(torch.tensor([40, 10, 30, 20]))
    assert loss.rows_of({"row_id": torch.tensor([10, 40])}).tolist() == [0, 3]
    assert loss.rows_of({"row_id": torch.tensor([10]), "row_index": torch.tensor([2])}).tolist() == [2]


def test_the_weight_of_factor_transfer_need_not_scale_its_reconstruction() -> None:
    shape = {"hidden:-1": (4, 6)}
    gradients = []
    for weight, options in ((1.0, {}), (200.0, {"reconstruction": 1 / 200})):
        torch.manual_seed(0)
        loss = losses.build("ft", **options)
        loss.prepare(Shapes(shape, (4, 3)), Shapes(shape, (4, 3)), num_rows=4)
        student = logits(4, 6, seed=1).requires_grad_()
        value = loss(StudentView(logits(4, 3), {"hidden:-1": student}), TeacherSignal(taps={"hidden:-1": logits(4, 6)}), {})
        (weight * value.sum).backward()
        gradients.append((loss.bridges[0].decoder[0].weight.grad, student.grad))
    assert torch.allclose(gradients[0][0], gradients[1][0], rtol=1e-4)
    assert torch.allclose(200 * gradients[0][1], gradients[1][1], rtol=1e-4)


def test_ofd_margin_is_the_mean_of_negative_teacher_values() -> None:
    loss = losses.build("ofd")
    shape = {"hidden:-1": (4, 3, 2, 2)}
    loss.prepare(Shapes(shape, (4, 3)), Shapes(shape, (4, 3)), num_rows=4)
    teacher = logits(4, 3, 2, 2)
    loss(StudentView(logits(4, 3), {"hidden:-1": logits(4, 3, 2, 2, seed=1)}), TeacherSignal(taps={"hidden:-1": teacher}), {})
    expected = [float(teacher[:, c][teacher[:, c] < 0].mean()) for c in range(3)]
    loss.eval()
    assert loss.bridges[0].margin(teacher, None).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("student", "teacher"), [((8, 8), (4, 4)), ((4, 4), (8, 8)), ((7, 7), (7, 7)), ((9, 5), (4, 2))])
def test_fitnet_regressor_lands_on_the_teachers_grid(student: tuple[int, int], teacher: tuple[int, int]) -> None:
    from potstill.losses.hints import Regressor

    assert Regressor((2, 3, *student), (2, 5, *teacher))(torch.zeros(2, 3, *student)).shape == (2, 5, *teacher)


@pytest.mark.parametrize(
    "name", ["hidden_mse", "cosine", "at", "gram", "affinity", "nst", "review_kd", "fsp", "ickd", "simkd", "ft", "mgd"]
)
def test_maps_of_other_grid_and_channels(name: str) -> None:
    stages = {"hidden:-3": (8, 16), "hidden:-2": (16, 8), "hidden:-1": (24, 4), "head.in": (24, 4)}
    own = {key: logits(3, width, size, size) for key, (width, size) in stages.items()}
    theirs = {key: logits(3, width + 4, size // 2, size // 2, seed=1) for key, (width, size) in stages.items()}
    loss = losses.build(name)
    shapes = [Shapes({key: tuple(value.shape) for key, value in taps.items()}, (3, 5)) for taps in (own, theirs)]
    loss.prepare(*shapes, num_rows=3)
    value = loss(StudentView(logits(3, 5), own), TeacherSignal(taps=theirs), {})
    assert torch.isfinite(value.sum)


def test_repeated_rows_do_not_blow_up_the_gradient_of_angles() -> None:
    for seed in range(6):
        rows, teacher = logits(6, 768, seed=seed), logits(6, 768, seed=seed + 20)
        rows[3] = rows[5] = rows[2]
        repeated = rows.clone().requires_grad_()
        F.rkd_angle(repeated, teacher).backward()
        exact = rows.double().requires_grad_()
        F.rkd_angle(exact, teacher.double()).backward()
        assert float(repeated.grad.abs().max()) < 3 * float(exact.grad.abs().max())


def test_each_token_has_the_scale_of_its_own_temperature() -> None:
    student, teacher = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    temperature = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.5, 0.5]]).unsqueeze(-1)
    found = F.kl(student, teacher, temperature=temperature, reduction="none")
    for row in range(2):
        each = [F.kl(student[row, [k]], teacher[row, [k]], temperature=float(temperature[row, k])) for k in range(3)]
        assert float(found[row]) == pytest.approx(float(sum(each)) / 3, rel=1e-5)


def test_patient_distillation_reads_one_token_whatever_the_others() -> None:
    loss = losses.build("pkd")
    loss.prepare(Shapes({"hidden:-1": (2, 5, 8)}, (2, 3)), Shapes({"hidden:-1": (2, 9, 8)}, (2, 3)), num_rows=4)
    view = StudentView(logits(2, 3), {"hidden:-1": logits(2, 5, 8)})
    value = loss(view, TeacherSignal(taps={"hidden:-1": logits(2, 9, 8, seed=1)}), {})
    first = logits(2, 5, 8)[:, 0], logits(2, 9, 8, seed=1)[:, 0]
    assert float(value.sum) / 2 == pytest.approx(float(F.pkd(*first)), rel=1e-6)


@pytest.mark.parametrize(("over", "expected"), [("channels", (2, 6, 1, 1)), ("positions", (2, 1, 4, 3))])
def test_generative_distillation_masks_channels_where_rows_are_classified(over: str, expected: tuple[int, ...]) -> None:
    assert losses.build("mgd").over == "channels"
    loss = losses.build("mgd", over=over)
    assert loss.mask_shape(torch.zeros(2, 6, 4, 3)) == expected
    assert loss.mask_shape(torch.zeros(2, 7, 6)) == ((2, 1, 6) if over == "channels" else (2, 7, 1))


def test_learned_temperature_starts_where_the_authors_start() -> None:
    assert float(losses.build("ctkd").learned_temperature().detach()) == pytest.approx(1 + 20 / (1 + math.exp(-1)))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.kl(logits(2, 3), logits(2, 3), direction="bakward"), RecipeError, "direction is 'bakward'"),
        (lambda: F.kl(logits(2, 3), logits(2, 3), temperature=0), RecipeError, "temperature is 0"),
        (lambda: F.bce(logits(2, 3), logits(2, 3), temperature=-1), RecipeError, "temperature is -1"),
        (lambda: F.regression(logits(4, 1), logits(4)), NeedsError, r"\[4, 1\] and \[4\] cannot be compared one by one"),
        (lambda: F.kl(logits(4, 3), logits(1, 3)), NeedsError, "one by one"),
        (lambda: F.hidden_mse(logits(4, 5, 3), logits(4, 1, 3)), NeedsError, "one by one"),
    ],
)
def test_functions_refuse_what_they_would_answer_wrongly(call, error, words) -> None:
    with pytest.raises(error, match=words):
        call()


def test_a_mask_of_rows_leaves_out_rows_of_numbers() -> None:
    values, mask = torch.tensor([[3.0, 3, 3], [0, 0, 0], [1, 0, 2]]), torch.tensor([False, True, True])
    found = F.regression(torch.zeros(3, 3), values, mask=mask, reduction="none")
    assert found.tolist() == pytest.approx([0.0, 0.0, 5 / 3])
    assert float(F.regression(torch.zeros(4, 2), torch.ones(4, 2), mask=torch.ones(4).bool())) == 1.0


@pytest.mark.parametrize("name", ["ab", "ofd", "review_kd", "simkd"])
def test_one_row_of_one_position_can_be_learned_from(name: str) -> None:
    loss = losses.build(name, layers=[[1, 1], [2, 2]])
    own = {f"hidden:{k}": logits(1, 3, 1, 1, seed=k).requires_grad_() for k in (1, 2)}
    theirs = {f"hidden:{k}": logits(1, 5, 1, 1, seed=k + 2) for k in (1, 2)}
    shapes = [Shapes({key: tuple(value.shape) for key, value in taps.items()}, (1, 2)) for taps in (own, theirs)]
    loss.prepare(*shapes, num_rows=9)
    loss.train()
    total = loss(StudentView(torch.zeros(1, 2), own), TeacherSignal(None, theirs), {}).sum
    total.backward()
    assert math.isfinite(float(total.detach()))
    assert bool(own["hidden:1"].grad.isfinite().all())


def test_the_reused_classifier_of_a_net_with_negative_features_can_be_reached() -> None:
    torch.manual_seed(0)
    teacher = logits(64, 4, 2, 2)  # half of it is negative, as behind the last block of ConvNeXt
    loss = losses.build("simkd", layers=[[1, 1]], factor=1)
    shapes = Shapes({"hidden:1": tuple(teacher.shape)}, (64, 2))
    loss.prepare(shapes, shapes, num_rows=64)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    for _ in range(150):
        value = loss(StudentView(torch.zeros(64, 2), {"hidden:1": teacher}), TeacherSignal(None, {"hidden:1": teacher}), {})
        optimizer.zero_grad()
        (value.sum / value.count).backward()
        optimizer.step()
    left_by_relu = float(teacher.clamp(max=0).square().mean())
    assert float(value.sum.detach() / value.count) < 0.7 * left_by_relu
    assert float(loss.bridges[0].lowest) == float(teacher.min())
    loss.prepare(shapes, shapes, num_rows=64)
    loss(StudentView(torch.zeros(64, 2), {"hidden:1": teacher}), TeacherSignal(None, {"hidden:1": teacher.relu()}), {})
    assert float(loss.bridges[0].lowest) == 0.0


@pytest.mark.parametrize("variance", [1e-4, 5.0, 1e6])
def test_any_variance_can_be_started_from(variance: float) -> None:
    loss = losses.build("vid", layers=[[1, 1]], initial_variance=variance)
    shapes = Shapes({"hidden:1": (2, 4)}, (2, 2))
    loss.prepare(shapes, shapes, num_rows=2)
    assert loss.bridges[0](torch.zeros(2, 4))[1].tolist() == pytest.approx([variance] * 4, rel=1e-4)
    with pytest.raises(RecipeError, match="initial_variance is 1e-08"):
        losses.build("vid", initial_variance=1e-8)


@pytest.mark.parametrize(
    ("name", "option", "value"), [("jsd", "beta", 2.0), ("skew_kl", "alpha", -1.0), ("jsd", "beta", math.nan)]
)
def test_a_share_outside_0_to_1_is_refused_by_the_function_too(name: str, option: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"{option} is {value}"):
        getattr(F, name)(logits(2, 3), logits(2, 3, seed=1), **{option: value})
    with pytest.raises(RecipeError, match=r"temperatures is \[\]"):
        losses.build("mlkd", temperatures=[])
