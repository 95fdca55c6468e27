"""Contrast of a row with other rows: those of a memory of the whole training set, or those of the batch.

Shapes: B batch, D width, E width of the embedding, N rows of the training set, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.contracts.signal import TeacherSignal
from potstill.errors import DataError
from potstill.ground.precision import full_precision
from potstill.losses.contract import LossValue, Shapes, StudentView
from potstill.losses.layers import BridgedLoss, PairedLoss
from potstill.losses.memory import Draw, draw_for_each, draw_shared, log_normaliser, memory_contrast
from potstill.losses.options import HEAD_INPUT, LayerPair, between, positive
from potstill.losses.reduction import Reduction, over_rows

UNSEEN = torch.iinfo(torch.int64).max


@full_precision
def crd(positive_scores: Tensor, negative_scores: Tensor, *, num_rows: int, reduction: Reduction = "mean") -> Tensor:
    """Noise-contrastive loss −log h(x₊) − Σ_K log(1 − h(x₋)), h(x) = x / (x + K/N), x the normalised exponential scores.

    Source: Tian et al. 2020 (arXiv 1910.10699).

    Args:
        positive_scores: log x of the positive [B].
        negative_scores: log x of the negatives [B, K].
        num_rows: N.
    """
    # log h = −softplus(log(K/N) − log x); log(1 − h) = −softplus(log x − log(K/N))
    bias = math.log(negative_scores.shape[1] / num_rows)
    values = F.softplus(bias - positive_scores) + F.softplus(negative_scores - bias).sum(-1)
    return over_rows(values, None, reduction)


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
    """
    student, teacher = F.normalize(student_embedding, dim=-1), F.normalize(teacher_embedding, dim=-1)
    values = -F.log_softmax(student @ teacher.T / temperature, dim=-1).diagonal()
    return over_rows(values, None, reduction)


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


