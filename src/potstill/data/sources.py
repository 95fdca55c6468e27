"""Where data come from: hub id, file, folder or memory → splits by name, as plain `datasets.Dataset` objects."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict

from potstill.data.arrow import dataset_of
from potstill.data.images import METADATA
from potstill.data.places import ACCEPTED, SUFFIXES, check_place, data_suffix
from potstill.data.tables import read_table, refuse_mixed, table_of_rows
from potstill.errors import DataError
from potstill.ground.disk import spelling

if TYPE_CHECKING:
    from potstill.contracts.modality import Modality

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabelled", "unlabeled", "unsupervised"), "unlabelled"),
}
_SPLIT = re.compile(rf"^({'|'.join(sorted(SPLIT_NAMES, key=len, reverse=True))})(?=$|[-_. 0-9])", re.IGNORECASE)


@dataclass
class Source:
    """What was read: split name → rows, their files, and what there is to say."""

    splits: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)
    folder: Path | None = None
    files: dict[str, str] = field(default_factory=dict)


def split_of(name: str) -> str | None:
    """The split that a file, folder or key name stands for, or None.

    Example:
        >>> split_of("dev"), split_of("train-00000-of-00002"), split_of("oos_test")
        ('validation', 'train', None)
    """
    match = _SPLIT.match(name)
    return SPLIT_NAMES[match.group(1).lower()] if match else None


def read_source(source: Any, *, modality: Modality, labelled: bool = True) -> Source:
    """Read a source of any kind.

    Args:
        source: A path, a hub id (``name``, ``owner/name`` or ``owner/name:config``), a Dataset, DatasetDict, mapping of
            split name → Dataset, or a pandas DataFrame.
        modality: Knows folders that are laid out for it.
        labelled: False for data without labels, where a folder of images needs no class folders and ``.txt`` is read.

    Raises:
        DataError: Nothing there, or nothing that can be read.
    """
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_file():
            return Source({"train": read_file(path, labelled=labelled)}, folder=path.parent)
        if path.is_dir():
            return _read_folder(path, modality, labelled)
        return _read_hub(str(source), path)
    return _read_memory(source)


def read_file(path: Path, *, labelled: bool = True) -> Dataset:
    """Read one data file."""
    if path.name in ("dataset_info.json", "state.json", "dataset_dict.json"):
        raise DataError(f"{path} is a part of a `datasets` folder", "the folder itself", f"give {path.parent}")
    if data_suffix(path) == ".txt" and labelled:
        raise DataError(
            f"{path} is plain text and has no labels",
            ACCEPTED,
            "give it as data.unlabelled, or write JSON Lines with text and label",
        )
    try:
        return dataset_of(read_table(path))
    except PermissionError as err:
        raise DataError(f"{path} cannot be read: permission denied", "a file that you may read", f"chmod u+r {path}") from err


def _read_memory(source: Any) -> Source:
    if isinstance(source, Dataset):
        return Source({"train": source})
    if isinstance(source, Mapping) and source and all(isinstance(rows, Dataset) for rows in source.values()):
        return _by_split(dict(source))
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return Source({"train": _read_frame(source)})
    if isinstance(source, list | tuple) and source and all(isinstance(row, Mapping) for row in source):
        return Source({"train": dataset_of(table_of_rows("the data", list(source)))})
    hint = (
        "call .to_list() on it first"
        if isinstance(source, datasets.IterableDataset)
        else "for rows in Python use datasets.Dataset.from_list"
    )
    raise DataError(f"data is a {type(source).__name__}", ACCEPTED, hint)


def _read_frame(frame: Any) -> Dataset:
    names = [str(name) for name in frame.columns]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(
            f"the DataFrame has more than one column {repeated[0]!r}", "column names that differ", "rename one, or drop it"
        )
    try:
        return Dataset.from_pandas(frame.set_axis(names, axis="columns"), preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        for name, column in zip(names, (frame.iloc[:, place] for place in range(len(names)))):
            refuse_mixed("the DataFrame", name, column.where(column.notna(), None).tolist())
        raise


def _by_split(found: Mapping[str, Dataset]) -> Source:
    splits: dict[str, Dataset] = {}
    notes = []
    for name, rows in found.items():
        split = split_of(str(name))
        if split is None or split in splits:
            notes.append(f"split {name!r} of the data is not used")
        else:
            splits[split] = rows
    if not splits and len(found) == 1:
        return Source({"train": next(iter(found.values()))})
    if not splits:
        raise DataError(
            f"the data have the splits {', '.join(map(repr, found))}", "train, and optionally validation and test", "rename them"
        )
    return Source(splits, notes)


def _read_hub(name: str, path: Path) -> Source:
    check_place(name)
    hub_id, _, config = name.partition(":")
    try:
        found = datasets.load_dataset(hub_id, config or None)
    except Exception as err:
        raise _hub_error(name, path, err) from err
    if not isinstance(found, DatasetDict):
        raise DataError(
            f"{name} gave a {type(found).__name__}", "a data set with splits", "load it yourself and give the Dataset"
        )
    return _by_split(found)


def _hub_error(name: str, path: Path, err: Exception) -> DataError:
    if "Config name is missing" in str(err):
        choices = str(err).split("Please pick one among the available configs:")[-1].split("Example of usage")[0].strip()
        return DataError(
            f"the hub data set {name!r} has several configurations: {choices}",
            "one of them",
            f"give it after a colon: {name}:CONFIG",
        )
    offline = "offline" in str(err).lower() or "connect" in str(err).lower()
    reason = f"{type(err).__name__}: {str(err).strip().splitlines()[0][:160] if str(err).strip() else 'no reason given'}"
    given = f"{name!r} is neither a file or folder here nor a data set that the hub gives ({reason})"
    return DataError(given, ACCEPTED, "connect to the network, or give a path" if offline else spelling(path))


def _read_folder(folder: Path, modality: Modality, labelled: bool) -> Source:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "_")))
    except PermissionError as err:
        raise DataError(
            f"{folder} cannot be read: permission denied", "a folder that you may read", f"chmod u+rx {folder}"
        ) from err
    if not entries:
        raise DataError(f"{folder} is empty", ACCEPTED, "check the path")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _read_saved(folder)
    files = [entry for entry in entries if entry.is_file() and (data_suffix(entry) in SUFFIXES) and entry.name not in METADATA]
    if any(split_of(file.name) for file in files):
        return _read_split_files(folder, files, labelled)
    folders = [entry for entry in entries if entry.is_dir() and split_of(entry.name)]
    if folders:
        return _read_split_folders(folder, folders, modality, labelled)
    if (rows := modality.read_folder(folder, files, labelled=labelled)) is not None:
        return Source({"train": rows}, folder=folder)
    if (folder / "data").is_dir():
        return _read_folder(folder / "data", modality, labelled)
    if len(files) == 1:
        return Source({"train": read_file(files[0], labelled=labelled)}, folder=folder)
    raise _unclear_folder(folder, files)


def _unclear_folder(folder: Path, files: list[Path]) -> DataError:
    if files:
        names = ", ".join(file.name for file in files[:8])
        return DataError(
            f"{folder} holds {names}, and none is named as a split",
            "files named train, validation, test",
            "rename them, or give one file",
        )
    return DataError(
        f"{folder} holds no data that can be read",
        ACCEPTED,
        "check the path, or put the images of each class in a sub-folder of its own",
    )


def _read_saved(folder: Path) -> Source:
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as err:
        raise DataError(
            f"{folder} is not a whole `datasets` folder ({err})", "a folder written by save_to_disk", "save it again"
        ) from err
    return _by_split(found) if isinstance(found, DatasetDict) else Source({"train": found})


def _read_split_files(folder: Path, files: list[Path], labelled: bool) -> Source:
    groups: dict[str, list[Path]] = {}
    notes = []
    for file in files:
        split = split_of(file.name)
        if split is None:
            notes.append(f"{file.name} is not named as a split and is not used")
        else:
            groups.setdefault(split, []).append(file)
    splits = {}
    for split, members in groups.items():
        stems = {re.sub(r"\d+", "0", member.name) for member in members}
        if len(stems) > 1:
            names = ", ".join(member.name for member in members)
            raise DataError(
                f"{folder} has several files for the {split} split: {names}",
                "one file, or numbered parts of it",
                "move the others away",
            )
        parts = [read_file(member, labelled=labelled and split != "unlabelled") for member in members]
        splits[split] = parts[0] if len(parts) == 1 else _joined(folder, split, parts)
    named = {split: str(members[0]) for split, members in groups.items() if len(members) == 1}
    return Source(splits, notes, folder, named)


def _joined(folder: Path, split: str, parts: list[Dataset]) -> Dataset:
    try:
        return datasets.concatenate_datasets(parts)
    except Exception as err:
        raise DataError(
            f"the parts of the {split} split in {folder} do not fit together ({err})", "the same columns", "write them alike"
        ) from err


def _read_split_folders(folder: Path, folders: list[Path], modality: Modality, labelled: bool) -> Source:
    found: dict[str, Dataset] = {}
    notes = []
    for entry in folders:
        split = str(split_of(entry.name))
        if split in found:
            notes.append(f"{entry.name} is a second folder for the {split} split and is not used")
            continue
        inner = _read_folder(entry, modality, labelled and split != "unlabelled")
        found[split] = next(iter(inner.splits.values()))
    return Source(found, notes, folder)
