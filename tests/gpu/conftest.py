"""Tests on an NVIDIA GPU: they skip without one. Models, rows and cases are those of the CPU's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
for folder in (TESTS, TESTS / "laws", TESTS / "training", TESTS / "knowledge"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))

from flows.conftest import reviews, shapes, small_bert, small_vit  # noqa: E402, F401


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip where PyTorch sees no GPU."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA GPU here")


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """Convolutions in whole float32, as on the CPU: PyTorch lets cuDNN round their inputs to 19 bits otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
