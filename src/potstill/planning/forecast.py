"""Forecast of a run from the configurations of its models: facts, phases, and needs that cannot be met.

Runs after the rows are read and before the teacher's head is trained. It refuses what it can see; what it cannot see (a model of
an unknown family, a hub id that is not here) is checked again before the first step of `distill`.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from potstill.contracts.source import is_of_whole_row
from potstill.errors import NeedsError, PotstillError, raise_faults
from potstill.losses.catalogue import build as build_loss
from potstill.losses.contract import Loss, Shapes
from potstill.methods.catalogue import default_epochs
from potstill.methods.contract import ModelFacts, Phase, facts_of
from potstill.methods.needs import require_need, require_outputs
from potstill.models.checkpoint import has_own_processor
from potstill.models.inputs import MAIN_INPUTS
from potstill.models.load import new_model
from potstill.models.taps import Taps, can_give
from potstill.planning.phases import RunFacts, phases_of
from potstill.recipe import Recipe

logger = logging.getLogger(__name__)
ROWS, TOKENS = 4, 8  # of the batch whose shapes are worked out


@dataclass(frozen=True)
class Forecast:
    """The two models that a run will have, as far as their configurations say, and the phases that train the student.

    Args:
        student_config: Of the student that the budget leads to.
        is_exact: Whether the student that is built will have just that configuration.
    """

    run: RunFacts
    student_config: Any
    is_exact: bool
    student: ModelFacts
    teacher: ModelFacts

    @property
    def has_same_tokens(self) -> bool:
        """Whether the student reads the teacher's tokens."""
        return not has_own_processor(self.run.recipe.student.model)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of training."""
        return phases_of(self.run, self.student, self.teacher, has_same_tokens=self.has_same_tokens)

    @cached_property
    def losses(self) -> list[tuple[str, Loss]]:
        """The losses of all phases, each with its name."""
        return [(term.name, build_loss(term.name, **term.options)) for phase in self.phases for term in phase.terms]

    def check(self) -> None:
        """Refuse a method or losses whose needs teacher and student cannot meet.

        Raises:
            NeedsError: One need is not met; names it, what is there, and the nearest method that works.
            RecipeError: Blocks that the teacher does not have.
            Faults: Several faults.
        """
        shapes = self._shapes()
        faults: dict[str, PotstillError] = {}
        for name, loss in self.losses:
            try:
                self._check(name, loss, shapes)
            except NeedsError as fault:
                faults.setdefault(str(fault), fault)
        raise_faults(faults.values())

    def _check(self, name: str, loss: Loss, shapes: tuple[Shapes, Shapes] | None) -> None:
        """Refuse one loss."""
        require_outputs(name, loss, self.student.num_classes)
        for side, facts, needs in (
            ("student", self.student, loss.needs_student()),
            ("teacher", self.teacher, loss.needs_teacher()),
        ):
            for need in needs:
                require_need(name, need, side, facts)
                if not self.has_same_tokens and self.run.task.modality.has_tokens and not is_of_whole_row(need):
                    raise NeedsError(
                        f"loss {name!r} reads {need!r} token by token, and the student {self.run.recipe.student.model} has a"
                        " tokenizer of its own",
                        "a student that reads the teacher's tokens, or losses on whole rows",
                        "take the loss kl, or rkd_distance on head.in, or leave student.model out",
                    )
        if shapes is not None and self.has_same_tokens:
            _prepare(loss, *shapes)

    def _shapes(self) -> tuple[Shapes, Shapes] | None:
        """Shapes of all values that the losses read, from models without weights; None where they cannot be worked out."""
        of_student = {need for _, loss in self.losses for need in loss.needs_student()}
        of_teacher = {need for _, loss in self.losses for need in loss.needs_teacher()}
        if of_student | of_teacher <= {"logits"}:
            return None
        # A student that is cut from the teacher has blocks of the same kind, whatever width it will get.
        student_config = self.student_config if self.is_exact else self.run.teacher_config
        try:
            return _shapes_of(self.run, student_config, of_student), _shapes_of(self.run, self.run.teacher_config, of_teacher)
        except Exception as error:  # a model's own code on tensors without values
            logger.debug("shapes cannot be worked out: %s", error)
            return None


def forecast(run: RunFacts) -> Forecast | None:
    """What can be said of the run's models before either is made; None where that is nothing."""
    found = _student_config(run)
    if found is None:
        return None
    student, teacher = _facts(found[0], run), _facts(run.teacher_config, run)
    if student is None or teacher is None:
        return None
    if not found[1] and not isinstance(run.recipe.distill.layers, str):
        student = replace(student, layers=max(student.layers, *(abs(own) for own, _ in run.recipe.distill.layers)))
    return Forecast(run, *found, student, teacher)


