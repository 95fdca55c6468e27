"""Questions with the contexts that answer them, read in overlapping windows where they are long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features

from potstill.data.arrow import table_of
from potstill.data.columns import one_of
from potstill.data.encoded import EncodedRows
from potstill.errors import DataError
from potstill.modalities.text.windows import encode_questions, into_windows
from potstill.modalities.text.words import UnitTexts

QUESTION_NAMES = ("question", "query", "问题")
CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "text", "上下文", "段落", "文章")


class Questions(UnitTexts):
    """A question and its context."""

    roles: Sequence[str] = ("question", "context")
    column_names: Sequence[str] = QUESTION_NAMES
    can_augment = False
    is_windowed = True

    def find_content(self, features: Features, roles: Mapping[str, str], *, taken: Sequence[str] | None = None) -> dict[str, str]:
        """``question`` and ``context``, each the first column with a usual name."""
        found = dict(roles)
        for role, names in (("question", QUESTION_NAMES), ("context", CONTEXT_NAMES)):
            if role not in found:
                free = [name for name in features if name not in found.values()]
                found[role] = one_of(role, free, names, features, f"a column {role!r}", first=True)
        return found

    def read(
        self,
        dataset: Dataset,
        roles: Mapping[str, str],
        split: str,
        notes: list[str],
        *,
        folder: Path | None,
        skip_corrupt: bool,
        start: int = 0,
    ) -> tuple[pa.Table, list[int] | None]:
        """``question`` and ``context``, neither of which may be empty."""
        columns = {}
        for role in self.roles:
            values = table_of(dataset, [roles[role]]).column(0).to_pylist()
            for number, value in enumerate(values, start + 1):
                if not isinstance(value, str) or not value.strip():
                    raise DataError(
                        f"the {role} of row {number} of the {split} split is empty or no text (column {roles[role]!r})",
                        "a question and a context in each row",
                        f"correct row {number}, or name other columns: data.columns: {{question: …, context: …}}",
                    )
            columns[role] = pa.array(values, pa.large_string())
        return pa.table(columns), None

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Questions with windows of their contexts; see `potstill.modalities.text.windows.into_windows`."""
        return into_windows(dataset, processor, **options)

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedRows:
        """Tokenised windows with the place of each word; see `potstill.modalities.text.windows.encode_questions`."""
        return encode_questions(dataset, processor, folder, max_tokens=max_tokens)

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The question and its context, with a line between them."""
        return f"{row['question']} | {row['context']}"
