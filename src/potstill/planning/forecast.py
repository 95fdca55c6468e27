"""What the losses of a recipe will need of teacher and student, told from their configurations before anything is trained.

Runs after the rows are read and before the teacher's head is trained. It refuses what it can see; what it cannot see (a model of
an unknown family, a hub id that is not here) is checked again before the first step of `distill`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from potstill.errors import Faults, NeedsError, PotstillError
from potstill.losses.contract import Loss, Shapes
from potstill.methods.catalogue import default_epochs
from potstill.methods.contract import ModelFacts, Phase
from potstill.methods.needs import require_need, require_outputs
from potstill.stages.distill import known_facts, planned_stages
from potstill.stages.named_student import has_own_files
from potstill.stages.teacher_sources import is_of_whole_row

if TYPE_CHECKING:
    from potstill.stages.context import Run

logger = logging.getLogger(__name__)
ROWS, TOKENS = 4, 8  # of the batch whose shapes are worked out


def check_models(run: Run) -> None:
    """Refuse a method or losses whose needs teacher and student cannot meet.

    Raises:
        NeedsError: One need is not met; names it, what is there, and the nearest method that works.
        RecipeError: Blocks that the teacher does not have.
        Faults: Several faults.
    """
    foreseen = _foreseen(run)
    if foreseen is None:
        return
    (student_config, teacher_config, is_exact), student, teacher = foreseen
    has_same_tokens = not has_own_files(run)
    stages = planned_stages(run, student, teacher, has_same_tokens=has_same_tokens)
    # A student that is cut from the teacher has blocks of the same kind, whatever width it will get.
    shapes = _shapes(run, student_config if is_exact else teacher_config, teacher_config, stages)
    faults = list(_faults(run, stages, student, teacher, shapes, has_same_tokens=has_same_tokens))
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise Faults(faults)


def foreseen_passes(run: Run) -> float:
    """How often a run will read its rows, over all stages of its method, for the student that its budget leads to."""
    foreseen = _foreseen(run)
    if foreseen is None:
        return run.recipe.distill.epochs or default_epochs()
    _, student, teacher = foreseen
    return sum(stage.epochs for stage in planned_stages(run, student, teacher, has_same_tokens=not has_own_files(run)))


def foreseen_facts(run: Run) -> tuple[ModelFacts, ModelFacts] | None:
    """What is known of student and teacher before either is made; None where that is nothing."""
    foreseen = _foreseen(run)
    return None if foreseen is None else foreseen[1:]


def _foreseen(run: Run) -> tuple[tuple[Any, Any, bool], ModelFacts, ModelFacts] | None:
    """The configurations as `_configs` gives them, and the facts of student and teacher; None where they are not known yet."""
    configs = _configs(run)
    if configs is None:
        return None
    student_config, teacher_config, is_exact = configs
    student, teacher = _facts(student_config, run), _facts(teacher_config, run)
    if student is None or teacher is None:
        return None
    if not is_exact and not isinstance(run.recipe.distill.layers, str):
        student = replace(student, layers=max(student.layers, *(abs(own) for own, _ in run.recipe.distill.layers)))
    return configs, student, teacher


def _configs(run: Run) -> tuple[Any, Any, bool] | None:
    """Configurations of student and teacher, and whether the student's is the one that will be built."""
    teacher = run.teacher_config
    recipe = run.recipe.student
    try:
        if recipe.model is not None:
            if not Path(recipe.model).expanduser().is_dir():
                return None
            from transformers import AutoConfig

            return AutoConfig.from_pretrained(Path(recipe.model).expanduser()), teacher, True
        if recipe.latency_ms is not None:
            return None
        classes = len(run.label_names) or teacher.num_labels
        if recipe.architecture is not None:
            from potstill.students.architectures.plan import plan_architecture

            planned = plan_architecture(recipe.architecture, teacher, num_labels=classes, **recipe.budget)  # type: ignore[arg-type]
            return planned.build_config(), teacher, True
        from potstill.students.plan import plan

        planned = plan(teacher, num_labels=classes, **recipe.budget)  # type: ignore[arg-type]
        return planned.build_config(), teacher, not _is_text(run)
    except (PotstillError, OSError, ValueError, AttributeError, TypeError) as error:
        logger.debug("the student's shape is not known yet: %s", error)
        return None


