"""Which columns hold several labels or numbers, found by name and type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import ClassLabel, Dataset, Features

from potstill.data.arrow import table_of
from potstill.data.columns import LABEL_NAMES, NoColumn, checked_roles, is_string, named, others
from potstill.data.written_lists import holds_lists, with_lists
from potstill.errors import DataError

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

NUMBER_NAMES = (
    *("score", "scores", "rating", "stars", "value", "values", "similarity", "similarity_score", "similarity score"),
    *("relatedness_score", "评分", "得分", "分数", "相似度"),
)
_LOOKED_AT = 2_000
Roles = dict[str, str]


def find_label_sets(dataset: Dataset, asked: Mapping[str, Any] | None, modality: Modality, *, labelled: bool = True) -> Roles:
    """The content columns, and those of several labels a row.

    Returns:
        The roles of the content, and either ``label`` (lists or delimited strings) or ``label:NAME`` for each 0/1 column.

    Raises:
        DataError: Columns that do not exist, none that fits, or more than one.
    """
    roles, given = _label_roles(dataset.features, asked, modality)
    if not given and labelled:
        given = _guessed_sets(dataset, set(roles.values()))
    return _with_content(dataset.features, roles, given, modality, labelled)


def find_numbers(dataset: Dataset, asked: Mapping[str, Any] | None, modality: Modality, *, labelled: bool = True) -> Roles:
    """The content columns, and those of numbers; arguments, results and errors as in `find_label_sets`."""
    roles, given = _label_roles(dataset.features, asked, modality)
    if not given and labelled:
        given = {"label": _guessed_number(dataset.features, set(roles.values()))}
    return _with_content(dataset.features, roles, given, modality, labelled)


def kind_by_column(dataset: Dataset, asked: Mapping[str, Any] | None) -> str | None:
    """``"labels"`` or ``"numbers"`` where the label column says so by itself: lists of names, or fractions; else None."""
    features = dataset.features
    column = (asked or {}).get("label")
    if isinstance(column, list | tuple):
        found = [name for name in column if name in features]
        return "labels" if found and all(_is_flag(dataset, name) for name in found) else "numbers"
    names = [column] if column is not None else named(features, LABEL_NAMES) or named(features, NUMBER_NAMES)
    if len(names) != 1 or names[0] not in features:
        return None
    feature = features[names[0]]
    inner = inner_feature(feature)
    if inner is None and holds_lists(dataset, names[0]):
        dataset = with_lists(dataset, names)
        inner = inner_feature(dataset.features[names[0]])
    if inner is not None:
        are_flags = {item for row in _some(dataset, names[0]) for item in row or ()} <= {0, 1}
        return "numbers" if _is_float(inner) and not are_flags else "labels"
    return "numbers" if _holds_fractions(dataset, names[0]) else None


def inner_feature(feature: Any) -> Any:
    """What the lists of a column hold; None where it holds no lists."""
    if isinstance(feature, list):
        return feature[0]
    return getattr(feature, "feature", None)


def _label_roles(features: Features, asked: Mapping[str, Any] | None, modality: Modality) -> tuple[Roles, Roles]:
    """The asked content roles, and the asked label roles."""
    given = dict(asked or {})
    label = given.pop("label", None)
    roles = checked_roles(features, given, (*modality.roles, "label"))
    if label is None:
        return roles, {}
    columns = list(label) if isinstance(label, list | tuple) else [str(label)]
    found = {column: checked_roles(features, {"label": column}, ("label",))["label"] for column in columns}
    return roles, {"label": columns[0]} if len(columns) == 1 else {f"label:{column}": name for column, name in found.items()}


def _with_content(features: Features, roles: Roles, label: Roles, modality: Modality, labelled: bool) -> Roles:
    rest = Features({name: feature for name, feature in features.items() if name not in label.values()})
    hidden = set() if labelled else set(named(rest, (*LABEL_NAMES, *NUMBER_NAMES)))
    if len(hidden) < len(rest):
        rest = Features({name: feature for name, feature in rest.items() if name not in hidden})
    return modality.find_content(rest, roles) | label


def _guessed_sets(dataset: Dataset, taken: set[str]) -> Roles:
    features = dataset.features
    free = others(features, taken)
    lists = [name for name in free if inner_feature(features[name]) is not None]
    by_name = named(free, LABEL_NAMES)
    chosen = [name for name in by_name if name in lists] or lists or [name for name in by_name if is_string(features[name])]
    if len(chosen) == 1:
        return {"label": chosen[0]}
    flags = [name for name in free if _is_flag(dataset, name)]
    if not chosen and len(flags) > 1:
        return {f"label:{name}": name for name in flags}
    raise _unclear("the labels", chosen or flags, features, "label: [toxic, insult]")


def _guessed_number(features: Features, taken: set[str]) -> str:
    free = others(features, taken)
    chosen = named(free, (*NUMBER_NAMES, *LABEL_NAMES)) or [name for name in free if _is_float(features[name])]
    if len(chosen) == 1:
        return chosen[0]
    raise _unclear("the number to predict", sorted(chosen), features, "label: score")


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
    kind = DataError if candidates else NoColumn
    return kind(f"{given}: {listed}", "one column, or a list of columns", todo)
