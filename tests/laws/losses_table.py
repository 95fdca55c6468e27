"""What every loss of the catalogue must obey, one line each, and the inputs to show it on.

Shapes: B batch, T tokens, D width, H heads, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from potstill import losses
from potstill.contracts.signal import TeacherSignal
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses.contract import Loss, Shapes, StudentView

B, T, D, HEADS, C, GRID = 4, 6, 16, 2, 5, 8


@dataclass(frozen=True)
class Law:
    """Properties of one loss.

    Args:
        is_zero_at_equal: Value and student gradient vanish where the student equals the teacher.
        is_flat_at_equal: Only the gradient vanishes there.
        is_signed: The value may be negative.
        is_by_rows: The sum over a batch is the sum over its parts.
        domain: Hidden values are "tokens" [B, T, D] or "maps" [B, C, H, W].
        options: Options that the laws are shown with.
    """

    is_zero_at_equal: bool = True
    is_flat_at_equal: bool = False
    is_signed: bool = False
    is_by_rows: bool = True
    domain: str = "tokens"
    options: dict[str, Any] = field(default_factory=dict)


TARGET = Law(is_zero_at_equal=False)
CROSS_ENTROPY = Law(is_zero_at_equal=False, is_flat_at_equal=True)
OF_BATCH = Law(is_by_rows=False)
MAPS = Law(domain="maps")
SMALL_CRD = {"negatives": 7, "width": 6}

LAWS: dict[str, Law] = {
    "ce": TARGET,
    "kl": Law(),
    "reverse_kl": Law(),
    "jsd": Law(),
    "skew_kl": Law(),
    "skew_reverse_kl": Law(),
    "ttm": TARGET,
    "tvd": Law(),
    "logit_mse": Law(),
    "soft_ce": CROSS_ENTROPY,
    "bce": CROSS_ENTROPY,
    "regression": Law(),
    "bounded_regression": TARGET,
    "output_cosine": Law(),
    "similarity_kl": Law(is_by_rows=False),
    "dkd": Law(),
    "nkd": TARGET,
    "wsld": Law(),
    "tf_kd": TARGET,
    "label_smoothing_kd": TARGET,
    "probability_shift": TARGET,
    "dist": OF_BATCH,
    "logit_std_kl": Law(),
    "mlkd": OF_BATCH,
    "uld": Law(),
    "ctkd": Law(),
    "probability_mse": Law(),
    "cs_kd": Law(is_zero_at_equal=False, is_by_rows=False),
    "hidden_mse": Law(),
    "cosine": Law(),
    "embedding_mse": Law(),
    "pkd": Law(),
    "cwd": Law(),
    "ghnd": Law(),
    "mgd": Law(is_zero_at_equal=False, options={"masked_share": 0.0}),
    "fitnet": TARGET,
    "ab": TARGET,
    "ofd": TARGET,
    "vid": Law(is_zero_at_equal=False, is_signed=True),
    "ft": TARGET,
    "pad": Law(is_zero_at_equal=False, is_signed=True),
    "srd": Law(is_zero_at_equal=False, is_signed=True, is_by_rows=False),
    "simkd": TARGET,
    "review_kd": Law(is_zero_at_equal=False, domain="maps"),
    "routed": Law(is_zero_at_equal=False),
    "at": Law(),
    "tinybert_attention": Law(),
    "attention_kl": Law(),
    "minilm": Law(),
    "minilm_v2": Law(),
    "rkd_distance": OF_BATCH,
    "rkd_angle": OF_BATCH,
    "sp": OF_BATCH,
    "cc": OF_BATCH,
    "pkt": OF_BATCH,
    "gram": Law(),
    "affinity": Law(),
    "nst": Law(),
    "ickd": Law(),
    "fsp": Law(),
    "kd_svd": Law(),
    "crd": Law(is_zero_at_equal=False, is_by_rows=False, options=SMALL_CRD),
    "info_nce": Law(is_zero_at_equal=False, is_by_rows=False),
    "sskd": Law(is_zero_at_equal=False, is_by_rows=False),
    "jacobian": Law(),
}


@dataclass
class Case:
    """A prepared loss and inputs for it; `leaves` are the student's tensors with gradients."""

    name: str
    loss: Loss
    logits: Tensor
    taps: dict[str, Tensor]
    teacher_logits: Tensor
    teacher_taps: dict[str, Tensor]
    token_mask: Tensor | None
    batch: dict[str, Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        """Student tensors that carry gradients."""
        return [self.logits, *self.taps.values()]

    def student(self) -> StudentView:
        """The student's view; the logits depend on the embedding, so that their gradient by it exists."""
        logits = self.logits
        if self.name == "jacobian":
            logits = jacobian_logits(self.taps["embedding"], logits, self.token_mask)
        return StudentView(logits, self.taps, self.token_mask)

    def value(self) -> Any:
        """The loss of the case."""
        signal = TeacherSignal(DenseLogits(self.teacher_logits), self.teacher_taps, self.token_mask)
        return self.loss(self.student(), signal, self.batch)

    def gradients(self) -> list[Tensor]:
        """Gradients of the sum by the leaves; zeros where there is none."""
        for leaf in self.leaves:
            leaf.grad = None
        total = self.value().sum
        if not total.requires_grad:
            return [torch.zeros_like(leaf) for leaf in self.leaves]
        total.backward()
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in self.leaves]


