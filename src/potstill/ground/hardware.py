"""The machine: its name, memory, GPUs and CPU features, and how many threads are worth using."""

from __future__ import annotations

import functools
import logging
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from potstill.ground.counted import counted

logger = logging.getLogger(__name__)

PACKAGES = (
    "potstill",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
)

# The names under which /proc/cpuinfo lists what matters for inference (x86 | ARM).
_FLAGS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni", "asimddp"),
    "amx": ("amx_tile",),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
}
# bf16 must be this much faster than fp32 before it is worth its rounding.
_WORTHWHILE_SHARE = 0.75
_FEW_ROWS, _HOPELESS_FACTOR = 8, 4.0


@dataclass(frozen=True)
class Machine:
    """What a measurement was made on.

    Args:
        physical_cores: Cores of the machine, without hyper-threads; 0 where unknown.
        flags: Which of avx2, avx512, vnni, amx and bf16 the processor has.
        gpus: Names of the GPUs that torch sees; of those that NVIDIA's driver lists, where torch is not loaded.
    """

    cpu: str
    physical_cores: int
    logical_cores: int
    usable_cores: int
    ram_bytes: int
    flags: tuple[str, ...]
    gpus: tuple[str, ...]
    system: str
    python: str

    @property
    def processor(self) -> str:
        """Processor and the instruction sets that matter."""
        return f"{self.cpu} ({', '.join(self.flags)})" if self.flags else self.cpu

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.processor}, {counted(self.usable_cores, 'core')}, {self.ram_bytes / 2**30:.0f} GiB{gpus}"


def describe(*, look_for_gpus: bool = False) -> Machine:
    """This machine.

    Args:
        look_for_gpus: Import torch to ask for GPUs; otherwise the driver is asked where torch is not loaded already.
    """
    import psutil  # not at the top: the command line imports this module for its help page too

    name, flags = _read_cpuinfo(Path("/proc/cpuinfo"))
    return Machine(
        cpu=name or platform.processor() or platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or 0,
        logical_cores=psutil.cpu_count() or 1,
        usable_cores=choose_threads(),
        ram_bytes=psutil.virtual_memory().total,
        flags=flags,
        gpus=_gpu_names() if look_for_gpus or "torch" in sys.modules else driver_gpus(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _read_cpuinfo(path: Path) -> tuple[str, tuple[str, ...]]:
    """Name and flags from a cpuinfo file; empty where there is none (other operating systems)."""
    name, words = "", frozenset[str]()
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return name, ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = name or value.strip()
        elif key.strip() in ("flags", "Features"):
            words = words or frozenset(value.split())
    return name, tuple(flag for flag, names in _FLAGS.items() if words.intersection(names))


def driver_gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the GPUs that NVIDIA's driver lists; empty without it."""
    lines = [line for file in sorted(folder.glob("*/information")) for line in file.read_text().splitlines()]
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def _gpu_names() -> tuple[str, ...]:
    import torch

    if torch.cuda.is_available():
        return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return ("Apple GPU",) if torch.backends.mps.is_available() else ()


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, where installed; imports none of them."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            logger.debug("%s is not installed", name)
    return versions


def choose_threads() -> int:
    """Threads worth using: the cores this process may use, hyper-threads counted once, container limits obeyed."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    if physical and logical:
        allowed = max(1, allowed * physical // logical)
    quota = _container_cores(Path("/sys/fs/cgroup/cpu.max"))
    return allowed if quota is None else max(1, min(allowed, quota))


def _container_cores(path: Path) -> int | None:
    """Whole cores that the container may use, or None where it is not limited."""
    try:
        quota, period = path.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):
        return None  # no such file, or "max"


def set_thread_policy() -> bool:
    """Let idle OpenMP threads sleep instead of spin, unless the user chose otherwise.

    Spinning threads of torch, ONNX Runtime and OpenVINO in one process take each other's cores. The setting is read
    when OpenMP starts, so it must come before torch is imported; only the command line calls this.

    Returns:
        Whether the setting is PASSIVE and can still take effect.
    """
    if "torch" in sys.modules:
        return False
    return os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() == "PASSIVE"


@functools.cache
def bf16_pays(device: str = "cpu") -> bool:
    """Whether matrix products in bfloat16 are at least a third faster than in float32 here, by measurement.

    Measured once per process and device, on a product of the size of an encoder's layer: of a small batch on the CPU, of a large
    one on a GPU, where a small product takes as long as its launch in either type.
    """
    import statistics

    import torch

    rows = 512 if device == "cpu" else 16384
    left, right = torch.randn(rows, 768, device=device), torch.randn(768, 768, device=device)
    pairs = {dtype: (left.to(dtype), right.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    seconds: dict[torch.dtype, list[float]] = {dtype: [] for dtype in pairs}
    try:
        if device == "cpu" and _is_hopeless(pairs[torch.float32], pairs[torch.bfloat16]):
            return False
        for _ in range(7):
            for dtype, (one, other) in pairs.items():
                seconds[dtype].append(_time_product(one, other))
    except RuntimeError as err:
        logger.info("bfloat16 is not used on %s: %s", device, err)
        return False
    full, half = (statistics.median(values[1:]) for values in seconds.values())
    logger.info("a product takes %.2f ms in float32 and %.2f ms in bfloat16 on %s", full * 1e3, half * 1e3, device)
    return half < _WORTHWHILE_SHARE * full


def _is_hopeless(full, half) -> bool:  # type: ignore[no-untyped-def]  # torch is imported lazily
    """Whether bfloat16 is several times slower on a few rows already.

    A CPU without instructions for it computes it number by number, some eighty times slower: the whole measurement would take
    longer than many a training.
    """
    seconds = [min(_time_product(left[:_FEW_ROWS], right) for _ in range(3)) for left, right in (full, half)]
    logger.info("a product of %d rows takes %.2f ms in float32 and %.2f ms in bfloat16", _FEW_ROWS, *(1e3 * s for s in seconds))
    return seconds[1] > _HOPELESS_FACTOR * seconds[0]


def _time_product(left, right) -> float:  # type: ignore[no-untyped-def]  # torch is imported lazily
    import torch

    synchronise = torch.cuda.synchronize if left.is_cuda else lambda: None
    synchronise()
    started = time.perf_counter()
    for _ in range(3):
        torch.mm(left, right)
    synchronise()
    return time.perf_counter() - started
