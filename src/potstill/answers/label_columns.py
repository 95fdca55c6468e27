"""Which columns hold several labels or numbers, and which column the texts beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, Features

from potstill.answers.multi_labels import inner_feature
from potstill.data.arrow import table_of
from potstill.data.columns import IGNORED, LABEL_NAMES, checked_roles, find_text, is_string
from potstill.errors import DataError

NUMBER_NAMES = (
    *("score", "scores", "rating", "stars", "value", "values", "similarity", "similarity_score", "similarity score"),
    *("relatedness_score", "评分", "得分", "分数", "相似度"),
)
_LOOKED_AT = 2_000
Roles = dict[str, str]


def find_label_sets(dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True) -> Roles:
    """The columns of a text task with several labels a row.

    Args:
        dataset: Rows.
        asked: Roles that the user has fixed; ``label`` may be a list of 0/1 columns.
        labelled: Whether label columns are wanted.

    Returns:
        ``text``, ``text_pair`` and either ``label`` (lists or delimited strings) or ``label:NAME`` for each 0/1 column.

    Raises:
        DataError: Columns that do not exist, none that fits, or more than one.
    """
    features = dataset.features
    roles, given = _label_roles(features, asked)
    if not given and labelled:
        given = _guessed_sets(dataset, set(roles.values()))
    return _with_texts(features, roles, given, labelled)


def find_numbers(dataset: Dataset, asked: Mapping[str, Any] | None, *, labelled: bool = True, is_optional: bool = False) -> Roles:
    """The columns of a text task whose labels are numbers; arguments, results and errors as in `find_label_sets`.

    Args:
        dataset: Rows.
        asked: Roles that the user has fixed; ``label`` may be a list of columns of numbers.
        labelled: Whether label columns are wanted.
        is_optional: Whether rows may do without.
    """
    features = dataset.features
    roles, given = _label_roles(features, asked)
    if not given and labelled:
        given = _guessed_number(features, set(roles.values()), is_optional)
    return _with_texts(features, roles, given, labelled)


def tells_of_labels(dataset: Dataset, asked: Mapping[str, Any] | None) -> str | None:
    """``"labels"`` or ``"numbers"`` where the label column says so by itself: lists of names, or fractions; else None."""
    features = dataset.features
    column = (asked or {}).get("label")
    if isinstance(column, list | tuple):
        named = [name for name in column if name in features]
        return "labels" if named and all(_is_flag(dataset, name) for name in named) else "numbers"
    names = [column] if column is not None else _named(features, LABEL_NAMES) or _named(features, NUMBER_NAMES)
    if len(names) != 1 or names[0] not in features:
        return None
    feature = features[names[0]]
    inner = inner_feature(feature)
    if inner is not None:
        return "numbers" if _is_float(inner) else "labels"
    return "numbers" if _holds_fractions(dataset, names[0]) else None


def _label_roles(features: Features, asked: Mapping[str, Any] | None) -> tuple[Roles, Roles]:
    """The asked text roles, and the asked label roles."""
    given = dict(asked or {})
    label = given.pop("label", None)
    roles = checked_roles(features, given, ("text", "text_pair", "label"))
    if label is None:
        return roles, {}
    columns = list(label) if isinstance(label, list | tuple) else [str(label)]
    if len(columns) == 1:
        return roles, checked_roles(features, {"label": columns[0]}, ("label",))
    found = {f"label:{column}": checked_roles(features, {"label": column}, ("label",))["label"] for column in columns}
    return roles, found


def _with_texts(features: Features, roles: Roles, label: Roles, labelled: bool) -> Roles:
    rest = Features({name: feature for name, feature in features.items() if name not in label.values()})
    named = {} if labelled else dict.fromkeys(_named(rest, (*LABEL_NAMES, *NUMBER_NAMES)))
    rest = Features({name: feature for name, feature in rest.items() if name not in named}) if len(named) < len(rest) else rest
    return find_text(rest, roles, labelled=False) | label


def _guessed_sets(dataset: Dataset, taken: set[str]) -> Roles:
    features = dataset.features
    others = [name for name in features if name not in taken and name.lower() not in IGNORED]
    lists = [name for name in others if inner_feature(features[name]) is not None]
    named = [name for name in _named(features, LABEL_NAMES) if name in others]
    chosen = [name for name in named if name in lists] or lists or [name for name in named if is_string(features[name])]
    if len(chosen) == 1:
        return {"label": chosen[0]}
    flags = [name for name in others if _is_flag(dataset, name)]
    if not chosen and len(flags) > 1:
        return {f"label:{name}": name for name in flags}
    raise _unclear("the labels", chosen or flags, features, "label: [toxic, insult]")


def _guessed_number(features: Features, taken: set[str], is_optional: bool) -> Roles:
    others = {name for name in features if name not in taken and name.lower() not in IGNORED}
    named = [name for name in _named(features, (*NUMBER_NAMES, *LABEL_NAMES)) if name in others]
    chosen = named or [name for name in others if _is_float(features[name])]
    if len(chosen) == 1:
        return {"label": chosen[0]}
    if not chosen and is_optional:
        return {}
    raise _unclear("the number to predict", sorted(chosen), features, "label: score")


def _named(features: Iterable[str], names: Sequence[str]) -> list[str]:
    return [column for column in features if column.strip().lower() in names]


def _is_float(feature: Any) -> bool:
    return str(getattr(feature, "dtype", "")).startswith("float")


def _is_flag(dataset: Dataset, name: str) -> bool:
    """Whether a column holds 0 and 1 alone (or booleans)."""
    feature = dataset.features[name]
    dtype = str(getattr(feature, "dtype", ""))
    if isinstance(feature, ClassLabel) or not (dtype == "bool" or dtype.startswith(("int", "uint", "float"))):
        return False
    return set(_some(dataset, name)) <= {0, 1, None}


def _holds_fractions(dataset: Dataset, name: str) -> bool:
    """Whether a column of numbers, or of strings that are numbers, holds one that is not whole."""
    feature = dataset.features[name]
    if not (_is_float(feature) or is_string(feature)):
        return False
    numbers = []
    for value in _some(dataset, name):
        try:
            numbers.append(float(value) if value not in (None, "") else math.nan)
        except ValueError:
            return False
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)


def _some(dataset: Dataset, name: str) -> list[Any]:
    found: list[Any] = table_of(dataset, [name]).column(0).slice(0, _LOOKED_AT).to_pylist()
    return found


def _unclear(what: str, candidates: Sequence[str], features: Features, example: str) -> DataError:
    listed = ", ".join(repr(name) for name in (candidates or features))
    given = f"more than one column could hold {what}" if candidates else f"no column looks like {what}; the columns are"
    todo = f"say which, for example data.columns: {{{example}}}"
    return DataError(f"{given}: {listed}", "one column, or a list of columns", todo)
