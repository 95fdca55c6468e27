"""What a served model answers on encoded rows.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from potstill.answers.units import FLOOR, joined, pooled
from potstill.contracts.answers import Answers, Predictions
from potstill.contracts.runner import LOGITS, Runner
from potstill.data.collate import NOT_INPUTS
from potstill.data.encoded import EncodedRows
from potstill.errors import DataError, ModelError


def predict(
    runner: Runner,
    rows: EncodedRows,
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    answers: Answers,
    *,
    batch_size: int = 32,
) -> Predictions:
    """Run every row once, batched with rows of like length, and return the answers in row order.

    Texts that were split into segments come back as one row each, under the row id of their first segment.

    Args:
        runner: The model as served.
        rows: Encoded rows.
        collator: Makes a batch of rows; gives ``labels`` and ``row_id`` with the inputs.
        answers: Reads them out of the runner's outputs.
        batch_size: Rows per call.

    Raises:
        DataError: No rows.
        ModelError: A logit is not finite; names the rows.
    """
    if len(rows) == 0:
        raise DataError("no rows were given to be predicted", "at least one row")
    order = np.argsort(np.asarray(rows.lengths), kind="stable")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("logits", "labels", "row_id", "mask")}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = {name: np.asarray(value) for name, value in collator(rows.__getitems__(indices.tolist())).items()}
        outputs = runner.run(batch)
        if not np.isfinite(outputs[LOGITS]).all():
            bad = batch["row_id"][~np.isfinite(outputs[LOGITS]).reshape(len(indices), -1).all(axis=-1)]
            raise ModelError(
                f"{runner.name} gives logits that are not finite for rows {bad[:5].tolist()}",
                "finite logits",
                "train the model again with a lower learning rate, or serve it in fp32",
            )
        tensors = {name: torch.from_numpy(np.ascontiguousarray(outputs[name])) for name in answers.outputs}
        read, mask = answers.arrange(tensors, batch)
        found = {"logits": read.numpy(), "labels": batch["labels"], "row_id": batch["row_id"]}
        for name, value in (found if mask is None else found | {"mask": mask.numpy()}).items():
            parts[name].append(value)
    back = np.argsort(order, kind="stable")
    fills = {"logits": FLOOR, "labels": -100, "row_id": -1, "mask": False}
    whole = {name: joined(arrays, fills[name])[back] for name, arrays in parts.items() if arrays}
    predicted = Predictions(whole["logits"], whole["labels"], whole["row_id"], whole.get("mask"))
    if rows.groups is None or predicted.mask is not None:
        return predicted
    logits, first = pooled(predicted.logits, rows.groups)
    return Predictions(logits, predicted.labels[first], rows.groups[first])


def sample_batches(
    rows: EncodedRows,
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    *,
    sizes: Sequence[int] = (1, 8, 32),
    num_batches: int = 32,
    seed: int = 0,
) -> dict[int, list[dict[str, np.ndarray]]]:
    """Batches of rows drawn at random, as requests arrive: of the data's own lengths, padded to the longest of the batch.

    Args:
        sizes: Rows per batch; a size beyond the number of rows repeats rows.

    Returns:
        Size → batches, model inputs only.

    Raises:
        DataError: No rows.
    """
    if len(rows) == 0:
        raise DataError("no rows were given to be timed", "at least one row")
    generator = np.random.default_rng(seed)
    drawn: dict[int, list[dict[str, np.ndarray]]] = {}
    for size in sizes:
        drawn[size] = []
        for _ in range(num_batches):
            indices = generator.choice(len(rows), size=size, replace=size > len(rows)).tolist()
            batch = collator(rows.__getitems__(indices))
            drawn[size].append({name: np.asarray(value) for name, value in batch.items() if name not in NOT_INPUTS})
    return drawn
