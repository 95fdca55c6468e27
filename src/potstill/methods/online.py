"""Methods in which the student's teacher is no fixed model: its peers, its own average, or a teacher with noise."""

from __future__ import annotations

import logging

from potstill import modalities
from potstill.errors import NeedsError
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec
from potstill.methods.needs import require_taps
from potstill.methods.output import one_stage
from potstill.methods.response import label_term, response_terms

logger = logging.getLogger(__name__)

# 40,000 of the 180,000 steps of the paper's runs on CIFAR-10.
RAMP_UP = 40 / 180


def dml(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Two peers, each taught by labels (1) and by the other's answers (KL at τ = 1, weight 1); the best one is kept.

    Source: Zhang et al. 2018, Deep Mutual Learning (arXiv 1706.00384), eq. 5 to 8; all peers take one step from one forward
    each, the paper's take turns. `distill.online.peers` sets their number, `distill.online.start` what they begin with:
    random weights, as in the paper from scratch, or the student's under a head of their own, as with its pretrained nets.
    No teacher is asked.
    """
    online = options.online
    start = online.start if online.start != "auto" else "student" if student.kept_layers else "random"
    peers = {"count": online.peers, "start": start, "mix": "probability" if options.answers.is_distribution else "logits"}
    terms = response_terms(options, temperature=1.0, alpha=0.5, whole=2.0)
    return one_stage(options, terms, settings={"companions": {"peers": peers}})


def mean_teacher(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Labels, and agreement with the average of the student's weights (decay 0.999), up to weight 100; the average is kept.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780): squared difference of probabilities over all rows, the labelled
    ones or not, ramped up over the first two ninths. Both sides have dropout; the paper adds noise to the input. The decay
    rises as min(0.999, (1 + n) / (10 + n)) where the paper has two phases. `alpha` and `temperature` have no effect.
    """
    for wish in ("alpha", "temperature"):
        if getattr(options, wish) is not None:
            logger.warning("method mean_teacher has no response; %s: %s has no effect", wish, getattr(options, wish))
    online = options.online
    ramp_up = RAMP_UP if online.ramp_up is None else online.ramp_up
    consistency = TermSpec("probability_mse", {"ramp_up": [online.consistency, ramp_up]})
    settings = {"average_decay": online.decay, "companions": {"self_average": {}}}
    return one_stage(options, (label_term(options), consistency), settings=settings)


def noisy_teacher(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Squared difference of logits, which are scaled by 1 + ξ, ξ ~ N(0, σ²), in half of the rows; `alpha` adds the labels.

    Source: Sau and Balasubramanian 2016 (arXiv 1610.09650), section 3.2. The paper tries σ from 0.1 to 1 and shares of rows
    up to 1; σ = 0.5 and one half, in `distill.online.noise` and `noise_share`, are the middle. `temperature` has no effect.
    """
    if options.temperature is not None:
        logger.warning("method noisy_teacher compares logits; temperature: %s has no effect", options.temperature)
    noise = {"sigma": options.online.noise, "share": options.online.noise_share}
    alpha = 1.0 if options.alpha is None else options.alpha
    terms: tuple[TermSpec, ...] = (TermSpec("logit_mse", alpha),)
    if options.alpha is not None and options.answers.from_labels is not None:
        terms = (*terms, response_terms(options, temperature=1.0, alpha=1.0)[-1])
    return one_stage(options, terms, settings={"companions": {"noise": noise}})


def sskd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Images in four quarter turns: KL at τ = 4 on all of them (3.6), contrast between turns (10), labels (0.1).

    Source: Xu et al. 2020, SSKD (arXiv 2006.07114): weights 0.9 on plain, 2.7 on turned rows and 10 of the authors' runs. The
    teacher's two layers for the contrast learn beside the student, the paper trains them before. A step sees four times the
    rows. `distill.online.turned_share` is the share of rows kept of those that the teacher gets wrong (0.75).
    """
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
    contrast = TermSpec("sskd", 10.0, options={"kept_share": options.online.turned_share})
    # Of the four views one is plain: 4 × 0.9 of the mean over all of them is 0.9 on plain and 2.7 on turned rows.
    answers = response_terms(options, temperature=4.0, alpha=0.9, whole=4.0)[:-1]
    labels = response_terms(options, temperature=4.0, alpha=0.9)[-1]
    return one_stage(options, (*answers, contrast, labels), settings={"companions": {"quarter_turns": {}}})
