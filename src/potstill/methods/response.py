"""Methods that teach the output, with a hidden-state term where it is free."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from potstill import modalities
from potstill.contracts.answers import Answers
from potstill.errors import NeedsError
from potstill.losses.catalogue import build, defaults
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, with_wishes
from potstill.methods.layers import pair_layers
from potstill.methods.needs import require_positions
from potstill.training.schedules import is_schedule, parse

logger = logging.getLogger(__name__)

EARLY_FEATURES = {"phases": [[0.5, 1.0], [1.0, 0.2]]}


def kd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Plain distillation: KL at τ = 2 (0.7) and labels (0.3); hidden states early where widths and tokens agree.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network (arXiv 1503.02531).
    """
    terms = response_terms(options, temperature=2.0, alpha=0.7)
    is_alike = options.has_same_tokens and student.has_maps == teacher.has_maps and student.strides[-1:] == teacher.strides[-1:]
    if options.has_taps and is_alike and student.width == teacher.width:
        terms += (TermSpec("hidden_mse", EARLY_FEATURES, options={"layers": pair_layers(options.layers, student, teacher)}),)
    epochs, rate = modalities.build(student.modality).passes(has_maps=student.has_maps)
    return with_wishes([Phase("prediction", terms, epochs=epochs, learning_rate=rate)], options)


def distilbert(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """KL, labels and the direction of the last hidden state, weighed 5 : 2 : 1, for a task instead of masked words.

    Source: Sanh et al. 2019, DistilBERT (arXiv 1910.01108).
    """
    pairs = [(student.layers, teacher.layers)]
    require_positions("distilbert", student, teacher, options, pairs)
    terms = (
        *response_terms(options, temperature=2.0, alpha=5 / 7, whole=7 / 8),
        TermSpec("cosine", 1 / 8, options={"layers": pairs}),
    )
    return with_wishes([Phase("prediction", terms, epochs=3.0, learning_rate=5e-5)], options)


def response_terms(options: MethodOptions, *, temperature: float, alpha: float, whole: float = 1.0) -> tuple[TermSpec, ...]:
    """The teacher's answers with weight α and the labels with 1 − α, the user's wishes before the method's defaults.

    For one class per row these are KL and cross-entropy; other tasks say which losses take their place. A method's τ is
    meant for one distribution over classes: other answers are taught at τ = 1 unless the user sets it. Where rows have no
    labels to learn from, the teacher has all the weight.

    Args:
        options: May hold `temperature` and `alpha`, and says what the answers are.
        temperature: The method's τ.
        alpha: The method's α.
        whole: Sum of all weights.

    Returns:
        The teacher's terms, then the one of the labels where there is one.
    """
    answers = options.answers
    wished = alpha if options.alpha is None else options.alpha
    if answers.from_labels is None:
        return _from_teacher(options, whole, temperature)
    theirs = _from_teacher(options, _mapped(wished, lambda value: whole * value), temperature)
    return (*theirs, _term(answers.from_labels, _mapped(wished, lambda value: whole * (1.0 - value))))


def label_term(options: MethodOptions, weight: Any = 1.0) -> TermSpec:
    """The loss that learns from the labels of this task.

    Raises:
        NeedsError: Rows of this task have no labels to learn from.
    """
    if options.answers.from_labels is None:
        raise NeedsError(
            "the rows of this task have no labels that a student could learn from",
            "methods that learn from the teacher",
            "leave distill.method: auto, and baseline: false",
        )
    return _term(options.answers.from_labels, weight)


def _from_teacher(options: MethodOptions, weight: Any, temperature: float) -> tuple[TermSpec, ...]:
    answers = options.answers
    terms = []
    for entry in answers.from_teacher:
        share = float(entry.get("weight", 1.0))
        heat = options.temperature if options.temperature is not None else temperature if answers.is_distribution else None
        heat = heat if "temperature" in defaults(entry["name"]) else None
        terms.append(_term(entry, _mapped(weight, lambda value, share=share: share * value), heat))
    if options.temperature is not None and all(term.temperature is None for term in terms):
        logger.warning("the answers of this task have no temperature; temperature: %s has no effect", options.temperature)
    return tuple(terms)


def _term(entry: Mapping[str, Any], weight: Any, temperature: Any = None) -> TermSpec:
    options = {key: value for key, value in entry.items() if key not in ("name", "weight")}
    return TermSpec(entry["name"], weight, temperature, options)


def in_units(terms: Sequence[TermSpec], answers: Answers) -> tuple[TermSpec, ...]:
    """Terms of the user's own, in units of the labels' spread where they measure numbers and name no scale.

    Raises:
        NeedsError: A term on class probabilities, where a row's answer is something else; one that reads labels as numbers,
            where they are classes; or one of whole rows, where words or places are answered.
    """
    found = []
    for term in terms:
        loss = build(term.name, **term.options)
        if loss.of_rows and not answers.is_of_row:
            raise not_of_rows(f"loss {term.name!r}", "take the loss kl, or hidden_mse")
        if answers.is_distribution and loss.reads_numbers():
            raise NeedsError(
                f"loss {term.name!r} reads labels as numbers, one for each output; the labels of this task are classes",
                "for the labels: ce; for the teacher's answers: kl or logit_mse",
                "take such a loss, or set target: teacher where the loss has it",
            )
        if loss.of_classes and not answers.is_distribution:
            fitting = " and ".join(dict.fromkeys(entry["name"] for entry in answers.from_teacher))
            raise NeedsError(
                f"loss {term.name!r} compares probabilities of classes that exclude each other;"
                f" the answers of this task are of another kind ({answers.noun})",
                f"for the answers: {fitting}; or losses on inner values",
                "take that loss, or leave distill.losses out",
            )
        units = {} if answers.scale is None or "scale" not in defaults(term.name) else {"scale": answers.scale}
        found.append(replace(term, options={**units, **term.options}))
    return tuple(found)


def not_of_rows(what: str, todo: str) -> NeedsError:
    """That a loss or method is of whole rows, where words or places are answered."""
    return NeedsError(
        f"{what} is of one answer for each row; the answers of this task are of words or places",
        "a task that answers whole rows, or losses on the answers and on inner values",
        todo,
    )


def warn_of_wishes(method: str, options: MethodOptions) -> None:
    """Say that `alpha` and `temperature` do nothing for a method without a response."""
    for wish in ("alpha", "temperature"):
        if getattr(options, wish) is not None:
            logger.warning("method %s has no response; %s: %s has no effect", method, wish, getattr(options, wish))


def label_terms(options: MethodOptions, *, temperature: float = 4.0) -> tuple[TermSpec, ...]:
    """Labels alone, as the reference protocol has them with a feature; with `alpha`, labels and response."""
    return tuple(term for term in response_terms(options, temperature=temperature, alpha=0.0) if term.weight != 0)


def _mapped(schedule: Any, change: Any) -> Any:
    """A schedule as a recipe writes it, with every value changed; linear changes keep its form."""
    if not is_schedule(schedule):
        return change(float(schedule))
    if isinstance(schedule, dict) and "ramp_up" in schedule:
        schedule = parse(schedule)
    if not isinstance(schedule, dict):
        return lambda progress: change(schedule(progress))
    ((form, parts),) = schedule.items()
    if form == "phases":
        return {form: [[until, change(value)] for until, value in parts]}
    return {form: [change(value) for value in parts] if isinstance(parts, (list, tuple)) else change(parts)}
