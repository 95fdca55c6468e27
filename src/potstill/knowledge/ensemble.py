"""Several teachers as one.

Shapes: S sources, B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import TeacherSource, require
from potstill.errors import ModelError
from potstill.ground.disk import fingerprint
from potstill.knowledge.responses.dense import DenseLogits

EACH = "logits:each"  # need name of the log-probabilities of every teacher
_IGNORED_LABEL = -100
Confidence = Literal["none", "entropy", "max", "label"]


class EnsembleTeacher:
    """A weighted mean of several teachers.

    ``mode="probability"`` is the mixture p = Σ_s w_s softmax(z_s); ``mode="logit"`` is the normalised product of experts,
    log p = Σ_s w_s z_s − log Σ exp. Both give log p as logits, so that a loss may apply its temperature to them.
    The teachers may differ in architecture and inputs; their classes must be in the same order.

    With `confidence`, the weights are also set for every row: w_s · c_s(row), normalised. "entropy" takes
    c = exp(−H(p_s)) and "max" the largest probability, both high where a teacher is sure; "label" takes c = p_s(label), high
    where it is right, and leaves rows without a label (−100) to the fixed weights.

    It also gives ``logits:each`` [B, S, C], the log-probabilities of every teacher, from which
    `potstill.training.teacher_weights.TeacherWeights` learns the weights.

    *Source*: mixture, Hinton et al. 2015, arXiv:1503.02531, section 1; weights by label, Zhang et al. 2022,
    arXiv:2201.00007 (CA-MKD), here with the probability of the label where the paper takes its cross-entropy.

    Args:
        sources: Teachers.
        weights: One per source, not negative; equal where left out. They are normalised to sum to 1. Or a function that gives
            them [S] anew for every batch, already normalised: ``TeacherWeights.shares``.
        mode: Where the mean is taken.
        confidence: Whether and how each row sets its own weights.

    Raises:
        ModelError: No source, or weights that do not fit.
    """

    def __init__(
        self,
        sources: Sequence[TeacherSource],
        weights: Sequence[float] | Callable[[], Tensor] | None = None,
        *,
        mode: Literal["probability", "logit"] = "probability",
        confidence: Confidence = "none",
    ) -> None:
        self.sources = tuple(sources)
        self._learned = weights if callable(weights) else None
        self.weights = _normalise(None if callable(weights) else weights, len(self.sources))
        for name, value, choices in (("mode", mode, _MEANS), ("confidence", confidence, _CONFIDENCES)):
            if value not in choices:
                raise ModelError(f"{name} of an ensemble is {value!r}", ", ".join(choices), f"set {name} to one of these")
        self.mode, self.confidence = mode, confidence

    @property
    def fingerprint(self) -> str:
        """Of all teachers, their weights and how they are joined."""
        weights = "learned" if self._learned is not None else self.weights
        return fingerprint([[source.fingerprint for source in self.sources], weights, self.mode, self.confidence])

    def can_provide(self, need: str) -> bool:
        """Logits, joined or each, where every source can provide them."""
        return need in ("logits", EACH) and all(source.can_provide("logits") for source in self.sources)

    def signal(self, batch: Mapping[str, Any], needs: Collection[str] = ("logits",)) -> TeacherSignal:
        """The joint log-probabilities [B, C] of one batch, as dense logits; refuses teachers with other numbers of classes."""
        require(needs, self.can_provide, source="an ensemble", remedy="choose losses on logits, or a single teacher")
        signals = [source.signal(batch, ("logits",)) for source in self.sources]
        widths = [signal.logits.shape[-1] for signal in signals]
        if len(set(widths)) > 1:
            raise ModelError(f"the teachers have {', '.join(map(str, widths))} classes", "the same classes in the same order")
        device = signals[0].logits.device
        logs = torch.stack([signal.logits.to(device).float().log_softmax(-1) for signal in signals])
        weights = _on_device(self.weights, logs) if self._learned is None else self._learned().detach().to(logs)
        joint = combine(logs, weights, batch.get("labels"), mode=self.mode, confidence=self.confidence)
        each = {EACH: logs.transpose(0, 1)} if EACH in needs else {}
        return TeacherSignal(response=DenseLogits(joint), taps=each, token_mask=signals[0].token_mask)


def combine(
    logs: Tensor, weights: Tensor, labels: Tensor | None = None, *, mode: str = "probability", confidence: str = "none"
) -> Tensor:
    """The joint log-probabilities [B, C] of several teachers; see `EnsembleTeacher`.

    Args:
        logs: Their log-probabilities [S, B, C]; [S, B, U, C] where rows have several units.
        weights: [S], summing to 1.
        labels: [B] ([B, U]), for the confidence "label"; −100 where there is none.
        mode: "probability" or "logit".
        confidence: "none", "entropy", "max" or "label".
    """
    return _MEANS[mode](logs, row_weights(logs, weights, labels, confidence=confidence)[..., None])


def row_weights(logs: Tensor, weights: Tensor, labels: Tensor | None = None, *, confidence: str = "none") -> Tensor:
    """The weights [S, B] ([S, B, U]) of every teacher in every row or unit, summing to 1 over S; arguments as of `combine`."""
    fixed = weights.view(-1, *[1] * (logs.dim() - 2))
    own = fixed * _CONFIDENCES[confidence](logs, labels)
    total = own.sum(0)
    return torch.where(total > 0, own / total.clamp_min(torch.finfo(own.dtype).tiny), fixed)


def _on_device(weights: Sequence[float], like: Tensor) -> Tensor:
    """Numbers as a tensor of the type and device of `like`, made there: a copy would wait for the device."""
    return torch.stack([like.new_full((), weight) for weight in weights])


def _mixture(logs: Tensor, weights: Tensor) -> Tensor:
    return torch.logsumexp(logs + weights.log(), dim=0)


def _product(logs: Tensor, weights: Tensor) -> Tensor:
    # A class that a teacher of weight 0 rules out must not turn into 0 · −inf.
    return torch.where(weights > 0, weights * logs, 0.0).sum(0).log_softmax(-1)


def _no_confidence(logs: Tensor, labels: Tensor | None) -> Tensor:
    return logs.new_ones(logs.shape[:-1])


def _low_entropy(logs: Tensor, labels: Tensor | None) -> Tensor:
    return torch.exp(-torch.special.entr(logs.exp()).sum(-1))


def _largest(logs: Tensor, labels: Tensor | None) -> Tensor:
    return logs.amax(-1).exp()


def _label_probability(logs: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return _no_confidence(logs, labels)
    labels = labels.to(logs.device)
    has_label = labels != _IGNORED_LABEL
    index = labels.clamp_min(0).expand(logs.shape[0], *labels.shape)[..., None]
    return torch.where(has_label, logs.exp().gather(-1, index)[..., 0], 1.0)


_MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"probability": _mixture, "logit": _product}
_CONFIDENCES: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "none": _no_confidence,
    "entropy": _low_entropy,
    "max": _largest,
    "label": _label_probability,
}


def _normalise(weights: Sequence[float] | None, num_sources: int) -> tuple[float, ...]:
    if num_sources == 0:
        raise ModelError("an ensemble was given no teacher", "one or more teachers")
    given = tuple(float(weight) for weight in weights) if weights is not None else (1.0,) * num_sources
    if len(given) != num_sources or any(not 0 <= weight < float("inf") for weight in given) or sum(given) == 0:
        raise ModelError(f"the weights {list(given)} do not fit {num_sources} teachers", "one weight ≥ 0 per teacher, not all 0")
    return tuple(weight / sum(given) for weight in given)
