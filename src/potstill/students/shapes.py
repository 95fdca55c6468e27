"""The search over encoder shapes: which depth, width, heads, FFN, embedding rank and vocabulary fit a budget best.

The grid spans depth, width, heads, and the embedding: whole, narrow with a cut vocabulary, or put together from codes. The FFN
is then solved for, so that every grid point lands on the budget, and the grid point with the lowest penalty wins.

Letters: L layers, H hidden width, A heads, E embedding width, V vocabulary, F FFN neurons, K codes of a group; index 0 marks the
teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from potstill.students import cost

# What a cut costs, in units of "half of the layers". Lower is better; the terms add up. Halving the width costs as much
# as 2.5 halvings of the depth, because the teacher's weights no longer fit whole; rank and FFN cuts start cheap and grow dear.
PENALTY_WEIGHTS = {
    "depth": 1.0,  # × log2(L0 / L) ** 1.3
    "text_width": 2.5,  # × log2(H0 / H)
    "image_width": 1.5,  # × log2(H0 / H)
    "text_narrowed": 2.2,  # once, where the width is cut at all: no teacher layer fits whole any more
    "image_narrowed": 0.6,
    "heads": 0.4,  # × log2(heads that fill this width / A) ** 1.5
    "coded_heads": 0.3,  # × log2(the same) ** 2.5, where the attention may be narrow: half of the heads do, a quarter does not
    "ffn": 0.25,  # × log2(F0 / F) ** 1.5
    "coded_ffn": 0.18,  # the same beside a coded embedding
    "rank": 0.2,  # × log2(H0 / E) ** 2
    "factorised": 0.15,  # once, where the embedding is factorised at all
    "codes": 0.04,  # × log2(4096 / K) ** 2: fewer different pieces
    "pieces": 0.6,  # × (width of a piece / 24 − 1): coarser pieces
    "coverage": 0.1,  # × percent of the data's token occurrences that the kept vocabulary lacks
    "vocabulary": 0.05,  # × log2(V0 / V): tokens that other texts may bring
}
COVERAGES = (0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.998, 0.999, 1.0)
RESERVED_TOKENS = 256  # special tokens, single characters or bytes that a cut vocabulary keeps whether seen or not
EMBEDDING_STEP = 16
CODED_VOCABULARY = 2048  # tokens from which on codes are smaller than rows
CODES = (128, 256, 384, 512, 768, 1024, 1536, 2048)
PIECE_WIDTHS = (16, 24, 32, 48)  # units of a coded embedding's pieces, as nearly as the width allows
POSITION_RANK = 32
TOLERANCE = 0.004  # of the teacher's parameters


@dataclass(frozen=True)
class Shape:
    """One encoder shape; `embedding` equals `hidden` unless the embedding is factorised, `codes` is 0 unless it is coded."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    embedding: int
    vocabulary: int
    factorised: bool
    codes: int = 0
    groups: int = 0


@dataclass(frozen=True)
class Space:
    """What the search may vary for one teacher.

    Args:
        teacher: The teacher's shape.
        head_size: Units per head, kept.
        qkv_bias: Whether query, key and value have biases.
        num_labels: Classes of the student.
        teacher_parameters: What ratios refer to.
        counts: Sorted token counts, most frequent first; None where the vocabulary is not to be cut, or for images.
        min_vocabulary: Tokens that a cut vocabulary must keep.
        reserve: Tokens of a vocabulary that are not in `counts`; None where it is not known.
        image: The teacher's configuration, for images; None for text.
        positions: Position rows of the teacher's own model type and of the factorised one.
        token_types: Token type rows of both.
        has_pooler: Whether a text model has a layer between the encoder and the final one.
        codes: How many codes a group of a coded embedding may have; empty where the student cannot have one.
        coded_only: Whether it must, since the teacher has.
    """

    teacher: Shape
    head_size: int
    qkv_bias: bool
    num_labels: int
    teacher_parameters: int
    counts: np.ndarray | None = None
    min_vocabulary: int = 0
    reserve: int | None = None
    image: Any = None
    positions: tuple[int, int] = (0, 0)
    token_types: tuple[int, int] = (0, 0)
    has_pooler: bool = True
    codes: tuple[int, ...] = ()
    coded_only: bool = False

    @property
    def ffn_step(self) -> int:
        """FFN sizes are multiples of this: 16 in real models, finer in small ones."""
        return 16 if self.teacher.ffn >= 256 else 4 if self.teacher.ffn >= 64 else 1


