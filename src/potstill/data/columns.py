"""Which column holds what: found by name and type, refused with the choices where it is not clear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from datasets import ClassLabel, Features, Image

from potstill.errors import DataError
from potstill.ground.tables import nearest

TEXT_NAMES = (
    *("text", "sentence", "review", "review_text", "content", "utterance", "query", "question", "comment", "tweet", "document"),
    *("body", "message", "review_body", "input", "texts", "sentences", "文本", "内容", "句子", "评论", "正文"),
)
PAIR_NAMES = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("question1", "question2")),
    *(
        ("text", "text_pair"),
        ("text1", "text2"),
        ("text_a", "text_b"),
        ("sentence_a", "sentence_b"),
        ("sentence_A", "sentence_B"),
    ),
    *(("question", "sentence"), ("question", "passage"), ("query", "document"), ("query", "passage"), ("query", "title")),
    *(("q1", "q2"), ("s1", "s2"), ("文本1", "文本2"), ("句子1", "句子2"), ("前提", "假设")),
)
LABEL_NAMES = (
    *("label", "labels", "target", "targets", "class", "category", "sentiment", "intent", "topic", "gold_label", "y"),
    *("fine_label", "coarse_label", "标签", "类别", "分类", "情感", "意图"),
)
IMAGE_NAMES = (
    *("image", "img", "images", "picture", "photo", "jpg", "png", "image_path", "image_file", "file_name", "filename"),
    *("file", "path", "图片", "图像"),
)
IGNORED = ("id", "idx", "index", "row_id", "guid", "uid", "uuid", "unnamed: 0", "__index_level_0__", "编号", "序号")


def find_text(features: Features, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
    """The columns of a text task: role (``text``, ``text_pair``, ``label``) → column.

    Args:
        features: The features of the data set.
        asked: Roles that the user has fixed.
        labelled: Whether a label column is wanted.

    Raises:
        DataError: A column asked for does not exist, none fits, or more than one does.
    """
    roles = checked_roles(features, asked, ("text", "text_pair", "label"))
    label = _named_label(features, roles)
    if "text" not in roles:
        strings = [name for name in _others(features, {*roles.values(), *label}) if is_string(features[name])]
        roles |= _text_columns(features, strings, has_pair="text_pair" in roles)
    return roles | _label_role(features, roles, label, labelled)


def find_image(features: Features, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
    """The columns of an image task: role (``image``, ``label``) → column; arguments and errors as in `find_text`."""
    roles = checked_roles(features, asked, ("image", "label"))
    label = _named_label(features, roles)
    if "image" not in roles:
        others = _others(features, {*roles.values(), *label})
        roles["image"] = _only(
            "image", [name for name in others if is_image(features[name])] or _named(others, IMAGE_NAMES), features
        )
    return roles | _label_role(features, roles, label, labelled)


def checked_roles(features: Features, asked: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """The asked-for roles, each known and each naming a column that exists."""
    roles = dict(asked or {})
    for role, column in roles.items():
        if role not in known:
            guess = nearest(role, known)
            raise DataError(f"data.columns has the key {role!r}", ", ".join(known), f"did you mean {guess!r}?" if guess else "")
        if column not in features:
            guess = nearest(column, features)
            raise DataError(
                f"column {column!r} (data.columns.{role}) is not in the data",
                f"one of {_listed(features)}",
                f"set data.columns: {{{role}: {written(guess or next(iter(features), '…'))}}}",
            )
    return roles


def written(name: str) -> str:
    """A column's name as a recipe writes it: in quotes where YAML would read something else."""
    return name if re.fullmatch(r"[^\W\d]([\w ./-]*[\w])?", name) else json.dumps(name, ensure_ascii=False)


def is_string(feature: object) -> bool:
    """Whether a feature holds plain strings."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def is_image(feature: object) -> bool:
    """Whether a feature holds encoded images or pixel arrays."""
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return "bytes" in feature
    dtype = getattr(feature, "dtype", None)
    return dtype in ("binary", "large_binary") or type(feature).__name__ in ("Array2D", "Array3D")


def _others(features: Features, taken: set[str]) -> list[str]:
    return [name for name in features if name not in taken and name.lower() not in IGNORED]


def _named(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    return [column for column in columns if column.strip().lower() in names]


def _text_columns(features: Features, strings: list[str], *, has_pair: bool) -> dict[str, str]:
    lower = {name.lower(): name for name in strings}
    pairs = [(first, second) for first, second in PAIR_NAMES if first.lower() in lower and second.lower() in lower]
    if not has_pair and len(pairs) == 1:
        first, second = pairs[0]
        named = set(_named(strings, TEXT_NAMES)) - {lower[first.lower()], lower[second.lower()]}
        if not named:
            return {"text": lower[first.lower()], "text_pair": lower[second.lower()]}
        raise _unclear("text", [*strings], features)
    return {"text": _only("text", _named(strings, TEXT_NAMES) or strings, features)}


def _named_label(features: Features, roles: Mapping[str, str]) -> list[str]:
    if "label" in roles:
        return [roles["label"]]
    return _named(_others(features, set(roles.values())), LABEL_NAMES)


def _label_role(features: Features, roles: Mapping[str, str], named: list[str], labelled: bool) -> dict[str, str]:
    if not labelled or "label" in roles:
        return {}
    others = _others(features, set(roles.values()))
    for fits in (lambda f: isinstance(f, ClassLabel), _is_category, is_string):
        named = named or [name for name in others if fits(features[name])]
    return {"label": _only("label", named, features)}


def _is_category(feature: object) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype == "bool" or (dtype.startswith(("int", "uint")) and not isinstance(feature, ClassLabel))


def _only(role: str, candidates: Sequence[str], features: Features) -> str:
    if len(candidates) == 1:
        return candidates[0]
    raise _unclear(role, candidates, features)


def _unclear(role: str, candidates: Sequence[str], features: Features) -> DataError:
    if candidates:
        given = f"more than one column could be the {role}: {_listed(candidates)}"
    else:
        given = f"no column of the data looks like the {role}; the columns are {_listed(features)}"
    choice = candidates[0] if candidates else next(iter(_others(features, set())), "…")
    return DataError(given, f"one column as {role}", f"say which, for example data.columns: {{{role}: {written(choice)}}}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
