"""Methods on logits: the true class apart from the others, correlations, standardised logits, learned temperatures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, with_wishes
from potstill.methods.needs import require_classes
from potstill.methods.response import response_terms

logger = logging.getLogger(__name__)

EPOCHS, RATE = 8.0, 3e-4
# 20 of the 240 epochs of the reference protocol.
WARM_UP = 20 / 240


def dkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Decoupled distillation (α = 1, β = 8, τ = 4) at weight 1 and labels at weight 1, warmed up over a twelfth.

    Source: Zhao et al. 2022 (arXiv 2203.08679); the authors take β from 0.5 to 8 by pair of models. Three classes or more.
    """
    require_classes("dkd", student, teacher, least=3)
    return one_phase(options, _with_labels("dkd", options, weight=warm_up(1.0), temperature=4.0))


def dist(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Correlations within rows and within classes (τ = 1), each at weight 2, and labels at weight 1.

    Source: Huang et al. 2022, DIST (arXiv 2205.10536), the settings of ImageNet; τ = 4 on CIFAR-100.
    """
    require_classes("dist", student, teacher, least=2, nearest="distilbert")
    return one_phase(options, _with_labels("dist", options, weight=2.0, temperature=1.0))


def logit_std(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Plain distillation with standardised logits: KL at base τ = 2 with weight 9, labels with 0.1.

    Source: Sun et al. 2024 (arXiv 2403.01265). Three classes or more: of two only the sign of their difference would be left.
    """
    require_classes("logit_std", student, teacher, least=3)
    return one_phase(options, _with_labels("logit_std_kl", options, weight=9.0, labels=0.1, temperature=2.0))


def nkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Normalised distillation (γ = 1.5, τ = 1) at weight 1 and labels at weight 1.

    Source: Yang et al. 2023 (arXiv 2303.13005), the settings of ImageNet. Three classes or more.
    """
    require_classes("nkd", student, teacher, least=3)
    return one_phase(options, _with_labels("nkd", options, weight=1.0, temperature=1.0))


def wsld(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Weighted soft labels (τ = 2) at weight 2.5 and labels at weight 1.

    Source: Zhou et al. 2021 (arXiv 2102.00650), the settings of ImageNet.
    """
    return one_phase(options, _with_labels("wsld", options, weight=2.5, temperature=2.0))


def ctkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Curriculum temperature: KL at a learned τ from 1 to 21 (0.9) and labels (0.1).

    Source: Li et al. 2023 (arXiv 2211.16231), the global temperature; its adversary is at full strength from the start
    (the paper's rises over 10 of 240 epochs), and `temperature` has no effect.
    """
    return one_phase(options, _with_labels("ctkd", options, weight=0.9, labels=0.1, temperature=None))


def mlkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Multi-level distillation: KL, relations between rows and between classes at τ from 2 to 6 (weight 0.9), and labels (0.1).

    Source: Jin et al. 2023, "Multi-level logit distillation" (CVPR), without its strong augmentation and its choice of
    confident rows; `temperature` has no effect.
    """
    return one_phase(options, _with_labels("mlkd", options, weight=0.9, labels=0.1, temperature=None))


def one_phase(
    options: MethodOptions, terms: tuple[TermSpec, ...], *, rows: str = "all", settings: Mapping[str, Any] | None = None
) -> tuple[Phase, ...]:
    """A single phase with the epochs and rate of plain distillation, or the user's, and further settings of the phase."""
    phase = Phase("prediction", terms, epochs=EPOCHS, learning_rate=RATE, rows=rows, settings=settings or {})
    return with_wishes([phase], options)


def warm_up(weight: float, share: float = WARM_UP) -> dict[str, Any]:
    """A weight that rises in four steps over the first `share` of training."""
    rises = [[share * step / 4, weight * (2 * step - 1) / 8] for step in range(1, 5)]
    return {"phases": [*rises, [1.0, weight]]}


def _with_labels(
    name: str, options: MethodOptions, *, weight: Any, temperature: float | None, labels: float = 1.0
) -> tuple[TermSpec, ...]:
    """The method's term and labels at the paper's weights; a wished `alpha` is the term's weight, the labels get the rest."""
    if temperature is None and options.temperature is not None:
        logger.warning("method %s has temperatures of its own; temperature: %s has no effect", name, options.temperature)
    heat = options.temperature if temperature is not None and options.temperature is not None else temperature
    if options.alpha is None:
        return TermSpec(name, weight, heat), TermSpec("ce", labels)
    return TermSpec(name, options.alpha, heat), response_terms(options, temperature=1.0, alpha=1.0)[-1]
