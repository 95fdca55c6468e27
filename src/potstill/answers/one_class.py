"""One class of several, for a row or for each unit of a row.

Shapes: N rows, M units that count, B batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch.nn.functional as F
from torch import Tensor

from potstill.answers.base import RowAnswers, by_name, known_means, means_of_units, unknown
from potstill.answers.class_labels import LabelMap, are_placeholders, as_name, names_of, raw_labels, renamed
from potstill.answers.fidelity import Reliability, log_softmax, reliability_of
from potstill.answers.judging import (
    Closeness,
    KeptRows,
    Worst,
    check_pair,
    class_figures,
    furthest,
    no_labels,
    shared_units,
    units_of,
)
from potstill.answers.units import FLOOR
from potstill.contracts.answers import NO_LABEL, Judge, Mapped, Predictions
from potstill.data.columns import checked_roles, label_role, named_label
from potstill.errors import DataError, ModelError
from potstill.ground.counted import inflected

if TYPE_CHECKING:
    from datasets import Dataset

    from potstill.contracts.modality import Modality


class Classes(RowAnswers):
    """Answers that are distributions over classes which exclude each other."""

    is_distribution = True
    from_labels: Mapping[str, Any] | None = {"name": "ce"}
    from_teacher: tuple[Mapping[str, Any], ...] = ({"name": "kl"},)

    def judge(self) -> Judge:
        """See `ClassJudge`."""
        return ClassJudge(self)

    def closeness(self, student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
        """``agreement`` of the first choice, and ``teacher_kl``: mean KL(teacher ‖ student) in nats at τ = 1, of [N, C]."""
        theirs, ours = log_softmax(teacher), log_softmax(student)
        divergence = (np.exp(theirs) * (theirs - ours)).sum(-1)
        return {"agreement": float((teacher.argmax(-1) == student.argmax(-1)).mean()), "teacher_kl": float(divergence.mean())}

    def uncertainty(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `class_uncertainty`."""
        return class_uncertainty(logits, mask)

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """KL in nats at τ = 1; the squared difference where there is one output only."""
        if teacher.shape[-1] < 2:
            return (teacher - student).square().mean(-1)
        log_p, log_q = F.log_softmax(teacher, dim=-1), F.log_softmax(student, dim=-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def label_distance(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; the mean over units."""
        if labels.is_floating_point() or logits.shape[-1] < 2 or labels.shape != logits.shape[:-1]:
            return unknown(logits)
        values = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="none")
        return known_means(values.view(labels.shape), labels != NO_LABEL)


class OneClass(Classes):
    """One class a row; labels become [N] int64."""

    kind = reported = "class"
    noun = "one class"
    can_average = True

    def find_columns(
        self, dataset: Dataset, asked: Mapping[str, Any] | None, modality: Modality, *, labelled: bool = True
    ) -> dict[str, str]:
        """The content, and ``label`` by name or else by type."""
        features = dataset.features
        roles = checked_roles(features, asked, (*modality.roles, "label"))
        label = named_label(features, roles)
        roles = modality.find_content(features, roles, taken=label)
        return roles | label_role(features, roles, label, labelled)

    def renamed(self, raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
        """See `potstill.answers.class_labels.renamed`."""
        return renamed(raw, label_map)

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """Names, integers or booleans; see `potstill.answers.class_labels.raw_labels`."""
        return raw_labels(dataset, roles["label"], split)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """Refuses a single class; see `potstill.answers.class_labels.LabelMap`."""
        found = set(raw)
        own = names_of(found, feature)
        present = {as_name(label) for label in found}
        if len(present) < 2:
            raise DataError(
                f"all {len(raw)} training rows have the label {next(iter(present))!r} (column {roles['label']!r})",
                "at least two labels",
                "add rows of another label, or name another label column: data.columns: {label: …}",
            )
        if given is None:
            return own, LabelMap(own, found)
        has_names = bool(getattr(feature, "names", None))
        if has_names and are_placeholders(given) and len(own) == len(given):
            mapping = LabelMap(own, found)
            mapping.notes.append("the teacher's labels have no names; those of the data are taken, in the data's order")
            return own, mapping
        names = tuple(str(name) for name in given)
        # What has to agree with the teacher: all names of a ClassLabel, also those without a row, else the labels found.
        return names, LabelMap(names, list(own) if has_names else list(found), given=True)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """See `LabelMap`."""
        mapping = LabelMap(names, raw, given=True, subset=True)
        return Mapped(mapping.positions, mapping.notes)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """−100."""
        return np.full(count, NO_LABEL, np.int64)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """The classes."""
        return values

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``, its ``probability``, and the ``probabilities`` of all classes."""
        return named_classes(found.logits, self.label_names)


class ClassJudge(KeptRows):
    """Judges classes by counts and a few numbers of each unit; the logits of a batch are not kept.

    Kept of each unit of the student: ``label``, ``answered``, ``is_finite``, ``sure`` (probability of the answer) and ``row``. Of
    each that the teacher has too: ``both_label``, ``both_row``, ``same``, ``kl``, the class that each says (``own``, ``their``)
    and the probability that each gives to the label (``own_truth``, ``their_truth``).
    """

    def __init__(self, answers: Classes) -> None:
        super().__init__()
        self.answers = answers

    def keep(self, student: Predictions, teacher: Predictions | None) -> dict[str, np.ndarray]:
        """See the class."""
        own = units_of(student)
        logits, labels = np.asarray(own.logits), np.asarray(own.labels)
        with np.errstate(invalid="ignore"):
            sure = np.exp(log_softmax(logits).max(-1)) if len(logits) else np.zeros(0)
        kept = {"label": labels, "answered": logits.argmax(-1), "is_finite": np.isfinite(logits).all(-1), "sure": sure}
        kept |= {"row": np.asarray(own.row_ids), "classes": np.array([logits.shape[-1]])}
        return kept if teacher is None else kept | _compared(*shared_units(student, teacher))

    def quality(self) -> dict[str, float]:
        """Accuracy, macro F1 and Matthews correlation; see `class_quality`."""
        return class_quality(self.confusion())

    def per_class(self) -> list[dict[str, Any]]:
        """For each class, in order: ``label``, ``support`` (rows of it), ``precision``, ``recall`` and ``f1``.

        A measure that no row counts for is None.
        """
        matrix = self.confusion()
        right = np.diag(matrix)
        return class_figures(np.stack([right, matrix.sum(0) - right, matrix.sum(1) - right], axis=1))

    def confusion(self) -> np.ndarray:
        """Counts [C, C] int64: right class down, answered class across; units with negative labels are left out.

        Raises:
            ModelError: Logits that are not finite, or no unit with a label.
        """
        known = self._known()
        broken = np.flatnonzero(known & ~self["is_finite"])
        if len(broken):
            raise ModelError(
                f"{len(broken)} of {int(known.sum())} rows {inflected(len(broken), 'has', 'have')} logits that are not finite"
                f" (the first is row {broken[0]})",
                "finite logits",
                "run the model in float32, or lower the learning rate it was trained with",
            )
        return confusion_of(self["label"][known], self["answered"][known], int(self["classes"].max()))

    def closeness(self) -> Closeness:
        """Agreement, WDSR and mean KL.

        WDSR, the weighted distillation success rate, is Σ p_teacher(label) · [same answer] / Σ p_teacher(label); None where no
        unit has a label. KL(teacher ‖ student) = Σ p_teacher · (log p_teacher − log p_student), in nats.
        """
        known = self["both_label"] != NO_LABEL
        weights, same = self["their_truth"][known], self["same"][known]
        weighted = float((weights * same).sum() / weights.sum()) if weights.sum() > 0 else None
        return Closeness(float(self["same"].mean()), weighted, max(0.0, float(self["kl"].mean())))

    def calibration(self) -> Reliability:
        """Rows binned by the probability of the class that is named; see `potstill.answers.fidelity.reliability_of`.

        *Source*: Guo et al. 2017, On Calibration of Modern Neural Networks (https://arxiv.org/abs/1706.04599).
        """
        known = self["label"] != NO_LABEL
        return reliability_of(self["sure"][known], self["answered"][known] == self["label"][known])

    def worst(self, names: Sequence[str], count: int) -> list[Worst]:
        """By how much less probability than the teacher the student gives to the true class."""
        known = np.flatnonzero(self["both_label"] >= 0)
        mine, theirs = self["own_truth"][known], self["their_truth"][known]
        return [
            Worst(
                int(self["both_row"][known[at]]),
                self.name(names, self["both_label"][known[at]]),
                self.name(names, self["their"][known[at]]),
                self.name(names, self["own"][known[at]]),
                float(theirs[at]),
                float(mine[at]),
            )
            for at in furthest(theirs - mine, count)
        ]

    def name(self, names: Sequence[str], index: int) -> str:
        """A class in words."""
        return names[int(index)]

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of accuracy: right units and units of each row that has any."""
        if metric != "accuracy":
            return None
        known = self._known()
        _, first, row = np.unique(self["row"][known], return_index=True, return_inverse=True)
        row = np.argsort(np.argsort(first))[row]  # rows in their order, from which the draws of a seed are made
        right = np.bincount(row, weights=self["answered"][known] == self["label"][known])
        sums = np.stack([right, np.bincount(row)], axis=1).astype(np.float64)
        return sums, lambda means: float(means[0] / means[1])

    def _known(self) -> np.ndarray:
        known: np.ndarray = self["label"] >= 0
        if not known.any():
            raise no_labels()
        return known


def named_classes(logits: np.ndarray, names: Sequence[str]) -> pa.Table:
    """What logits [N, C] say in words: the likeliest class, its probability, and the probability of each class."""
    chances = np.exp(log_softmax(logits))
    best = chances.argmax(-1)
    return pa.table(
        {
            "prediction": pa.array([names[index] for index in best], pa.string()),
            "probability": pa.array(chances.max(-1), pa.float32()),
            "probabilities": by_name(chances, names),
        }
    )


def class_uncertainty(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """[B] the entropy of softmax(logits) by the log of how many classes a row may have (without those at −∞ or `FLOOR`).

    Args:
        logits: [B, C] or [B, U, C].
        mask: [B, U], true on the units that count.
    """
    logits = logits.detach().float()
    choices = (logits > 0.99 * FLOOR).sum(-1).clamp(min=2)
    log_p = F.log_softmax(logits.nan_to_num(neginf=FLOOR, posinf=-FLOOR), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(-1) / choices.log()
    return means_of_units(entropy, mask).clamp(0.0, 1.0)


def class_quality(matrix: np.ndarray) -> dict[str, float]:
    """Measures of classification from a confusion matrix [C, C].

    Accuracy is the share of right answers; macro F1 the plain mean of the F1 of every class that occurs among labels or
    answers; ``mcc`` the Matthews correlation for any number of classes, 0 where it is undefined.

    Source: Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8.

    Example:
        >>> class_quality(np.array([[3, 1], [0, 4]]))["accuracy"]
        0.875
    """
    total = matrix.sum()
    true, answered = matrix.sum(1), matrix.sum(0)
    right = np.trace(matrix)
    spread = math.sqrt(float(total**2 - (true**2).sum())) * math.sqrt(float(total**2 - (answered**2).sum()))
    f1 = _f1(matrix)[(true + answered) > 0]
    return {
        "accuracy": float(right / total),
        "macro_f1": float(f1.mean()),
        "mcc": float((total * right - (true * answered).sum()) / spread) if spread else 0.0,
    }


def confusion_of(labels: np.ndarray, answered: np.ndarray, classes: int) -> np.ndarray:
    """Counts [C, C] int64: right class down, answered class across."""
    return np.bincount(labels * classes + answered, minlength=classes * classes).reshape(classes, classes)


def _compared(ours: Predictions, theirs: Predictions) -> dict[str, np.ndarray]:
    student, teacher, labels = np.asarray(ours.logits), np.asarray(theirs.logits), np.asarray(ours.labels)
    check_pair(student, teacher)
    known = labels != NO_LABEL
    if known.any() and (labels[known].min() < 0 or labels[known].max() >= student.shape[-1]):
        raise DataError(
            f"labels go from {labels[known].min()} to {labels[known].max()}", f"0 to {student.shape[-1] - 1}, or {NO_LABEL}"
        )
    own, other = log_softmax(student), log_softmax(teacher)
    at = np.arange(len(labels)), np.where(known, labels, 0)
    said = {"own": student.argmax(-1), "their": teacher.argmax(-1)}
    said |= {"own_truth": np.exp(own[at]), "their_truth": np.exp(other[at]), "both_label": labels, "both_row": ours.row_ids}
    return said | {"same": said["own"] == said["their"], "kl": (np.exp(other) * (other - own)).sum(-1)}


def _f1(matrix: np.ndarray) -> np.ndarray:
    both = matrix.sum(0) + matrix.sum(1)
    return 2 * np.diag(matrix) / np.maximum(both, 1)
