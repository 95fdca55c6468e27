"""The search over encoder shapes: which depth, width, heads, FFN, embedding and vocabulary fit a budget best.

The grid spans depth, width, heads, and the embedding: whole, narrow with a cut vocabulary, or put together from codes. The FFN
is then solved for, so that every grid point lands on the budget, and the grid point with the lowest penalty wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from potstill.models.families import family_of
from potstill.models.families.coded import CODES, Coded
from potstill.models.families.encoder import Encoder, Shape
from potstill.models.families.text import TextEncoder
from potstill.students.vocabulary import counts_by_id

# What a cut costs, in units of "half of the layers". Lower is better; the terms add up. Halving the width costs as much
# as 2.5 halvings of the depth, because the teacher's weights no longer fit whole; small rank and FFN cuts cost little.
PENALTY_WEIGHTS = {
    "depth": 1.0,  # × log2(L0 / L) ** 1.3
    "text_width": 2.5,  # × log2(H0 / H)
    "image_width": 1.5,  # × log2(H0 / H)
    "text_narrowed": 2.2,  # once, where the width is cut at all: no teacher layer fits whole any more
    "image_narrowed": 0.6,
    "heads": 0.4,  # × log2(heads that fill this width / A) ** 1.5
    "coded_heads": 0.3,  # × log2(the same) ** 2.5, where the attention may be narrow: half of the heads do, a quarter does not
    "ffn": 0.25,  # × log2(F0 / F) ** 1.5
    "coded_ffn": 0.18,  # the same with a coded embedding
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
PIECE_WIDTHS = (16, 24, 32, 48)  # units of a coded embedding's pieces, as nearly as the width allows
TOLERANCE = 0.004  # of the teacher's parameters


@dataclass(frozen=True)
class VocabularyCounts:
    """What the data says of the vocabulary.

    Args:
        counts: Occurrences of the tokens that the data uses, most frequent first, those that must stay before all others where
            they are known; None where the vocabulary is not to be cut.
        required: Tokens that a cut vocabulary must keep.
        reserve: Tokens of a vocabulary that are not in `counts`; None where it is not known.
        may_be_coded: Whether embeddings may be put together from codes.
    """

    counts: np.ndarray | None = None
    required: int = 0
    reserve: int | None = None
    may_be_coded: bool = True

    @classmethod
    def of(
        cls,
        config: Any,
        token_counts: Mapping[int, int] | np.ndarray | None,
        min_vocabulary: int | None,
        required_ids: Sequence[int] | np.ndarray | None,
        *,
        may_be_coded: bool,
    ) -> VocabularyCounts:
        """From counts by token id of the vocabulary of `config`."""
        if token_counts is None:
            return cls(may_be_coded=may_be_coded)
        counts = counts_by_id(token_counts, config.vocab_size)
        if required_ids is None:
            found = np.sort(counts)[::-1]
            return cls(found[found > 0], min_vocabulary or 0, None, may_be_coded)
        required = np.zeros(len(counts), dtype=bool)
        required[np.asarray(required_ids, dtype=np.int64)] = True
        rest = np.sort(counts[~required])[::-1]
        ordered = np.concatenate([np.sort(counts[required])[::-1], rest[rest > 0]])
        return cls(ordered, int(required.sum()), 0, may_be_coded)

    def sizes(self, whole: int, coverages: Sequence[float] = COVERAGES) -> list[int]:
        """Vocabulary sizes that are worth trying, ascending: those that reach the coverages, and the whole."""
        if self.counts is None:
            return [whole]
        reserve = min(RESERVED_TOKENS, whole // 10) if self.reserve is None else self.reserve
        cumulative = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        needed = [int(np.searchsorted(cumulative, share - 1e-12)) + 1 + reserve for share in coverages]
        return sorted({whole, *(min(whole, max(self.required, -(-size // 16) * 16)) for size in needed)})

    def coverage(self, vocabulary: np.ndarray) -> np.ndarray:
        """Share of token occurrences that vocabularies of these sizes cover, less the reserved ones; any shape."""
        counts = np.zeros(0, dtype=np.int64) if self.counts is None else self.counts
        cumulative = np.concatenate([[0], np.cumsum(counts)]) / max(int(counts.sum()), 1)
        reserve = min(RESERVED_TOKENS, len(counts) // 10) if self.reserve is None else self.reserve
        return cumulative[np.clip(vocabulary - reserve, 0, len(counts))]


@dataclass(frozen=True)
class Form:
    """A model type that the student may have, and a configuration of it with the teacher's shape."""

    family: Encoder
    config: Any

    def parameters(self, shape: Shape) -> Any:
        """Of a shape, or of many."""
        return self.family.shape_parameters(self.config, shape)


