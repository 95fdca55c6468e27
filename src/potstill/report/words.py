"""Every word of the page in English and Chinese; both travel in the page, a switch shows one."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup, escape

from potstill.errors import RecipeError
from potstill.report.words_en import ENGLISH
from potstill.report.words_zh import CHINESE

LANGUAGES = ("en", "zh")


class Said(NamedTuple):
    """One text in both languages, not yet escaped."""

    en: str
    zh: str

    def __html__(self) -> Markup:
        """Both languages as HTML; the style sheet hides one."""
        if self.en == self.zh:
            return escape(self.en)
        return Markup('<span class="en" lang="en">{}</span><span class="zh" lang="zh">{}</span>').format(self.en, self.zh)


def say(key: str, **values: object) -> Said:
    """The text of `key` in both languages, with `{name}` filled from `values`.

    Example:
        >>> say("kept", value="98.1 %").en
        '98.1 % of the quality kept'
    """
    return Said(ENGLISH[key].format(**values), CHINESE[key].format(**values))


def same(text: object) -> Said:
    """A name or figure that reads the same in every language."""
    return Said(str(text), str(text))


def check_language(lang: str) -> str:
    """`lang` itself.

    Raises:
        RecipeError: No such language.
    """
    if lang not in LANGUAGES:
        raise RecipeError(f"report language {lang!r} does not exist", ", ".join(LANGUAGES), 'use lang="en" or lang="zh"')
    return lang
