"""The embeddings of the student: gathered rows, or a narrow table whose projection reproduces the teacher's.

A narrow table starts as the principal components of the teacher's embedding outputs, weighted by how often the data uses each
token, and is then fitted for a few hundred steps so that project(norm(narrow)) ≈ norm(wide) over (token, position) pairs.

Shapes: V tokens, P positions, H teacher units that stay, E narrow width, N sampled pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from potstill.models.families import family_of
from potstill.students.configurations import position_offset

STEPS = 300
PAIRS_PER_STEP = 1024
METRIC_FLOOR = 0.1  # share of the plain metric in the one that the teacher's gradients give
LEARNING_RATE = 5e-3
COUNT_POWER = 0.75  # tokens are sampled by count ** this: rare ones more often than the data shows them
USUAL_POSITION = 4
SAMPLED_POSITIONS = 64  # most texts end before; later positions keep their principal components


@torch.no_grad()
def gather_embeddings(teacher: PreTrainedModel, student: PreTrainedModel, kept_ids: Tensor, hidden: Tensor) -> None:
    """Copy the rows of `kept_ids` and the `hidden` units of embeddings of the same form."""
    source, target = _tables(teacher), _tables(student)
    is_narrow = hasattr(teacher.base_model, "embeddings_project")
    units = torch.arange(source.word_embeddings.embedding_dim) if is_narrow else hidden
    target.word_embeddings.weight.copy_(source.word_embeddings.weight[kept_ids][:, units])
    for name in ("position_embeddings", "token_type_embeddings"):
        if hasattr(source, name):
            getattr(target, name).weight.copy_(getattr(source, name).weight[:, units])
    target.LayerNorm.weight.copy_(source.LayerNorm.weight[units])
    target.LayerNorm.bias.copy_(source.LayerNorm.bias[units])
    if is_narrow:
        project: Any = teacher.base_model.embeddings_project
        student_project: Any = student.base_model.embeddings_project
        student_project.weight.copy_(project.weight[hidden])
        student_project.bias.copy_(project.bias[hidden])


def fit_embeddings(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    kept_ids: Tensor,
    hidden: Tensor,
    counts: np.ndarray,
    *,
    metric: Tensor | None = None,
    seed: int = 0,
    steps: int = STEPS,
) -> float:
    """Fill the student's narrow embeddings and their projection.

    Args:
        teacher: A text model, read only.
        student: A model with `embeddings_project`; filled in place.
        kept_ids: [V] the teacher's id of each student id.
        hidden: [H] the teacher's units that stay.
        counts: [V] how often the data uses each kept token.
        metric: [H, H] which errors at the teacher's embedding output matter (`Importance.embedding_metric`); all alike where
            left out.
        seed: Of the sampled pairs.
        steps: Optimizer steps after the principal components; 0 keeps the closed form.

    Returns:
        The share of the teacher's embedding variance that the fit explains, 1 at best.
    """
    target = _Target(teacher, kept_ids, hidden)
    root = _root(metric, len(hidden))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.as_tensor(np.asarray(counts, dtype=np.float64) ** COUNT_POWER) + 1e-2
    _principal_components(target, student, weights / weights.sum(), root, generator)
    _regress_projection(target, student, weights, generator)
    parameters = [*_tables(student).parameters(), *_project(student).parameters()]
    flags = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    with torch.enable_grad():
        for _ in range(steps):
            pairs = target.sample(weights, PAIRS_PER_STEP, generator)
            loss = ((_narrow(student, *pairs) - target(*pairs)) @ root).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    for parameter, flag in zip(parameters, flags):
        parameter.requires_grad_(flag)
        parameter.grad = None
    return _explained(target, student, weights, generator)


def _root(metric: Tensor | None, width: int) -> Tensor:
    """The square root of the metric, its mean eigenvalue one, mixed with the plain metric."""
    plain = torch.eye(width, dtype=torch.float64)
    if metric is None or float(metric.diagonal().mean()) <= 0:
        return plain.float()
    metric = metric.double() / metric.diagonal().mean().double()
    values, vectors = torch.linalg.eigh((1 - METRIC_FLOOR) * metric + METRIC_FLOOR * plain)
    return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()


class _Target:
    """The teacher's embedding output at (student token, student position, type), restricted to the kept units."""

    def __init__(self, teacher: PreTrainedModel, kept_ids: Tensor, hidden: Tensor) -> None:
        self.kept_ids, self.hidden = kept_ids, hidden
        self.tables = _tables(teacher)
        self.offset = position_offset(family_of(teacher), teacher.config)
        self.project = getattr(teacher.base_model, "embeddings_project", None)
        self.num_types = self.tables.token_type_embeddings.num_embeddings if hasattr(self.tables, "token_type_embeddings") else 1
        self.num_positions = self.tables.position_embeddings.num_embeddings - self.offset

    @torch.no_grad()
    def __call__(self, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        value = self.tables.word_embeddings.weight[self.kept_ids[tokens]]
        value = value + self.tables.position_embeddings.weight[positions + self.offset]
        if hasattr(self.tables, "token_type_embeddings"):
            value = value + self.tables.token_type_embeddings.weight[types.clamp(max=self.num_types - 1)]
        value = self.tables.LayerNorm(value)
        value = value if self.project is None else self.project(value)
        return value[:, self.hidden]

    def at(self, tokens: Tensor, position: int, kind: int) -> Tensor:
        return self(tokens, torch.full_like(tokens, position), torch.full_like(tokens, kind))

    def sample(self, weights: Tensor, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tokens = torch.multinomial(weights, number, replacement=True, generator=generator)
        positions = torch.randint(0, min(SAMPLED_POSITIONS, self.num_positions), (number,), generator=generator)
        types = (torch.rand(number, generator=generator) < 0.25).long() * (self.num_types > 1)
        return tokens, positions, types


@torch.no_grad()
def _principal_components(
    target: _Target, student: PreTrainedModel, weights: Tensor, root: Tensor, generator: torch.Generator
) -> None:
    tables = _tables(student)
    width = tables.word_embeddings.embedding_dim
    tokens = torch.arange(len(target.kept_ids))
    usual = min(USUAL_POSITION, target.num_positions - 1)
    words = target.at(tokens, usual, 0).double()
    centred = words - (weights[:, None] * words).sum(0)
    root = root.double()
    seen = centred @ root
    basis = root @ torch.linalg.eigh(seen.T @ (weights[:, None] * seen)).eigenvectors[:, -width:]
    scale = ((centred @ basis).square() * weights[:, None]).sum(0).mean().sqrt().clamp(min=1e-6)
    sample = torch.multinomial(weights, 256, replacement=True, generator=generator)
    base = words[sample].mean(0)
    positions = torch.stack([target.at(sample, p, 0).double().mean(0) for p in range(target.num_positions)]) - base
    types = torch.stack([torch.zeros_like(base), target.at(sample, usual, 1).double().mean(0) - base])
    tables.word_embeddings.weight.copy_(centred @ basis / scale)
    tables.position_embeddings.weight.zero_()
    tables.position_embeddings.weight[: len(positions)].copy_(
        (positions @ basis / scale)[: len(tables.position_embeddings.weight)]
    )
    tables.token_type_embeddings.weight.zero_()
    tables.token_type_embeddings.weight[:2].copy_(types @ basis / scale)
    tables.LayerNorm.weight.fill_(1.0)
    tables.LayerNorm.bias.zero_()


@torch.no_grad()
def _regress_projection(target: _Target, student: PreTrainedModel, weights: Tensor, generator: torch.Generator) -> None:
    """The projection that is best in the least-squares sense for the tables as they are."""
    pairs = target.sample(weights, 16 * PAIRS_PER_STEP, generator)
    inputs = _normed(student, *pairs).double()
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    square = inputs.T @ inputs
    damping = 1e-4 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    solution = torch.linalg.solve(square + damping, inputs.T @ target(*pairs).double())
    _project(student).weight.copy_(solution[:-1].T)
    _project(student).bias.copy_(solution[-1])


@torch.no_grad()
def _explained(target: _Target, student: PreTrainedModel, weights: Tensor, generator: torch.Generator) -> float:
    pairs = target.sample(weights, 4 * PAIRS_PER_STEP, generator)
    wide = target(*pairs)
    error = (_narrow(student, *pairs) - wide).square().sum()
    return float(1 - error / (wide - wide.mean(0)).square().sum().clamp(min=1e-12))


def _normed(student: PreTrainedModel, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
    tables = _tables(student)
    value = tables.word_embeddings.weight[tokens] + tables.position_embeddings.weight[positions]
    return tables.LayerNorm(value + tables.token_type_embeddings.weight[types])


def _narrow(student: PreTrainedModel, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
    return _project(student)(_normed(student, tokens, positions, types))


def _tables(model: PreTrainedModel) -> Any:
    return model.base_model.embeddings


def _project(model: PreTrainedModel) -> Any:
    return model.base_model.embeddings_project
