"""What else a machine does while times are taken: processes that want a core, and time that a limit or heat took away."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

LIMIT = Path("/sys/fs/cgroup")
CORES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Load:
    """The machine at one moment; None where the system does not say.

    Args:
        other_work: Processes and threads of others that want a core.
        average: Processes that ran or waited for a core, mean of the last minute, this one included.
        throttled_seconds: Time for which the container's limit held its processes back, since it started.
        heat_events: How often heat lowered the clock of a core, since the machine started.
    """

    other_work: int | None = None
    average: float | None = None
    throttled_seconds: float | None = None
    heat_events: int | None = None


def machine_load() -> Load:
    """The machine now; takes a tenth of a second."""
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Load(other_work(), average, throttled_seconds(), heat_events())


def other_work(path: Path = Path("/proc/loadavg"), *, looks: int = 5, pause_seconds: float = 0.02) -> int | None:
    """Processes and threads of others that want a core now: the median of a few looks; None where the system does not say."""
    found = []
    for _ in range(looks):
        try:
            running = int(path.read_text("ascii").split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return None
        found.append(max(0, running - 1))  # this process is one of them
        time.sleep(pause_seconds)
    return sorted(found)[len(found) // 2]


def throttled_seconds(folder: Path = LIMIT) -> float | None:
    """Time for which a limit on the container's cores held it back so far; None where there is no such count."""
    for file, key, per_second in (
        (folder / "cpu.stat", "throttled_usec", 1e6),
        (folder / "cpu" / "cpu.stat", "throttled_time", 1e9),
    ):
        try:
            counts = dict(line.split() for line in file.read_text("ascii").splitlines())
            return int(counts[key]) / per_second
        except (OSError, ValueError, KeyError):
            continue
    return None


def heat_events(folder: Path = CORES) -> int | None:
    """How often heat lowered the clock of a core so far; None where there is no such count."""
    counts = []
    for file in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        try:
            counts.append(int(file.read_text("ascii")))
        except (OSError, ValueError):
            return None
    return sum(counts) if counts else None
