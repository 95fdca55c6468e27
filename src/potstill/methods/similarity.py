"""How alike blocks of two models are on the user's rows, and the best rising pairs of them.

Shapes: N rows, D width, S student blocks, L teacher blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from potstill.data.collate import NOT_INPUTS
from potstill.errors import DataError
from potstill.ground.counted import counted
from potstill.ground.devices import device_of
from potstill.models.cka import LEAST_ROWS_DEBIASED, cka_matrix, row_vectors
from potstill.models.taps import available

Read = Callable[[Any, Mapping[str, Any], Sequence[str]], Mapping[str, Tensor]]
TEACHER = "teacher_"


def block_similarity(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Mapping[str, Any]], read: Read, *, max_rows: int = 512
) -> Tensor:
    """Debiased CKA of every student block with every teacher block, [S, L] on the CPU.

    Args:
        read: (model, inputs, needs) → values by need name.
        max_rows: Rows that are looked at.

    Raises:
        DataError: Fewer than 4 rows.
    """
    needs = [[name for name in available(model) if name.startswith("hidden:")] for model in (student, teacher)]
    sides, num_rows = rows_of_blocks((student, teacher), needs, batches, read, max_rows=max_rows)
    if num_rows < LEAST_ROWS_DEBIASED:
        raise DataError(
            f"{counted(num_rows, 'row was', 'rows were')} given to compare blocks",
            f"at least {LEAST_ROWS_DEBIASED} rows",
            "give more rows",
        )
    return cka_matrix(list(sides[0].values()), list(sides[1].values()), debiased=True)


def rows_of_blocks(
    models: tuple[Any, Any],
    needs: Sequence[Sequence[str]],
    batches: Iterable[Mapping[str, Any]],
    read: Read,
    *,
    max_rows: int,
) -> tuple[list[dict[str, Tensor]], int]:
    """One vector a row for every need of student and teacher, see `row_vectors`.

    Returns:
        Need name → [N, D] on the CPU, of student and teacher; and N.
    """
    kept: list[dict[str, list[Tensor]]] = [{need: [] for need in names} for names in needs]
    num_rows = 0
    for batch in batches:
        if num_rows >= max_rows:
            break
        for model, rows, inputs in zip(models, kept, (model_inputs(batch), model_inputs(batch, teacher=True)), strict=True):
            with torch.no_grad():
                values = read(model, on_device_of(model, inputs), tuple(rows))
            for need, parts in rows.items():
                parts.append(row_vectors(values[need], inputs.get("attention_mask")).cpu())
        num_rows += len(next(iter(kept[0].values()))[-1])
    joined = [{need: torch.cat(parts)[:max_rows] for need, parts in rows.items() if parts} for rows in kept]
    return joined, min(num_rows, max_rows)


def on_device_of(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs where the model is; as they are for anything else that is read."""
    if not isinstance(model, nn.Module):
        return dict(inputs)
    device = device_of(model)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def model_inputs(batch: Mapping[str, Any], *, teacher: bool = False) -> dict[str, Any]:
    """What a model reads of a batch: the ``teacher_`` inputs, their prefix removed, for a teacher that has its own."""
    own = {name.removeprefix(TEACHER): value for name, value in batch.items() if name.startswith(TEACHER)}
    if teacher and own:
        return own
    return {name: value for name, value in batch.items() if not name.startswith(TEACHER) and name not in NOT_INPUTS}


def best_rising(similarity: Tensor) -> list[tuple[int, int]]:
    """Pairs (row, column), 1-based and rising on both sides, with the largest sum; the shorter side is in whole.

    Example:
        >>> best_rising(torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]]))
        [(1, 2), (2, 3)]
    """
    if similarity.shape[0] > similarity.shape[1]:
        return [(row, column) for column, row in best_rising(similarity.T)]
    num_rows, num_columns = similarity.shape
    # best[r][c]: largest sum over the first r rows with columns among the first c.
    best = [[0.0] * (num_columns + 1)] + [[float("-inf")] * (num_columns + 1) for _ in range(num_rows)]
    for row in range(1, num_rows + 1):
        for column in range(row, num_columns + 1):
            taken = best[row - 1][column - 1] + float(similarity[row - 1, column - 1])
            best[row][column] = max(best[row][column - 1], taken)
    pairs, column = [], num_columns
    for row in range(num_rows, 0, -1):
        while best[row][column - 1] == best[row][column]:
            column -= 1
        pairs.append((row, column))
        column -= 1
    return pairs[::-1]
