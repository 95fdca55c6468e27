"""What loading a model or processor has in common for all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potstill.errors import ModelError


def head_names(num_labels: int, label_names: Sequence[str]) -> dict[str, Any]:
    """The arguments that give a model its number and names of labels.

    Raises:
        ModelError: The two do not agree.
    """
    if len(label_names) != num_labels:
        raise ModelError(f"{num_labels} labels were asked for, and {len(label_names)} names given", "one name a label")
    names = {i: str(name) for i, name in enumerate(label_names)}
    return {"num_labels": num_labels, "id2label": names, "label2id": {name: i for i, name in names.items()}}


def loading_error(name_or_path: str, what: str, err: Exception) -> ModelError:
    """The error for a folder or hub id that does not give what is asked for."""
    reason = str(err).strip().splitlines()[0][:200] if str(err).strip() else type(err).__name__
    return ModelError(
        f"{name_or_path} does not give {what} ({reason})",
        "a folder written by save_pretrained (model and tokenizer or image processor), or a hub id",
        "check the path; save what is missing beside the model with save_pretrained",
    )
