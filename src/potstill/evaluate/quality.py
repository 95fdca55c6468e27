"""What a served model answers on encoded rows.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from potstill.errors import DataError, ModelError
from potstill.export.runtimes import Runner


class Rows(Protocol):
    """The part of `potstill.data.encoded.EncodedRows` that is read here."""

    @property
    def lengths(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]: ...


class Predictions(NamedTuple):
    """Answers in the order of the rows.

    Args:
        logits: [N, C] float32.
        labels: [N] int64, −100 where there is none.
        row_ids: [N] int64.
    """

    logits: np.ndarray
    labels: np.ndarray
    row_ids: np.ndarray


def predict(
    runner: Runner,
    rows: Rows,
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    *,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> Predictions:
    """Run every row once, batched with rows of like length, and return the answers in row order.

    Args:
        runner: The model as served.
        rows: Encoded rows.
        collator: Makes a batch of rows; gives ``labels`` and ``row_id`` beside the inputs.
        batch_size: Rows per call.
        on_batch: Called with the number of rows of each finished batch.

    Raises:
        DataError: No rows.
        ModelError: A logit is not finite; names the rows.
    """
    if len(rows) == 0:
        raise DataError("no rows were given to be predicted", "at least one row")
    order = np.argsort(np.asarray(rows.lengths), kind="stable")
    logits: np.ndarray | None = None
    labels, row_ids = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = {name: np.asarray(value) for name, value in collator(rows.__getitems__(indices.tolist())).items()}
        answers = runner.run(batch)
        labels[indices], row_ids[indices] = batch["labels"], batch["row_id"]
        if not np.isfinite(answers).all():
            bad = row_ids[indices][~np.isfinite(answers).all(axis=-1)]
            raise ModelError(
                f"{runner.name} gives logits that are not finite for rows {bad[:5].tolist()}",
                "finite logits",
                "train the model again with a lower learning rate, or serve it in fp32",
            )
        if logits is None:
            logits = np.empty((len(rows), *answers.shape[1:]), np.float32)
        logits[indices] = answers
        if on_batch is not None:
            on_batch(len(indices))
    assert logits is not None
    return Predictions(logits, labels, row_ids)


def sample_batches(
    rows: Rows,
    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    *,
    sizes: Sequence[int] = (1, 8, 32),
    num_batches: int = 32,
    seed: int = 0,
) -> dict[int, list[dict[str, np.ndarray]]]:
    """Batches of rows drawn at random, as requests arrive: of the data's own lengths, padded to the longest of the batch.

    Args:
        rows: Encoded rows.
        collator: Makes a batch of rows.
        sizes: Rows per batch; a size beyond the number of rows repeats rows.
        num_batches: Batches of each size.
        seed: Of the draw.

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
            drawn[size].append({name: np.asarray(value) for name, value in batch.items() if name not in ("labels", "row_id")})
    return drawn
