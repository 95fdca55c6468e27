"""What a recipe asks for, checked before anything is read or trained: all faults at once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill.contracts.task import TOKEN_TASKS, Task
from potstill.errors import NeedsError, PotstillError, RecipeError, raise_faults
from potstill.exports.catalogue import check_ways
from potstill.ground.code import brought, fingerprint_of_code, is_code, require_consent
from potstill.losses import catalogue
from potstill.losses.per_task import check as check_loss_of_tasks
from potstill.methods import catalogue as methods
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, facts_of
from potstill.methods.layers import check_choice
from potstill.methods.response import in_units
from potstill.models.factory import find_factory, is_factory, require_trust
from potstill.models.families import family_or_none
from potstill.planning.first_check import check_names, check_student
from potstill.planning.loss_table import ANY_MODEL, read_losses, terms_on_any_model
from potstill.recipe import Recipe
from potstill.recipe.model import DistillRecipe, RowsRecipe
from potstill.recipe.plugins import owner_of
from potstill.students.plan import read_config
from potstill.targets import target_named
from potstill.tasks import TASKS, plain_tasks
from potstill.training.reporting import check_callbacks, check_trackers
from potstill.training.row_plan import read_row_plan
from potstill.training.row_statistics import no_lengths, refuse_certain
from potstill.training.schedules import PerSample, parse_share, parse_temperature
from potstill.training.terms import read_terms

logger = logging.getLogger(__name__)
SMALL, BIG = (ModelFacts(layers, 8, 2, "text") for layers in (500, 1000))  # deep enough for any block that a term may name


def check_recipe(recipe: Recipe) -> None:
    """Make sure that the method, the losses with their options, the schedules and the packages exist.

    Raises:
        MissingExtra: A package is not installed that the recipe needs by name.
        PotstillError: One fault.
        Faults: Several faults, all of them.
    """
    distill = recipe.distill
    for name in code_of(recipe):
        require_consent(name, is_allowed=recipe.trust_code, key="trust_code")
    checks: list[Callable[[], Any]] = [
        lambda: methods.find(distill.method),
        lambda: check_own_options(recipe),
        lambda: _check_chain(recipe),
        lambda: _check_target(recipe),
        lambda: check_modules(recipe),
        lambda: _check_student(recipe.student.model),
        lambda: check_tasks(recipe),
        lambda: _check_adapter(recipe),
        lambda: check_choice(distill.layers),
        lambda: check_reporting(recipe),
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


def code_of(recipe: Recipe) -> tuple[str, ...]:
    """Code of the user's own that the method and the losses name, each once."""
    return tuple(dict.fromkeys(name for name in (recipe.distill.method, *_losses_of(recipe)) if is_code(name)))


def fingerprints_of_code(recipe: Recipe) -> tuple[str, ...]:
    """Of all code by which a student learns that is not Potstill's own: methods, their losses, and losses of the recipe."""
    method, losses = recipe.distill.method, _losses_of(recipe)
    is_own = is_code(method) or method in brought(methods.GROUP)
    own = [(method, methods.GROUP)] if is_own else []
    if is_own and not losses:
        with contextlib.suppress(NeedsError):  # it plans for no model of the examples
            losses = [term.name for phase in methods.example_phases(method) for term in phase.terms]
    own += [(name, catalogue.GROUP) for name in losses if is_code(name) or name in brought(catalogue.GROUP)]
    return tuple(fingerprint_of_code(name, group) for name, group in dict.fromkeys(own))


def _losses_of(recipe: Recipe) -> list[str]:
    """What the recipe's losses are called."""
    losses = recipe.distill.losses
    entries = list(losses.values()) if isinstance(losses, dict) else losses or []
    keys = ("name", "type")
    return [next((entry[key] for key in keys if key in entry), "") if isinstance(entry, Mapping) else entry for entry in entries]


def check_reporting(recipe: Recipe) -> None:
    """Make sure that trackers are installed and callbacks can be made; code runs only where the user consents."""
    check_trackers(recipe.report_to)
    for name in recipe.callbacks:
        if not is_code(name):
            raise RecipeError(
                f"callbacks holds {name!r}", "package.module:Class", "name the class so, or pass it to run(callbacks=…)"
            )
        require_consent(name, is_allowed=recipe.trust_code, key="trust_code")
    check_callbacks(recipe.callbacks)


