"""Contrast losses: the same row seen by student and teacher against other rows.

Shapes: B batch, D width, E embedding width, N rows of the training set, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import DataError, TrainingError
from potstill.losses.bridges import width_of
from potstill.losses.contract import LossValue, Shapes, StudentView
from potstill.losses.layers import PairedLoss, shape_of, teacher_taps
from potstill.losses.options import LayerPair, between, positive, tap_name
from potstill.losses.precision import full_precision
from potstill.losses.reduction import Reduction, over_rows
from potstill.losses.transfer import HEAD_INPUT, vectors
from potstill.teacher.signal import TeacherSignal

BLOCK_ROWS = 32
UNSEEN = torch.iinfo(torch.int64).max


@full_precision
def info_nce(
    student_embedding: Tensor, teacher_embedding: Tensor, *, temperature: float = 0.07, reduction: Reduction = "mean"
) -> Tensor:
    """−log of the softmax over the batch of cos(s_i, t_j) / τ at j = i.

    Source: van den Oord et al. 2018 (arXiv 1807.03748), with cosine similarity.

    Args:
        student_embedding: [B, E].
        teacher_embedding: [B, E].
        temperature: τ.
        reduction: Over rows.
    """
    student, teacher = F.normalize(student_embedding, dim=-1), F.normalize(teacher_embedding, dim=-1)
    values = -F.log_softmax(student @ teacher.T / temperature, dim=-1).diagonal()
    return over_rows(values, None, reduction)


@full_precision
def crd(positive_scores: Tensor, negative_scores: Tensor, *, num_rows: int, reduction: Reduction = "mean") -> Tensor:
    """Noise-contrastive loss −log h(x₊) − Σ_K log(1 − h(x₋)), h(x) = x / (x + K/N), x the normalised exponential scores.

    Source: Tian et al. 2020 (arXiv 1910.10699).

    Args:
        positive_scores: log x of the positive [B].
        negative_scores: log x of the negatives [B, K].
        num_rows: N.
        reduction: Over rows.
    """
    # log h = −softplus(log(K/N) − log x); log(1 − h) = −softplus(log x − log(K/N))
    bias = math.log(negative_scores.shape[1] / num_rows)
    values = F.softplus(bias - positive_scores) + F.softplus(negative_scores - bias).sum(-1)
    return over_rows(values, None, reduction)


class MemoryScores(torch.autograd.Function):
    """Scores of embeddings [B, E] against chosen rows of a memory [N, E]: a matmul and a gather, no [B, K, E] copy.

    Rows go through in blocks of `BLOCK_ROWS`, so that no more than that many rows of [N] scores are held.

    The memory may take new values for `updated` rows right after; their old values are kept for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, embedding: Tensor, memory: Tensor, index: Tensor, updated: Tensor) -> Tensor:  # type: ignore[override]
        """[B, K]."""
        ctx.memory, ctx.version = memory, None
        ctx.save_for_backward(index, updated, memory[updated])
        scores = embedding.new_empty(index.shape)
        for rows, chosen, out in zip(embedding.split(BLOCK_ROWS), index.split(BLOCK_ROWS), scores.split(BLOCK_ROWS)):
            torch.gather(rows @ memory.T, 1, chosen, out=out)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        """Σ_k grad_k · memory[index_k], with the rows as they were."""
        index, updated, old = ctx.saved_tensors
        if ctx.version is not None and ctx.memory._version != ctx.version:
            raise TrainingError(
                "the memory of crd changed between a forward and its backward",
                "one backward after each forward",
                "call backward before the next batch goes through this loss",
            )
        changed = old - ctx.memory[updated]
        gradients = []
        for part, chosen in zip(grad.split(BLOCK_ROWS), index.split(BLOCK_ROWS)):
            weight = part.new_zeros(part.shape[0], ctx.memory.shape[0]).scatter_add_(1, chosen, part)
            gradients.append(weight @ ctx.memory + weight[:, updated] @ changed)
        return torch.cat(gradients), None, None, None


