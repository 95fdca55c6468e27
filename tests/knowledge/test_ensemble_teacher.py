"""Several teachers as one: against independent slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from tiny_teacher import collate, make_bert

from potstill.errors import ModelError, NeedsError
from potstill.knowledge.ensemble import EnsembleTeacher
from potstill.knowledge.live import LiveTeacher


@pytest.fixture
def sources():
    return [LiveTeacher(make_bert(seed), dtype="float32") for seed in (0, 1, 2)]


@pytest.fixture
def batch(rows):
    return collate([rows[index] for index in range(6)])


def test_one_teacher_is_itself(sources, batch):
    for mode in ("probability", "logit"):
        logits = EnsembleTeacher(sources[:1], mode=mode).signal(batch).logits
        torch.testing.assert_close(logits, sources[0].signal(batch).logits.log_softmax(-1))


def test_means_equal_a_slow_version(sources, batch):
    weights = np.array([1.0, 2.0, 5.0])
    logits = np.stack([source.signal(batch).logits.double().numpy() for source in sources])
    share = (weights / weights.sum())[:, None, None]
    mixture = (share * softmax(logits, -1)).sum(0)
    product = softmax((share * logits).sum(0), -1)
    for mode, expected in (("probability", mixture), ("logit", product)):
        given = EnsembleTeacher(sources, weights.tolist(), mode=mode).signal(batch).logits
        np.testing.assert_allclose(given.exp().numpy(), expected, rtol=1e-5)


def test_weights_by_label_and_entropy_equal_slow_versions(sources, batch):
    batch["labels"][2] = -100
    chances = np.stack([softmax(source.signal(batch).logits.double().numpy(), -1) for source in sources])
    for kind in ("label", "entropy"):
        given = EnsembleTeacher(sources, confidence=kind).signal(batch).logits.exp().numpy()
        for row, label in enumerate(batch["labels"].tolist()):
            if kind == "entropy":
                trust = np.exp((chances[:, row] * np.log(chances[:, row])).sum(-1))
            else:
                trust = chances[:, row, label] if label >= 0 else np.ones(3)
            expected = (trust / trust.sum()) @ chances[:, row]
            np.testing.assert_allclose(given[row], expected, rtol=1e-4)


def test_weight_of_zero_leaves_a_teacher_out(sources, batch):
    for mode in ("probability", "logit"):
        given = EnsembleTeacher(sources[:2], [1, 0], mode=mode).signal(batch).logits
        torch.testing.assert_close(given, EnsembleTeacher(sources[:1], mode=mode).signal(batch).logits)
        assert torch.isfinite(given).all()


def test_huge_logits_stay_finite(sources, batch):
    for source in sources:
        source.model.classifier.weight.data.mul_(1e3)
    for confidence in ("none", "entropy", "label"):
        assert torch.isfinite(EnsembleTeacher(sources, confidence=confidence).signal(batch).logits.exp()).all()


def test_fingerprint_follows_members_weights_and_mode(sources):
    prints = {
        EnsembleTeacher(sources).fingerprint,
        EnsembleTeacher(sources[:2]).fingerprint,
        EnsembleTeacher(sources, [1, 1, 2]).fingerprint,
        EnsembleTeacher(sources, mode="logit").fingerprint,
    }
    assert len(prints) == 4
    assert EnsembleTeacher(sources).fingerprint == EnsembleTeacher(sources, [2, 2, 2]).fingerprint


def test_refusals(sources, batch):
    with pytest.raises(ModelError, match="no teacher"):
        EnsembleTeacher([])
    with pytest.raises(ModelError, match=r"weights \[1.0\] do not fit 3 teachers"):
        EnsembleTeacher(sources, [1.0])
    with pytest.raises(ModelError, match=r"mode of an ensemble is 'median'.*probability, logit"):
        EnsembleTeacher(sources, mode="median")
    with pytest.raises(NeedsError, match="hidden:1"):
        EnsembleTeacher(sources).signal(batch, ("hidden:1",))
    other = LiveTeacher(make_bert(num_labels=4), dtype="float32")
    with pytest.raises(ModelError, match="3, 4 classes"):
        EnsembleTeacher([sources[0], other]).signal(batch)
