"""One split on its way: columns found, content checked, labels as written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from potstill.contracts.task import Task
from potstill.data.columns import NoColumn
from potstill.data.likely_columns import with_likely_label, with_settings, without_short_columns
from potstill.data.sources import Source, read_source
from potstill.data.written_lists import with_lists
from potstill.errors import DataError
from potstill.ground.counted import inflected

_SHOWN_ROWS = 5


@dataclass
class Part:
    """One split on its way: its content columns and its labels as written."""

    content: pa.Table
    raw: list[Any]
    feature: Any = None
    roles: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowSettings:
    """What happens to rows that cannot be taken as they are.

    Attributes:
        skip_corrupt: Whether images that cannot be read are left out instead of refused.
        label_map: Label of the data → label to take it for.
        use_unlabelled: Whether training rows without a label are learned from as unlabelled ones instead of refused.
    """

    skip_corrupt: bool = False
    label_map: Mapping[str, str] = field(default_factory=dict)
    use_unlabelled: bool = False


class Reader:
    """Brings each split into fixed columns and collects what there is to say."""

    def __init__(self, task: Task, columns: Mapping[str, Any] | None, settings: RowSettings, names: Sequence[str] = ()) -> None:
        self.task, self.asked, self.settings = task, dict(columns or {}), settings
        self.names = [*names, *settings.label_map]
        self.notes: list[str] = []
        self.labels = task.answers()
        self.roles: dict[str, str] | None = None
        self.lists: set[str] = set()
        self.warnings: list[str] = []
        self.columns: list[str] = []
        self.without_label: pa.Table | None = None

    def part(self, dataset: Dataset, split: str, source: Source) -> Part:
        """A split with labels; every row must have one, unless rows without are to be used as unlabelled ones."""
        dataset, roles, raw = self._labelled(dataset, split)
        return self._build(*self._with_labels_only(dataset, roles, raw, split, source), source)

    def _with_labels_only(
        self, dataset: Dataset, roles: dict[str, str], raw: list[Any], split: str, source: Source
    ) -> tuple[Dataset, str, dict[str, str], list[Any]]:
        """The rows with labels; training rows without go to the unlabelled ones, others are left out."""
        missing = [] if self.labels.is_optional else [row for row, label in enumerate(raw) if label is None]
        if not missing or not self.settings.use_unlabelled or len(missing) == len(raw):
            self._refuse_missing(raw, roles, split)
            return dataset, split, roles, raw
        kept = [row for row, label in enumerate(raw) if label is not None]
        if split == "train":
            content = {role: column for role, column in roles.items() if role.partition(":")[0] != "label"}
            self.without_label = self._build(dataset.select(missing), split, content, [], source).content
            self.notes.append(f"{len(missing)} of {len(raw)} training rows have no label and are used as unlabelled rows")
        else:
            self.notes.append(f"{len(missing)} of {len(raw)} rows of the {split} split have no label and are left out")
        return dataset.select(kept), split, roles, [raw[row] for row in kept]

    def _refuse_missing(self, raw: list[Any], roles: Mapping[str, str], split: str) -> None:
        if self.labels.is_optional:
            return
        missing = [row for row, label in enumerate(raw, 1) if label is None]
        if missing:
            columns = " or ".join(repr(column) for role, column in roles.items() if role.partition(":")[0] == "label")
            shown = ", ".join(map(str, missing[:_SHOWN_ROWS]))
            more = f" and {len(missing) - _SHOWN_ROWS} more" if len(missing) > _SHOWN_ROWS else ""
            raise DataError(
                f"{len(missing)} of {len(raw)} rows of the {split} split"
                f" {inflected(len(missing), 'has', 'have')} no label in column {columns} "
                f"(empty or NaN: row {shown}{more})",
                "a label in every row",
                "fill them in; or --set data.unlabeled_rows=use to learn from such training rows as from data.unlabelled",
            )

    def extra(self, split: str, given: Any, found: Source) -> Part | None:
        """The validation or test split: from its own source, else from the main one; None where there is none with labels."""
        source = found if given is None else read_source(given, modality=self.task.modality)
        if given is None and split not in source.splits:
            return None
        chosen = split if split in source.splits else next(iter(source.splits))
        if self.is_without_labels(source.splits[chosen]):
            self._not_used(split, source if given is None else given)
            return None
        dataset, roles, raw = self._labelled(source.splits[chosen], split)
        if not self.labels.is_optional and all(label is None or label == -1 for label in raw):
            self._not_used(split, source if given is None else given)
            return None
        return self._build(*self._with_labels_only(dataset, roles, raw, split, source), source)

    def _not_used(self, split: str, given: Any) -> None:
        """Say that a file for validation or testing has no labels, and where its predictions come from."""
        self.notes.append(f"the {split} split has no labels and is not used")
        file = given.files.get(split, "FILE") if isinstance(given, Source) else shown(given)
        self.warnings.append(
            f"{'the data' if file == 'FILE' else file}: the rows for the {split} split have no labels, so they are no"
            f" {split} split;"
            f" rows carved out of the training rows are used instead."
            f" For predictions: potstill predict OUT --data {file} -o predictions.csv"
        )

    def is_without_labels(self, dataset: Dataset) -> bool:
        """Whether rows have content, and no column of labels."""
        if self.labels.is_optional or len(dataset) == 0:
            return False
        roles = self.roles or {}
        labels = [column for role, column in roles.items() if role.partition(":")[0] == "label"]
        if any(column in dataset.features for column in labels):
            return False
        others = [name for name in self.columns if name in dataset.features and name not in roles.values()]
        dataset = with_lists(dataset.remove_columns(others))
        try:
            self.task.find_columns(dataset, {role: column for role, column in self.asked.items() if role in roles})
        except NoColumn:
            return self._has_content(dataset)
        except DataError:
            return False
        return False

    def _has_content(self, dataset: Dataset) -> bool:
        content = self.task.modality.roles
        asked = {role: column for role, column in self.asked.items() if role in content and column in dataset.features}
        try:
            self.task.find_columns(dataset, asked, labelled=False)
        except DataError:
            return False
        return True

    def unlabelled(self, given: Any, found: Source) -> pa.Table | None:
        """The rows without labels, or None."""
        if given is None and "unlabelled" not in found.splits:
            return self.without_label
        source = found if given is None else read_source(given, modality=self.task.modality, labelled=False)
        chosen = "unlabelled" if "unlabelled" in source.splits else next(iter(source.splits))
        dataset = source.splits[chosen]
        asked = {role: column for role, column in self.asked.items() if role != "label" and column in dataset.features}
        roles = self.task.find_columns(dataset, asked, labelled=False)
        content = self._build(dataset, "unlabelled", roles, [], source).content
        parts = [content] if self.without_label is None else [content, self.without_label]
        return pa.concat_tables(parts, promote_options="permissive")

    def _labelled(self, dataset: Dataset, split: str) -> tuple[Dataset, dict[str, str], list[Any]]:
        if len(dataset) == 0:
            raise DataError(f"the {split} split has no rows", "at least one row in each split", "check how it was written")
        dataset = self._with_lists(dataset)
        if self.roles is None or any(column not in dataset.features for column in self.roles.values()):
            dataset, roles = self._found(dataset)
            taken = ", ".join(f"{role} from {column!r}" for role, column in roles.items())
            self.notes.append(f"columns of the {split} split: {taken}")
            self.roles, self.columns = self.roles or roles, self.columns or dataset.column_names
        else:
            roles = self.roles
        raw = self.labels.read(dataset, roles, split)
        return dataset, roles, self.labels.renamed(raw, self.settings.label_map) if self.settings.label_map else raw

    def _found(self, dataset: Dataset) -> tuple[Dataset, dict[str, str]]:
        """The columns; lists that are written as text are read so, where no text is among them."""
        converted = with_lists(dataset)
        self.lists |= {name for name in dataset.features if converted.features[name] != dataset.features[name]}
        try:
            return converted, self._roles(converted)
        except DataError:
            if converted is dataset:
                raise
            roles = self._roles(dataset)
        self.lists &= {column for role, column in roles.items() if role.partition(":")[0] == "label"}
        return with_lists(dataset, self.lists), roles

    def _roles(self, dataset: Dataset) -> dict[str, str]:
        """By name and type, else by values: the teacher's labels, and the longest texts."""
        asked = with_likely_label(dataset, self.asked, self.names)
        try:
            return self.task.find_columns(dataset, asked)
        except DataError as err:
            taken = [str(column) for column in asked.values()] if "label" in asked else dataset.column_names
            longest = without_short_columns(dataset, taken)
            if longest is not dataset:
                return self.task.find_columns(longest, asked)
            raise with_settings(err, dataset, asked, self.names, self.task.modality.roles[0]) from err

    def _with_lists(self, dataset: Dataset) -> Dataset:
        """The columns that are lists in the training rows as lists."""
        return with_lists(dataset, self.lists) if self.lists else dataset

    def _build(self, dataset: Dataset, split: str, roles: dict[str, str], raw: list[Any], source: Source) -> Part:
        content, keep = self.task.modality.read(
            dataset, roles, split, self.notes, folder=source.folder, skip_corrupt=self.settings.skip_corrupt
        )
        raw = [raw[row] for row in keep] if raw and keep is not None else raw
        feature = None if self.settings.label_map else dataset.features.get(roles.get("label", ""))
        return Part(content, raw, feature, self._with_new_names(roles))

    def _with_new_names(self, roles: dict[str, str]) -> dict[str, str]:
        """The roles of columns that stand for one label each, under the labels' new names."""
        new = self.settings.label_map
        parts = {role: role.partition(":") for role in roles}
        return {f"{kind}{mark}{new.get(name, name)}": roles[role] for role, (kind, mark, name) in parts.items()}


def shown(source: Any) -> str:
    """A source as a command names it."""
    return shlex.quote(str(source)) if isinstance(source, str | Path) else "FILE"