class EmbeddingPair(nn.Module):
    """One linear embedding for each side."""

    def __init__(self, student_width: int, teacher_width: int, width: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_width, width)
        self.teacher = nn.Linear(teacher_width, width)

    def forward(self, student_value: Tensor, teacher_value: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides [B, E]."""
        dtype = self.student.weight.dtype
        return self.student(student_value.to(dtype)), self.teacher(teacher_value.to(dtype))


class InfoNCE(PairedLoss):
    """Contrast within the batch; see `functional.info_nce`. Source: van den Oord et al. 2018 (arXiv 1807.03748).

    Where the widths differ, the student is projected to the teacher's width; the teacher stays as it is.

    Args:
        layers: Pairs of taps; each value becomes one vector per row.
        project: "auto" bridges where the widths differ, "linear" always, "none" never.
        temperature: τ of the softmax.
    """

    kind: ClassVar[str] = "contrast"

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, project: str = "auto", temperature: float = 0.07) -> None:
        super().__init__(layers=layers, project=project)
        self.temperature = positive("temperature", temperature)

    def check(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> None:
        """Every value becomes one vector per row."""

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        vector_shapes = (1, width_of(student_shape)), (1, width_of(teacher_shape))
        return super().bridge(*vector_shapes, names)

    def compare(self, index: int, student_value: Tensor, teacher_value: Tensor, token_mask: Tensor | None) -> Tensor:
        student = self.bridged(index, vectors(student_value, token_mask))
        teacher = vectors(teacher_value, token_mask)
        return info_nce(student, teacher, temperature=self.temperature, reduction="sum")


class CRD(PairedLoss):
    """Contrastive representation distillation with a memory of every training row; see `functional.crd`.

    Both sides are embedded and normalised; the student's embedding is contrasted with the teacher's memory and the other
    way round, and the two terms are added. Negatives are drawn uniformly from the other rows. The normalisation constants
    are set by the first batch. Rows are found by ``batch["row_index"]`` (0 … N−1) where present, else by
    ``batch["row_id"]``, which get their place when first seen.
    Source: Tian et al. 2020 (arXiv 1910.10699), section 3 and the authors' memory of Wu et al. 2018 (arXiv 1805.01978).

    Args:
        layers: One pair of taps; each value becomes one vector per row.
        width: E, width of the embedding.
        negatives: K.
        temperature: τ of the scores.
        momentum: Share of the old value when a row of the memory is renewed.
    """

    kind: ClassVar[str] = "contrast"
    nearest: ClassVar[str] = "info_nce"
    student_memory: Tensor
    teacher_memory: Tensor
    known_ids: Tensor
    known_rows: Tensor
    log_constants: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[LayerPair] = HEAD_INPUT,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__(layers=layers)
        self.width = int(between("width", width, 1, 65536))
        self.negatives = int(between("negatives", negatives, 1, 10_000_000))
        self.temperature = positive("temperature", temperature)
        self.momentum = between("momentum", momentum, 0, 1)

    def needs_batch(self) -> tuple[str, ...]:
        return ("row_id",)

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        student_layer, teacher_layer = self.layers[0]
        student_width = width_of(shape_of(student, tap_name(self.role, student_layer), "student", self))
        teacher_width = width_of(shape_of(teacher, tap_name(self.role, teacher_layer), "teacher", self))
        self.bridges = nn.ModuleList([EmbeddingPair(student_width, teacher_width, self.width)])
        spread = 1 / math.sqrt(self.width / 3)
        for side in ("student", "teacher"):
            memory = torch.empty(num_rows, self.width).uniform_(-spread, spread)
            self.register_buffer(f"{side}_memory", memory)
        self.register_buffer("known_ids", torch.full((num_rows,), UNSEEN))
        self.register_buffer("known_rows", torch.arange(num_rows))
        self.register_buffer("log_constants", torch.full((2,), math.nan))

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        student_layer, teacher_layer = self.layers[0]
        mask = student.token_mask
        student_value = vectors(student.taps[tap_name(self.role, student_layer)], mask)
        teacher_value = vectors(teacher_taps(teacher)[tap_name(self.role, teacher_layer)].detach(), mask)
        own, other = self.bridges[0](student_value, teacher_value)
        own, other = F.normalize(own.float(), dim=-1), F.normalize(other.float(), dim=-1)
        rows = self.rows_of(batch)
        index = self.draw(rows)
        updated, new_student, new_teacher = _gathered(rows, own.detach(), other.detach())
        terms = [
            self.contrast(own, self.teacher_memory, index, updated, 0),
            self.contrast(other, self.student_memory, index, updated, 1),
        ]
        if self.training:
            self.renew(self.student_memory, updated, new_student)
            self.renew(self.teacher_memory, updated, new_teacher)
            for _, node in terms:
                node.version = node.memory._version
        return LossValue(sum=terms[0][0] + terms[1][0], count=float(student.logits.shape[0]))

    def contrast(self, embedding: Tensor, memory: Tensor, index: Tensor, updated: Tensor, side: int) -> tuple[Tensor, Any]:
        """Sum over rows of one direction, and the node that keeps the memory's version."""
        with torch.autocast(device_type=embedding.device.type, enabled=False):
            scores = MemoryScores.apply(embedding, memory, index, updated)  # type: ignore[no-untyped-call]
        node = scores.grad_fn if scores.grad_fn is not None else _NoGradient(memory)
        logits = scores / self.temperature
        constant = torch.logsumexp(logits.detach().flatten(), 0) - math.log(logits.numel()) + math.log(len(memory))
        known = self.log_constants[side]
        log_constant = torch.where(known.isnan(), constant, known)
        if self.training:
            self.log_constants[side] = log_constant
        logits = logits - log_constant
        return crd(logits[:, 0], logits[:, 1:], num_rows=len(memory), reduction="sum"), node

    def draw(self, rows: Tensor) -> Tensor:
        """[B, 1 + K]: the own row first, then rows drawn uniformly from the others."""
        num_rows = len(self.known_ids)
        drawn = torch.randint(max(num_rows - 1, 1), (len(rows), self.negatives), device=rows.device)
        drawn = (drawn + (drawn >= rows.unsqueeze(1))).clamp(max=num_rows - 1)
        return torch.cat([rows.unsqueeze(1), drawn], dim=1)

    @torch.no_grad()
    def renew(self, memory: Tensor, rows: Tensor, embedding: Tensor) -> None:
        """Blend the new embeddings into their rows of the memory."""
        blended = self.momentum * memory[rows] + (1 - self.momentum) * embedding
        memory.index_copy_(0, rows, F.normalize(blended, dim=-1))

    def set_row_ids(self, row_ids: Tensor) -> None:
        """Give every training row its place at once, so that no step has to look for new ones.

        Args:
            row_ids: [N] or fewer, distinct.
        """
        ordered = row_ids.to(self.known_ids).unique()
        self._check_room(len(ordered))
        self.known_ids.fill_(UNSEEN)[: len(ordered)] = ordered
        self.known_rows.copy_(torch.arange(len(self.known_rows), device=self.known_rows.device))

    def rows_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Places [B] of the batch's rows in the memory, from 0 to N−1.

        Raises:
            DataError: More distinct row ids than rows were announced.
        """
        if "row_index" in batch:
            return batch["row_index"].to(self.known_rows)
        ids = _gathered(batch["row_id"].to(self.known_ids))[0]
        place = torch.searchsorted(self.known_ids, ids).clamp(max=len(self.known_ids) - 1)
        if bool((self.known_ids[place] != ids).any()):
            self._add(ids)
        place = torch.searchsorted(self.known_ids, batch["row_id"].to(self.known_ids))
        return self.known_rows[place]

    def _add(self, ids: Tensor) -> None:
        known = self.known_ids != UNSEEN
        fresh = ids.unique()
        fresh = fresh[~torch.isin(fresh, self.known_ids[known])]
        taken = int(known.sum())
        self._check_room(taken + len(fresh))
        self.known_ids[taken : taken + len(fresh)] = fresh
        order = self.known_ids.argsort(stable=True)
        self.known_ids.copy_(self.known_ids[order])
        self.known_rows.copy_(self.known_rows[order])

    def _check_room(self, wanted: int) -> None:
        if wanted > len(self.known_ids):
            raise DataError(
                f"crd met {wanted} distinct rows, its memory holds {len(self.known_ids)}",
                "the rows of the training set it was prepared for",
                "prepare it with the whole training set, augmented rows included",
            )


class _NoGradient:
    """Stands for the missing graph node where nothing needs a gradient."""

    def __init__(self, memory: Tensor) -> None:
        self.memory, self.version = memory, 0


@torch.no_grad()
def _gathered(*values: Tensor) -> tuple[Tensor, ...]:
    """The tensors of all ranks together, first axis joined, where there are several ranks; their batches may differ in size."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    sizes = [torch.zeros(1, dtype=torch.int64, device=values[0].device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(sizes, sizes[0].new_tensor([len(values[0])]))
    counts = torch.cat(sizes).tolist()
    joined = []
    for value in values:
        padded = F.pad(value, (*[0] * (2 * value.dim() - 1), max(counts) - len(value))).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        joined.append(torch.cat([part[:count] for part, count in zip(parts, counts)]))
    return tuple(joined)
