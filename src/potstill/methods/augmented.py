"""Distillation from the teacher's answers to many rows, most of them without labels."""

from __future__ import annotations

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, with_wishes
from potstill.methods.response import response_terms

AVERAGE_DECAY = 0.998
EPOCHS, FEWEST_EPOCHS = 3.0, 1.0
RATE, LEAST_RATE = 5e-4, 1e-5
FAR = 0.5  # share of the teacher's answers missed at the start from which on whole rate and passes are taken
LEAST_PASSES = 0.25  # of them, for a student that starts close
STATE_WEIGHT = 10.0  # of a difference in units of the states' variance; from 3 to 30 the students are alike
UNIT_STATE_WEIGHT = 1.0  # where words are answered, of which a mean over all of them says less


def augmented_kd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """KL at τ = 2 and mean states of the blocks that the student keeps, on labelled, unlabelled and augmented rows alike.

    Source: Tang et al. 2019, Distilling Task-Specific Knowledge from BERT into Simple Neural Networks (arXiv 1903.12136), who
    learn from the teacher's logits on augmented sentences alone; here with KL instead of MSE, and the weights averaged over
    the last 500 steps, and with the mean over tokens of the kept blocks' states where the cache holds them: ten times the
    squared difference in units of their variance, once where words or places are answered and not rows. The labels count
    only where `alpha` asks for them.
    The default for texts: answers and states are cached, so that the time goes into rows. A student that keeps more
    than a third of the layers starts closer to the teacher and costs more a step, so it makes fewer passes. Rate and passes
    fall with the share of the teacher's answers that it misses before training, so that it keeps what it was cut with.
    The checkpoint closest to the teacher on validation is kept: its divergence says more than the accuracy of a few hundred rows.
    """
    terms = tuple(term for term in response_terms(options, temperature=2.0, alpha=1.0) if term.weight != 0)
    if options.has_taps:
        terms += state_terms(student, teacher, STATE_WEIGHT if options.answers.is_of_row else UNIT_STATE_WEIGHT)
    passes = max(FEWEST_EPOCHS, EPOCHS * min(1.0, teacher.layers / (3.0 * student.layers)))
    settings = {"average_decay": AVERAGE_DECAY}
    far = 1.0 if student.start_error is None else min(1.0, student.start_error / FAR)
    passes *= max(LEAST_PASSES, far**0.5)
    rate = max(LEAST_RATE, RATE * far)
    phase = Phase("prediction", terms, passes, rate, select="fidelity", settings=settings, by_start=True)
    return with_wishes([phase], options)


def state_terms(student: ModelFacts, teacher: ModelFacts, weight: float) -> tuple[TermSpec, ...]:
    """One term on the states that a source of knowledge holds of the blocks that the student was cut from; none without them."""
    held = dict(teacher.states)
    pairs = [(f"mean:{own}", f"mean:{block}") for own, block in enumerate(student.kept_layers, 1) if f"mean:{block}" in held]
    if not pairs or student.width != teacher.width:
        return ()
    options = {"layers": pairs, "scale": [held[need] for _, need in pairs]}
    return (TermSpec("hidden_mse", weight, options=options),)