@dataclass(frozen=True)
class Space:
    """What the search may vary for one teacher.

    Args:
        narrow: The type of a student with a narrow token table; None where there is none.
        coded: The type of a student with a coded embedding; None where there is none.
        codes: How many codes a group of it may have.
        teacher_parameters: What ratios refer to.
        words: What the data says of the vocabulary.
    """

    teacher: Shape
    own: Form
    narrow: Form | None
    coded: Form | None
    codes: tuple[int, ...]
    teacher_parameters: int
    words: VocabularyCounts

    @property
    def head_size(self) -> int:
        """Units per head, kept."""
        return self.own.family.head_size(self.own.config)

    def config_of(self, shape: Shape) -> Any:
        """The configuration of a student of this shape: the teacher's type where that can take it, else the type that can."""
        form = self.coded if shape.codes else self.narrow if shape.narrow else self.own
        assert form is not None
        return form.family.with_shape(form.config, shape)

    def notes_on(self, shape: Shape) -> tuple[str, ...]:
        """What a person should know about a shape, one sentence each."""
        notes = []
        if shape.codes:
            notes.append(
                f"embeddings of all {shape.vocabulary} tokens put together from {shape.groups} × {shape.codes} pieces; "
                "the integers that choose them count as parameters"
            )
        if shape.narrow:
            notes.append(f"embeddings of rank {shape.embedding}, projected to width {shape.hidden}")
        if self.words.counts is not None and shape.vocabulary < self.teacher.vocabulary:
            share = f"{float(self.words.coverage(np.array(shape.vocabulary))):.2%} of the data's token occurrences"
            notes.append(f"vocabulary {self.teacher.vocabulary} → {shape.vocabulary}, about {share}")
        return tuple(notes)


def space_of(config: Any, family: Encoder, whole: int, words: VocabularyCounts) -> Space:
    """The shapes that a student of a teacher with `whole` parameters may have."""
    teacher, own = family.shape_of(config), Form(family, config)
    narrow, coded = _other(own, family.narrow_type), _other(own, family.coded_type)
    codes: tuple[int, ...] = ()
    if coded is not None and (words.may_be_coded or coded.family is family):
        assert isinstance(coded.family, Coded)
        codes = coded.family.code_choices(family, config, teacher)
    return Space(teacher, own, narrow, coded if codes else None, codes, whole, words)


def _other(own: Form, model_type: str | None) -> Form | None:
    """The teacher's configuration as one of another model type."""
    if model_type is None:
        return None
    family = family_of(model_type)
    assert isinstance(family, TextEncoder)
    return Form(family, family.converted(own.family, own.config))


def best_shape(space: Space, budget: int) -> Shape:
    """The shape of the lowest penalty whose parameters land on `budget`, else the nearest, at most `budget` large if one is."""
    grid = _grid(space)
    grid = replace(grid, ffn=_solve_ffn(space, grid, budget))
    grid = replace(grid, vocabulary=_fill_vocabulary(space, grid, budget))
    gap = (budget - _parameters(space, grid)) / space.teacher_parameters
    penalty = _penalty(space, grid)
    lands = (gap >= -1e-9) & (gap <= TOLERANCE)
    if lands.any():
        winner = int(np.argmin(np.where(lands, penalty, np.inf)))
    else:
        winner = int(np.lexsort((penalty, np.round(np.abs(gap), 4) + (gap < -0.005)))[0])
    return Shape(**{name: values[winner].item() for name, values in vars(grid).items()})


def _grid(space: Space) -> Shape:
    grids = [] if space.coded is None else [_coded_grid(space)]
    if space.coded is None or space.coded.family is not space.own.family:
        grids.insert(0, _plain_grid(space))
    return Shape(**{name: np.concatenate([getattr(grid, name) for grid in grids]) for name in vars(grids[0])})


