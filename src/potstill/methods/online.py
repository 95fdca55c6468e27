"""Methods in which the student's teacher is no fixed model: its peers, its own average, or a teacher with noise."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from potstill import modalities
from potstill.contracts.options import Fraction
from potstill.errors import NeedsError, RecipeError
from potstill.methods.contract import MethodOptions, ModelFacts, OwnOptions, Phase, TermSpec, takes
from potstill.methods.needs import require_distribution, require_taps
from potstill.methods.output import one_phase
from potstill.methods.response import label_term, response_terms, warn_of_wishes

if TYPE_CHECKING:
    from potstill.recipe import Recipe

logger = logging.getLogger(__name__)

# 40,000 of the 180,000 steps of the paper's runs on CIFAR-10.
RAMP_UP = 40 / 180


class DmlOptions(OwnOptions):
    """Options of the method dml."""

    peers: int = Field(2, ge=2, le=8, description="Networks that learn from each other, with the student.")
    start: Literal["auto", "student", "random"] = Field(
        "auto",
        description="What the other peers begin with: the student's weights under a head of their own, or random weights; "
        "auto: the former for a student that was cut out of the teacher.",
    )

    def check(self, recipe: Recipe) -> None:
        """Peers share one objective, whose terms cannot be balanced by the gradients of one of them."""
        if recipe.distill.balance != "none":
            raise RecipeError(
                f"distill.balance is {recipe.distill.balance!r} and distill.method is 'dml'",
                "peers with weights as given, or a method with one student",
                "set distill.balance: none",
            )


@takes(DmlOptions)
def dml(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Two peers, each taught by labels (1) and by the other's answers (KL at τ = 1, weight 1); the best one is kept.

    Source: Zhang et al. 2018, Deep Mutual Learning (arXiv 1706.00384), eq. 5 to 8; all peers take one step from one forward
    each, the paper's take turns. `distill.options.peers` sets their number, `start` what they begin with:
    random weights, as in the paper from scratch, or the student's under a head of their own, as with its pretrained nets.
    No teacher is asked.
    """
    own: DmlOptions = options.own
    start = own.start if own.start != "auto" else "student" if student.kept_layers else "random"
    peers = {"count": own.peers, "start": start, "mix": "probability" if options.answers.is_distribution else "logits"}
    terms = response_terms(options, temperature=1.0, alpha=0.5, whole=2.0)
    return one_phase(options, terms, settings={"companions": {"peers": peers}})


class MeanTeacherOptions(OwnOptions):
    """Options of the method mean_teacher."""

    decay: float = Field(0.999, gt=0.0, lt=1.0, description="Decay of the average of the weights.")
    consistency: float = Field(100.0, ge=0.0, description="Weight of the consistency.")
    ramp_up: Fraction | None = Field(None, description="Share of training over which that weight rises; none: two ninths.")


@takes(MeanTeacherOptions)
def mean_teacher(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Labels, and agreement with the average of the student's weights (decay 0.999), up to weight 100; the average is kept.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780): squared difference of probabilities over all rows, the labelled
    ones or not, ramped up over the first two ninths. Both sides have dropout; the paper adds noise to the input. The decay
    rises as min(0.999, (1 + n) / (10 + n)) where the paper has two phases. `alpha` and `temperature` have no effect.
    """
    warn_of_wishes("mean_teacher", options)
    own: MeanTeacherOptions = options.own
    ramp_up = RAMP_UP if own.ramp_up is None else own.ramp_up
    consistency = TermSpec("probability_mse", {"ramp_up": [own.consistency, ramp_up]})
    settings = {"average_decay": own.decay, "companions": {"self_average": {}}}
    return one_phase(options, (label_term(options), consistency), settings=settings)


class NoisyTeacherOptions(OwnOptions):
    """Options of the method noisy_teacher."""

    noise: float = Field(0.5, ge=0.0, description="σ of the noise, relative to a logit.")
    noise_share: Fraction = Field(0.5, description="Share of the rows that have noise.")


@takes(NoisyTeacherOptions)
def noisy_teacher(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Squared difference of logits, which are scaled by 1 + ξ, ξ ~ N(0, σ²), in half of the rows; `alpha` adds the labels.

    Source: Sau and Balasubramanian 2016 (arXiv 1610.09650), section 3.2. The paper tries σ from 0.1 to 1 and shares of rows
    up to 1; σ = 0.5 and one half, in `distill.options.noise` and `noise_share`, are the middle. `temperature` has no effect.
    """
    if options.temperature is not None:
        logger.warning("method noisy_teacher compares logits; temperature: %s has no effect", options.temperature)
    own: NoisyTeacherOptions = options.own
    noise = {"sigma": own.noise, "share": own.noise_share}
    alpha = 1.0 if options.alpha is None else options.alpha
    terms: tuple[TermSpec, ...] = (TermSpec("logit_mse", alpha),)
    if options.alpha is not None and options.answers.from_labels is not None:
        terms = (*terms, response_terms(options, temperature=1.0, alpha=1.0)[-1])
    return one_phase(options, terms, settings={"companions": {"noise": noise}})


class SskdOptions(OwnOptions):
    """Options of the method sskd."""

    turned_share: Fraction = Field(
        0.75, description="Share of the turned images kept of those that the teacher does not recognise."
    )


@takes(SskdOptions)
def sskd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Images in four quarter turns: KL at τ = 4 on all of them (3.6), contrast between turns (10), labels (0.1).

    Source: Xu et al. 2020, SSKD (arXiv 2006.07114): weights 0.9 on plain, 2.7 on turned rows and 10 of the authors' runs. The
    teacher's two layers for the contrast learn with the student, the paper trains them before. A step sees four times the
    rows. `distill.options.turned_share` is the share of rows kept of those that the teacher gets wrong (0.75).
    """
    require_distribution("sskd", options)
    require_taps("sskd", options, compares_tokens=False)
    for side, facts in (("student", student), ("teacher", teacher)):
        rows = modalities.build(facts.modality)
        if not rows.can_turn:
            raise NeedsError(
                f"method 'sskd' turns images, the {side} reads {rows.noun}",
                "models of images, or a method for any rows such as 'rkd' and 'crd'",
                "set distill.method: crd",
            )
    if not options.has_same_tokens:
        raise NeedsError(
            "method 'sskd' shows the teacher the student's turned images, and the student has an image processor of its own",
            "a student with the teacher's image processor, or a method for any rows such as 'rkd' and 'crd'",
            "set distill.method: crd",
        )
    own: SskdOptions = options.own
    contrast = TermSpec("sskd", 10.0, options={"kept_share": own.turned_share})
    # Of the four views one is plain: 4 × 0.9 of the mean over all of them is 0.9 on plain and 2.7 on turned rows.
    answers = response_terms(options, temperature=4.0, alpha=0.9, whole=4.0)[:-1]
    labels = response_terms(options, temperature=4.0, alpha=0.9)[-1]
    return one_phase(options, (*answers, contrast, labels), settings={"companions": {"quarter_turns": {}}})
