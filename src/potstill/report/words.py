"""Texts of the page in English and Chinese: both are in the page, a switch shows one; names of models and their order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from markupsafe import Markup, escape

from potstill.errors import RecipeError
from potstill.report.words_en import ENGLISH
from potstill.report.words_zh import CHINESE

LANGUAGES = ("en", "zh")
ORDER = ("teacher", "baseline", "student", "student-int8")
MODELS = ("teacher", "baseline", "student", "ensemble", "generation", "generations", "assistant")


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
    """The text of `key` in both languages, with `{name}` filled from `values`; of one that is in both, with each.

    Example:
        >>> say("kept", value="98.1 %").en
        '98.1 % of the quality kept'
    """
    return Said(ENGLISH[key].format(**_of(0, values)), CHINESE[key].format(**_of(1, values)))


def _of(language: int, values: dict[str, object]) -> dict[str, object]:
    return {name: value[language] if isinstance(value, Said) else value for name, value in values.items()}


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


def model_name(name: str) -> Said:
    """A model's name in both languages; what the page does not know of a name stays as it is.

    Example:
        >>> model_name("student-int8").en, model_name("teacher-2").zh, model_name("student-openvino-int8").zh
        ('student INT8', '教师 2', '学生 openvino-int8')
    """
    if name in ENGLISH:
        return say(name)
    kind, _, which = name.partition("-")
    found = say(kind) if kind in MODELS else same(kind)
    return Said(f"{found.en} {which}".strip(), f"{found.zh} {which}".strip())


def in_order(names: Iterable[str]) -> list[str]:
    """Teacher, baseline, student, student-int8, then the others as they came."""
    given = list(names)
    return [name for name in ORDER if name in given] + [name for name in given if name not in ORDER]
