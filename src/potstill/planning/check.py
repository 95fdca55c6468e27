"""What a recipe asks for, checked before anything is read or trained: all faults at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from potstill.errors import PotstillError, RecipeError, raise_faults
from potstill.exports.catalogue import check_ways
from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, facts_of
from potstill.methods.layers import check_choice
from potstill.models.factory import find_factory, is_factory, require_trust
from potstill.models.families import family_or_none
from potstill.planning.loss_table import terms_on_any_model
from potstill.planning.task_checks import check_tasks
from potstill.planning.unused_settings import unused_settings
from potstill.recipe import Recipe
from potstill.recipe.model import DistillRecipe
from potstill.recipe.plugins import owner_of
from potstill.students.plan import read_config
from potstill.targets import target_named
from potstill.training.schedules import PerSample, parse_share, parse_temperature
from potstill.training.terms import read_terms

logger = logging.getLogger(__name__)


def check_recipe(recipe: Recipe) -> None:
    """Make sure that the method, the losses with their options, the schedules and the packages exist.

    Raises:
        MissingExtra: A package is not installed that the recipe needs by name.
        PotstillError: One fault.
        Faults: Several faults, all of them.
    """
    distill = recipe.distill
    checks: list[Callable[[], Any]] = [
        lambda: methods.find(distill.method),
        lambda: check_own_options(recipe),
        lambda: _check_chain(recipe),
        lambda: _check_target(recipe),
        lambda: check_modules(recipe),
        lambda: _check_student(recipe.student.model),
        lambda: check_tasks(recipe),
        lambda: check_choice(distill.layers),
    ]
    if distill.temperature is not None:
        checks.append(lambda: _check_temperature(distill))
    if distill.alpha is not None:
        checks.append(lambda: parse_share(distill.alpha, name="distill.alpha"))
    if distill.losses is not None:
        checks += [lambda part=part: terms_on_any_model(part) for part in _parts(distill.losses)]  # type: ignore[misc]
    raise_faults(fault for check in checks if (fault := _fault_of(check)) is not None)
    for note in unused_settings(recipe):
        logger.warning(note)


def check_modules(recipe: Recipe) -> None:
    """Make sure that networks which the recipe names as code may run, can be found, and have a student.

    Raises:
        RecipeError: The code is not trusted, or nothing can be cut out of such a teacher.
        ModelError: It cannot be imported.
    """
    for key, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        if is_factory(section.model):
            name = str(section.model)
            require_trust(name, is_allowed=section.trust_remote_code, key=f"{key}.trust_remote_code")
            find_factory(name)
    if is_factory(recipe.teacher.model) and recipe.student.model is None and recipe.student.architecture is None:
        raise RecipeError(
            f"the teacher {recipe.teacher.model} is a network that Potstill cannot cut a student out of",
            "student.architecture: cnn, or student.model: a folder, a hub id, or package.module:function",
            "set one of the two",
        )


def check_own_options(recipe: Recipe) -> None:
    """Make sure that the options of the method fit the rest of the recipe, and that none is set of another method.

    Raises:
        RecipeError: They do not, or a setting is of a method that is not asked for.
    """
    distill = recipe.distill
    for key in distill.chain:
        owner = owner_of(key)
        raise RecipeError(
            f"distill.chain.{key} is set for method {distill.method!r}",
            f"method {owner}, which alone reads it",
            f"set distill.method: {owner}, or leave it out",
        )
    if distill.losses is None:
        methods.own_options(distill.method, distill.options).check(recipe)


def _check_chain(recipe: Recipe) -> None:
    method = recipe.distill.method
    if recipe.distill.losses is not None and methods.traits(method).is_chain:
        raise RecipeError(
            f"distill.losses and method {method!r} are both given, and a chain has the terms of its method",
            "one of them",
            "leave out distill.losses, or set distill.method: auto",
        )


def _check_student(model: str | None) -> None:
    """A student that is named can be read; before the teacher answers rows for it."""
    if model is not None and not is_factory(model):
        read_config(model)


def check_method(recipe: Recipe, teacher: Any) -> None:
    """Refuse a method that cannot teach a student of the teacher's own kind, before the teacher is trained or asked.

    What depends on the student's size or its tokens is checked when there is a student.

    Raises:
        NeedsError: The method needs another kind of model; names the nearest that works.
    """
    student, distill = recipe.student, recipe.distill
    if distill.losses is not None or student.model is not None or student.architecture is not None:
        return
    if family_or_none(teacher) is None:
        return
    facts = replace(facts_of(teacher), parameters=None)
    methods.build(distill.method, facts, facts)


def _check_temperature(distill: DistillRecipe) -> None:
    """The temperature by itself, and on the terms of the method that it is for."""
    heat = parse_temperature(distill.temperature, name="distill.temperature")
    if distill.losses is None and isinstance(heat, PerSample):
        options = MethodOptions(temperature=distill.temperature)
        for phase in methods.example_phases(distill.method, options):
            read_terms(phase.losses())


def _check_target(recipe: Recipe) -> None:
    """The target runs what is to be quantized, its packages are there, and a latency is asked of a target that plans can time."""
    target = target_named(recipe.target)
    check_ways(recipe.quantize.mode, target)
    if recipe.student.latency_ms is not None and not target.is_timed_by_plans:
        raise RecipeError(
            f"student.latency_ms is given and target is {target.name!r}, whose latency cannot be predicted",
            "a size, or the target cpu",
            "set student.ratio, student.params or student.bytes",
        )


def _parts(losses: list[Any] | dict[str, Any]) -> list[list[Any] | dict[str, Any]]:
    """Each term by itself, so that a fault in one does not hide those of the others."""
    if isinstance(losses, dict):
        return [{name: value} for name, value in losses.items()] or [{}]
    return [[entry] for entry in losses] or [[]]


def _fault_of(check: Callable[[], Any]) -> PotstillError | None:
    try:
        check()
    except PotstillError as fault:
        return fault
    return None
