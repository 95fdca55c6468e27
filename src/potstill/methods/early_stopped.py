"""Distillation that stops early: the teacher for the first part of training, labels alone for the rest."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from potstill.methods.contract import MethodOptions, ModelFacts, OwnOptions, Phase, takes
from potstill.methods.response import kd, label_term


class EskdOptions(OwnOptions):
    """Options of the method eskd."""

    until: float = Field(0.5, gt=0.0, lt=1.0, description="Share of training that learns from the teacher, before the labels.")


@takes(EskdOptions)
def eskd(student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
    """First KL at τ = 2 (0.7) and labels (0.3), then the labels alone.

    Source: Cho and Hariharan 2019, On the Efficacy of Knowledge Distillation (arXiv 1910.01348), early-stopped distillation: a
    small student cannot follow a large teacher to the end. τ, weights and passes are those of `kd` here; the share of training
    with the teacher, one half in `distill.options.until`, is ours.
    """
    own: EskdOptions = options.own
    (whole,) = kd(student, teacher, replace(options, has_taps=False))
    taught = replace(whole, name="distillation", epochs=own.until * whole.epochs, select="last")
    labels = (label_term(options),)
    return taught, replace(whole, name="labels", terms=labels, epochs=(1.0 - own.until) * whole.epochs, rows="labelled")
