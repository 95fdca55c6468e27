"""What of a run is published: the student, its exports and the card, without internals; and the upload to a hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from potstill.contracts.format import FORMATS
from potstill.errors import OutputError, first_line
from potstill.exports.catalogue import format_named
from potstill.ground.disk import read_json
from potstill.report.card import card
from potstill.report.metrics import Metrics

CARD, EXPORTS = "README.md", "export"
# Of a stage, of the trainer, of Python, of another program: nothing that a model is loaded from.
INTERNAL = (
    "stage.json", "facts.json", "trainer_state.json", "training_args.bin", "optimizer*", "scheduler.pt", "scaler.pt",
    "rng_state*", "checkpoint-*", "events.out.*", "__pycache__", "*.partial", ".*", CARD,
)  # fmt: skip


def files_to_push(output: Path) -> dict[str, Path]:
    """Path in the repository → file of a finished run, but for the card: the student's files on top, its exports in a folder.

    Raises:
        OutputError: The folder holds no finished run.
    """
    student = output / "student"
    if not (student / "config.json").is_file() or not (output / "report" / "metrics.json").is_file():
        raise OutputError(f"{output} holds no finished run", "the output folder of potstill distill", "finish the run first")
    found = {file.relative_to(student).as_posix(): file for file in _files(student)}
    exported = [path for path in Metrics.read(output / "report" / "metrics.json").files.values() if path != student.name]
    main = {output / path for path in exported}
    for file in _files(output / EXPORTS):
        if file in main or main.intersection(file.parents) or any(file in _parts(path) for path in main):
            found[file.relative_to(output).as_posix()] = file
    return found


def _parts(path: Path) -> tuple[Path, ...]:
    """All files of an exported model."""
    made = {format_named(name).suffix: format_named(name) for name in FORMATS}
    return made[path.suffix].files(path) if path.suffix in made else (path,)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not _is_internal(file.relative_to(folder)))


def _is_internal(place: Path) -> bool:
    return any(fnmatch(part, pattern) for part in place.parts for pattern in INTERNAL)


def repository(output: Path, folder: Path, repo_id: str) -> list[str]:
    """Fill a folder as it is pushed; returns its files.

    Args:
        repo_id: The repository's name, which the code on the card loads from.
    """
    metrics = Metrics.read(output / "report" / "metrics.json")
    files = files_to_push(output)
    for place, file in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        _copy(file, folder / place)
    (folder / CARD).write_text(card(metrics, repository=repo_id), "utf-8")
    return sorted([*files, CARD])


def _copy(file: Path, target: Path) -> None:
    """Copy a file; of a configuration all but paths of this machine, which some programs leave there."""
    shutil.copyfile(file, target)
    if file.name.endswith("config.json"):
        given = read_json(file)
        kept = _without_paths(given)
        if kept != given:
            target.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _without_paths(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {name: _without_paths(value) for name, value in values.items() if not (isinstance(value, str) and _is_whole(value))}


def _is_whole(text: str) -> bool:
    """Whether this is a path from the root of a file system that goes through a folder."""
    return any(kind(text).is_absolute() and len(kind(text).parts) > 2 for kind in (PurePosixPath, PureWindowsPath))


def push_to_hub(
    output: str | Path, repo_id: str, *, private: bool = False, token: str | None = None, message: str | None = None
) -> str:
    """Upload a finished run's student, exports and card.

    Args:
        output: The output folder.
        repo_id: ``owner/name``; made where it does not exist.
        private: Whether a new repository is; else as is usual for its owner.
        token: Of the hub; None for the one that this machine is logged in with.

    Returns:
        The address of the commit.

    Raises:
        OutputError: No finished run, or the hub refuses.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="potstill-push-") as place:
        repository(Path(output), Path(place), repo_id)
        try:
            api.create_repo(repo_id, private=private or None, exist_ok=True)  # None: as its owner decides
            found: Any = api.upload_folder(
                repo_id=repo_id, folder_path=place, commit_message=message or "Student, exports and card of a Potstill run"
            )
        except Exception as err:  # of the client, and of the library below that connects
            raise OutputError(
                f"{repo_id} could not be pushed ({first_line(err)[:200]})", "a repository that you may write to", _remedy(err)
            ) from err
    return str(found.commit_url)


def _remedy(err: Exception) -> str:
    """What to do where the hub refuses, the name is none, or nothing answers."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if isinstance(err, HfHubHTTPError):
        return "log in with hf auth login, or pass a token with write access"
    if isinstance(err, HFValidationError):
        return "name it owner/name, of letters, digits, -, _ and ."
    return "check the connection, HF_HUB_OFFLINE and HF_ENDPOINT, and push again: what was trained is kept"
