"""Kinds of rows: texts (also in words, or as questions with their contexts) and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
