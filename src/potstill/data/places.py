"""Where data are: a file or folder here, or a hub id; checked by name, without reading anything."""

from __future__ import annotations

import re
from pathlib import Path

from potstill.errors import DataError
from potstill.ground.disk import spelling

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ACCEPTED = (
    f"a file ({', '.join(SUFFIXES)}, also .gz), an image folder with one sub-folder a class, "
    "a folder with train/validation/test files, a `datasets` folder, a hub id, or a Dataset in memory"
)
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(:[\w.,+-]+)?$")
_NOT_DATA = {  # what a folder is → files that it holds, all of them
    "a model": ("config.json", "model.safetensors"),
    "a run of Potstill": ("recipe.yaml", "work"),
}


def data_suffix(path: Path) -> str:
    """The lower-case suffix that says how a file is read, without ``.gz``; empty where it is not a data file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in (*SUFFIXES, ".txt") else ""


def unknown_suffix(path: Path) -> DataError:
    """That a file's suffix does not say how it is read."""
    return DataError(f"{path} has a suffix that is not known", f"{', '.join(SUFFIXES)} (also .gz)", "convert or rename the file")


def check_place(source: str) -> None:
    """Refuse a place where no data can be; hub ids pass.

    Raises:
        DataError: The path does not exist, is a folder without an entry or that of a model or a run.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        entries = {entry.name for entry in path.iterdir()}
        if not entries:
            raise DataError(f"{source} is empty", ACCEPTED, "check the path")
        for whose, files in _NOT_DATA.items():
            if entries.issuperset(files):
                todo = "check the path, or whether two flags are swapped"
                raise DataError(f"{source} is the folder of {whose} ({', '.join(files)})", ACCEPTED, todo)
    elif path.is_file() and not data_suffix(path):
        raise unknown_suffix(path)
    elif not path.exists() and (not _HUB_ID.match(source) or source.startswith(".") or data_suffix(path) or path.suffix == ".gz"):
        raise DataError(f"{source} does not exist", ACCEPTED, spelling(path))
