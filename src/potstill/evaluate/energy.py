"""Energy as the processor counts it (RAPL), where the machine lets a program read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def measure_energy(work: Callable[[], object], *, powercap: Path = POWERCAP) -> tuple[float | None, str]:
    """Joules of the processor packages while `work` is done once; None, and the reason, where they cannot be read.

    Args:
        work: What to do; the energy of everything else on the machine counts too.
    """
    packages, reason = _packages(powercap)
    before = {package: _read(package / "energy_uj") for package in packages}
    work()
    if not packages:
        return None, reason
    used = 0
    for package, start in before.items():
        difference = _read(package / "energy_uj") - start
        if difference < 0:  # the counter began again from zero
            difference += _read(package / "max_energy_range_uj")
        used += difference
    return used / 1e6, ""


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