def _facts(config: Any, run: Run) -> ModelFacts | None:
    from potstill.stages.user_inputs import new_model

    try:
        with torch.device("meta"):
            model = new_model(run.task, copy.deepcopy(config))
        return replace(known_facts(model), num_classes=_fewest_classes(run) or None)
    except Exception as error:  # a model's own code, which may not bear tensors without values
        logger.debug("facts of %s are not known: %s", type(config).__name__, error)
        return None


def _fewest_classes(run: Run) -> int:
    """How many classes a row is told apart by, at least."""
    return int(getattr(run.task, "fewest_classes", len(run.label_names)))


def _is_text(run: Run) -> bool:
    return run.task.modality == "text"


def _faults(
    run: Run,
    stages: Sequence[Phase],
    student: ModelFacts,
    teacher: ModelFacts,
    shapes: tuple[Shapes, Shapes] | None,
    *,
    has_same_tokens: bool,
) -> list[PotstillError]:
    from potstill.losses import catalogue

    found: dict[str, PotstillError] = {}
    for name, options in _distinct(stages):
        loss = catalogue.build(name, **options)
        try:
            require_outputs(name, loss, student.num_classes)
            for side, facts, needs in (("student", student, loss.needs_student()), ("teacher", teacher, loss.needs_teacher())):
                for need in needs:
                    require_need(name, need, side, facts)
                    _require_tokens(run, name, need, has_same_tokens=has_same_tokens)
            if shapes is not None and has_same_tokens:
                _prepare(loss, *shapes)
        except NeedsError as fault:
            found.setdefault(str(fault), fault)
    return list(found.values())


def _distinct(stages: Sequence[Phase]) -> list[tuple[str, dict[str, Any]]]:
    return [(term.name, dict(term.options)) for stage in stages for term in stage.terms]


def _require_tokens(run: Run, name: str, need: str, *, has_same_tokens: bool) -> None:
    if has_same_tokens or not _is_text(run) or is_of_whole_row(need):
        return
    raise NeedsError(
        f"loss {name!r} reads {need!r} token by token, and the student {run.recipe.student.model} has a tokenizer of its own",
        "a student that reads the teacher's tokens, or losses on whole rows",
        "take the loss kl, or rkd_distance on head.in, or leave student.model out",
    )


def _prepare(loss: Loss, student: Shapes, teacher: Shapes) -> None:
    """Let the loss look at the shapes; its memories are not made here."""
    reads_taps = [need for need in (*loss.needs_student(), *loss.needs_teacher()) if need != "logits"]
    known = all(need in student.taps for need in loss.needs_student() if need != "logits")
    if reads_taps and known and all(need in teacher.taps for need in loss.needs_teacher() if need != "logits"):
        with torch.random.fork_rng(devices=[]):
            loss.prepare(student, teacher, num_rows=ROWS)


def _shapes(run: Run, student: Any, teacher: Any, stages: Sequence[Phase]) -> tuple[Shapes, Shapes] | None:
    """Shapes of every value that the stages read, from models without weights; None where they cannot be worked out."""
    from potstill.losses import catalogue

    losses = [catalogue.build(name, **options) for name, options in _distinct(stages)]
    of_student = {need for loss in losses for need in loss.needs_student()}
    needs = [of_student, {need for loss in losses for need in loss.needs_teacher()}]
    if all(names <= {"logits"} for names in needs):
        return None
    try:
        first, second = (_shapes_of(run, config, names) for config, names in zip((student, teacher), needs, strict=True))
    except Exception as error:  # a model's own code on tensors without values
        logger.debug("shapes cannot be worked out: %s", error)
        return None
    return first, second


def _shapes_of(run: Run, config: Any, needs: set[str]) -> Shapes:
    from potstill.models.taps import Taps, can_give
    from potstill.stages.user_inputs import new_model

    config = copy.deepcopy(config)
    with torch.device("meta"):
        model = new_model(run.task, config)
        inputs = {name: value.to("meta") for name, value in _inputs(run, model).items()}
    readable = [need for need in needs if need != "logits" and can_give(model, need)]
    with torch.no_grad():
        logits, values = Taps(model, readable).run(inputs)
    return Shapes({name: tuple(value.shape) for name, value in values.items()}, tuple(logits.shape))


def _inputs(run: Run, model: Any) -> dict[str, torch.Tensor]:
    if _is_text(run):
        return {"input_ids": torch.ones(ROWS, TOKENS, dtype=torch.int64)}
    size: Any = getattr(run.task, "image_size", None) or getattr(model.config, "image_size", None) or 32
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return {"pixel_values": torch.zeros(ROWS, int(getattr(model.config, "num_channels", 3)), int(height), int(width))}
