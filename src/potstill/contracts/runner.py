"""What every served model can do: answer a batch with named outputs.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

LOGITS = "logits"  # the output that every model has


@runtime_checkable
class Runner(Protocol):
    """A model in a runtime.

    Attributes:
        name: Runtime and precision, ``"onnxruntime-int8"``.
        precision: Name of the precision in which weights are stored.
        bytes: Size of the served files on disk.
        threads: Threads that one call may use.
    """

    name: str
    precision: str
    bytes: int
    threads: int

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name, ``"logits"`` [B, C] among them, floating point ones in fp32; returns when all its work is done.

        Args:
            inputs: The batch; inputs that the model does not have are left out.
        """
