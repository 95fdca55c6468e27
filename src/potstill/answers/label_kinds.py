"""How labels are written in the data and what they become: one class, several labels at once, numbers, or scores of pairs.

Shapes: N rows, C labels, K numbers of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset

from potstill.answers import class_labels as labels
from potstill.answers.multi_labels import read_label_sets, set_order
from potstill.answers.number_labels import NumberMap, number_order, read_numbers
from potstill.errors import DataError
from potstill.ground.tables import resolve

KINDS = {
    "class": "potstill.answers.label_kinds:OneClassLabels",
    "labels": "potstill.answers.label_kinds:LabelSets",
    "numbers": "potstill.answers.label_kinds:Numbers",
    "scores": "potstill.answers.label_kinds:PairScores",
    "spans": "potstill.answers.span_labels:SpanLabels",
    "tags": "potstill.answers.tag_labels:TagLabels",
}
_BINS = 10


class Mapped(Protocol):
    """Takes labels as written to arrays."""

    notes: list[str]

    def positions(self, raw: Sequence[Any], split: str) -> np.ndarray:
        """Labels of a split as an array, first axis N."""
        ...


class LabelKind(Protocol):
    """One way of labelling rows.

    Attributes:
        is_optional: Whether rows may do without.
    """

    is_optional: bool

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """Labels as written, one a row, None where a row has none."""
        ...

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The names and what takes labels to them, from the training rows; `given` is the teacher's order."""
        ...

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """What takes labels to known names, of which the rows may lack some."""
        ...

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """Labels of rows that have none."""
        ...

    def strata(self, values: np.ndarray) -> np.ndarray:
        """[N] int64 the group of each row, whose shares are kept where rows are drawn."""
        ...

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows as they are encoded; all kinds but scores of pairs leave them as they are."""
        ...


def kind_of(task: Any) -> LabelKind:
    """The way of labelling that a task asks for; one class where it does not say."""
    made: LabelKind = resolve(KINDS, getattr(task, "label_kind", "class"), kind="label kind")()
    return made


def label_columns(roles: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that hold labels: of the role ``label``, or of the roles ``label:NAME``, one column a label or number."""
    return tuple(column for role, column in roles.items() if role == "label" or role.startswith("label:"))


class _Plain:
    is_optional = False

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        return content, values


class OneClassLabels(_Plain):
    """One class a row: [N] int64."""

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """Names, integers or booleans; see `potstill.answers.class_labels.raw_labels`."""
        return labels.raw_labels(dataset, roles["label"], split)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """Refuses a single class; see `potstill.answers.class_labels.LabelMap`."""
        found = set(raw)
        own = labels.names_of(found, feature)
        present = {labels.as_name(label) for label in found}
        if len(present) < 2:
            raise DataError(
                f"all {len(raw)} training rows have the label {next(iter(present))!r} (column {roles['label']!r})",
                "at least two labels",
                "add rows of another label, or name another label column: data.columns: {label: …}",
            )
        if given is None:
            return own, labels.LabelMap(own, found)
        has_names = bool(getattr(feature, "names", None))
        if has_names and labels.are_placeholders(given) and len(own) == len(given):
            mapping = labels.LabelMap(own, found)
            mapping.notes.append("the teacher's labels have no names; those of the data are taken, in the data's order")
            return own, mapping
        names = tuple(str(name) for name in given)
        # What has to agree with the teacher: all names of a ClassLabel, also those without a row, else the labels found.
        return names, labels.LabelMap(names, list(own) if has_names else list(found), given=True)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """See `LabelMap`."""
        return labels.LabelMap(names, raw, given=True, subset=True)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """−100."""
        return np.full(count, labels.NO_LABEL, np.int64)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """The classes."""
        return values


class LabelSets(_Plain):
    """Any number of labels a row: [N, C] float32 of 0 and 1."""

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """A tuple a row; see `potstill.answers.multi_labels.read_label_sets`."""
        return read_label_sets(dataset, roles, split)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """See `potstill.answers.multi_labels.set_order`."""
        return set_order(raw, roles, feature, given)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """See `LabelSetMap`."""
        return set_order(raw, {}, None, names, subset=True)[1]

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """−100 in every place."""
        return np.full((count, len(names)), labels.NO_LABEL, np.float32)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """The rarest label of each row, so that rare ones keep their share; rows without any are a group of their own."""
        order = np.argsort(values.sum(0), kind="stable")
        sorted_labels = values[:, order] > 0
        return np.where(sorted_labels.any(1), order[sorted_labels.argmax(1)], values.shape[1]).astype(np.int64)


class Numbers(_Plain):
    """One number a row or several: [N, K] float32."""

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """A tuple a row; see `potstill.answers.number_labels.read_numbers`."""
        return read_numbers(dataset, label_columns(roles), split)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """See `potstill.answers.number_labels.number_order`."""
        return number_order(raw, roles, given)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """See `NumberMap`; columns are brought into the order of the names."""
        columns = [role.removeprefix("label:") for role in roles if role.startswith("label:")]
        is_named = len(columns) > 1 and set(columns) == set(names)
        return NumberMap(len(names), [columns.index(name) for name in names] if is_named else None)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """NaN in every place."""
        return np.full((count, len(names)), np.nan, np.float32)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """Tenths of the first number, by rank."""
        first = values[:, 0]
        edges = np.unique(np.quantile(first[~np.isnan(first)], np.linspace(0, 1, _BINS + 1)[1:-1])) if len(first) else first
        return np.searchsorted(edges, first).astype(np.int64)


class PairScores(Numbers):
    """Pairs of texts, each with a score of how alike they are, or single texts without one: [N, 1] float32.

    A pair is encoded as two rows, one after the other, both with its score.
    """

    is_optional = True

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[Any]:
        """A number a row, or None for all where there is no score."""
        columns = label_columns(roles)
        return read_numbers(dataset, columns, split) if columns else [None] * len(dataset)

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """No names: an embedding has none."""
        return (), NumberMap(1)

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Mapping[str, str]) -> Mapped:
        """See `NumberMap`."""
        return NumberMap(1)

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """NaN."""
        return np.full((count, 1), np.nan, np.float32)

    def strata(self, values: np.ndarray) -> np.ndarray:
        """Tenths of the score; one group where there is none."""
        return np.zeros(len(values), np.int64) if np.isnan(values).all() else super().strata(values)

    def spread(self, content: pa.Table, values: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Both texts of each pair as rows of their own."""
        if "text_pair" not in content.column_names:
            return content, values
        both = [content["text"].to_pylist(), content["text_pair"].to_pylist()]
        texts = [text for pair in zip(*both) for text in pair]
        return pa.table({"text": pa.array(texts, pa.large_string())}), values.repeat(2, axis=0)
