"""How far a student is from its teacher before it learns anything: a student cut with little loss wants small steps."""

# N answers, C numbers of an answer

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from potstill.answers.units import answers_of
from potstill.ground.devices import device_of, placed
from potstill.methods.contract import ModelFacts, Phase
from potstill.models.taps import Taps
from potstill.stages.matching import ROWS, training_batches
from potstill.stages.teacher_sources import training_source
from potstill.training.precision import model_inputs

if TYPE_CHECKING:
    from potstill.stages.context import Run


def reads_start(run: Run, stages: Sequence[Phase]) -> bool:
    """Whether a measured distance decides something in these stages, and nobody has decided it yet."""
    asked = run.recipe.distill
    if run.answers.kind == "span":  # answers over the places of a row have no mean over rows
        return False
    return (asked.learning_rate is None or asked.epochs is None) and any(stage.by_start for stage in stages)


def started_facts(run: Run, student: Any, facts: ModelFacts) -> ModelFacts:
    """The student's facts with its distance to the teacher, measured once on training rows and told.

    Args:
        run: The run.
        student: As it is before the first stage of training.
        facts: Of the student.
    """
    key, folder = f"start error {facts.layers}", "work/student"
    is_new = key not in run._opened
    error: float = run._once(key, folder, lambda: _measure(run, student))
    if is_new:
        run.observer.note(f"before training the student misses {error:.1%} of what the teacher's answers say ({ROWS} rows)")
    return replace(facts, start_error=error)


def _measure(run: Run, student: Any) -> float:
    source, taps = training_source(run), Taps(student, ())
    pairs = []
    with placed(student.eval()) as ours, torch.inference_mode():
        for batch in training_batches(run, student):
            theirs = source.signal(batch, ("logits",)).logits
            inputs = {name: value.to(device_of(ours)) for name, value in model_inputs(ours, batch).items()}
            answers, mask = answers_of(taps.run(inputs)[0].float(), batch)
            pairs.append(tuple(_listed(each.cpu(), mask) for each in (answers, theirs)))
    student_answers, teacher_answers = (torch.cat(parts) for parts in zip(*pairs))
    return unexplained(student_answers, teacher_answers, run.answers.is_distribution)


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
