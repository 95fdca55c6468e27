"""Figures of a student before it learns anything: its distance to the teacher, and which blocks are alike.

A student cut with little loss wants small steps; `layers: auto` pairs the blocks that are most alike on training rows.
"""

# N answers, C numbers of an answer

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from potstill.contracts.source import TeacherSource
from potstill.errors import DataError, NeedsError
from potstill.ground.devices import device_of, placed
from potstill.knowledge.teachers import paired_batches
from potstill.methods.contract import ModelFacts, Phase
from potstill.methods.layers import match_blocks, pair_layers
from potstill.methods.similarity import block_similarity
from potstill.models.party import Student, Teacher
from potstill.models.taps import TapReader, Taps
from potstill.recipe.model import DistillRecipe
from potstill.training.precision import model_inputs

logger = logging.getLogger(__name__)
ROWS, BATCH = 256, 32


def reads_start(asked: DistillRecipe, student: Student, phases: Sequence[Phase]) -> bool:
    """Whether a measured distance decides something in these phases, and the user has not decided it."""
    if not student.rows.answers.has_mean:
        return False
    return (asked.learning_rate is None or asked.epochs is None) and any(phase.by_start for phase in phases)


def start_error(student: Student, model: Any, source: TeacherSource, batches: Sequence[Any]) -> float:
    """The distance of the student to the teacher on training rows: see `unexplained`.

    Args:
        model: It, as it is before the first phase of training.
    """
    taps, pairs = Taps(model, ()), []
    with placed(model.eval()) as ours, torch.inference_mode():
        for batch in batches:
            theirs = source.signal(batch, ("logits",)).logits
            inputs = {name: value.to(device_of(ours)) for name, value in model_inputs(ours, batch).items()}
            answers, mask = student.rows.answers.arrange({"logits": taps.run(inputs)[0].float()}, batch)
            pairs.append(tuple(_listed(each.cpu(), mask) for each in (answers, theirs)))
    student_answers, teacher_answers = (torch.cat(parts) for parts in zip(*pairs))
    return unexplained(student_answers, teacher_answers, student.rows.answers.is_distribution)


def _listed(answers: Tensor, mask: Tensor | None) -> Tensor:
    """Answers [N, C] of all real units."""
    return answers if mask is None else answers[mask.bool().cpu()]


def unexplained(student: Tensor, teacher: Tensor, is_distribution: bool) -> float:
    """The share of what the teacher's answers say, over their mean, that the student's do not.

    Logits: Σ KL(p ‖ q) / Σ KL(p ‖ mean of p), in which p are the teacher's and q the student's probabilities.
    Other answers: Σ (s − t)² / Σ (t − mean of t)².

    Args:
        student: Answers [N, C].
        teacher: Answers [N, C].
        is_distribution: Whether these are logits of classes.

    Returns:
        0 for equal answers, 1 for the same mean answer to every row, more for worse ones.

    Example:
        >>> rows = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> unexplained(rows + 1.0, rows, True)
        0.0
        >>> round(unexplained(torch.tensor([[0.5], [0.5]]), torch.tensor([[0.0], [1.0]]), False), 6)
        1.0
    """
    least = torch.finfo(torch.float32).tiny
    if not is_distribution:
        return float((student - teacher).square().sum() / (teacher - teacher.mean(dim=0)).square().sum().clamp_min(least))
    chosen = teacher.log_softmax(-1)
    mean = chosen.exp().mean(dim=0, keepdim=True).clamp_min(least).log()
    missed, said = (kl_div(other, chosen, reduction="sum", log_target=True) for other in (student.log_softmax(-1), mean))
    return float(missed.clamp_min(0) / said.clamp_min(least))


@dataclass(frozen=True)
class Matched:
    """Pairs (student block, teacher block), 1-based, and how they were found."""

    pairs: tuple[tuple[int, int], ...]
    reason: str

    def __str__(self) -> str:
        shown = ", ".join(f"{own} from {other}" for own, other in self.pairs)
        return f"blocks learn {shown} ({self.reason})"


def reads_pairs(asked: DistillRecipe, phases: Sequence[Phase]) -> bool:
    """Whether `layers: auto` decides something in these phases."""
    return asked.layers == "auto" and any(term.pairs_blocks() for phase in phases for term in phase.terms)


def match(
    student: Student, model: Any, teacher: Teacher, facts: tuple[ModelFacts, ModelFacts], seed: int, *, is_random: bool
) -> Matched:
    """The pairs of blocks that `auto` takes.

    Args:
        model: It, as it is before the first phase of training.
        is_random: Whether the student starts from random weights.
    """
    own, other = facts
    expected = tuple(pair_layers("auto", replace(own, matched=()), other))
    if own.has_maps and other.has_maps and set(own.strides) & set(other.strides):
        return Matched(expected, "stages with grids of one size")
    named = "blocks that the student was cut from" if own.kept_layers else "evenly spread"
    if is_random:
        return Matched(expected, f"{named}, the student starts from random weights")
    try:
        batches = training_batches(student, teacher, seed)
        with placed(model.eval()) as ours, placed(teacher.model) as theirs:
            similarity = block_similarity(ours, theirs, batches, TapReader().read, max_rows=ROWS)
    except (NeedsError, DataError) as error:
        logger.info("blocks are not compared: %s", error)
        return Matched(expected, named)
    pairs, best, known = match_blocks(similarity, expected)
    if tuple(pairs) == expected:
        return Matched(expected, f"{named}, CKA {known:.2f}")
    return Matched(tuple(pairs), f"most alike on {ROWS} rows, CKA {best:.2f}; {named} {known:.2f}")


def training_batches(student: Student, teacher: Teacher, seed: int) -> list[Any]:
    """A few batches of training rows, each side in its own tokens where they differ."""
    return paired_batches(student, teacher, "train", num_rows=ROWS, batch_size=BATCH, seed=seed)
