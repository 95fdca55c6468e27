"""Where the words of a text stand."""

from __future__ import annotations

import re

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+|[^\w\s]|_")
Span = tuple[int, int]


def words_of(text: str) -> list[Span]:
    """Where the words of a text stand: runs of letters and digits, single CJK characters, single marks.

    Example:
        >>> words_of("in 1999.")
        [(0, 2), (3, 7), (7, 8)]
    """
    return [match.span() for match in _WORD.finditer(text)]
