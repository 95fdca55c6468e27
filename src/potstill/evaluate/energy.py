"""Energy as the processor counts it (RAPL), where the machine lets a program read it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """Energy of some work.

    Args:
        joules: Of the processor packages; None where it cannot be read.
    """

    joules: float | None
    seconds: float
    reason: str = ""


def measure_energy(work: Callable[[], object], *, powercap: Path = POWERCAP) -> Energy:
    """Do `work` once and read the packages' energy before and after.

    Args:
        work: What to do; the energy of everything else on the machine counts too.
    """
    packages, reason = _packages(powercap)
    before = {package: _read(package / "energy_uj") for package in packages}
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    if not packages:
        return Energy(None, seconds, reason)
    used = 0
    for package, start in before.items():
        difference = _read(package / "energy_uj") - start
        if difference < 0:  # the counter began again from zero
            difference += _read(package / "max_energy_range_uj")
        used += difference
    return Energy(used / 1e6, seconds)


def _packages(powercap: Path) -> tuple[list[Path], str]:
    found = sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1) if powercap.exists() else []
    if not found:
        return [], "this machine shows no energy counters (common in virtual machines)"
    try:
        for package in found:
            _read(package / "energy_uj")
            _read(package / "max_energy_range_uj")
    except OSError as error:
        return [], f"the energy counters cannot be read: {error}"
    return found, ""


def _read(path: Path) -> int:
    return int(path.read_text().strip())
