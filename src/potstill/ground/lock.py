"""One writer per folder: a lock file beside it that names the process that holds it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from potstill.errors import OutputError

logger = logging.getLogger(__name__)


class FolderLock:
    """Holds ``.<name>.lock`` beside a folder; the lock of a process that is dead is taken over.

    Args:
        folder: The folder that only one process may write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._is_held = False

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: A live process holds it; the message names it.
        """
        with _guarded(self.path) as descriptor:
            holder = _holder(descriptor)
            if holder is not None and _is_alive(holder):
                raise OutputError(
                    f"{self.folder} is being written by process {holder['pid']} on {holder['host']}",
                    "one writer at a time",
                    f"wait for it, or choose another output folder (-o); if it no longer runs, delete {self.path}",
                )
            if holder is not None:
                logger.info("taking over the lock of process %s, which is gone", holder["pid"])
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
        self._is_held = True

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._is_held:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            self._is_held = False


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[int]:
    """Open the lock file so that no other process reads or writes it meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock_file(descriptor)
            if _is_still_there(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock_file(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # no such call on Windows; the window between reading and writing is left open there
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as err:  # some network disks have no locks; the same window is left open there
        logger.debug("this disk has no file locks: %s", err)


def _is_still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> dict[str, Any] | None:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return holder if isinstance(holder, dict) and {"pid", "host", "started"} <= holder.keys() else None


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return True  # cannot be known from here
    try:
        return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 2.0
    except psutil.NoSuchProcess:
        return False
