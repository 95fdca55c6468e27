"""Which column holds what: found by name and type, refused with the choices where it is not clear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from datasets import ClassLabel, Features, Image

from potstill.errors import DataError
from potstill.ground.tables import nearest

LABEL_NAMES = (
    *("label", "labels", "target", "targets", "class", "category", "sentiment", "intent", "topic", "gold_label", "y"),
    *("fine_label", "coarse_label", "标签", "类别", "分类", "情感", "意图"),
)
_ID_WORDS = ("id", "ids", "idx", "guid", "uid", "uuid")
IGNORED = ("id", "idx", "index", "row_id", "guid", "uid", "uuid", "unnamed: 0", "__index_level_0__", "编号", "序号")


class NoColumn(DataError):
    """No column fits a role, not even several."""


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


def is_list(feature: object) -> bool:
    """Whether a feature holds lists."""
    return isinstance(feature, list) or hasattr(feature, "feature")


def is_image(feature: object) -> bool:
    """Whether a feature holds encoded images or pixel arrays."""
    if isinstance(feature, Image):
        return True
    if isinstance(feature, dict):
        return "bytes" in feature
    dtype = getattr(feature, "dtype", None)
    return dtype in ("binary", "large_binary") or type(feature).__name__ in ("Array2D", "Array3D")


def others(features: Features, taken: set[str]) -> list[str]:
    """The columns that are not taken and hold no row numbers."""
    return [name for name in features if name not in taken and not is_id(name)]


def is_id(name: str) -> bool:
    """Whether a column's name says that it numbers rows: ``Row ID``, ``textID``, ``Unnamed: 0``; not ``label_id``.

    Example:
        >>> [is_id(name) for name in ("Row ID", "textID", "tweet_id", "label_id", "valid")]
        [True, True, True, False, False]
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\d_]+", name)
    lower = [word.lower() for word in words]
    is_numbered = bool(lower) and lower[-1] in _ID_WORDS and not set(lower) & set(LABEL_NAMES)
    return name.strip().lower() in IGNORED or name.lower().startswith("unnamed: ") or is_numbered


def named(columns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The columns with one of these names."""
    return [column for column in columns if column.strip().lower() in names]


def named_label(features: Features, roles: Mapping[str, str]) -> list[str]:
    """The columns that hold labels by their role or name."""
    if "label" in roles:
        return [roles["label"]]
    return named(others(features, set(roles.values())), LABEL_NAMES)


def label_role(features: Features, roles: Mapping[str, str], found: list[str], labelled: bool) -> dict[str, str]:
    """The role ``label``, of the columns found by name, else by type; empty where it is there or not wanted.

    Raises:
        DataError: No column fits, or more than one does.
    """
    if not labelled or "label" in roles:
        return {}
    free = others(features, set(roles.values()))
    for fits in (lambda f: isinstance(f, ClassLabel), _is_category, is_string):
        found = found or [name for name in free if fits(features[name])]
    return {"label": only("label", found, features)}


def _is_category(feature: object) -> bool:
    dtype = str(getattr(feature, "dtype", ""))
    return dtype == "bool" or (dtype.startswith(("int", "uint")) and not isinstance(feature, ClassLabel))


def one_of(
    role: str,
    columns: Sequence[str],
    names: Sequence[str],
    features: Features,
    accepted: str,
    *,
    first: bool = False,
    or_any: bool = False,
) -> str:
    """The column with one of the usual names (in lower case, the likeliest first), else where `or_any` is set the only one.

    Where several columns have such a name, `first` takes the likeliest.

    Raises:
        DataError: No column fits, or more than one does.
    """
    candidates = [column for name in names for column in columns if column.strip().lower() == name]
    candidates = candidates[:1] if first else candidates or (list(columns) if or_any else [])
    if len(candidates) == 1:
        return candidates[0]
    raise unclear(role, candidates, features, accepted)


def only(role: str, candidates: Sequence[str], features: Features) -> str:
    """The one candidate.

    Raises:
        DataError: There is none, or more than one.
    """
    if len(candidates) == 1:
        return candidates[0]
    raise unclear(role, candidates, features)


def unclear(role: str, candidates: Sequence[str], features: Features, accepted: str = "") -> DataError:
    """The error for a role that no column fits, or more than one."""
    given = f"more than one column could be the {role}" if candidates else f"no column looks like the {role}"
    choice = candidates[0] if candidates else next(iter(others(features, set())), "…")
    todo = f"say which, for example data.columns: {{{role}: {written(choice)}}}"
    kind = DataError if candidates else NoColumn
    return kind(f"{given}: {_listed(candidates or features)}", accepted or f"one column as {role}", todo)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
