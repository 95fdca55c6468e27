"""One trained model for all tests of exports."""

from __future__ import annotations

import pytest

from exports.trained_model import train


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "model.onnx"
    train(path)
    return path
