"""Methods that need no teacher: labels softened by design."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from potstill.methods.contract import MethodOptions, ModelFacts, OwnOptions, Phase, TermSpec, takes
from potstill.methods.needs import require_classes
from potstill.methods.output import one_phase
from potstill.methods.response import label_term, response_terms, warn_of_wishes


class SelfOptions(OwnOptions):
    """Options of the method self."""

    itself: Literal["tf_kd", "cs_kd", "label_smoothing"] = Field("tf_kd", description="What it stands for.")


@takes(SelfOptions)
def self_taught(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """The student without a teacher: `tf_kd`, or what `distill.options.itself` names of `tf_kd`, `cs_kd` and `label_smoothing`.

    Source: Yuan et al. 2020 (arXiv 1909.11723), Yun et al. 2020 (arXiv 2003.13964), Szegedy et al. 2016 (arXiv 1512.00567).
    """
    own: SelfOptions = options.own
    kinds = {"tf_kd": tf_kd, "cs_kd": cs_kd, "label_smoothing": label_smoothing}
    return kinds[own.itself](student, teacher, options)


def cs_kd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Rows of one class agree with each other: τ = 4, weight 1, with labels at weight 1. Labelled rows only.

    Source: Yun et al. 2020, CS-KD (arXiv 2003.13964), λ = 1 and τ = 4. Batches hold another row of its class for each row,
    so a step sees twice the rows; both of a pair learn, in the paper one is a target alone.
    """
    require_classes("cs_kd", student, teacher, least=2, nearest="distilbert")
    heat = 4.0 if options.temperature is None else options.temperature
    weight = 1.0 if options.alpha is None else options.alpha
    labels = label_term(options) if options.alpha is None else response_terms(options, temperature=1.0, alpha=1.0)[-1]
    settings: dict[str, Any] = {"companions": {"class_pairs": {}}}
    return one_phase(options, (TermSpec("cs_kd", weight, heat), labels), rows="labelled", settings=settings)


def tf_kd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """A designed teacher that gives the label 0.99, softened by τ = 20 (weight 0.9), and the labels (0.1). Labelled rows only.

    Source: Yuan et al. 2020, Tf-KD by regularisation (arXiv 1909.11723), whose α and τ vary by data set; both sides are
    softened here, see the loss `tf_kd`.
    """
    require_classes("tf_kd", student, teacher, least=2, nearest="distilbert")
    alpha = 0.9 if options.alpha is None else options.alpha
    heat = 20.0 if options.temperature is None else options.temperature
    labels = response_terms(options, temperature=1.0, alpha=0.9)[-1]
    return one_phase(options, (TermSpec("tf_kd", alpha, heat), labels), rows="labelled")


def label_smoothing(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Labels smoothed by ε = 0.1 and nothing else, the baseline that distillation has to beat. Labelled rows only.

    Source: Szegedy et al. 2016 (arXiv 1512.00567). `alpha` and `temperature` have no effect.
    """
    warn_of_wishes("label_smoothing", options)
    return one_phase(options, (TermSpec("ce", options={"label_smoothing": 0.1}),), rows="labelled")