def jacobian_logits(embedding: Tensor, logits: Tensor, token_mask: Tensor | None) -> Tensor:
    """A small network from the embedding to the logits, deaf to pads."""
    kept = embedding.new_ones(embedding.shape[:2]) if token_mask is None else token_mask.to(embedding.dtype)
    bent = torch.tanh(embedding[..., : logits.shape[-1]]) * kept.unsqueeze(-1)
    return logits + bent.sum(1)


def make(name: str, *, equal: bool = False, domain: str | None = None, masked: bool = True, seed: int = 0) -> Case:
    """A case for one loss.

    Args:
        name: Catalogue name.
        equal: Whether the student equals the teacher.
        domain: "tokens" or "maps" in place of the law's.
        masked: Whether some tokens are pads.
        seed: Of the random values.
    """
    law = LAWS[name]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    loss = losses.build(name, **law.options)
    domain = domain or law.domain
    mask = torch.ones(B, T, dtype=torch.int64)
    if masked:
        mask[0, 4:] = 0
        mask[2, 5:] = 0
    teacher_logits = torch.randn(B, C, generator=generator)
    teacher = {key: tap(key, domain, generator) for key in loss.needs_teacher() if key != "logits"}
    student_logits = teacher_logits.clone() if equal else torch.randn(B, C, generator=generator)
    student = {}
    for key in loss.needs_student():
        if key != "logits":
            student[key] = teacher[key].clone() if equal and key in teacher else tap(key, domain, generator)
    labels = torch.tensor([0, 2, -100, 4])
    batch = {"labels": labels, "row_id": torch.tensor([11, 3, 900, 7]), "attention_mask": mask}
    if name == "sskd":
        batch["view"] = torch.tensor([0, 0, 1, 1])
    if name == "cs_kd":
        batch["labels"] = torch.tensor([2, 2, -100, 4])
    if name in ("regression", "bounded_regression", "bce"):
        batch["labels"] = torch.randn(B, C, generator=generator)
        batch["labels"][2] = -100
        student_logits = student_logits if equal else student_logits + 3
    case = Case(name, loss, student_logits, student, teacher_logits, teacher, mask if domain == "tokens" else None, batch)
    if equal and name == "jacobian":
        own = case.taps["embedding"].requires_grad_()
        logits = case.student().logits
        case.teacher_logits = logits.detach()
        chosen = logits.gather(-1, logits.argmax(-1, keepdim=True)).sum()
        case.teacher_taps["gradient:embedding"] = torch.autograd.grad(chosen, own)[0]
    loss.prepare(shapes(student, student_logits), shapes(teacher, teacher_logits), num_rows=8)
    loss.eval()
    for leaf in case.leaves:
        leaf.requires_grad_()
    return case


def shapes(taps: dict[str, Tensor], logits: Tensor) -> Shapes:
    """Shapes of given values."""
    return Shapes({key: tuple(value.shape) for key, value in taps.items()}, tuple(logits.shape))


def tap(key: str, domain: str, generator: torch.Generator) -> Tensor:
    """A random value for a need name."""
    role = key.split(":")[0]
    if role == "attention":
        return torch.randn(B, HEADS, T, T, generator=generator)
    if role in ("query", "key", "value"):
        return torch.randn(B, HEADS, T, D // HEADS, generator=generator)
    if key == "head.in":
        return torch.randn(B, D, generator=generator)
    if domain == "maps" and role == "hidden":
        return torch.randn(B, D, GRID, GRID, generator=generator)
    return torch.randn(B, T, D, generator=generator)


def has_tokens(name: str) -> bool:
    """Whether a loss reads values per token."""
    needs = losses.build(name, **LAWS[name].options).needs_student()
    return LAWS[name].domain == "tokens" and any(key not in ("logits", "head.in") for key in needs)
