"""One split on its way: columns found, content checked, labels as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from datasets import Dataset

from potstill.contracts.task import Task
from potstill.data.sources import Source, read_source
from potstill.data.written_lists import with_lists
from potstill.errors import DataError

_SHOWN_ROWS = 5


@dataclass
class Part:
    """One split on its way: its content columns and its labels as written."""

    content: pa.Table
    raw: list[Any]
    feature: Any = None
    roles: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Brings each split into fixed columns and collects what there is to say."""

    def __init__(self, task: Task, columns: Mapping[str, Any] | None, skip_corrupt: bool) -> None:
        self.task, self.asked, self.skip_corrupt = task, dict(columns or {}), skip_corrupt
        self.notes: list[str] = []
        self.labels = task.answers()
        self.roles: dict[str, str] | None = None
        self.lists: set[str] = set()

    def part(self, dataset: Dataset, split: str, source: Source) -> Part:
        """A split with labels; every row must have one."""
        dataset, roles, raw = self._labelled(dataset, split)
        self._refuse_missing(raw, roles, split)
        return self._build(dataset, split, roles, raw, source)

    def _refuse_missing(self, raw: list[Any], roles: Mapping[str, str], split: str) -> None:
        if self.labels.is_optional:
            return
        missing = [row for row, label in enumerate(raw, 1) if label is None]
        if missing:
            columns = " or ".join(repr(column) for role, column in roles.items() if role.partition(":")[0] == "label")
            shown = ", ".join(map(str, missing[:_SHOWN_ROWS]))
            more = f" and {len(missing) - _SHOWN_ROWS} more" if len(missing) > _SHOWN_ROWS else ""
            raise DataError(
                f"{len(missing)} of {len(raw)} rows of the {split} split have no label in column {columns} "
                f"(empty or NaN: row {shown}{more})",
                "a label in every row",
                "fill them in, or move these rows to a file of their own and give it as data.unlabelled",
            )

    def extra(self, split: str, given: Any, found: Source) -> Part | None:
        """The validation or test split: from its own source, else from the main one; None where there is none with labels."""
        source = found if given is None else read_source(given, modality=self.task.modality)
        if given is None and split not in source.splits:
            return None
        chosen = split if split in source.splits else next(iter(source.splits))
        dataset, roles, raw = self._labelled(source.splits[chosen], split)
        if given is None and not self.labels.is_optional and all(label is None or label == -1 for label in raw):
            self.notes.append(f"the {split} split has no labels and is not used")
            return None
        self._refuse_missing(raw, roles, split)
        return self._build(dataset, split, roles, raw, source)

    def unlabelled(self, given: Any, found: Source) -> pa.Table | None:
        """The rows without labels, or None."""
        if given is None and "unlabelled" not in found.splits:
            return None
        source = found if given is None else read_source(given, modality=self.task.modality, labelled=False)
        chosen = "unlabelled" if "unlabelled" in source.splits else next(iter(source.splits))
        dataset = source.splits[chosen]
        asked = {role: column for role, column in self.asked.items() if role != "label" and column in dataset.features}
        roles = self.task.find_columns(dataset, asked, labelled=False)
        return self._build(dataset, "unlabelled", roles, [], source).content

    def _labelled(self, dataset: Dataset, split: str) -> tuple[Dataset, dict[str, str], list[Any]]:
        if len(dataset) == 0:
            raise DataError(f"the {split} split has no rows", "at least one row in each split", "check how it was written")
        dataset = self._with_lists(dataset)
        if self.roles is None or any(column not in dataset.features for column in self.roles.values()):
            dataset, roles = self._found(dataset)
            taken = ", ".join(f"{role} from {column!r}" for role, column in roles.items())
            self.notes.append(f"columns of the {split} split: {taken}")
            self.roles = self.roles or roles
        else:
            roles = self.roles
        return dataset, roles, self.labels.read(dataset, roles, split)

    def _found(self, dataset: Dataset) -> tuple[Dataset, dict[str, str]]:
        """The columns; lists that are written as text are read so, where no text is among them."""
        converted = with_lists(dataset)
        self.lists |= {name for name in dataset.features if converted.features[name] != dataset.features[name]}
        try:
            return converted, self.task.find_columns(converted, self.asked)
        except DataError:
            if converted is dataset:
                raise
            roles = self.task.find_columns(dataset, self.asked)
        self.lists &= {column for role, column in roles.items() if role.partition(":")[0] == "label"}
        return with_lists(dataset, self.lists), roles

    def _with_lists(self, dataset: Dataset) -> Dataset:
        """The columns that are lists in the training rows as lists."""
        return with_lists(dataset, self.lists) if self.lists else dataset

    def _build(self, dataset: Dataset, split: str, roles: dict[str, str], raw: list[Any], source: Source) -> Part:
        content, keep = self.task.modality.read(
            dataset, roles, split, self.notes, folder=source.folder, skip_corrupt=self.skip_corrupt
        )
        raw = [raw[row] for row in keep] if raw and keep is not None else raw
        return Part(content, raw, dataset.features.get(roles.get("label", "")), roles)
