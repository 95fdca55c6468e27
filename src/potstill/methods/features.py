"""Methods on features in one phase: maps of attention, hints with uncertainty, factors, projectors, generated features.

With the feature come the labels at weight 1 and no response, as in the tables that the methods are compared by; `alpha` adds
the response. Losses are means over their pairs of blocks, papers sum over them, hence weights times the number of pairs.
"""

from __future__ import annotations

from typing import Any

from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec, require_taps
from potstill.methods.layers import last_pair, pair_layers
from potstill.methods.needs import matched_pairs, require_maps, require_positions
from potstill.methods.output import one_phase, warm_up
from potstill.methods.response import label_terms


def at(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Attention transfer: where features are large, at every matched block, weight 1000 each.

    Source: Zagoruyko and Komodakis 2017 (arXiv 1612.03928), β = 1000 in the reference protocol.
    """
    return over_blocks("at", 1000.0, student, teacher, options)


def vid(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Variational information: Gaussians predicted from the student's blocks, weight 1 each.

    Source: Ahn et al. 2019 (arXiv 1904.05835), weight of the reference protocol.
    """
    return over_blocks("vid", 1.0, student, teacher, options)


def ft(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Factor transfer at the last block, weight 500; and the paraphraser's reconstruction, weight 1.

    Source: Kim et al. 2018 (arXiv 1802.04977), weight of the authors' code, whose factors have length one over channels and
    positions; the 200 of the reference protocol belongs to means over channels. The paper trains the paraphraser before the
    student; here both train at once, without a gradient from the student's part into it.
    """
    pairs = last_pair(options, student, teacher)
    require_positions("ft", student, teacher, options, pairs)
    weight = 500.0 * len(pairs)
    term = TermSpec("ft", weight, options={"layers": pairs, "reconstruction": len(pairs) / weight})
    return one_phase(options, (term, *label_terms(options)))


def ofd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Overhaul: partial distance to the teacher's blocks above a margin, weight 8 each.

    Source: Heo et al. 2019 (arXiv 1904.01866): 1/1000 of the sum, halved per stage from the end, is 8 times the mean on the
    stages of its CIFAR nets (8,192 elements in the last). It reads blocks after their activation, the paper before. Grids are
    equal.
    """
    return over_blocks("ofd", 8.0, student, teacher, options, same_grids=True)


def review_kd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Knowledge review: stages and the last one's mean fused from deep to shallow, each compared at several sizes, weight 1 each.

    Source: Chen et al. 2021 (arXiv 2104.09044), weight of ImageNet and the warm-up of CIFAR-100, where the weights differ by
    pair of nets.
    """
    require_taps("review_kd", options, compares_tokens=False)
    require_maps("review_kd", student, teacher)
    pairs = pair_layers(options.layers, student, teacher)
    return _phase("review_kd", warm_up(1.0 + len(pairs)), pairs, options)


def mgd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Masked generative distillation: the teacher's last block generated from 85 % of the student's channels, weight 2.

    Source: Yang et al. 2022 (arXiv 2205.01529): 7e-5 of the sum on ImageNet is 1.8 times the mean for ResNet-18, λ = 0.15.
    """
    return _at_the_end("mgd", 2.0, student, teacher, options)


def cwd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Channel-wise distillation of the last block (τ = 4), weight 50.

    Source: Shu et al. 2021 (arXiv 2011.13256), the settings of feature maps; the paper teaches dense prediction.
    """
    return _at_the_end("cwd", 50.0, student, teacher, options)


def srd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """Projector and soft maximum (power 4) on the input of the final layer, weight 1.

    Source: Miles and Mikolajczyk 2024 (arXiv 2303.11098), without the term on logits of its ImageNet runs, where this one
    weighs 2; `alpha` adds one.
    """
    require_taps("srd", options, compares_tokens=False)
    return one_phase(options, (TermSpec("srd", 1.0), *label_terms(options)))


def over_blocks(
    name: str, weight: float, student: ModelFacts, teacher: ModelFacts, options: MethodOptions, *, same_grids: bool = False
) -> tuple[Phase, ...]:
    """One phase with a term of this weight for each matched block, and the labels."""
    pairs = matched_pairs(name, student, teacher, options, same_grids=same_grids)
    return _phase(name, weight * len(pairs), pairs, options)


def _at_the_end(name: str, weight: float, student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    pairs = last_pair(options, student, teacher)
    require_positions(name, student, teacher, options, pairs)
    return _phase(name, weight * len(pairs), pairs, options)


def _phase(name: str, weight: Any, pairs: list[tuple[int, int]], options: MethodOptions) -> tuple[Phase, ...]:
    return one_phase(options, (TermSpec(name, weight, options={"layers": pairs}), *label_terms(options)))