def _plain_grid(space: Space) -> Shape:
    teacher = space.teacher
    removed = np.arange(0, teacher.heads) if space.own.family.drops_heads else np.array([0])
    ranks = np.array([0])
    if space.narrow is not None:
        step = EMBEDDING_STEP if teacher.hidden >= 128 else 4 if teacher.hidden >= 32 else 1
        ranks = np.concatenate([ranks, np.arange(step, teacher.embedding, step)])
    sizes = np.array(space.words.sizes(teacher.vocabulary))
    depth, width, removed, rank, size = _mesh(*_body_axes(space), removed, ranks, sizes)
    heads = np.minimum(width // space.head_size, teacher.heads) - removed
    whole = np.minimum(teacher.embedding, width) if teacher.embedding != teacher.hidden else width
    embedding = np.where(rank > 0, rank, whole)
    legal = (heads >= np.maximum(1, (width // space.head_size) // 4)) & (embedding <= width)
    none = np.zeros_like(depth)
    return _kept(Shape(depth, width, heads, none, embedding, size, rank > 0, none, none), legal)


def _coded_grid(space: Space) -> Shape:
    """Shapes whose embedding is coded: all of the vocabulary, and attention as narrow as a quarter of the heads."""
    pieces, removed = np.array(PIECE_WIDTHS), np.arange(0, space.teacher.heads)
    depth, width, removed, number, piece = _mesh(*_body_axes(space), removed, np.array(space.codes), pieces)
    sizes = np.unique(width)
    groups = np.array([[code_groups(int(size), int(one)) for one in pieces] for size in sizes])
    groups = groups[np.searchsorted(sizes, width), np.searchsorted(pieces, piece)]
    heads = np.minimum(width // space.head_size, space.teacher.heads) - removed
    legal = heads >= np.maximum(1, -(-(width // space.head_size) // 4))
    none, whole = np.zeros_like(depth), np.full_like(depth, space.teacher.vocabulary)
    return _kept(Shape(depth, width, heads, none, width, whole, whole < 0, number, groups), legal)


def _body_axes(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Depths, and widths that are whole heads."""
    most = space.teacher.hidden // space.head_size
    widths = np.unique([max(1, heads) * space.head_size for heads in range(max(1, most // 8), most + 1)])
    return np.arange(1, space.teacher.layers + 1), widths


def _mesh(*axes: np.ndarray) -> list[np.ndarray]:
    return [axis.reshape(-1) for axis in np.meshgrid(*axes, indexing="ij")]


def _kept(grid: Shape, legal: np.ndarray) -> Shape:
    return Shape(**{name: values[legal] for name, values in vars(grid).items()})


def code_groups(hidden: int, piece: int) -> int:
    """Pieces that a vector of `hidden` units is put together from: each as near to `piece` units as divides it.

    Example:
        >>> code_groups(384, 24), code_groups(1024, 24)
        (16, 32)
    """
    widths = [width for width in range(1, hidden + 1) if hidden % width == 0]
    return hidden // min(widths, key=lambda width: (abs(np.log(width / piece)), -width))


def _solve_ffn(space: Space, grid: Shape, budget: int) -> np.ndarray:
    step = 16 if space.teacher.ffn >= 256 else 4 if space.teacher.ffn >= 64 else 1  # finer in small models
    smallest = max(step, space.teacher.ffn // 32 // step * step)
    neurons = (budget - _parameters(space, grid)) // (grid.layers * space.own.family.neuron_parameters(grid)) // step * step
    return np.clip(neurons, smallest, space.teacher.ffn)


def _fill_vocabulary(space: Space, grid: Shape, budget: int) -> np.ndarray:
    """Spend what is left after a full FFN on more of the vocabulary."""
    whole: np.ndarray = grid.vocabulary
    if space.words.counts is None:
        return whole
    spare = budget - _parameters(space, grid)
    is_full = (grid.ffn == space.teacher.ffn) & (grid.codes == 0)
    more = np.where(is_full & (spare > 0), spare // grid.embedding, 0)
    return np.minimum(whole + more, space.teacher.vocabulary)


def _parameters(space: Space, grid: Shape) -> np.ndarray:
    total: np.ndarray = space.own.parameters(grid)
    if space.narrow is not None and space.narrow != space.own:
        total = np.where(grid.narrow, space.narrow.parameters(grid), total)
    if space.coded is not None and space.coded != space.own:
        total = np.where(grid.codes > 0, space.coded.parameters(grid), total)
    return total


def _penalty(space: Space, grid: Shape) -> np.ndarray:
    weights, teacher, modality = PENALTY_WEIGHTS, space.teacher, space.own.family.modality
    total: np.ndarray = weights["depth"] * np.log2(teacher.layers / grid.layers) ** 1.3
    total += weights[f"{modality}_width"] * np.log2(teacher.hidden / grid.hidden)
    total += weights[f"{modality}_narrowed"] * (grid.hidden < teacher.hidden)
    is_coded = grid.codes > 0
    lost_heads = np.log2(np.minimum(grid.hidden // space.head_size, teacher.heads) / grid.heads)
    total += np.where(is_coded, weights["coded_heads"] * lost_heads**2.5, weights["heads"] * lost_heads**1.5)
    total += np.where(is_coded, weights["coded_ffn"], weights["ffn"]) * np.log2(teacher.ffn / grid.ffn) ** 1.5
    total += weights["codes"] * np.where(is_coded, np.log2(2 * CODES[-1] / np.maximum(grid.codes, 1)) ** 2, 0)
    total += weights["pieces"] * np.where(is_coded, grid.hidden / np.maximum(grid.groups, 1) / 24 - 1, 0)
    total += weights["rank"] * np.log2(teacher.embedding / np.minimum(grid.embedding, teacher.embedding)) ** 2 * grid.narrow
    total += weights["factorised"] * grid.narrow
    total += weights["vocabulary"] * np.log2(teacher.vocabulary / grid.vocabulary)
    if space.words.counts is not None:
        total += weights["coverage"] * 100 * (1 - space.words.coverage(grid.vocabulary))
    return total
