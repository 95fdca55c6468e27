"""Plans of students of decoders: the depth, width, heads, neurons and vocabulary that a budget allows.

The grid spans depth, width, groups of heads and vocabulary; the FFN is solved for, so that every point of the grid lands on the
budget, and the point of the lowest penalty wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from potstill.errors import RecipeError
from potstill.models.families.decoders.base import DecoderShape, Layout
from potstill.students.plan import MAX_RATIO, StudentPlan, finished, plan_for_budget, spaced_layers
from potstill.students.search import TOLERANCE, VocabularyCounts

# What a cut costs, as in `students/search.py`; in the order of perplexities right after cuts of SmolLM2-135M at equal sizes.
PENALTY_WEIGHTS = {
    "depth": 1.8,  # × log2(L0 / L) ** 1.3
    "width": 2.2,  # × log2(H0 / H) ** 1.5
    "narrowed": 0.1,  # once, where the width is cut at all
    "groups": 0.35,  # × log2(G0 / G) ** 2
    "ffn": 0.35,  # × log2(F0 / F) ** 1.5
    "coverage": 0.1,  # × percent of the texts' token occurrences that the kept vocabulary lacks
    "vocabulary": 0.05,  # × log2(V0 / V): tokens that other texts may bring
}
REACHED = 0.01  # a plan lands within this share of the teacher's parameters
LAST_RESORT = 100.0  # penalty of what is done only where nothing else lands
WIDTH_STEPS, NEURON_STEPS = 64, 192  # into which width and FFN are divided, as powers of two allow


@dataclass(frozen=True)
class DecoderSpace:
    """What the search may vary for one teacher.

    Args:
        layout: The teacher.
        words: What the data say of the vocabulary.
        tokens: Tokens of its tokenizer, where the model may have more entries.
        vocabulary: Size of the student's vocabulary, where the recipe names one.
    """

    layout: Layout
    words: VocabularyCounts = field(default_factory=VocabularyCounts)
    tokens: int | None = None
    vocabulary: int | None = None

    @property
    def teacher(self) -> DecoderShape:
        """The teacher's shape."""
        return self.layout.shape

    def possible(self, size: Any) -> Any:
        """Sizes of a vocabulary, cut to those that there are: all entries of the teacher, or at most the tokenizer's tokens."""
        return np.where(size >= self.teacher.vocabulary, self.teacher.vocabulary, np.minimum(size, self.tokens or size))


def plan_decoder(space: DecoderSpace, budget: Mapping[str, float]) -> StudentPlan:
    """The plan for a ratio, a number of parameters or of bytes in fp32.

    Raises:
        RecipeError: The budget is none of these, out of range, or not reached within 1 point.
    """
    whole = int(space.layout.parameters(space.teacher))
    if "latency_ms" in budget:
        raise RecipeError(
            "student.latency_ms is given for a language model, whose time depends on how much it generates",
            "student.ratio, student.params or student.bytes",
            "give one of these instead",
        )
    return plan_for_budget(
        lambda share: _plan_for_ratio(space, whole, share),
        whole,
        {name: budget.get(name) for name in ("ratio", "params", "bytes")},
        None,
        least=0,
        top=MAX_RATIO,
        accepted=f"0 (same architecture) to {MAX_RATIO}",
        todo=f"ask for ratio 0.10 to 0.95, or params {round(whole * (1 - MAX_RATIO))} to {whole}",
        too_slow=("", "", ""),
    )


def shape_in(plan: StudentPlan, layout: Layout) -> DecoderShape:
    """The shape that a plan says."""
    return layout.family.shape_of(SimpleNamespace(**plan.config))


def _plan_for_ratio(space: DecoderSpace, whole: int, asked: float) -> StudentPlan:
    shape = space.teacher if asked == 0 else best_decoder_shape(space, round(whole * (1 - asked)))
    size = int(space.layout.parameters(shape))
    found = 1 - size / whole
    if abs(found - asked) > REACHED:
        raise _unreached(space, asked, found, size)
    layers = spaced_layers(space.teacher.layers, shape.layers)
    config = space.layout.family.with_shape(space.layout.config, shape, layers)
    vocabulary = shape.vocabulary if shape.vocabulary < space.teacher.vocabulary else None
    return finished(config, layers, vocabulary, size, whole, asked, _notes(space, shape))


def _unreached(space: DecoderSpace, asked: float, found: float, size: int) -> RecipeError:
    what = "smallest" if found < asked else "nearest"
    keeps = space.words.counts is None or space.vocabulary is not None
    wider = ", or let the vocabulary be cut: student.vocabulary: auto" if keeps else ""
    return RecipeError(
        f"ratio {asked:.3f} is asked, and the {what} student of this teacher has {size:,} parameters, a ratio of {found:.3f}",
        "a ratio that is reached within 0.01",
        f"ask for --ratio {found:.2f}{wider}, or name a student: --student FOLDER_OR_HUB_ID",
    )


