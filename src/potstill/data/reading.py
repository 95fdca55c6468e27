"""One split on its way: columns found, texts and images checked, labels as written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image

from potstill.answers import class_labels as labels
from potstill.answers.label_kinds import kind_of, label_columns
from potstill.data.arrow import table_of
from potstill.data.images import corrupt_image, image_array, is_readable, name_of
from potstill.data.sources import Source, read_source
from potstill.errors import DataError
from potstill.modalities.text.word_content import read_contexts, read_words


class Columns(Protocol):
    """What `load` needs of a task."""

    modality: str

    def find_columns(self, dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> dict[str, str]:
        """Role → column."""
        ...


@dataclass
class Part:
    """One split on its way: its content columns and its labels as written."""

    content: pa.Table
    raw: list[Any]
    label_column: str = "label"
    feature: Any = None
    roles: Mapping[str, str] = field(default_factory=dict)


class Reader:
    """Brings each split into fixed columns and collects what there is to say."""

    def __init__(self, task: Columns, columns: Mapping[str, Any] | None, skip_corrupt: bool) -> None:
        self.task, self.asked, self.skip_corrupt = task, dict(columns or {}), skip_corrupt
        self.notes: list[str] = []
        self.kind = kind_of(task)
        self.roles: dict[str, str] | None = None

    def part(self, dataset: Dataset, split: str, source: Source) -> Part:
        """A split with labels; every row must have one."""
        dataset, roles, raw = self._labelled(dataset, split)
        self._refuse_missing(raw, roles, split)
        return self._build(dataset, split, roles, raw, source)

    def _refuse_missing(self, raw: list[Any], roles: Mapping[str, str], split: str) -> None:
        if not self.kind.is_optional:
            labels.refuse_missing(raw, " or ".join(label_columns(roles)), split)

    def extra(self, split: str, given: Any, found: Source) -> Part | None:
        """The validation or test split: from its own source, else from the main one; None where there is none with labels."""
        source = found if given is None else read_source(given, modality=self.task.modality)
        if given is None and split not in source.splits:
            return None
        chosen = split if split in source.splits else next(iter(source.splits))
        dataset, roles, raw = self._labelled(source.splits[chosen], split)
        if given is None and not self.kind.is_optional and all(label is None or label == -1 for label in raw):
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
        if self.roles is None or any(column not in dataset.features for column in self.roles.values()):
            roles = self.task.find_columns(dataset, self.asked)
            taken = ", ".join(f"{role} from {column!r}" for role, column in roles.items())
            self.notes.append(f"columns of the {split} split: {taken}")
            self.roles = self.roles or roles
        else:
            roles = self.roles
        return dataset, roles, self.kind.read(dataset, roles, split)

    def _build(self, dataset: Dataset, split: str, roles: dict[str, str], raw: list[Any], source: Source) -> Part:
        label = roles.get("label", "")
        feature = dataset.features.get(label)
        if self.task.modality == "image":
            content, keep = self._images(dataset, roles["image"], split, source.folder)
            raw = [raw[i] for i in keep] if raw and len(keep) < len(raw) else raw
        elif "tokens" in roles:
            content = read_words(dataset, roles["tokens"], split)
        elif "context" in roles:
            content = read_contexts(dataset, roles, split)
        else:
            content = self._texts(dataset, roles, split)
        return Part(content, raw, label, feature, roles)

    def _texts(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> pa.Table:
        wanted = [role for role in ("text", "text_pair") if role in roles]
        table = table_of(dataset, [roles[role] for role in wanted])
        content = pa.table({role: _strings(table.column(roles[role]), roles[role]) for role in wanted})
        empty = sum(_num_empty(chunk) for chunk in content["text"].chunks)
        if empty == content.num_rows:
            raise DataError(
                f"all {empty} texts of the {split} split are empty (column {roles['text']!r})",
                "texts with at least one character",
                "name the column that holds the texts: data.columns: {text: …}",
            )
        if empty:
            self.notes.append(f"{empty} of {content.num_rows} texts of the {split} split are empty; they are kept")
        return content

    def _images(self, dataset: Dataset, column: str, split: str, folder: Path | None) -> tuple[pa.Table, list[int]]:
        values = _image_column(dataset, column, folder)
        faults = {}
        for row in range(len(values)):
            value = values[row].as_py()
            if fault := is_readable(value, whole=self.skip_corrupt):
                faults[row] = (value, fault)
                if not self.skip_corrupt:
                    break
        if faults and not self.skip_corrupt:
            row, (value, fault) = next(iter(faults.items()))
            raise corrupt_image(value, row, fault)
        keep = [row for row in range(len(values)) if row not in faults]
        if faults:
            named = ", ".join(name_of(value, row) for row, (value, _) in list(faults.items())[:5])
            self.notes.append(f"{len(faults)} images of the {split} split cannot be read and are left out: {named}")
        if not keep:
            raise DataError(
                f"none of the {len(values)} images of the {split} split can be read", "whole images", "check the files"
            )
        return pa.table({"image": values.take(keep) if faults else values}), keep


def _strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        texts = pc.cast(column, pa.large_string())
        return pc.fill_null(texts, "") if texts.null_count else texts
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise DataError(
            f"column {name!r} holds {column.type}", "a column of texts", "name another column: data.columns: {text: …}"
        ) from err


def _num_empty(texts: pa.Array) -> int:
    return pc.sum(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)).as_py() or 0


def _image_column(dataset: Dataset, column: str, folder: Path | None) -> pa.ChunkedArray:
    feature = dataset.features[column]
    values = table_of(dataset, [column]).column(0)
    if isinstance(feature, Image) or pa.types.is_struct(values.type):
        return values
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        paths = [str(Path(folder or ".") / str(value)) for value in values.to_pylist()]
        return pa.chunked_array([image_array(paths)])
    return values
