"""Splits of texts and conversations encoded in the tokens of a model, in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from potstill.ground.disk import read_json, write_json_atomic
from potstill.modalities.language.documents import Documents, write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator
from potstill.modalities.language.reading import conversations, read_splits
from potstill.modalities.language.rendering import Renderer
from potstill.recipe.model import DataRecipe


@dataclass(frozen=True)
class RowsOptions:
    """What encoding rows depends on."""

    data: DataRecipe
    window: int
    packing: bool
    loss_on: Any
    template: str | None
    seed: int


@dataclass(frozen=True)
class TokenRows:
    """The documents of all splits."""

    folder: Path
    facts: dict[str, Any]
    _opened: dict[str, Documents] = field(default_factory=dict, compare=False, repr=False)

    def documents(self, split: str) -> Documents:
        """The documents of a split."""
        if split not in self._opened:
            self._opened[split] = Documents(self.folder / split)
        return self._opened[split]

    def windows(self, split: str) -> PackedRows:
        """The windows of a split."""
        return PackedRows(self.documents(split), self.facts["window"], is_packed=self.facts["packing"])

    @property
    def collator(self) -> WindowCollator:
        """Makes batches of windows."""
        return WindowCollator(self.facts["pad_token_id"])


def encode_splits(
    source: Any, options: RowsOptions, tokenizer: Any, folder: Path, on_split: Callable[[int, int], None] | None = None
) -> TokenRows:
    """Read the rows of all splits and encode them.

    Args:
        source: What the recipe names, or what the caller has in memory.
        on_split: Called with the number of splits that are done, and of all.
    """
    data = options.data
    splits, notes = read_splits(source, validation=data.validation, test=data.test, seed=options.seed, max_rows=data.max_rows)
    facts: dict[str, Any] = {
        "window": options.window,
        "packing": options.packing,
        "pad_token_id": tokenizer.pad_token_id,
        "splits": {},
        "rows": {name: len(rows) for name, rows in splits.items()},
    }
    for done, (name, rows) in enumerate(splits.items()):
        if on_split is not None:
            on_split(done, len(splits))
        renderer = Renderer(tokenizer, window=options.window, loss_on=options.loss_on, template=options.template)
        documents = write_documents(renderer.documents(conversations(rows, name, options.data.columns)), folder / name, {})
        windows = PackedRows(documents, options.window, is_packed=options.packing)
        counts = asdict(renderer.counts)
        facts["splits"][name] = counts | {"documents": len(documents), "windows": len(windows)}
        if counts["truncated"] or counts["left_out"]:
            notes.append(
                f"{name}: {counts['truncated']:,} of {counts['rows']:,} rows are longer than {options.window} tokens and are cut,"
                f" {counts['left_out']:,} are left out because no answer is within them"
            )
    facts["notes"] = notes
    write_json_atomic(folder / "facts.json", facts)
    return TokenRows(folder, facts)


def rows_in(folder: Path) -> TokenRows:
    """What `encode_splits` left in a folder."""
    return TokenRows(folder, dict(read_json(folder / "facts.json") or {}))
