"""Report on this machine: versions, hardware, and what is missing with its remedy."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from potstill.ground.disk import free_bytes
from potstill.ground.hardware import Machine, choose_threads, describe, driver_gpus

if TYPE_CHECKING:
    from rich.console import Group

GIB = 1 << 30
# package → the extra that brings it; None where Potstill cannot work without it.
PACKAGES: dict[str, str | None] = {
    "torch": None,
    "transformers": None,
    "accelerate": None,
    "datasets": None,
    "safetensors": None,
    "onnx": None,
    "onnxscript": None,
    "onnxruntime": None,
    "openvino": "openvino",
    "nncf": "openvino",
    "peft": "llm",
    "tensorboard": "track",
    "scikit-learn": "demo",
}
OLDEST = {"torch": (2, 10), "transformers": (5, 20), "datasets": (4, 0), "accelerate": (1, 12)}


@dataclass(frozen=True)
class Finding:
    """One package: its version or its lack."""

    package: str
    version: str | None
    remedy: str
    required: bool


@dataclass(frozen=True)
class Findings:
    """Everything that `potstill doctor` shows."""

    machine: Machine
    threads: int
    free_disk_gib: float
    packages: tuple[Finding, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Required packages that are missing or too old."""
        return tuple(finding.package for finding in self.packages if finding.required and finding.remedy)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "missing": list(self.missing)}

    def as_table(self) -> Group:
        """For the terminal."""
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        machine = Table(title="machine", show_header=False)
        for key, value in asdict(self.machine).items():
            machine.add_row(key, f"{value / GIB:.1f} GiB" if key == "ram_bytes" else _text(value))
        machine.add_row("threads used", str(self.threads))
        machine.add_row("free disk here", f"{self.free_disk_gib:.1f} GiB")
        packages = Table("package", "version", "what to do", title="packages")
        for finding in self.packages:
            packages.add_row(finding.package, finding.version or "–", escape(finding.remedy or "ok"))
        return Group(machine, packages)


def examine() -> Findings:
    """Look at the machine and the installed packages; imports none of them."""
    from pathlib import Path

    return Findings(
        machine=describe(look_for_gpus=False),
        threads=choose_threads(),
        free_disk_gib=free_bytes(Path.cwd()) / GIB,
        packages=tuple(_look(package, extra) for package, extra in PACKAGES.items()),
    )


def _look(package: str, extra: str | None) -> Finding:
    install = f"pip install 'potstill[{extra}]'" if extra else f"pip install {package}"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, None, install if extra is None else f"optional: {install}", required=extra is None)
    oldest = OLDEST.get(package)
    if oldest and _numbers(version) < oldest:
        return Finding(package, version, f"too old: pip install '{package}>={'.'.join(map(str, oldest))}'", required=True)
    if package == "torch" and version.endswith("+cpu") and driver_gpus():
        return Finding(package, version, "a build for CPUs, which does not see the GPU: install one for CUDA", required=False)
    return Finding(package, version, "", required=extra is None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(piece) for piece in version.split("+")[0].split(".")[:2] if piece.isdigit())


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
