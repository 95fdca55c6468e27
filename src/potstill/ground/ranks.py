"""Ranks: several processes that train together, as `torchrun` starts them.

All ranks compute; the first alone writes. Without `torchrun` there is one rank, and nothing here does anything.
"""

from __future__ import annotations

import datetime
import os
from typing import TypeVar

Value = TypeVar("Value")
_PATIENCE = datetime.timedelta(days=7)  # the others wait while the first one reads data, asks the teacher and exports


def num_ranks() -> int:
    """Processes that train together; 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def join() -> None:
    """Meet the other ranks; does nothing where there are none, or where they have met."""
    if num_ranks() == 1:
        return
    import torch

    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=_PATIENCE)


def leave() -> None:
    """Part from the other ranks, at the end of a run."""
    if num_ranks() == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def from_first(value: Value) -> Value:
    """The value of the first rank, on every rank; all ranks wait for it."""
    if num_ranks() == 1:
        return value
    import torch

    join()
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def wait_for_all() -> None:
    """Go on when every rank has come here."""
    from_first(None)
