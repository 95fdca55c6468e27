"""CKA ignores rotation and scale; the divergence of attention lies between 0 and ln 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potstill.errors import DataError, NeedsError
from potstill.evaluate.similarity import attention_difference, jensen_shannon, layer_similarity
from potstill.methods.similarity import model_inputs
from potstill.models.cka import cka_matrix


def linear_cka(first, second, **options):
    """Of two representations alone."""
    return cka_matrix([torch.as_tensor(first)], [torch.as_tensor(second)], **options).item()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(5, 40), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_cka_invariances(seed, num_rows, first_width, second_width, debiased):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(num_rows, first_width)), generator.normal(size=(num_rows, second_width))
    rotation, _ = np.linalg.qr(generator.normal(size=(first_width, first_width)))
    value = linear_cka(x, y, debiased=debiased)
    assert linear_cka(3.7 * x @ rotation + 5.0, y, debiased=debiased) == pytest.approx(value, abs=1e-7)
    assert linear_cka(y, x, debiased=debiased) == pytest.approx(value, abs=1e-9)
    assert linear_cka(x, x @ rotation, debiased=debiased) == pytest.approx(1.0)
    assert value <= 1.0 + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_cka_equals_the_gram_form(seed):
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(12, 3)), generator.normal(size=(12, 5))
    centre = np.eye(12) - 1 / 12
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(x, y) == pytest.approx(expected)


def test_debiasing_lowers_the_likeness_of_noise():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(30, 200)), generator.normal(size=(30, 200))
    assert linear_cka(x, y) > 0.8
    assert abs(linear_cka(x, y, debiased=True)) < 0.2
    assert linear_cka(np.ones((5, 2)), x[:5]) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 100.0]))
def test_jensen_shannon_bounds_and_definition(seed, scale):
    torch.manual_seed(seed)
    p, q = (torch.randn(6, 5).double().mul(scale).softmax(-1) for _ in range(2))
    value = jensen_shannon(p, q)
    assert (value >= 0).all()
    assert (value <= math.log(2) + 1e-12).all()
    torch.testing.assert_close(value, jensen_shannon(q, p))
    assert jensen_shannon(p, p).abs().max() < 1e-12
    for row in range(6):
        m = (p[row] + q[row]) / 2
        slow = sum(float(v[k] * math.log(v[k] / m[k])) / 2 for v in (p[row], q[row]) for k in range(5) if v[k] > 0)
        assert float(value[row]) == pytest.approx(slow, abs=1e-9)
    disjoint = jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert float(disjoint) == pytest.approx(math.log(2))


def read(model, inputs, needs):
    return {need: model[need](inputs) for need in needs}


def text_batch(lengths, tokens):
    mask = (torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.zeros(len(lengths), tokens, dtype=torch.long), "attention_mask": mask}


def scores(heads, seed):
    def give(inputs):
        rows, tokens = inputs["input_ids"].shape
        made = torch.randn(8, heads, 16, 16, generator=torch.Generator().manual_seed(seed))
        made = made[:rows, :, :tokens, :tokens].clone()
        made[:, :, inputs["attention_mask"][0] == 0] += 7.0  # what padded queries hold must not matter
        return made

    return give


def test_padding_and_heads_and_own_inputs():
    model = {"attention:1": scores(2, 0), "attention:2": scores(4, 1)}
    short = text_batch([5, 3], 5)
    padded = text_batch([5, 3], 9)
    same = attention_difference(model, model, [short], pairs=[(1, 1)], read=read)
    assert same.divergence.mean() == pytest.approx(0.0, abs=1e-12)
    assert same.maps[0][0].shape == (5, 5)
    one = attention_difference(model, model, [short], pairs=[(1, 2)], read=read)
    two = attention_difference(model, model, [padded], pairs=[(1, 2)], read=read)
    assert 0 < one.divergence.mean() < math.log(2)
    assert one.divergence.mean() == pytest.approx(two.divergence.mean())
    own = short | {f"teacher_{name}": value for name, value in padded.items()}
    assert attention_difference(model, model, [own], pairs=[(1, 2)], read=read).divergence.mean() == pytest.approx(
        one.divergence.mean()
    )
    assert set(model_inputs(own | {"labels": 0, "row_id": 0})) == set(short)
    assert model_inputs(own, teacher=True)["input_ids"].shape == (2, 9)


def test_rows_of_other_lengths_are_left_out():
    model = {"attention:1": scores(2, 0)}
    batch = text_batch([5, 3], 5)
    other = {f"teacher_{name}": value for name, value in text_batch([5, 4], 5).items()}
    assert attention_difference(model, model, [batch | other], pairs=[(1, 1)], read=read).num_rows == 1
    none = {f"teacher_{name}": value for name, value in text_batch([4, 4], 5).items()}
    with pytest.raises(NeedsError, match=r"no row has the same number of tokens"):
        attention_difference(model, model, [batch | none], pairs=[(1, 1)], read=read)


def test_layer_similarity_masks_padding():
    def hidden(width):
        def give(inputs):
            rows, tokens = inputs["input_ids"].shape
            made = torch.randn(64, 16, width, generator=torch.Generator().manual_seed(width))[:rows, :tokens].clone()
            made[inputs["attention_mask"] == 0] = 1e6
            return made

        return give

    model = {"hidden:1": hidden(3), "hidden:2": hidden(4)}
    lengths = [1 + row % 7 for row in range(40)]
    made = [
        layer_similarity(
            model,
            model,
            [text_batch(lengths, tokens)],
            student_needs=["hidden:1"],
            teacher_needs=["hidden:1", "hidden:2"],
            read=read,
        )
        for tokens in (7, 15)
    ]
    np.testing.assert_allclose(made[0], made[1])
    assert made[0][0, 0] == pytest.approx(1.0)
    assert 0 <= made[0][0, 1] < 1


def test_images_are_pooled():
    model = {"hidden:1": lambda inputs: inputs["pixel_values"]}
    batch = {"pixel_values": torch.randn(6, 3, 4, 4)}
    made = layer_similarity(model, model, [batch], student_needs=["hidden:1"], teacher_needs=["hidden:1"], read=read)
    assert made[0, 0] == pytest.approx(1.0)


def test_messages():
    with pytest.raises(DataError, match=r"3 and 4 rows were given for CKA.*Accepted: the same rows"):
        linear_cka(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(NeedsError, match=r"no pair of layers"):
        attention_difference({}, {}, [], pairs=[], read=read)
    with pytest.raises(DataError, match=r"0 rows were given to compare layers"):
        layer_similarity({}, {}, [], student_needs=["hidden:1"], teacher_needs=["hidden:1"], read=read)
