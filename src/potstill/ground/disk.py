"""Stages on disk: folders that are whole or absent, survive a kill, and know what they were made from."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from potstill.errors import OutputError
from potstill.ground.fingerprints import fingerprint as fingerprint
from potstill.ground.lock import FolderLock

logger = logging.getLogger(__name__)

STAGE_RECORD = "stage.json"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DISK_WORDS = (
    "No space left on device",
    "File too large",
    "os error 28",
    "os error 27",
    "PytorchStreamWriter failed writing",
)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a half.

    Raises:
        OutputError: The disk is full or the place may not be written.
    """
    write_bytes_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """The same for bytes."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained_os_errors(path):
        try:
            with partial.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any | None:
    """The JSON value in a file, or None where the file is absent or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def free_bytes(path: Path) -> int:
    """Bytes free on the disk that holds `path`, which need not exist yet."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextlib.contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission into an `OutputError` that names the place and the remedy."""
    try:
        yield
    except OutputError:
        raise
    except OSError as err:
        explained = _explain(err, path)
        if explained is None:
            raise
        raise explained from err


@contextlib.contextmanager
def explained_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk, however a library reports it, into an `OutputError` that names the place and the remedy."""
    try:
        yield
    except OutputError:
        raise
    except Exception as err:
        if not _is_full_disk(err):
            raise
        raise _full_disk(path) from err


def _is_full_disk(err: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no room; safetensors and torch have errors of their own."""
    if err is None:
        return False
    is_full = getattr(err, "errno", None) in FULL_DISK or any(words in str(err) for words in FULL_DISK_WORDS)
    return is_full or _is_full_disk(err.__cause__ or err.__context__)


def _full_disk(path: Path) -> OutputError:
    return OutputError(
        f"the disk is full while writing {path}",
        "a disk with room for the output; what was written whole is kept",
        "free some space and run the same command again: it goes on where it stopped",
    )


def _explain(err: OSError, path: Path) -> OutputError | None:
    if err.errno in FULL_DISK:
        return _full_disk(path)
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{err.filename or path} may not be written ({os.strerror(err.errno)})",
            "a folder that this user may write",
            "choose another output folder (-o), or give this user the permission",
        )
    if err.errno in (errno.ENOTDIR, errno.EEXIST):
        return OutputError(f"{err.filename or path} is a file where a folder is needed", todo="choose another output folder (-o)")
    return None


