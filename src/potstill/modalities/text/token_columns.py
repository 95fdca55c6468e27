"""Which columns hold the words and tags of a tagging task, or the question, context and answers of a question task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Features

from potstill.data.columns import checked_roles, written
from potstill.errors import DataError

WORD_NAMES = ("tokens", "words", "word_list", "token_list", "词", "词语")
TAG_NAMES = ("tags", "ner_tags", "pos_tags", "chunk_tags", "labels", "label", "ner", "pos", "upos", "ner_labels", "标签")
QUESTION_NAMES = ("question", "query", "问题")
CONTEXT_NAMES = ("context", "passage", "paragraph", "document", "text", "上下文", "段落", "文章")
ANSWER_NAMES = ("answers", "answer", "答案")


def find_words(features: Features, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
    """The columns of a tagging task: ``tokens`` (lists of words) and ``label`` (lists of tags; a user may say ``tags``).

    Args:
        features: The features of the data set.
        asked: Roles that the user has fixed.
        labelled: Whether a column of tags is wanted.

    Raises:
        DataError: A column asked for does not exist, none fits, or more than one does.
    """
    roles = _renamed(checked_roles(features, asked, ("tokens", "tags", "label")), "tags", "label")
    lists = [name for name in features if is_list(features[name]) and name not in roles.values()]
    if "tokens" not in roles:
        roles["tokens"] = _only("tokens", _named(lists, WORD_NAMES), features, "a column with a list of words in each row")
    if not labelled:
        roles.pop("label", None)
    elif "label" not in roles:
        others = [name for name in lists if name != roles["tokens"]]
        named = _named(others, TAG_NAMES)
        roles["label"] = _only("tags", named or others, features, "a column with a list of tags in each row, one for each word")
    return roles


def find_questions(features: Features, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
    """The columns of a question task: ``question``, ``context`` and ``label`` (answers; a user may say ``answers``).

    Arguments and errors as in `find_words`.
    """
    roles = _renamed(checked_roles(features, asked, ("question", "context", "answers", "label")), "answers", "label")
    wanted = {"question": QUESTION_NAMES, "context": CONTEXT_NAMES}
    for role, names in (wanted | ({"label": ANSWER_NAMES} if labelled else {})).items():
        if role not in roles:
            free = [name for name in features if name not in roles.values()]
            accepted = 'a column of answers, each {"text": […], "answer_start": […]}' if role == "label" else f"a column {role!r}"
            roles[role] = _only("answers" if role == "label" else role, _named(free, names)[:1], features, accepted)
    if not labelled:
        roles.pop("label", None)
    return roles


def tells_of_units(features: Features, asked: Mapping[str, Any] | None = None) -> str | None:
    """``"tags"`` where there are lists of words and of tags, ``"spans"`` where there are questions, contexts and answers.

    Only columns with the usual names tell, or those that the user has named by the roles of these tasks.
    """
    roles = set(asked or {})
    if {"tokens", "tags"} & roles or {"context", "answers"} & roles:
        return "tags" if {"tokens", "tags"} & roles else "spans"
    names = {name.strip().lower() for name in features}
    lists = {name.strip().lower() for name in features if is_list(features[name])}
    if lists & set(WORD_NAMES) and lists & set(TAG_NAMES):
        return "tags"
    is_question = names & set(QUESTION_NAMES) and "context" in names and names & set(ANSWER_NAMES)
    return "spans" if is_question else None


def is_list(feature: object) -> bool:
    """Whether a feature holds lists."""
    return isinstance(feature, list) or hasattr(feature, "feature")


def _renamed(roles: dict[str, str], old: str, new: str) -> dict[str, str]:
    return {new if role == old else role: column for role, column in roles.items()}


def _named(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    return [column for name in names for column in columns if column.strip().lower() == name]


def _only(role: str, candidates: Sequence[str], features: Features, accepted: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    listed = ", ".join(repr(name) for name in (candidates or features)) or "none"
    given = f"more than one column could be the {role}" if candidates else f"no column looks like the {role}"
    choice = candidates[0] if candidates else next(iter(features), "…")
    raise DataError(f"{given}: {listed}", accepted, f"say which, for example data.columns: {{{role}: {written(choice)}}}")
