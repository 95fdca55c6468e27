"""Kinds of rows: texts (also in words, or as questions with their contexts) and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.errors import ModelError, first_line

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

MODALITIES = {
    "text": "potstill.modalities.text.texts:Texts",
    "words": "potstill.modalities.text.words:Words",
    "questions": "potstill.modalities.text.questions:Questions",
    "image": "potstill.modalities.image.images:Images",
}


def build(name: str) -> Modality:
    """The modality of that name.

    Raises:
        RecipeError: No such modality; the message suggests the nearest one.
    """
    from potstill.ground.tables import resolve

    modality: Modality = resolve(MODALITIES, name, kind="modality")()
    return modality


def loading_error(name_or_path: str, what: str, err: Exception) -> ModelError:
    """The error for a folder or hub id that does not give what is asked for."""
    return ModelError(
        f"{name_or_path} does not give {what} ({first_line(err)[:200]})",
        "a folder written by save_pretrained (model and tokenizer or image processor), or a hub id",
        "check the path; save what is missing in the same folder with save_pretrained",
    )
