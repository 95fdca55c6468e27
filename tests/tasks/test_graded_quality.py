"""Measures of label sets, numbers and embeddings equal independent ones, and leave rows without labels out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics

from potstill import tasks
from potstill.answers.correlations import ranks
from potstill.answers.embedding import embedding_closeness, pair_correlation
from potstill.answers.label_sets import label_closeness, label_set_quality
from potstill.answers.numbers import number_closeness, number_quality
from potstill.errors import ModelError


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(0)


def test_label_sets_equal_scikit_learn(chance: np.random.Generator) -> None:
    logits, labels = chance.normal(size=(60, 4)), (chance.random((60, 4)) < 0.4).astype(np.float32)
    found, answered = label_set_quality(logits, labels), logits > 0
    assert found["micro_f1"] == pytest.approx(metrics.f1_score(labels, answered, average="micro"))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, answered, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(metrics.accuracy_score(labels, answered))
    classes = tasks.build("multi-label").per_class(logits, labels)
    assert [one["f1"] for one in classes] == pytest.approx(metrics.f1_score(labels, answered, average=None).tolist())
    assert [one["support"] for one in classes] == labels.sum(0).tolist()


def test_numbers_equal_scipy_and_scikit_learn(chance: np.random.Generator) -> None:
    labels = chance.normal(size=(50, 1)).astype(np.float32)
    values = labels + chance.normal(size=(50, 1))
    found = number_quality(values, labels)
    assert found["pearson"] == pytest.approx(pearsonr(values[:, 0], labels[:, 0])[0])
    assert found["spearman"] == pytest.approx(spearmanr(values[:, 0], labels[:, 0])[0])
    assert found["r2"] == pytest.approx(metrics.r2_score(labels, values))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(labels, values))


def test_equal_values_share_their_rank() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_correlation_does_not_depend_on_units_and_is_zero_where_nothing_changes(chance: np.random.Generator) -> None:
    labels = chance.normal(size=(40, 2))
    values = labels + chance.normal(size=(40, 2))
    assert number_quality(1000 * values + 7, labels)["pearson"] == pytest.approx(number_quality(values, labels)["pearson"])
    assert number_quality(np.ones((40, 2)), labels)["pearson"] == 0.0


def test_concordance_is_one_only_for_equal_numbers(chance: np.random.Generator) -> None:
    labels = chance.normal(size=(40, 1))
    assert number_quality(labels, labels)["concordance"] == pytest.approx(1.0)
    for other in (0.5 * labels, labels + 1.0):
        assert number_quality(other, labels)["pearson"] == pytest.approx(1.0)
        assert number_quality(other, labels)["concordance"] < 0.9


@pytest.mark.parametrize(("name", "nothing"), [("multi-label", -100.0), ("regression", np.nan)])
def test_rows_without_labels_change_nothing(name: str, nothing: float, chance: np.random.Generator) -> None:
    task = tasks.build(name)
    logits, labels = chance.normal(size=(30, 3)), (chance.random((30, 3)) < 0.5).astype(np.float32)
    more = np.concatenate([labels, np.full((5, 3), nothing, np.float32)])
    assert task.quality(np.concatenate([logits, chance.normal(size=(5, 3))]), more) == task.quality(logits, labels)
    with pytest.raises(ModelError, match="no row has a label"):
        task.quality(logits, np.full((30, 3), nothing))


def test_other_widths_are_refused(chance: np.random.Generator) -> None:
    with pytest.raises(ModelError, match=r"gives \(3,\) answers a row and the rows have \(2,\) labels"):
        label_set_quality(chance.normal(size=(4, 3)), np.ones((4, 2)))


def test_a_model_is_closest_to_itself(chance: np.random.Generator) -> None:
    answers = chance.normal(size=(20, 6))
    assert label_closeness(answers, answers) == {"agreement": 1.0, "teacher_kl": 0.0}
    assert number_closeness(answers, answers) == pytest.approx({"teacher_pearson": 1.0, "teacher_rmse": 0.0})
    assert embedding_closeness(answers, answers) == pytest.approx({"teacher_cosine": 1.0, "same_neighbour": 1.0})
    assert label_closeness(answers * 60, -answers * 60)["teacher_kl"] > 1.0


def test_pairs_are_ranked_by_their_cosine(chance: np.random.Generator) -> None:
    embeddings = chance.normal(size=(40, 5))
    first, second = embeddings[0::2], embeddings[1::2]
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    scores = chance.normal(size=20)
    assert pair_correlation(embeddings, scores.repeat(2)[:, None]) == pytest.approx(spearmanr(cosine, scores)[0])
    with pytest.raises(ModelError, match="not in pairs"):
        pair_correlation(embeddings[1:], scores.repeat(2)[1:, None])
