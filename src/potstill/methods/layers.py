"""Which block of the teacher each block of the student learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potstill.errors import RecipeError
from potstill.methods.contract import LayerChoice, MethodOptions, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from potstill.methods.similarity import Read

CHOICES = ("auto", "uniform", "last", "first", "skip", "dynamic")
CLEARLY_MORE = 0.02  # of mean similarity, before measured pairs take the place of those that the cut suggests


def check_choice(choice: LayerChoice) -> None:
    """Refuse a word that is no choice of layers."""
    if isinstance(choice, str) and choice not in CHOICES:
        raise RecipeError(
            f"layers is {choice!r}", f"{', '.join(CHOICES)}, or pairs", "write for example layers: [[1, 3], [2, 6]]"
        )


def pair_layers(choice: LayerChoice, student: ModelFacts, teacher: ModelFacts) -> list[tuple[int, int]]:
    """Pairs (student block, teacher block), 1-based, rising.

    ``auto``: of convolutional nets the stages with grids of one size; else the pairs that were measured (`match_blocks`), else
    the blocks that a cut student keeps, else uniform; ``uniform``: i ← i·T/S; ``last`` and ``first``: that end of the teacher;
    ``skip``: uniform without the last pair, which the response already teaches (patient distillation); ``dynamic``: uniform, for
    the terms of a method that cannot choose their blocks in every step.

    Raises:
        RecipeError: Another word, or pairs outside the models.

    Example:
        >>> pair_layers("uniform", ModelFacts(2, 16, 2, "text"), ModelFacts(6, 16, 2, "text"))
        [(1, 3), (2, 6)]
    """
    check_choice(choice)
    if not isinstance(choice, str):
        return _checked(choice, student.layers, teacher.layers)
    if choice == "auto" and student.has_maps and teacher.has_maps and set(student.strides) & set(teacher.strides):
        return _by_stride(student.strides, teacher.strides)
    if choice == "auto" and student.matched:
        return list(student.matched)
    if choice == "auto" and student.kept_layers:
        return list(enumerate(student.kept_layers, start=1))
    if student.layers > teacher.layers:
        uniform = [(round(i * student.layers / teacher.layers), i) for i in range(1, teacher.layers + 1)]
    else:
        uniform = [(i, round(i * teacher.layers / student.layers)) for i in range(1, student.layers + 1)]
    count = len(uniform)
    if choice == "last":
        return [(student.layers - count + i, teacher.layers - count + i) for i in range(1, count + 1)]
    if choice == "first":
        return [(i, i) for i in range(1, count + 1)]
    if choice == "skip" and count > 1:
        return uniform[:-1]
    return uniform


def last_pair(options: MethodOptions, student: ModelFacts, teacher: ModelFacts) -> list[tuple[int, int]]:
    """The last blocks, for methods that compare one place; other pairs where the user names them."""
    return [(student.layers, teacher.layers)] if options.layers == "auto" else pair_layers(options.layers, student, teacher)


def pair_by_similarity(
    student: nn.Module, teacher: nn.Module, batches: Iterable[Mapping[str, Any]], read: Read
) -> list[tuple[int, int]]:
    """Pairs of blocks that are most alike on these batches (debiased CKA), rising on both sides and of the largest sum.

    Every block of the shallower model is in one pair. Both models should be in eval mode; a student that is still random
    resembles nothing, so measure one that was cut from the teacher or trained for a while.

    Args:
        read: (model, inputs, needs) → values by need name, as `TapReader().read`.

    Returns:
        (student block, teacher block), 1-based, as `layers` takes them.

    Raises:
        DataError: Fewer than 4 rows.
    """
    from potstill.methods.similarity import best_rising, block_similarity

    return best_rising(block_similarity(student, teacher, batches, read))


def match_blocks(similarity: Tensor, expected: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], float, float]:
    """The pairs that `auto` takes, given what was measured and what the cut suggests.

    A measurement on few rows has noise, so the expected pairs stay unless others are alike by 0.02 more in the mean.

    Args:
        similarity: [S, L], see `block_similarity`.
        expected: Pairs that the cut student keeps, or uniform ones.

    Returns:
        The pairs, their mean similarity, and that of the expected ones.
    """
    from potstill.methods.similarity import best_rising

    def mean(pairs: Sequence[tuple[int, int]]) -> float:
        return sum(float(similarity[own - 1, other - 1]) for own, other in pairs) / len(pairs)

    best = best_rising(similarity)
    taken = best if mean(best) > mean(expected) + CLEARLY_MORE else list(expected)
    return taken, mean(taken), mean(expected)


def _by_stride(student: Sequence[int], teacher: Sequence[int]) -> list[tuple[int, int]]:
    """The last stage of each grid that both have."""
    ends = [{stride: stage for stage, stride in enumerate(strides, start=1)} for strides in (student, teacher)]
    return [(stage, ends[1][stride]) for stride, stage in sorted(ends[0].items()) if stride in ends[1]]


def _checked(pairs: Sequence[Sequence[int]], student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    read: list[tuple[int, int]] = []
    for pair in pairs:
        ends = tuple(pair) if isinstance(pair, (list, tuple)) else ()
        if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
            raise RecipeError(
                f"layers holds {pair!r}", "pairs [student block, teacher block]", "write for example [[1, 3], [2, 6]]"
            )
        read.append((_position(ends[0], student_layers, "student"), _position(ends[1], teacher_layers, "teacher")))
    if not read:
        raise RecipeError("layers is empty", "at least one pair [student block, teacher block]", "write layers: auto")
    return read


def _position(index: int, count: int, side: str) -> int:
    position = count + 1 + index if index < 0 else index
    if not 1 <= position <= count:
        raise RecipeError(
            f"layers names block {index} of the {side}, which has {count}",
            f"1 to {count}, or -1 to -{count}",
            "name such a block",
        )
    return position
