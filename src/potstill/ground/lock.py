"""One writer per folder: a file lock next to it, whose file names the process that holds it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from potstill.errors import OutputError


class FolderLock:
    """Holds ``.<name>.lock`` next to a folder; the lock of a process that ends, in whatever way, ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._lock = FileLock(self.path, thread_local=False)

    def acquire(self, *, timeout_seconds: float = 0.0) -> None:
        """Take the lock.

        Args:
            timeout_seconds: How long to wait for another process; −1 for as long as it takes.

        Raises:
            OutputError: Another process holds it; the message names it.
        """
        try:
            self._lock.acquire(timeout=timeout_seconds)
        except Timeout as err:
            raise OutputError(
                f"{self.folder} is being written by {self.holder()}",
                "one writer at a time",
                f"wait for it, or choose another output folder (-o); if it no longer runs, delete {self.path}",
            ) from err
        if not isinstance(self._lock, SoftFileLock):  # which stands in on disks without locks, and names its holder itself
            self.path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")

    def holder(self) -> str:
        """The process that the lock file names."""
        try:
            pid, host, *_ = self.path.read_text(encoding="utf-8").split()
        except (OSError, ValueError):  # it took the lock this moment, or is giving it back
            return "another process"
        return f"process {pid} on {host}"

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):  # Windows removes no file that is open
                self.path.unlink()
            self._lock.release()
