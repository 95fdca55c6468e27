"""Methods of two phases: first features alone, then the output."""

from __future__ import annotations

from dataclasses import replace

from potstill.errors import NeedsError
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, require_taps, with_wishes
from potstill.methods.layers import pair_layers
from potstill.methods.needs import matched_pairs, require_positions
from potstill.methods.output import EPOCHS, RATE
from potstill.methods.response import label_term, label_terms, response_terms

# 30 epochs before the 240 of the reference protocol.
FIRST_EPOCHS = 1.0
HINT_TEMPERATURE = 3.0
HEAD_RATE = 0.1  # of the rate before: features that are right already should not be lost while the head is taught


def fitnets(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the hint: the middle block through a regressor, in the lower halves; then KL at τ = 3, 4/τ² to 1/τ², and labels (1).

    Source: Romero et al. 2015 (arXiv 1412.6550), whose loss has no τ², so that its weight of 4, falling to 1, is 4/9 to 1/9
    of a loss that has.
    """
    pairs = _middle(student, teacher, options)
    require_positions("fitnets", student, teacher, options, pairs)
    prediction = response_terms(options, temperature=HINT_TEMPERATURE, alpha=0.5)
    if options.alpha is None and options.answers.from_labels is not None:
        theirs = (replace(term, weight=_falling(term)) for term in prediction[:-1])
        prediction = (*theirs, label_term(options))
    return _two_phases("hint", TermSpec("fitnet", options={"layers": pairs}), prediction, options)


def ab(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the activation boundaries of every matched block (margin 1), then the labels; `alpha` adds the response.

    Source: Heo et al. 2019 (arXiv 1811.03233), with the phases of the reference protocol. It reads blocks after their
    activation, the paper before. Grids are equal.
    """
    pairs = matched_pairs("ab", student, teacher, options, same_grids=True)
    return _two_phases("boundaries", TermSpec("ab", options={"layers": pairs}), label_terms(options), options)


def fsp(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the flow: products of features from one matched block to the next; then the labels; `alpha` adds the response.

    Source: Yim et al. 2017, "A gift from knowledge distillation" (CVPR), with the phases and the weight (50) of the reference
    protocol. Grids are equal.
    """
    pairs = matched_pairs("fsp", student, teacher, options, same_grids=True)
    if len(pairs) < 2:
        raise NeedsError(
            f"method 'fsp' compares the flow between blocks, and {len(pairs)} pair of blocks is matched",
            "two pairs or more",
            "name them in distill.layers, or set distill.method: at",
        )
    term = TermSpec("fsp", 50.0 * (len(pairs) - 1), options={"layers": pairs})
    return _two_phases("flow", term, label_terms(options), options)


def simkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First the teacher's last feature through a projector, then the student's own head: KL at τ = 4 (0.9) and labels (0.1).

    The feature is the map of the last block of convolutional nets, else the input of the final layer.

    Source: Chen et al. 2022, SimKD (arXiv 2203.14001), which keeps projector and teacher's classifier in the student. Here
    the student stays a plain model of its family, so a second phase, a third as long and at a tenth of the rate, teaches its
    head, which starts as a least-squares fit to the teacher's answers.
    """
    require_taps("simkd", options, compares_tokens=False)
    where = {"layers": [("head.in", "head.in")]}
    if student.has_maps and teacher.has_maps and teacher.reads_last_block:
        where = {"layers": [(f"hidden:{student.layers}", f"hidden:{teacher.layers}")]}
    prediction = response_terms(options, temperature=4.0, alpha=0.9)
    phases = [
        Phase("feature", (TermSpec("simkd", options=where),), epochs=0.75 * EPOCHS, learning_rate=RATE, select="last"),
        Phase("prediction", prediction, epochs=0.25 * EPOCHS, learning_rate=RATE, settings={"starts_head": True}),
    ]
    features, head = with_wishes(phases, options)
    return features, replace(head, learning_rate=HEAD_RATE * head.learning_rate)


def _two_phases(name: str, first: TermSpec, prediction: tuple[TermSpec, ...], options: MethodOptions) -> tuple[Phase, ...]:
    phases = [
        Phase(name, (first,), epochs=FIRST_EPOCHS, learning_rate=RATE, select="last"),
        Phase("prediction", prediction, epochs=EPOCHS, learning_rate=RATE),
    ]
    return with_wishes(phases, options)


def _falling(term: TermSpec) -> dict[str, list[float]]:
    """From 8 to 2 times a share of one half, over τ² where the loss multiplies by it."""
    heat = term.temperature if isinstance(term.temperature, (int, float)) else HINT_TEMPERATURE
    unit = 1.0 if term.temperature is None else float(heat) ** 2
    return {"linear": [8.0 * term.weight / unit, 2.0 * term.weight / unit]}


def _middle(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> list[tuple[int, int]]:
    """The middle one of the matched pairs, or the pairs that the user names."""
    pairs = pair_layers(options.layers, student, teacher)
    return [pairs[(len(pairs) - 1) // 2]] if isinstance(options.layers, str) else pairs