def best_shape(space: Space, budget: int) -> Shape:
    """The shape of the lowest penalty whose parameters land on `budget`; the nearest one where none does.

    Args:
        space: What may vary.
        budget: Parameters to land on.

    Returns:
        A shape at most `budget` large wherever the space holds one.
    """
    grid = _grid(space)
    grid["F"] = _solve_ffn(space, grid, budget)
    grid["V"] = _fill_vocabulary(space, grid, budget)
    achieved = _parameters(space, grid)
    gap = (budget - achieved) / space.teacher_parameters
    penalty = _penalty(space, grid)
    lands = (gap >= -1e-9) & (gap <= TOLERANCE)
    if lands.any():
        winner = int(np.argmin(np.where(lands, penalty, np.inf)))
    else:
        winner = int(np.lexsort((penalty, np.round(np.abs(gap), 4) + (gap < -0.005)))[0])
    chosen = {name: int(values[winner]) for name, values in grid.items()}
    shape = Shape(chosen["L"], chosen["H"], chosen["A"], chosen["F"], chosen["E"], chosen["V"], bool(chosen["factorised"]))
    return replace(shape, codes=chosen["K"], groups=chosen["M"])


def coverage(counts: np.ndarray, vocabulary: np.ndarray, reserve: int | None = None) -> np.ndarray:
    """Share of token occurrences that the `vocabulary` most frequent tokens cover, less the reserved ones.

    Args:
        counts: Token counts, most frequent first.
        vocabulary: Vocabulary sizes, any shape.
        reserve: Tokens of a vocabulary that are none of these; None for a guess, 0 where the counts begin with the tokens that
            must stay.
    """
    total = max(int(counts.sum()), 1)
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / total
    reserve = min(RESERVED_TOKENS, len(counts) // 10) if reserve is None else reserve
    return cumulative[np.clip(vocabulary - reserve, 0, len(counts))]


def _grid(space: Space) -> dict[str, np.ndarray]:
    teacher = space.teacher
    layers = np.arange(1, teacher.layers + 1)
    max_heads = teacher.hidden // space.head_size
    hidden = np.unique([max(1, h) * space.head_size for h in range(max(1, max_heads // 8), max_heads + 1)])
    removed_heads = np.arange(0, teacher.heads) if space.image is not None else np.array([0])
    ranks = _ranks(teacher) if space.image is None else np.array([0])
    sizes = np.array(_vocabularies(space))
    mesh = np.meshgrid(layers, hidden, removed_heads, ranks, sizes, indexing="ij")
    depth, width, removed, rank, size = (axis.reshape(-1) for axis in mesh)
    factorised = rank > 0
    heads = np.minimum(width // space.head_size, teacher.heads) - removed
    embedding = np.where(factorised, rank, np.where(teacher.factorised, np.minimum(teacher.embedding, width), width))
    legal = (heads >= np.maximum(1, (width // space.head_size) // 4)) & (embedding <= width)
    none = np.zeros_like(depth)
    columns = {"L": depth, "H": width, "A": heads, "E": embedding, "V": size, "factorised": factorised, "K": none, "M": none}
    plain = {name: values[legal] for name, values in columns.items()}
    if not space.codes:
        return plain
    coded = _coded_grid(space, layers, hidden)
    if space.coded_only:
        return coded
    return {name: np.concatenate([values, coded[name]]) for name, values in plain.items()}


def _coded_grid(space: Space, layers: np.ndarray, hidden: np.ndarray) -> dict[str, np.ndarray]:
    """Shapes whose embedding is coded: all of the vocabulary, and attention as narrow as a quarter of the heads."""
    pieces = np.array(PIECE_WIDTHS)
    mesh = np.meshgrid(layers, hidden, np.arange(0, space.teacher.heads), np.array(space.codes), pieces, indexing="ij")
    depth, width, removed, number, piece = (axis.reshape(-1) for axis in mesh)
    sizes = np.unique(width)
    groups = np.array([[code_groups(int(size), int(one)) for one in pieces] for size in sizes])
    groups = groups[np.searchsorted(sizes, width), np.searchsorted(pieces, piece)]
    heads = np.minimum(width // space.head_size, space.teacher.heads) - removed
    legal = heads >= np.maximum(1, -(-(width // space.head_size) // 4))
    whole = np.full_like(depth, space.teacher.vocabulary)
    columns = {"L": depth, "H": width, "A": heads, "E": width, "V": whole, "factorised": whole < 0, "K": number, "M": groups}
    return {name: values[legal] for name, values in columns.items()}


def code_groups(hidden: int, piece: int) -> int:
    """Pieces that a vector of `hidden` units is put together from: each as near to `piece` units as divides it.

    Example:
        >>> code_groups(384, 24), code_groups(1024, 24)
        (16, 32)
    """
    widths = [width for width in range(1, hidden + 1) if hidden % width == 0]
    return hidden // min(widths, key=lambda width: (abs(np.log(width / piece)), -width))


def _ranks(teacher: Shape) -> np.ndarray:
    step = EMBEDDING_STEP if teacher.hidden >= 128 else 4 if teacher.hidden >= 32 else 1
    top = teacher.embedding if teacher.factorised else teacher.hidden
    return np.concatenate([[0], np.arange(step, top, step)])


def _vocabularies(space: Space) -> Sequence[int]:
    whole = space.teacher.vocabulary
    if space.counts is None:
        return [whole]
    reserve = min(RESERVED_TOKENS, whole // 10) if space.reserve is None else space.reserve
    total = max(int(space.counts.sum()), 1)
    cumulative = np.cumsum(space.counts) / total
    sizes = {whole}
    for share in COVERAGES:
        needed = int(np.searchsorted(cumulative, share - 1e-12)) + 1 + reserve
        sizes.add(min(whole, max(space.min_vocabulary, -(-needed // 16) * 16)))
    return sorted(sizes)


def _solve_ffn(space: Space, grid: dict[str, np.ndarray], budget: int) -> np.ndarray:
    step = space.ffn_step
    smallest = max(step, space.teacher.ffn // 32 // step * step)
    empty = _parameters(space, grid | {"F": np.zeros_like(grid["L"])})
    per_neuron = grid["L"] * (2 * grid["H"] + 1)
    neurons = (budget - empty) // per_neuron // step * step
    return np.clip(neurons, smallest, space.teacher.ffn)


def _fill_vocabulary(space: Space, grid: dict[str, np.ndarray], budget: int) -> np.ndarray:
    """Spend what is left after a full FFN on more of the vocabulary."""
    if space.counts is None:
        return grid["V"]
    spare = budget - _parameters(space, grid)
    is_full = (grid["F"] == space.teacher.ffn) & (grid["K"] == 0)
    more = np.where(is_full & (spare > 0), spare // grid["E"], 0)
    return np.minimum(grid["V"] + more, space.teacher.vocabulary)


def _parameters(space: Space, grid: dict[str, np.ndarray]) -> np.ndarray:
    layers = grid["L"] * cost.layer_parameters(grid["H"], grid["A"] * space.head_size, grid["F"], qkv_bias=space.qkv_bias)
    if space.image is not None:
        return layers + cost.image_parameters(space.image, grid["H"])
    counts = [
        cost.text_parameters(grid["H"], grid["E"], grid["V"], positions, token_types, space.num_labels, pooler=space.has_pooler)
        for positions, token_types in zip(space.positions, space.token_types)
    ]
    uncoded = np.where(grid["factorised"], counts[1], counts[0])
    if not space.codes:
        return layers + uncoded
    sizes = space.positions[1], POSITION_RANK, max(1, space.token_types[0]), space.num_labels
    coded = cost.coded_parameters(grid["H"], grid["V"], grid["M"], grid["K"], *sizes)
    return layers + np.where(grid["K"] > 0, coded, uncoded)


def _penalty(space: Space, grid: dict[str, np.ndarray]) -> np.ndarray:
    weights, teacher = PENALTY_WEIGHTS, space.teacher
    kind = "text" if space.image is None else "image"
    total = weights["depth"] * np.log2(teacher.layers / grid["L"]) ** 1.3
    total += weights[f"{kind}_width"] * np.log2(teacher.hidden / grid["H"])
    total += weights[f"{kind}_narrowed"] * (grid["H"] < teacher.hidden)
    lost_heads = np.log2(np.minimum(grid["H"] // space.head_size, teacher.heads) / grid["A"])
    total += np.where(grid["K"] > 0, weights["coded_heads"] * lost_heads**2.5, weights["heads"] * lost_heads**1.5)
    ffn = np.where(grid["K"] > 0, weights["coded_ffn"], weights["ffn"])
    total += ffn * np.log2(teacher.ffn / grid["F"]) ** 1.5
    is_coded = grid["K"] > 0
    total += weights["codes"] * np.where(is_coded, np.log2(2 * CODES[-1] / np.maximum(grid["K"], 1)) ** 2, 0)
    total += weights["pieces"] * np.where(is_coded, grid["H"] / np.maximum(grid["M"], 1) / 24 - 1, 0)
    if space.image is None:
        total += weights["rank"] * np.log2(teacher.embedding / np.minimum(grid["E"], teacher.embedding)) ** 2 * grid["factorised"]
        total += weights["factorised"] * grid["factorised"]
        total += weights["vocabulary"] * np.log2(teacher.vocabulary / grid["V"])
    if space.counts is not None:
        total += weights["coverage"] * 100 * (1 - coverage(space.counts, grid["V"], space.reserve))
    return total