def check_all(recipe: Recipe, *, allows_memory: bool = False) -> None:
    """What `check_names` and `check_recipe` refuse, all faults at once.

    Raises:
        PotstillError: One fault.
        Faults: Several.
    """
    checks = (lambda: check_names(recipe, allows_memory=allows_memory), lambda: check_recipe(recipe))
    raise_faults(fault for check in checks if (fault := _fault_of(check)) is not None)


def check_modules(recipe: Recipe) -> None:
    """Make sure that networks which the recipe names as code may run, can be found, and have a student."""
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
    """Make sure that the options of the method fit the rest of the recipe, and that none is set of another method."""
    distill = recipe.distill
    for key in distill.chain:
        owner = owner_of(key)
        raise RecipeError(
            f"distill.chain.{key} is set for method {distill.method!r}",
            f"method {owner}, which alone reads it",
            f"set distill.method: {owner}, or leave it out",
        )
    if distill.losses is None:
        methods.find(distill.method).read_options(distill.options).check(recipe)


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
        check_student(model)
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


def _check_adapter(recipe: Recipe) -> None:
    """An adapter is for students that predict tokens; runs of those are checked elsewhere."""
    if recipe.student.adapter != "none":
        raise RecipeError(
            f"student.adapter is {recipe.student.adapter!r}, and this run's student predicts no tokens",
            f"student.adapter: none, or task: {', '.join(TOKEN_TASKS)}",
            "set student.adapter: none",
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


# -- answers and teachers


def check_answers(recipe: Recipe, task: Task) -> None:
    """Refuse what the answers of the task cannot do, before anything is read.

    Raises:
        RecipeError: A baseline or a teacher to be trained where rows have no labels to learn from; another architecture for
            embeddings, words or spans.
        NeedsError: A method or losses on class probabilities, where answers are of another kind.
    """
    answers = task.answers()
    if answers.from_labels is None:
        for key, wanted in (
            ("baseline: true", recipe.baseline),
            ("teacher.finetune: always", recipe.teacher.finetune == "always"),
            ("teacher.from_scratch: true", recipe.teacher.from_scratch),
        ):
            if wanted:
                raise RecipeError(
                    f"{key} asks for training on labels, and rows of {task.name} have none",
                    "learning from the teacher alone",
                    f"leave {key.partition(':')[0]} out",
                )
    check_teachers(recipe, task)
    if recipe.student.architecture is not None and not (answers.has_label_names and answers.is_of_row):
        lack = "have no sentence embedding" if answers.is_of_row else "answer whole rows, not their words or places"
        raise RecipeError(
            f"student.architecture is {recipe.student.architecture!r}, and such students {lack}",
            f"for {task.name}: a student cut out of the teacher, or a named one (student.model)",
            "leave student.architecture out",
        )
    plan = read_row_plan(recipe.distill.rows.model_dump())
    refuse_certain(plan, answers)
    if plan.order == "curriculum" and plan.difficulty == "length" and not task.modality.has_tokens:
        raise no_lengths(f"{task.modality.noun} have none")
    if recipe.distill.losses is None:
        methods.require_answers(recipe.distill.method, MethodOptions(answers=answers))
    else:
        in_units(read_losses(recipe.distill.losses, ANY_MODEL, ANY_MODEL), answers)


def check_teachers(recipe: Recipe, task: Task) -> None:
    """Make sure that these teachers can be combined."""
    if recipe.teacher.others and not task.answers().can_average:
        raise RecipeError(
            f"{len(recipe.teacher.all)} teachers are given for {task.name}",
            f"one teacher; several are mixed as probabilities of one class per row, for {' and '.join(plain_tasks())}",
            "leave one teacher",
        )


def check_states(recipe: Recipe, is_trained: Callable[[], bool]) -> None:
    """Make sure that a method which follows earlier states of the teacher will find some."""
    method = recipe.distill.method
    if methods.traits(method).follows_states and not recipe.distill.options.get("route") and not is_trained():
        raise RecipeError(
            f"method {method!r} follows earlier states of the teacher, and this teacher is trained already",
            "folders of its states, or a teacher that this run trains",
            "name its states in distill.options.route, set teacher.finetune: always, or distill.method: kd",
        )


# -- several tasks


def check_tasks(recipe: Recipe) -> None:
    """Refuse methods and losses that read more than the answers of each row's own teacher."""
    if not recipe.tasks:
        return
    fitting = plain_tasks()
    if recipe.task in TASKS and recipe.task not in fitting:
        raise RecipeError(
            f"tasks are given, and task is {recipe.task}",
            f"{' or '.join(fitting)}, for all of them",
            "leave task out, or give each task a recipe of its own",
        )
    if recipe.distill.losses is not None:
        for term in terms_on_any_model(recipe.distill.losses):
            check_loss_of_tasks(term.loss)
    elif (reason := _why_not(recipe.distill.method, recipe.distill.options)) is not None:
        raise NeedsError(
            f"method {recipe.distill.method!r} does not work for several tasks: {reason}",
            f"methods on the answers of each row's own teacher: {', '.join(_working())}",
            f"set distill.method: {methods.DEFAULT}, or leave it out",
        )


def _working() -> tuple[str, ...]:
    """The methods that work for several tasks, sorted."""
    return tuple(name for name in methods.names() if _why_not(name) is None)


def _why_not(name: str, own: Mapping[str, Any] | None = None) -> str | None:
    """Why a method does not work for several tasks; None where it does.

    Args:
        own: The method's own options, which say what `self` stands for.
    """
    try:
        return _why_phases_do_not(methods.example_phases(name, MethodOptions(has_taps=False, own=own or {})))
    except NeedsError:
        return "it reads inner values of a teacher, and each task has a teacher of its own"


def _why_phases_do_not(phases: Sequence[Phase]) -> str | None:
    if any(phase.learner != "student" for phase in phases):
        return "it trains further models, and each task has a teacher of its own"
    if any(phase.teacher != "teacher" for phase in phases):
        return "it follows the states of one teacher, and each task has a teacher of its own"
    if any(phase.settings.get("companions") for phase in phases):
        return "it learns from something else than each row's own teacher"
    for term in read_terms([loss for phase in phases for loss in phase.losses()]):
        try:
            check_loss_of_tasks(term.loss)
        except NeedsError as error:
            return str(error.given)
    return None


# -- settings that nothing reads


def unused_settings(recipe: Recipe) -> list[str]:
    """A sentence for each setting of `distill` that has no effect next to the others.

    Example:
        >>> from potstill.recipe import make_recipe
        >>> asked = {"distill": {"method": "dkd", "layers": "last"}}
        >>> unused_settings(make_recipe(asked, {"teacher": {"model": "t"}, "data": {"source": "d"}, "output": "o"}))
        ["distill.layers has no effect: method 'dkd' compares no blocks"]
    """
    distill = recipe.distill
    found = _rows(distill.rows)
    if distill.losses is not None:
        usual = DistillRecipe(options=methods.options_of(distill.method)().model_dump())
        wishes = ("method", "temperature", "alpha", "options", "online")
        names = [name for name in wishes if getattr(distill, name) != getattr(usual, name)]
        if distill.layers != usual.layers:
            read = [read_losses(distill.losses, SMALL, BIG, layers=layers) for layers in ("last", "first")]
            names += ["layers"] if read[0] == read[1] else []
        why = "distill.losses is given, and its terms say it themselves"
        return found + [f"distill.{name} has no effect: {why}" for name in names]
    if distill.layers != "auto" and _compares_no_blocks(distill.method):
        found.append(f"distill.layers has no effect: method {distill.method!r} compares no blocks")
    return found + [f"distill.online.{name} has no effect: method {distill.method!r} does not read it" for name in distill.online]


def _compares_no_blocks(method: str) -> bool:
    """Whether a method plans alike for any choice of blocks."""
    last, first = (methods.example_phases(method, MethodOptions(layers=layers)) for layers in ("last", "first"))
    return last == first


def _rows(rows: RowsRecipe) -> list[str]:
    usual = RowsRecipe()
    found = []
    for names, is_read, why in (
        (("difficulty", "start", "pace"), rows.order == "curriculum", "order is random"),
        (("by", "strength"), rows.focus != "none", "focus is none"),
    ):
        changed = [name for name in names if getattr(rows, name) != getattr(usual, name)]
        found += [] if is_read else [f"distill.rows.{name} has no effect: distill.rows.{why}" for name in changed]
    return found
