"""The parties of a run: teachers and students with the rows as they read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from potstill.contracts.party import Party
from potstill.data.encoded import EncodedRows
from potstill.data.run_rows import Rows, open_encoded
from potstill.models.load import LoadedTeacher, auto_class

DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


@dataclass(frozen=True)
class Teacher(Party):
    """A teacher of a run, or an earlier state of one, with the rows in its tokens.

    Args:
        name: As messages say it: ``"teacher"``, ``"teacher 2"``, ``"teacher of mood"``.
        folder: Of the model that this run trained, with its earlier states; absent where the given one is taken as it is.
        number: Its task, where its rows lie among those of all tasks in these places.
        cache: Folder of its answers; None where it is asked live.
    """

    name: str
    rows: Rows
    places: Mapping[str, Path]
    load: Callable[[], LoadedTeacher]
    folder: Path
    number: int | None = None
    cache: Path | None = None
    measured: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    _opened: dict[tuple[str, ...], EncodedRows] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def loaded(self) -> LoadedTeacher:
        """The teacher and its processor, frozen."""
        return self.load()

    @property
    def model(self) -> Any:
        """The model, frozen."""
        return self.loaded.model

    @property
    def processor(self) -> Any:
        """Its tokenizer or image processor."""
        return self.loaded.processor

    @property
    def num_answers(self) -> int:
        """Width of a row's answer: one for each label, or the embedding."""
        return len(self.rows.label_names) or int(self.model.config.num_labels or 0)

    def encoded(self, *names: str) -> EncodedRows:
        """Rows in its tokens; several splits are joined."""
        if names not in self._opened:
            self._opened[names] = open_encoded(self.places, names, self.number)
        return self._opened[names]

    def with_answers(self, rows: Rows, augmented: Path, cache: Path) -> Teacher:
        """The same teacher once it was asked: with its augmented rows and its answers, where these are there."""
        found = dict(self.places) | ({"augmented": augmented} if augmented.is_dir() else {})
        kept = cache if cache.is_dir() else None
        return replace(self, rows=rows, places=found, cache=kept, load=lambda: self.loaded, measured={}, _opened={})


@dataclass(frozen=True)
class Student(Party):
    """A student of a run, or a model of a chain, in one of its versions.

    Args:
        places: Split → folder of the rows in its tokens; the teacher's where it reads the same.
        folder: Of the model and its tokenizer or image processor.
        start: Of its first version, with ``facts.json`` and ``kept_ids.npy``.
        facts: What was kept when it was made: ``plan``, ``vocabulary``, ``own_tokenizer``.
        cache: Folder of its answers, for a model of a chain.
    """

    name: str
    rows: Rows
    places: Mapping[str, Path]
    folder: Path
    start: Path
    facts: Mapping[str, Any]
    cache: Path | None = None
    measured: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    _opened: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def has_own_tokens(self) -> bool:
        """Whether it reads through a tokenizer or image processor that is no cut of the teacher's."""
        return bool(self.facts.get("own_tokenizer"))

    @property
    def has_other_rows(self) -> bool:
        """Whether the rows were encoded again for it."""
        return (self.start / "encoded").is_dir()

    @property
    def kept_layers(self) -> tuple[int, ...]:
        """The teacher's layers (1-based) that its blocks were cut from."""
        return tuple(self.facts["plan"]["layers"])

    @cached_property
    def kept_ids(self) -> np.ndarray | None:
        """[student vocabulary] the teacher's id of each of its tokens; None where both read the same tokens."""
        file = self.start / "kept_ids.npy"
        return np.load(file) if file.is_file() else None

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model and its processor, loaded once."""
        return self.load()

    @property
    def model(self) -> Any:
        """The model, in evaluation mode."""
        return self.loaded[0]

    @property
    def processor(self) -> Any:
        """Its tokenizer or image processor."""
        return self.loaded[1]

    def load(self, *, without_dropout: bool = False) -> tuple[Any, Any]:
        """A new copy of the model, as `Auto…from_pretrained` gives it, and its tokenizer or image processor.

        Args:
            without_dropout: Load it without dropout: a small student of a teacher that labels many rows does not overfit, and
                dropout takes from the little that it has.
        """
        import transformers

        from potstill.models.architectures import register

        register()
        config: Any = transformers.AutoConfig.from_pretrained(self.folder)
        if without_dropout:
            for name in DROPOUT_KEYS:
                if getattr(config, name, None) is not None:
                    setattr(config, name, 0.0)
        model = auto_class(self.rows.task.head).from_pretrained(self.folder, config=config).eval()
        return model, self.rows.task.load_processor(str(self.folder), model_config=model.config)

    def encoded(self, *names: str) -> EncodedRows:
        """Rows in its tokens; several splits are joined."""
        if names not in self._opened:
            self._opened[names] = open_encoded(self.places, names)
        found: EncodedRows = self._opened[names]
        return found

    def version(self, folder: Path, **changes: Any) -> Student:
        """A later version of the same student, which is in another folder."""
        return replace(self, folder=folder, measured={}, _opened={}, **changes)
