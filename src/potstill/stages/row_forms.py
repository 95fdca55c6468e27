"""Rows brought into the form in which they are encoded: long texts in segments, contexts in windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from potstill.errors import RecipeError

if TYPE_CHECKING:
    from potstill.stages.context import Run


def formed(run: Run, splits: Mapping[str, Dataset], processor: Any) -> tuple[dict[str, Dataset], list[str]]:
    """The rows of every split as they are encoded, and what there is to say.

    Args:
        run: Says which task, and how long texts are treated.
        splits: Name → rows.
        processor: The teacher's tokenizer or image processor; segments and windows are measured in its tokens.

    Raises:
        RecipeError: `data.long_texts: segment` for a task that does not take segments.
    """
    if not _takes_segments(run, splits, getattr(processor, "is_fast", False)):
        return dict(splits), []
    made, notes = {}, []
    free = 1 + max((max(rows["row_id"]) for rows in splits.values() if len(rows)), default=0)
    for name, rows in splits.items():
        made[name], note = run.task.split_long(  # type: ignore[attr-defined]
            rows, processor, first_row_id=free, split=name, max_tokens=run.recipe.data.max_tokens
        )
        free += len(made[name]) - len(rows)
        notes += [note] if note else []
    return made, notes


def _takes_segments(run: Run, splits: Mapping[str, Dataset], tells_places: bool) -> bool:
    wanted, data = run.recipe.data.long_texts, run.recipe.data
    always = getattr(run.task, "needs_windows", False)
    able = always or (hasattr(run.task, "split_long") and run.task.label_kind == "class")
    if wanted == "segment" and not able:
        raise RecipeError(
            f"data.long_texts is segment, and the task is {run.task.name}",
            "segment for text-classification; auto or truncate for other tasks",
            "set data.long_texts: auto",
        )
    is_pair = any("text_pair" in rows.column_names for rows in splits.values())
    by_itself = wanted == "auto" and data.max_tokens is None and tells_places and not is_pair
    return always or (able and (wanted == "segment" or by_itself))
