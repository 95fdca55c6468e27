"""Tags: one class for each word of a row, such as the parts of named entities or parts of speech.

Shapes: N rows, U words of the row with most, C tags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features

from potstill.answers.class_labels import LabelMap, as_name, names_of, renamed
from potstill.answers.fidelity import log_softmax
from potstill.answers.one_class import Classes, ClassJudge
from potstill.contracts.answers import NO_LABEL, Judge, Mapped, Predictions
from potstill.data.arrow import table_of
from potstill.data.columns import checked_roles, is_list, one_of
from potstill.errors import DataError, ModelError
from potstill.ground.counted import counted

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

TAG_NAMES = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "label", "ner", "pos", "upos", "ner_labels", "标签")
_ENTITY = re.compile(r"(?:[BIES]-.+|O)")
Entity = tuple[str, int, int]
_AS = {"S": "B", "E": "I"}


class Tags(Classes):
    """A tag for each word, as names, numbers or ClassLabels; labels become [N] lists of positions, empty for rows without."""

    kind = "tags"
    noun = "a class for each word"
    reported = "class"
    per_unit = True
    is_of_row = False

    @property
    def metric(self) -> str:  # type: ignore[override]
        """``f1`` of entities where tags mark them, else ``accuracy`` of words."""
        return "f1" if not self.label_names or are_entities(self.label_names) else "accuracy"

    def find_columns(
        self, dataset: Dataset, asked: Mapping[str, str] | None, modality: Modality, *, labelled: bool = True
    ) -> dict[str, str]:
        """``tokens`` (lists of words) and ``label`` (lists of tags; a user may say ``tags``)."""
        features = dataset.features
        roles = roles_of_units(features, asked, modality, "tags", labelled=labelled)
        if labelled and "label" not in roles:
            lists = [name for name in features if is_list(features[name]) and name not in roles.values()]
            accepted = "a column with a list of tags in each row, one for each word"
            roles["label"] = one_of("tags", lists, TAG_NAMES, features, accepted, or_any=True)
        return roles

    def renamed(self, raw: Sequence[Any], label_map: Mapping[str, str]) -> list[Any]:
        """See `potstill.answers.class_labels.renamed`."""
        return renamed(raw, label_map)

    def read(self, dataset: Dataset, roles: Mapping[str, str], split: str) -> list[tuple[Any, ...] | None]:
        """A tuple of tags a row, as many as words; None where a row has none.

        Raises:
            DataError: The column holds no lists, or a row has more or fewer tags than words.
        """
        column = roles["label"]
        rows = table_of(dataset, [column]).column(0).to_pylist()
        names = _class_names(dataset.features[column])
        counts = [len(words or ()) for words in table_of(dataset, [roles["tokens"]]).column(0).to_pylist()]
        read = []
        for number, (row, count) in enumerate(zip(rows, counts), 1):
            if row is not None and not isinstance(row, list):
                raise DataError(
                    f"column {column!r} holds {type(row).__name__} in row {number} of the {split} split",
                    "a list of tags, one for each word",
                    "name another column: data.columns: {tags: …}",
                )
            if row is not None and len(row) != count:
                raise DataError(
                    f"row {number} of the {split} split has {counted(count, 'word')} and {counted(len(row), 'tag')}",
                    "one tag for each word",
                    f"correct row {number}, or name other columns: data.columns: {{tokens: …, tags: …}}",
                )
            read.append(None if row is None else tuple(_plain(tag, names, column, split, number) for tag in row))
        return read

    def order(self, raw: Sequence[Any], roles: Mapping[str, str], feature: Any, given: Sequence[str] | None) -> Any:
        """The names and what takes tags to them; of entity tags, B- and I- of every type and O are among the names."""
        found = set(chain.from_iterable(row or () for row in raw)) - {None}
        names = _class_names(feature) or with_partners(names_of(found))
        if given is not None:
            return tuple(map(str, given)), _of_rows(LabelMap(tuple(map(str, given)), found, given=True, subset=True))
        if len(names) < 2:
            raise DataError(
                f"all words of the training rows have the tag {next(iter(names), 'none')!r} (column {roles['label']!r})",
                "at least two tags",
                "name another column of tags: data.columns: {tags: …}",
            )
        return names, _of_rows(LabelMap(names, found))

    def known(self, names: Sequence[str], raw: Sequence[Any], roles: Any = None) -> Mapped:
        """Tags → positions in known names, of which the rows may lack some."""
        found = {tag for row in raw if row is not None for tag in row} - {None}
        return _of_rows(LabelMap(tuple(names), found, given=True, subset=True))

    def missing(self, count: int, names: Sequence[str]) -> np.ndarray:
        """Empty lists."""
        return as_lists([()] * count)

    def named(self, found: Predictions, content: pa.Table, rows: Dataset) -> pa.Table:
        """``prediction``, a tag for each word, and its ``probability``; null for words that the model does not read."""
        chances = np.exp(log_softmax(found.logits))
        is_read = np.ones(chances.shape[:2], bool) if found.mask is None else found.mask
        counts = [len(words) for words in content.column("tokens").to_pylist()]
        tags, sure = [], []
        for count, read, row in zip(counts, is_read, chances):
            known = [place < len(read) and bool(read[place]) for place in range(count)]
            tags.append([self.label_names[int(row[place].argmax())] if known[place] else None for place in range(count)])
            sure.append([float(row[place].max()) if known[place] else None for place in range(count)])
        strings, numbers = pa.list_(pa.string()), pa.list_(pa.float32())
        return pa.table({"prediction": pa.array(tags, strings), "probability": pa.array(sure, numbers)})

    def judge(self) -> Judge:
        """See `TagJudge`."""
        return TagJudge(self)


class TagJudge(ClassJudge):
    """Judges words like classes, and counts whole entities where tags mark them.

    Kept of each row too, with entity tags: ``entities`` [N, 3], how many there are, were named, and were named rightly.
    """

    def keep(self, student: Predictions, teacher: Predictions | None) -> dict[str, np.ndarray]:
        """As for classes; the entities of each row are counted."""
        kept, names = super().keep(student, teacher), np.array(self.answers.label_names)
        if self.answers.metric != "f1" or len(names) != np.shape(student.logits)[-1]:
            return kept
        answered, labels = np.asarray(student.logits).argmax(-1), np.asarray(student.labels)
        counts = []
        for row, true, known in zip(answered, np.maximum(labels, 0), labels >= 0):
            one = EntityCounts()
            one.add(*(entities_of(names[side[known]].tolist()) for side in (true, row)))
            counts.append(astuple(one))
        return kept | {"entities": np.array(counts, np.int64).reshape(-1, 3)}

    def row_sums(self, metric: str) -> tuple[np.ndarray, Callable[[np.ndarray], float]] | None:
        """Of F1 of entities: their counts in each row; else as for classes."""
        if metric != "f1" or "entities" not in self:
            return super().row_sums(metric)
        return self["entities"].astype(np.float64), lambda means: EntityCounts(*means).scores()["f1"]

    def quality(self) -> dict[str, float]:
        """With entity tags: ``f1``, ``precision`` and ``recall`` of whole entities over all rows, and ``accuracy`` of words.

        Else the measures of words as classes.

        Raises:
            ModelError: Logits that are not finite, no word with a tag, or another number of tags than names.
        """
        words = super().quality()
        if self.answers.metric != "f1":
            return words
        classes, names = int(self["classes"].max()), self.answers.label_names
        if len(names) != classes:
            raise ModelError(
                f"the answers have {classes} tags, and {len(names)} names of tags are known",
                "one name for each tag",
                "make the task with the names: task.label_names = names",
            )
        return EntityCounts(*self["entities"].sum(0).tolist()).scores() | {"accuracy": words["accuracy"]}


def roles_of_units(
    features: Features, asked: Mapping[str, str] | None, modality: Modality, name: str, *, labelled: bool
) -> dict[str, str]:
    """The roles of the content, and ``label`` where it was asked for and is wanted; users may call it `name`."""
    roles = checked_roles(features, asked, (*modality.roles, name, "label"))
    roles = {"label" if role == name else role: column for role, column in roles.items()}
    roles |= modality.find_content(features, roles)
    return {role: column for role, column in roles.items() if labelled or role != "label"}


def entities_of(tags: Sequence[str]) -> set[Entity]:
    """The entities of a row: (type, first word, word after the last).

    An entity begins at B-, or at I- where no entity of its type runs; it ends before the next beginning, another type or O.
    S- counts as B- and E- as I-.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared task", whose conlleval counts
    entities as right where type and both ends are.

    Example:
        >>> sorted(entities_of(["B-LOC", "I-LOC", "O", "I-PER"]))
        [('LOC', 0, 2), ('PER', 3, 4)]
    """
    found: set[Entity] = set()
    running, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, kind = tag.partition("-")
        mark = _AS.get(mark, mark)
        goes_on = mark == "I" and kind == running
        if running and not goes_on:
            found.add((running, start, place))
            running = ""
        if mark in ("B", "I") and not goes_on:
            running, start = kind, place
    return found


@dataclass
class EntityCounts:
    """How many entities there are, were named, and were named rightly."""

    true: float = 0
    named: float = 0
    right: float = 0

    def add(self, true: set[Entity], named: set[Entity]) -> None:
        """Count the entities of one row."""
        self.true, self.named, self.right = self.true + len(true), self.named + len(named), self.right + len(true & named)

    def scores(self) -> dict[str, float]:
        """``precision``, ``recall`` and ``f1``; 0 where nothing was named or is there, as conlleval has it."""
        return {
            "precision": self.right / self.named if self.named else 0.0,
            "recall": self.right / self.true if self.true else 0.0,
            "f1": 2 * self.right / (self.true + self.named) if self.true + self.named else 0.0,
        }


def _of_rows(single: LabelMap) -> Mapped:
    """Takes the tags of rows to lists of positions, empty where a row has none, out of what takes one tag to its position."""

    def positions(raw: Sequence[Any], split: str) -> np.ndarray:
        flat = single.positions([tag for row in raw for tag in row or ()], split)
        ends = np.cumsum([len(row or ()) for row in raw])
        return as_lists(part.tolist() for part in np.split(flat, ends[:-1])) if len(raw) else as_lists([])

    return Mapped(positions, single.notes)


def as_lists(rows: Iterable[Sequence[Any]]) -> np.ndarray:
    """[N] object array of sequences, also where all have one length."""
    rows = list(rows)
    made = np.empty(len(rows), object)
    made[:] = rows
    return made


def are_entities(names: Sequence[str]) -> bool:
    """Whether tags mark entities: O, and B-TYPE, I-TYPE (also E- and S-), at least one of these."""
    return all(_ENTITY.fullmatch(name) for name in names) and any(name != "O" for name in names)


def with_partners(names: Sequence[str]) -> tuple[str, ...]:
    """Entity tags with what belongs to them: B- and I- of every type, and O; other tags as they are."""
    if not are_entities(names):
        return tuple(names)
    types = {name.partition("-")[2] for name in names if name != "O"}
    return tuple(sorted({*names, "O", *(f"{mark}-{kind}" for kind in types for mark in "BI")}))


def _class_names(feature: Any) -> tuple[str, ...]:
    inner = feature[0] if isinstance(feature, list) and feature else getattr(feature, "feature", None)
    return tuple(inner.names) if isinstance(inner, ClassLabel) and inner.names else ()


def _plain(tag: Any, names: Sequence[str], column: str, split: str, row: int) -> Any:
    """A tag as a name or number; None for −100, which marks words without a tag."""
    if tag in (NO_LABEL, str(NO_LABEL)):
        return None
    if names and isinstance(tag, int) and 0 <= tag < len(names):
        return names[tag]
    if (isinstance(tag, bool | int) and not names) or (isinstance(tag, str) and tag.strip()):
        return tag.strip() if isinstance(tag, str) else tag
    raise DataError(
        f"row {row} of the {split} split has the tag {as_name(tag)!r} (column {column!r})",
        "names or whole numbers from 0",
        f"correct row {row}",
    )
