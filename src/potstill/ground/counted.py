"""Numbers with their nouns, in the singular or the plural."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, with commas between thousands.

    Args:
        plural: Of the noun; None for one that takes an s.

    Example:
        >>> counted(1, "row"), counted(2000, "row"), counted(0, "class", "classes")
        ('1 row', '2,000 rows', '0 classes')
    """
    return f"{number:,} {inflected(number, noun, plural or f'{noun}s')}"


def inflected(number: int, one: str, many: str) -> str:
    """The word that goes with a number.

    Example:
        >>> inflected(1, "is", "are"), inflected(3, "is", "are")
        ('is', 'are')
    """
    return one if number == 1 else many
