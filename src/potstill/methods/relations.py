"""Methods on relations: between rows, between channels, and by contrast with other rows.

Labels have weight 1; `alpha` shares that weight with the response. Weights are those of the reference protocol unless said.
"""

from __future__ import annotations

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, require_taps
from potstill.methods.features import over_blocks
from potstill.methods.layers import last_pair
from potstill.methods.output import one_phase
from potstill.methods.response import label_terms, response_terms


def rkd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Distances (weight 25) and angles (50) between rows, on the input of the final layer.

    Source: Park et al. 2019 (arXiv 1904.05068).
    """
    require_taps("rkd", options, compares_tokens=False)
    return one_phase(options, (TermSpec("rkd_distance", 25.0), TermSpec("rkd_angle", 50.0), *label_terms(options)))


def sp(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Similarities between rows on the last block, weight 3000; on the input of the final layer where tokens differ.

    Source: Tung and Mori 2019 (arXiv 1907.09682), γ = 3000.
    """
    require_taps("sp", options, compares_tokens=False)
    pairs = last_pair(options, student, teacher)
    where = {"layers": pairs if options.has_same_tokens else [("head.in", "head.in")]}
    return one_phase(options, (TermSpec("sp", 3000.0 * len(where["layers"]), options=where), *label_terms(options)))


def cc(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Correlation congruence: Gaussian kernels between rows (γ = 0.4, order 2) on the input of the final layer, weight 100.

    Source: Peng et al. 2019 (arXiv 1904.01802). The weight is ours: the paper's 0.003 and the protocol's 0.02 belong to
    differences that are summed over other axes.
    """
    require_taps("cc", options, compares_tokens=False)
    return one_phase(options, (TermSpec("cc", 100.0), *label_terms(options)))


def pkt(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Probabilities of being neighbours, on the input of the final layer, weight 30000.

    Source: Passalis and Tefas 2018 (arXiv 1803.10837).
    """
    require_taps("pkt", options, compares_tokens=False)
    return one_phase(options, (TermSpec("pkt", 30000.0), *label_terms(options)))


def nst(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Neuron selectivity: where channels fire, every matched block, weight 50 each.

    Source: Huang and Wang 2017 (arXiv 1707.01219).
    """
    return over_blocks("nst", 50.0, student, teacher, options)


def crd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Contrast with 16,384 rows of other classes on the input of the final layer (weight 0.8), KL at τ = 4 (1) and labels (1).

    Source: Tian et al. 2020 (arXiv 1910.10699), its CRD+KD, the better of its two; `alpha: 0` gives CRD and labels alone.
    """
    require_taps("crd", options, compares_tokens=False)
    alpha, whole = (0.5, 2.0) if options.alpha is None else (0.0, 1.0)
    rest = tuple(term for term in response_terms(options, temperature=4.0, alpha=alpha, whole=whole) if term.weight != 0)
    return one_phase(options, (TermSpec("crd", 0.8), *rest))
