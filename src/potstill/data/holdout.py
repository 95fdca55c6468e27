"""Rows held out, thinned out and counted twice: stratified, repeatable, without leaks between splits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from potstill.data.fingerprint import row_hashes
from potstill.data.spool import taken
from potstill.ground.counted import counted, inflected


def stratified(hashes: np.ndarray, label: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows to hold out, by chance, each class with its share.

    A class keeps at least one row behind. Rows whose content occurs more than once stay behind too, so that no held-out
    row is also a training row, as long as enough others are left.

    Returns:
        Row numbers in ascending order [≤ count] int64; empty where no class has two rows.
    """
    repeated = repeats(hashes)
    if (~repeated).sum() < max(1, count) * 2:
        repeated = np.zeros(len(label), bool)
    label = _by_first_row(label)
    quotas = _quotas(np.unique(label, return_counts=True), max(1, count))
    order = np.random.default_rng(seed).permutation(len(label))
    chosen = []
    for name, quota in quotas.items():
        candidates = order[(label[order] == name) & ~repeated[order]]
        spare = int((label == name).sum()) - 1
        chosen.append(candidates[: min(quota, spare)])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _by_first_row(label: np.ndarray) -> np.ndarray:
    """Classes numbered as they first occur, so that the choice of rows does not hang on the order of label names."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _quotas(counted: tuple[np.ndarray, np.ndarray], count: int) -> dict[int, int]:
    names, sizes = counted
    exact = sizes * (count / sizes.sum())
    quotas = np.minimum(np.floor(exact).astype(int), sizes - 1)
    for position in np.argsort(-(exact - np.floor(exact)), kind="stable"):
        if quotas.sum() >= count:
            break
        if quotas[position] < sizes[position] - 1:
            quotas[position] += 1
    return {int(name): int(quota) for name, quota in zip(names, quotas)}


def repeats(hashes: np.ndarray) -> np.ndarray:
    """Whether each row's content occurs more than once [N] bool."""
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return counts[inverse] > 1


def note_duplicates(tables: Mapping[str, tuple[pa.Table, np.ndarray]], notes: list[str]) -> None:
    """Add a note for each given split whose rows also occur in training: such rows flatter every figure."""
    if len(tables) < 2:
        return
    train = row_hashes(tables["train"][0])
    for split, (content, _) in tables.items():
        shared = int(np.isin(row_hashes(content), train).sum()) if split != "train" else 0
        if shared:
            notes.append(
                f"{shared} of {content.num_rows} rows of the {split} split also"
                f" {inflected(shared, 'occurs', 'occur')} in training (leak)"
            )


def thin(
    content: pa.Table,
    label: np.ndarray,
    count: int,
    seed: int,
    split: str,
    notes: list[str],
    *,
    strata: np.ndarray,
) -> tuple[pa.Table, np.ndarray]:
    """At most `count` rows of a split, each group of `strata` with its share and a row where there is room."""
    if content.num_rows <= count:
        return content, label
    own = _by_first_row(strata)
    first = np.unique(own, return_index=True)[1]
    rows = np.setdiff1d(np.random.default_rng(seed).permutation(len(own)), first, assume_unique=True)
    quotas = _quotas(np.unique(own, return_counts=True), count)
    chosen = list(first)
    for name, quota in quotas.items():
        chosen.extend(rows[own[rows] == name][: max(0, quota - 1)])
    kept = np.sort(np.array(chosen[:count], np.int64))
    notes.append(f"the {split} split is thinned out from {content.num_rows} to {counted(len(kept), 'row')} (max_rows)")
    return taken(content, kept), label[kept]
