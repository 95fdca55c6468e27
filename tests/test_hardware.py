"""The machine as it describes itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from potstill.ground import hardware

X86 = """processor\t: 0
model name\t: Some CPU 9000
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16
"""


def test_describe_is_plausible_and_readable():
    machine = hardware.describe()
    assert machine.cpu
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert machine.ram_bytes > 2**28
    assert machine.cpu in str(machine)
    assert "cores" in str(machine)


def test_flags_come_from_cpuinfo(tmp_path):
    (tmp_path / "cpuinfo").write_text(X86)
    assert hardware._read_cpuinfo(tmp_path / "cpuinfo") == ("Some CPU 9000", ("avx2", "avx512", "vnni", "bf16"))


def test_machines_without_cpuinfo_are_described_without_flags(tmp_path):
    assert hardware._read_cpuinfo(tmp_path / "absent") == ("", ())


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1), ("400000 100000", 4), ("", None)])
def test_container_limits(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert hardware._container_cores(tmp_path / "cpu.max") == cores


def run_python(program: str, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60, env=kept | environment
    )
    return done.stdout.strip()


def test_describing_imports_no_torch():
    program = (
        "import sys; from potstill.ground import hardware as h; h.describe(); h.package_versions(); print('torch' in sys.modules)"
    )
    assert run_python(program) == "False"


def test_thread_policy_is_set_once_and_the_user_is_obeyed():
    program = "import os; from potstill.ground.hardware import set_thread_policy as s; print(s(), os.environ['OMP_WAIT_POLICY'])"
    assert run_python(program) == "True PASSIVE"
    assert run_python(program, OMP_WAIT_POLICY="ACTIVE") == "False ACTIVE"


def test_thread_policy_comes_too_late_once_torch_is_loaded(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setitem(sys.modules, "torch", object())
    assert not hardware.set_thread_policy()
    assert "OMP_WAIT_POLICY" not in os.environ


def test_versions_name_what_is_installed():
    versions = hardware.package_versions()
    assert {"potstill", "torch", "transformers"} <= versions.keys()


def test_bf16_is_measured_once():
    hardware.bf16_pays.cache_clear()
    assert hardware.bf16_pays("cpu") is hardware.bf16_pays("cpu")
    assert hardware.bf16_pays.cache_info().hits == 1
