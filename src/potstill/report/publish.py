"""What of a run is published: the student, its exports and the card, without internals; and the upload to a hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from potstill.errors import OutputError, first_line
from potstill.report.card import card
from potstill.report.metrics import Metrics

INTERNAL = frozenset({"stage.json", "facts.json", "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt"})
CARD, EXPORTS = "README.md", "export"


def files_to_push(output: Path) -> dict[str, Path]:
    """Path in the repository → file of a finished run, but for the card: the student's files on top, its exports in a folder.

    Raises:
        OutputError: The folder holds no finished run.
    """
    student = output / "student"
    if not (student / "config.json").is_file() or not (output / "report" / "metrics.json").is_file():
        raise OutputError(f"{output} holds no finished run", "the output folder of potstill distill", "finish the run first")
    found = {file.relative_to(student).as_posix(): file for file in _files(student)}
    exported = set(Metrics.read(output / "report" / "metrics.json").files.values())
    for file in _files(output / EXPORTS):
        place = file.relative_to(output).as_posix()
        if any(place == path or place.startswith(f"{Path(path).with_suffix('').as_posix()}.") for path in exported):
            found[place] = file
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name not in INTERNAL and not file.name.startswith(".")
    )


def repository(output: Path, folder: Path, repo_id: str) -> list[str]:
    """Fill a folder as it is pushed; returns its files.

    Args:
        repo_id: The repository's name, which the code on the card loads from.
    """
    metrics = Metrics.read(output / "report" / "metrics.json")
    files = files_to_push(output)
    for place, file in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / place)
    shown = metrics.model_copy(update={"files": {**metrics.files, "student": repo_id}, "command": None})
    (folder / CARD).write_text(card(shown), "utf-8")
    return sorted([*files, CARD])


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
