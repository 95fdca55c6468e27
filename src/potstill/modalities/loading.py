"""The error for a model or processor that does not load."""

from __future__ import annotations

from potstill.errors import ModelError, first_line


def loading_error(name_or_path: str, what: str, err: Exception) -> ModelError:
    """The error for a folder or hub id that does not give what is asked for."""
    return ModelError(
        f"{name_or_path} does not give {what} ({first_line(err)[:200]})",
        "a folder written by save_pretrained (model and tokenizer or image processor), or a hub id",
        "check the path; save what is missing in the same folder with save_pretrained",
    )