class StageFolder:
    """A folder that one stage fills: written next to its place, renamed into it when whole.

    Use it as a context. `path` is where to write: ``<final>.partial``, which survives a kill and is found again, with
    what was in it, when the fingerprint is the same; with another fingerprint it is cleared. Nothing that is finished
    is ever deleted unless `replace` is given, and then only after its successor is in place.

    Args:
        final: Where the folder goes when it is whole.
        fingerprint: Of everything that the stage depends on.
        replace: Whether a finished folder of another fingerprint, or a foreign one, may be replaced.
        on_busy: Where another process writes here, called once, and the folder is waited for; None: that is an error.

    Raises:
        OutputError: On entering: another process writes here, the place holds something else, or may not be written.
            On leaving: the disk is full.

    Example:
        >>> import tempfile
        >>> final = Path(tempfile.mkdtemp()) / "stage"
        >>> with StageFolder(final, fingerprint("inputs")) as stage:
        ...     if not stage.is_finished():
        ...         _ = (stage.path / "result.txt").write_text("42")
        ...         _ = stage.finish(notes=["made from inputs"])
        >>> (final / "result.txt").read_text()
        '42'
    """

    def __init__(
        self,
        final: Path | str,
        fingerprint: str,
        *,
        replace: bool = False,
        on_busy: Callable[[OutputError], None] | None = None,
    ) -> None:
        self.final = Path(final)
        self.on_busy = on_busy
        self.fingerprint = fingerprint
        self.replace = replace
        self.partial = self.final.with_name(self.final.name + ".partial")
        self.is_resumed = False
        self._old = self.final.with_name(f".{self.final.name}.old")
        self._lock = FolderLock(self.final)
        self._seconds_before = 0.0
        self._started = time.perf_counter()

    @property
    def path(self) -> Path:
        """The folder to write to, or the finished one."""
        return self.final if self.is_finished() else self.partial

    def is_finished(self) -> bool:
        """Whether the folder is in place, whole, and made from the same inputs."""
        record = self.record()
        return record is not None and bool(record.get("finished")) and record.get("fingerprint") == self.fingerprint

    def record(self) -> dict[str, Any] | None:
        """The stage record of the finished folder: fingerprint, seconds, notes; None where there is none."""
        record = read_json(self.final / STAGE_RECORD)
        return record if isinstance(record, dict) else None

    def __enter__(self) -> StageFolder:
        with explained_os_errors(self.final):
            self.final.parent.mkdir(parents=True, exist_ok=True)
            self._acquire()
            try:
                self._enter_locked()
            except BaseException:
                self._lock.release()
                raise
        return self

    def _acquire(self) -> None:
        try:
            self._lock.acquire()
        except OutputError as error:
            if self.on_busy is None:
                raise
            self.on_busy(error)
            self._lock.acquire(timeout_seconds=-1)

    def _enter_locked(self) -> None:
        self._finish_interrupted_swap()
        if self.is_finished():
            return
        if not self.replace:
            self._refuse_foreign()
        record = read_json(self.partial / STAGE_RECORD)
        if isinstance(record, dict) and record.get("fingerprint") == self.fingerprint:
            self.is_resumed = True
            self._seconds_before = float(record.get("seconds", 0.0))
            logger.info("resuming %s", self.partial)
            for half_written in self.partial.rglob(".*.partial"):  # of a writer that was killed
                half_written.unlink(missing_ok=True)
        elif self.partial.exists():
            logger.info("%s was made from other inputs and is started afresh", self.partial)
            shutil.rmtree(self.partial)
        self.partial.mkdir(exist_ok=True)
        self._started = time.perf_counter()
        self._write_record(finished=False)

    def _finish_interrupted_swap(self) -> None:
        if not self._old.exists():
            return
        if not self.final.exists():
            record = read_json(self.partial / STAGE_RECORD)
            is_whole = isinstance(record, dict) and record.get("finished")
            os.rename(self.partial if is_whole else self._old, self.final)
        if self._old.exists():
            shutil.rmtree(self._old)

    def _refuse_foreign(self) -> None:
        if self.final.is_dir() and not any(self.final.iterdir()):
            return
        if self.final.exists():
            held = "files that Potstill did not write" if self.record() is None else "the result of other inputs"
            raise OutputError(
                f"{self.final} already holds {held}",
                "a new or empty folder, or the folder of the same run",
                "choose another output folder (-o), or replace this one with --overwrite",
            )

    def _write_record(self, *, finished: bool, notes: Sequence[str] = ()) -> dict[str, Any]:
        seconds = self._seconds_before + time.perf_counter() - self._started
        record: dict[str, Any] = {"fingerprint": self.fingerprint, "finished": finished, "seconds": round(seconds, 3)}
        record["notes"] = list(notes)
        write_json_atomic(self.partial / STAGE_RECORD, record)
        return record

    def finish(self, notes: Sequence[str] = ()) -> dict[str, Any]:
        """Make what was written durable and rename it into place.

        Raises:
            OutputError: The disk is full.
        """
        held = self.record() if self.is_finished() else None
        if held is not None:
            return held
        with explained_os_errors(self.final):
            record = self._write_record(finished=True, notes=notes)
            sync_tree(self.partial)
            if self.final.exists() and (not self.final.is_dir() or any(self.final.iterdir())):
                os.rename(self.final, self._old)
            os.rename(self.partial, self.final)
            _sync_folder(self.final.parent)
            if self._old.exists():
                shutil.rmtree(self._old) if self._old.is_dir() else self._old.unlink()
        return record

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if self.partial.exists():
                self._write_record(finished=False)
        except OSError as err:
            logger.warning("the time spent so far could not be noted in %s: %s", self.partial, err)
        finally:
            self._lock.release()
        explained = _explain(error, self.partial) if isinstance(error, OSError) and not isinstance(error, OutputError) else None
        if explained is not None:
            raise explained from error


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync_folder(Path(parent))


def _sync(path: Path) -> None:
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        _sync(folder)