def passes_of(recipe: Recipe, foreseen: Forecast | None) -> float:
    """How often a run will read its rows, over all phases of its method, for the student that its budget leads to."""
    if foreseen is None:
        return recipe.distill.epochs or default_epochs()
    return sum(phase.epochs for phase in foreseen.phases)


def _student_config(run: RunFacts) -> tuple[Any, bool] | None:
    """Configuration of the student, and whether it is the one that will be built; None where it is not known yet."""
    teacher, recipe = run.teacher_config, run.recipe.student
    try:
        if recipe.model is not None:
            if not Path(recipe.model).expanduser().is_dir():
                return None
            from transformers import AutoConfig

            return AutoConfig.from_pretrained(Path(recipe.model).expanduser()), True
        if recipe.latency_ms is not None:
            return None
        classes = run.num_labels or teacher.num_labels
        if recipe.architecture is not None:
            from potstill.students.architectures.plan import plan_architecture

            planned = plan_architecture(recipe.architecture, teacher, num_labels=classes, **recipe.budget)  # type: ignore[arg-type]
            return planned.build_config(), True
        from potstill.students.plan import plan

        planned = plan(teacher, num_labels=classes, **recipe.budget)  # type: ignore[arg-type]
        return planned.build_config(), not run.task.modality.has_tokens
    except (PotstillError, OSError, ValueError, AttributeError, TypeError) as error:
        logger.debug("the student's shape is not known yet: %s", error)
        return None


def _facts(config: Any, run: RunFacts) -> ModelFacts | None:
    try:
        fewest_classes = run.answers.fewest_classes or run.num_labels
        return replace(facts_of(_without_weights(run, config)), num_classes=fewest_classes or None)
    except Exception as error:  # a model's own code, which may not work on tensors without values
        logger.debug("facts of %s are not known: %s", type(config).__name__, error)
        return None


def _without_weights(run: RunFacts, config: Any) -> Any:
    """A model of a configuration, whose tensors have shapes and no values."""
    with torch.device("meta"):
        return new_model(run.task, copy.deepcopy(config))


def _prepare(loss: Loss, student: Shapes, teacher: Shapes) -> None:
    """Let the loss look at the shapes; its memories are not made here."""
    reads_taps = [need for need in (*loss.needs_student(), *loss.needs_teacher()) if need != "logits"]
    known = all(need in student.taps for need in loss.needs_student() if need != "logits")
    if reads_taps and known and all(need in teacher.taps for need in loss.needs_teacher() if need != "logits"):
        with torch.random.fork_rng(devices=[]):
            loss.prepare(student, teacher, num_rows=ROWS)


def _shapes_of(run: RunFacts, config: Any, needs: set[str]) -> Shapes:
    model = _without_weights(run, config)
    made = run.task.example_inputs(model, batch=ROWS, tokens=TOKENS)
    main = {name: made[name] for name in MAIN_INPUTS if name in made} or made
    inputs = {name: value.to("meta") for name, value in main.items()}
    readable = [need for need in needs if need != "logits" and can_give(model, need)]
    with torch.no_grad():
        logits, values = Taps(model, readable).run(inputs)
    return Shapes({name: tuple(value.shape) for name, value in values.items()}, tuple(logits.shape))