class CRD(PairedLoss):
    """Contrastive representation distillation with a memory of every training row; see `functional.crd`.

    Both sides are embedded and normalised; the student's embedding is contrasted with the teacher's memory and the other
    way round, and the two terms are added. The memories are renewed after each batch in training, and the normalisation
    constants are set by the first one. Rows are found by ``batch["row_index"]`` (0 … N−1) where present, else by
    ``batch["row_id"]``, which get their place when first seen. Rows of a member's own class are no negatives of it, as in the
    authors' sampler; a row's class is known from ``batch["labels"]`` once it has been in a batch.
    Source: Tian et al. 2020 (arXiv 1910.10699), section 3 and the authors' memory of Wu et al. 2018 (arXiv 1805.01978).

    Args:
        width: E, width of the embedding.
        negatives: K.
        temperature: τ of the scores.
        momentum: Share of the old value when a row of the memory is renewed.
        share_negatives: Draw the K negatives once for the batch, which leaves the expectation of value and gradient as it is
            and costs a fraction; false draws them for each row, as the paper does.
        other_classes: Leave out negatives of a row's own class, where labels are classes of rows; false contrasts with all rows.
    """

    kind: ClassVar[str] = "contrast"
    nearest: ClassVar[str] = "kl"
    of_vectors: ClassVar[bool] = True
    student_memory: Tensor
    teacher_memory: Tensor
    known_ids: Tensor
    known_rows: Tensor
    known_classes: Tensor
    log_constants: Tensor

    def __init__(
        self,
        *,
        layers: Sequence[LayerPair] = HEAD_INPUT,
        width: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        share_negatives: bool = True,
        other_classes: bool = True,
    ) -> None:
        super().__init__(layers=layers)
        self.width = int(between("width", width, 1, 65536))
        self.negatives = int(between("negatives", negatives, 1, 10_000_000))
        self.temperature = positive("temperature", temperature)
        self.momentum = between("momentum", momentum, 0, 1)
        self.share_negatives, self.other_classes = bool(share_negatives), bool(other_classes)
        self._has_constants = False
        self._on_host: tuple[np.ndarray, np.ndarray] | None = None  # known ids and rows, to look up without waiting for a GPU

    def needs_batch(self) -> tuple[str, ...]:
        return ("row_id",)

    def prepare(self, student: Shapes, teacher: Shapes | None, *, num_rows: int) -> None:
        super().prepare(student, teacher, num_rows=num_rows)
        spread = 1 / math.sqrt(self.width / 3)
        for side in ("student", "teacher"):
            memory = torch.empty(num_rows, self.width).uniform_(-spread, spread)
            self.register_buffer(f"{side}_memory", memory)
        self.register_buffer("known_ids", torch.full((num_rows,), UNSEEN))
        self.register_buffer("known_rows", torch.arange(num_rows))
        self.register_buffer("known_classes", torch.full((num_rows,), -1))
        self.register_buffer("log_constants", torch.full((2,), math.nan))
        self._has_constants, self._on_host = False, None

    def bridge(self, student_shape: tuple[int, ...], teacher_shape: tuple[int, ...], names: str) -> nn.Module:
        return EmbeddingPair(student_shape[-1], teacher_shape[-1], self.width)

    def forward(self, student: StudentView, teacher: TeacherSignal | None, batch: Mapping[str, Any]) -> LossValue:
        """Sum over rows."""
        own, other = self.bridges[0](*self.pairs(student, teacher)[0])
        own, other = F.normalize(own.float(), dim=-1), F.normalize(other.float(), dim=-1)
        rows = self.rows_of(batch)
        draw = self.draw(rows, self.classes_of(batch, rows))
        total = self.contrast(own, self.teacher_memory, draw, 0) + self.contrast(other, self.student_memory, draw, 1)
        if self.training:
            updated, new_student, new_teacher = _gathered(rows, own.detach(), other.detach())
            self.renew(self.student_memory, updated, new_student)
            self.renew(self.teacher_memory, updated, new_teacher)
        return LossValue(sum=total, count=float(student.logits.shape[0]))

    def contrast(self, embedding: Tensor, memory: Tensor, draw: Draw, side: int) -> Tensor:
        """Sum over rows of one direction; the first batch sets its normalisation constant."""
        with torch.autocast(device_type=embedding.device.type, enabled=False):
            log_constant = self.log_constants[side].clone()
            if not self.has_constants():
                log_constant = log_normaliser(embedding.detach(), memory, draw, temperature=self.temperature)
                if self.training:
                    self.log_constants[side] = log_constant
            return memory_contrast(embedding, memory, draw, temperature=self.temperature, log_constant=log_constant)

    def has_constants(self) -> bool:
        """Whether both constants are set; read from the device until they are, remembered from then on."""
        if not self._has_constants:
            self._has_constants = not bool(self.log_constants.isnan().any())
        return self._has_constants

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_constants, self._on_host = False, None

    def classes_of(self, batch: Mapping[str, Any], rows: Tensor) -> Tensor | None:
        """The classes [B] of the rows, remembered in training; None where labels are not one class for each row."""
        labels = batch.get("labels")
        if not self.other_classes or labels is None or labels.dim() != 1 or labels.is_floating_point():
            return None
        own = labels.to(self.known_classes)
        if self.training:
            places, classes = _gathered(rows, own)
            self.known_classes.index_copy_(0, places, classes)
        return own

    def draw(self, rows: Tensor, classes: Tensor | None = None) -> Draw:
        """The negatives of a batch; those of a row's own class do not count where classes are given."""
        chosen = draw_shared if self.share_negatives else draw_for_each
        drawn = chosen(rows, self.negatives, len(self.known_ids))
        return drawn if classes is None else drawn.among_classes(classes, self.known_classes)

    @torch.no_grad()
    def renew(self, memory: Tensor, rows: Tensor, embedding: Tensor) -> None:
        """Blend the new embeddings into their rows of the memory."""
        blended = self.momentum * memory[rows] + (1 - self.momentum) * embedding
        memory.index_copy_(0, rows, F.normalize(blended, dim=-1))

    def set_row_ids(self, row_ids: Tensor) -> None:
        """Give every training row its place at once, so that no step has to look for new ones; `row_ids` [N] or fewer."""
        ordered = row_ids.to(self.known_ids).unique()
        self._check_room(len(ordered))
        self.known_ids.fill_(UNSEEN)[: len(ordered)] = ordered
        self.known_rows.copy_(torch.arange(len(self.known_rows), device=self.known_rows.device))
        self._on_host = None

    def rows_of(self, batch: Mapping[str, Any]) -> Tensor:
        """Places [B] of the batch's rows in the memory, from 0 to N−1.

        Rows that occur only in evaluation get no place of their own: their loss says little, and training keeps its room.

        Raises:
            DataError: More distinct row ids than rows were announced.
        """
        if "row_index" in batch:
            return batch["row_index"].to(self.known_rows)
        if not _several_ranks() and (rows := self._looked_up(batch["row_id"])) is not None:
            return rows
        ids = _gathered(batch["row_id"].to(self.known_ids))[0]
        place = torch.searchsorted(self.known_ids, ids).clamp(max=len(self.known_ids) - 1)
        if bool((self.known_ids[place] != ids).any()):
            if not self.training:
                return self._borrowed(batch["row_id"].to(self.known_ids))
            self._add(ids)
        place = torch.searchsorted(self.known_ids, batch["row_id"].to(self.known_ids))
        return self.known_rows[place]

    def _looked_up(self, ids: Tensor) -> Tensor | None:
        """The places of ids that are all known, found on the CPU; None where one is not."""
        if self._on_host is None:
            self._on_host = self.known_ids.cpu().numpy(), self.known_rows.cpu().numpy()
        (known, rows), wanted = self._on_host, ids.cpu().numpy()
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        if not np.array_equal(known[place], wanted):
            return None
        return torch.from_numpy(rows[place]).to(self.known_rows.device, non_blocking=True)

    def _borrowed(self, ids: Tensor) -> Tensor:
        """Places of known ids, and for the others places that are free, else those of other rows."""
        place = torch.searchsorted(self.known_ids, ids).clamp(max=len(self.known_ids) - 1)
        is_known = self.known_ids[place] == ids
        rank = torch.searchsorted(ids.unique(), ids)
        places = (int((self.known_ids != UNSEEN).sum()) + rank) % len(self.known_ids)
        return torch.where(is_known, self.known_rows[place], self.known_rows[places])

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
        self._on_host = None

    def _check_room(self, wanted: int) -> None:
        if wanted > len(self.known_ids):
            raise DataError(
                f"crd met {wanted} distinct rows, its memory holds {len(self.known_ids)}",
                "the rows of the training set it was prepared for",
                "prepare it with the whole training set, augmented rows included",
            )


def _several_ranks() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@torch.no_grad()
def _gathered(*values: Tensor) -> tuple[Tensor, ...]:
    """The tensors of all ranks together, first axis joined, where there are several ranks; their batches may differ in size."""
    distributed = torch.distributed
    if not _several_ranks():
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


class InfoNCE(BridgedLoss):
    """Contrast within the batch; see `functional.info_nce`. Source: van den Oord et al. 2018 (arXiv 1807.03748).

    Where the widths differ, the student is projected to the teacher's width; the teacher stays as it is.
    """

    kind: ClassVar[str] = "contrast"
    of_vectors: ClassVar[bool] = True
    formula = staticmethod(info_nce)

    def __init__(self, *, layers: Sequence[LayerPair] = HEAD_INPUT, project: str = "auto", temperature: float = 0.07) -> None:
        super().__init__(layers=layers, project=project)
        self.temperature = positive("temperature", temperature)