def _notes(space: DecoderSpace, shape: DecoderShape) -> tuple[str, ...]:
    names = {"layers": "layers", "hidden": "width", "groups": "key-value heads", "ffn": "FFN neurons", "vocabulary": "vocabulary"}
    pairs = [(name, getattr(space.teacher, key), getattr(shape, key)) for key, name in names.items()]
    notes = [f"{name} {before:,} → {after:,}" for name, before, after in pairs if after != before]
    if shape.vocabulary < space.teacher.vocabulary and space.words.counts is not None:
        share = float(space.words.coverage(np.array(shape.vocabulary)))
        notes[-1] += f", {share:.2%} of the token occurrences in the training texts"
    return tuple(notes)


def best_decoder_shape(space: DecoderSpace, budget: int) -> DecoderShape:
    """The shape of the lowest penalty whose parameters land on `budget`, else the nearest, at most `budget` large if one is."""
    grid = _grid(space)
    grid = replace(grid, ffn=_solve_ffn(space, grid, budget))
    grid = replace(grid, vocabulary=_fill_vocabulary(space, grid, budget))
    gap = (budget - space.layout.parameters(grid)) / int(space.layout.parameters(space.teacher))
    penalty = _penalty(space, grid)
    lands = (gap >= -1e-9) & (gap <= TOLERANCE)
    if lands.any():
        winner = int(np.argmin(np.where(lands, penalty, np.inf)))
    else:
        winner = int(np.lexsort((penalty, np.round(np.abs(gap), 4) + (gap < -0.5 * REACHED)))[0])
    return DecoderShape(**{name: values[winner].item() for name, values in vars(grid).items()})


def _grid(space: DecoderSpace) -> DecoderShape:
    family, teacher, heads = space.layout.family, space.teacher, space.layout.heads
    may_drop, is_square = family.may_drop_layers(space.layout.config), family.is_square
    depths = np.arange(1 if may_drop else teacher.layers, teacher.layers + 1)
    groups = np.arange(1, teacher.groups + 1)
    step = heads.size if is_square else _step(teacher.hidden, WIDTH_STEPS)
    widths = np.unique([*range(step, teacher.hidden + 1, step), teacher.hidden])
    sizes = space.possible(np.array([space.vocabulary] if space.vocabulary else space.words.sizes(teacher.vocabulary)))
    axes = np.meshgrid(depths, widths, groups, sizes, indexing="ij")
    depth, width, group, size = (axis.reshape(-1).astype(np.int64) for axis in axes)
    query_heads = group * heads.per_group
    legal = width % query_heads == 0  # what configurations of several types ask for
    if is_square:
        legal &= width == query_heads * heads.size
    found = DecoderShape(depth, width, group, np.zeros_like(depth), size)
    return DecoderShape(**{name: values[legal] for name, values in vars(found).items()})


def _step(size: int, parts: int) -> int:
    """The power of two that divides a size into about that many parts."""
    return int(2 ** max(0, int(np.log2(max(size / parts, 1)))))


def _solve_ffn(space: DecoderSpace, grid: DecoderShape, budget: int) -> np.ndarray:
    step = _step(space.teacher.ffn, NEURON_STEPS)
    smallest = max(step, space.teacher.ffn // 32 // step * step)
    none, one = (space.layout.parameters(replace(grid, ffn=np.full_like(grid.ffn, size))) for size in (0, 1))
    neurons: np.ndarray = (budget - none) // np.maximum(one - none, 1)
    return np.where(neurons >= space.teacher.ffn, space.teacher.ffn, np.maximum(neurons // step * step, smallest))


def _fill_vocabulary(space: DecoderSpace, grid: DecoderShape, budget: int) -> np.ndarray:
    """Spend what is left after a full FFN on more of the vocabulary, where the data let it be cut."""
    size: np.ndarray = grid.vocabulary
    if space.words.counts is None or space.vocabulary is not None:
        return size
    more = space.layout.parameters(replace(grid, vocabulary=size + 1)) - space.layout.parameters(grid)
    spare = np.maximum(budget - space.layout.parameters(grid), 0) * (grid.ffn == space.teacher.ffn)
    filled: np.ndarray = space.possible(size + spare // np.maximum(more, 1))
    return filled


def _penalty(space: DecoderSpace, grid: DecoderShape) -> np.ndarray:
    weights, teacher = PENALTY_WEIGHTS, space.teacher
    total: np.ndarray = weights["depth"] * np.log2(teacher.layers / grid.layers) ** 1.3
    total = total + weights["width"] * np.log2(teacher.hidden / grid.hidden) ** 1.5
    total += weights["narrowed"] * (grid.hidden < teacher.hidden)
    if not space.layout.family.has_free_heads:
        total += LAST_RESORT * (grid.groups < teacher.groups)
    if not space.layout.family.is_square:
        total += weights["groups"] * np.log2(teacher.groups / grid.groups) ** 2
    total += weights["ffn"] * np.log2(teacher.ffn / grid.ffn) ** 1.5
    total += weights["vocabulary"] * np.log2(teacher.vocabulary / grid.vocabulary)
    if space.words.counts is not None:
        total += weights["coverage"] * 100 * (1 - space.words.coverage(grid.vocabulary))
    return total
