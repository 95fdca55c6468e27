"""Blocks chosen in every step: the mix equals its formula, equal blocks find each other, and what cannot be mixed is refused."""

from __future__ import annotations

import pytest
import torch

from potstill.contracts.signal import TeacherSignal
from potstill.errors import NeedsError, RecipeError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import build
from potstill.losses.contract import Shapes, StudentView
from potstill.losses.functional import routed
from potstill.losses.routing import routing_shares
from potstill.methods.catalogue import build as build_method
from potstill.methods.contract import MethodOptions, ModelFacts
from potstill.models.cka import cka_matrix
from potstill.planning.loss_table import read_losses

TINY, BASE = ModelFacts(2, 16, 2, "text"), ModelFacts(4, 32, 4, "text")


def test_shares_are_a_softmax_of_similarities():
    torch.manual_seed(0)
    ours, theirs = [torch.randn(9, 5) for _ in range(2)], [torch.randn(9, 7) for _ in range(3)]
    found = routing_shares(ours, theirs, temperature=0.2)
    for row, own in enumerate(ours):
        scores = cka_matrix([own], theirs, debiased=True)[0]
        torch.testing.assert_close(found[row], (scores / 0.2).softmax(0))
    hard = routing_shares(ours, theirs, mix="most_similar")
    assert torch.equal(hard.argmax(1), found.argmax(1))
    assert hard.sum().item() == 2
    assert hard.max(1).values.tolist() == [1, 1]


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_the_distance_is_from_the_mix(distance):
    torch.manual_seed(0)
    own, theirs = torch.randn(3, 4, 6), [torch.randn(3, 4, 6) for _ in range(2)]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    rows = []
    for row in range(3):
        values = []
        for token in range(int(mask[row].sum())):
            target = 0.25 * theirs[0][row, token] + 0.75 * theirs[1][row, token]
            s = own[row, token]
            cosine = 1 - float(s @ target / (s.norm() * target.norm()))
            values.append(cosine if distance == "cosine" else float((s - target).pow(2).mean()))
        rows.append(sum(values) / len(values))
    found = routed(own, theirs, shares=torch.tensor([0.25, 0.75]), distance=distance, mask=mask, reduction="none")
    assert found.tolist() == pytest.approx(rows, abs=1e-6)


def test_blocks_that_are_equal_find_each_other_and_the_choice_is_kept():
    torch.manual_seed(0)
    theirs = {f"hidden:{k}": torch.randn(8, 5, 6) for k in (1, 2, 3)}
    loss = build("routed", student_layers=[1, 2], teacher_layers=[1, 2, 3], mix="most_similar")
    ours = {"hidden:1": theirs["hidden:3"].clone().requires_grad_(), "hidden:2": theirs["hidden:1"].clone().requires_grad_()}

    def shapes(values):
        return Shapes({name: tuple(value.shape) for name, value in values.items()}, (8, 2))

    loss.prepare(shapes(ours), shapes(theirs), num_rows=8)
    value = loss.train()(StudentView(torch.zeros(8, 2), ours), TeacherSignal(DenseLogits(torch.zeros(8, 2)), theirs), {})
    assert float(value.sum.detach()) == pytest.approx(0.0, abs=1e-6)
    assert {name: float(metric) for name, metric in value.metrics.items()} == {"hidden:1 from": 3.0, "hidden:2 from": 1.0}
    assert loss.shares[0, 2] > loss.shares[0, 0], "the running choice follows"
    assert "shares" in loss.state_dict()
    before = loss.shares.clone()
    loss.eval()(StudentView(torch.zeros(8, 2), ours), TeacherSignal(DenseLogits(torch.zeros(8, 2)), theirs), {})
    assert torch.equal(before, loss.shares), "evaluation leaves it as it is"


def test_dynamic_layers_replace_the_terms_that_can_choose():
    stages = build_method("tinybert", TINY, BASE, MethodOptions(layers="dynamic"))
    terms = {term.name: term for term in stages[0].terms}
    assert terms["routed"].options == {"student_layers": [1, 2], "teacher_layers": [1, 2, 3, 4], "distance": "mse"}
    assert terms["tinybert_attention"].options["layers"] == [(1, 2), (2, 4)]
    built = [build(term.name, **term.options) for term in stages[0].terms]
    assert built[1].needs_teacher() == ("hidden:1", "hidden:2", "hidden:3", "hidden:4")
    (term,) = read_losses([{"name": "cosine", "layers": "dynamic", "weight": 0.5}], TINY, BASE)
    assert (term.name, term.weight, term.options["distance"]) == ("routed", 0.5, "cosine")


def test_a_table_by_part_of_the_network():
    given = {"backbone": {"type": "mse", "weight": 0.5}, "neck": "cosine", "head": {"type": "kl", "temperature": 3.0}}
    backbone, neck, head = read_losses(given, TINY, BASE)
    assert (backbone.name, backbone.weight, backbone.options) == ("hidden_mse", 0.5, {"layers": [(1, 2), (2, 4)]})
    assert (neck.name, neck.weight, neck.options) == ("cosine", 1.0, {"layers": [(2, 4)]})
    assert (head.name, head.temperature, head.options) == ("kl", 3.0, {})
    for table in ({"head": None}, {"backbone": ["hidden_mse"], "head": "kl"}):
        with pytest.raises(RecipeError, match=r"distill\.losses\.\w+ is .*a mapping \{type, weight, temperature\}"):
            read_losses(table, TINY, BASE)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: build_method("dkd", TINY, BASE, MethodOptions(layers="dynamic")), RecipeError, r"method 'dkd' has no term"),
        (
            lambda: read_losses(["at"], TINY, BASE, layers="dynamic"),
            RecipeError,
            r"dynamic for the loss 'at'",
        ),
        (
            lambda: build_method(
                "layered", ModelFacts(3, 8, None, "image"), ModelFacts(3, 8, None, "image"), MethodOptions(layers="dynamic")
            ),
            NeedsError,
            r"stages of the student \(a convolutional net\) have grids of different sizes.*set distill.layers: auto",
        ),
        (lambda: build("routed", student_layers=3), RecipeError, r"student_layers is 3\. Accepted: a list of blocks"),
    ],
)
def test_what_cannot_choose_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_blocks_of_other_shapes_are_refused():
    loss, logits = build("routed", teacher_layers=[1, 2]), (4, 2)
    grids = Shapes({"hidden:1": (4, 8, 4, 4), "hidden:2": (4, 16, 2, 2)}, logits)
    with pytest.raises(NeedsError, match=r"routed mixes blocks of the teacher, which have the shapes"):
        loss.prepare(Shapes({"hidden:-1": (4, 8, 4, 4)}, logits), grids, num_rows=4)
    tokens = Shapes({"hidden:1": (4, 6, 8), "hidden:2": (4, 6, 8)}, logits)
    with pytest.raises(NeedsError, match=r"have different token counts or grids"):
        loss.prepare(Shapes({"hidden:-1": (4, 5, 8)}, logits), tokens, num_rows=4)
