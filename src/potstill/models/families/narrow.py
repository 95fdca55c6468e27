"""Narrow token embeddings: a table of few columns whose projection reproduces the teacher's embeddings.

It starts as the principal components of the teacher's embedding outputs, weighted by how often the data uses each
token, and is then fitted for a few hundred steps so that project(norm(narrow)) ≈ norm(wide) over (token, position) pairs.

Shapes: V tokens, P positions, H teacher units that stay, E narrow width, N sampled pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from potstill.models.families.encoder import EmbeddingFacts
    from potstill.models.families.text import TextEncoder

STEPS = 300
PAIRS_PER_STEP = 1024
METRIC_FLOOR = 0.1  # share of the plain metric in the one that the teacher's gradients give
LEARNING_RATE = 5e-3
COUNT_POWER = 0.75  # tokens are sampled by count ** this: rare ones more often than the data shows them
USUAL_POSITION = 4
SAMPLED_POSITIONS = 64  # most texts end before; later positions keep their principal components

Pairs = tuple[Tensor, Tensor, Tensor]  # tokens, positions, token types, [N] each


def fit_narrow(old: TextEncoder, teacher: Any, new: TextEncoder, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float:
    """Fill the student's narrow embeddings and their projection.

    Args:
        student: A model with a projection from its embeddings; filled in place.
        hidden: [H] the teacher's units that stay.

    Returns:
        The share of the teacher's embedding variance that the fit explains, 1 at best.
    """
    target = EmbeddingTarget(old, teacher, kept.ids, hidden)
    root = _root(kept.metric, len(hidden))
    generator = torch.Generator().manual_seed(kept.seed)
    weights = torch.as_tensor(np.asarray(kept.counts, dtype=np.float64) ** COUNT_POWER) + 1e-2
    new.start_narrow(student, target, weights, root, generator)

    def narrow(pairs: Pairs) -> Tensor:
        return new.embedded(student, *pairs)

    parts: Any = new.base(student).embeddings, new.projection(student)
    parameters = list(dict.fromkeys(each for part in parts for each in part.parameters()))
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            pairs = target.sample(weights, PAIRS_PER_STEP, generator)
            loss = ((narrow(pairs) - target(*pairs)) @ root).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    return _explained(target, narrow, weights, generator)


def _root(metric: Tensor | None, width: int) -> Tensor:
    """The square root of the metric, its mean eigenvalue one, mixed with the plain metric."""
    plain = torch.eye(width, dtype=torch.float64)
    if metric is None or float(metric.diagonal().mean()) <= 0:
        return plain.float()
    metric = metric.double() / metric.diagonal().mean().double()
    values, vectors = torch.linalg.eigh((1 - METRIC_FLOOR) * metric + METRIC_FLOOR * plain)
    return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()


class EmbeddingTarget:
    """The teacher's embedding output at (student token, position, type), restricted to the kept units."""

    def __init__(self, family: TextEncoder, teacher: Any, ids: Tensor, hidden: Tensor) -> None:
        self.family, self.teacher, self.ids, self.hidden = family, teacher, ids, hidden
        tables = family.base(teacher).embeddings
        kinds, places = (getattr(tables, f"{name}_embeddings", None) for name in ("token_type", "position"))
        self.num_types = 1 if kinds is None else kinds.num_embeddings
        offset = family.position_offset(teacher.config)
        self.num_positions = teacher.config.max_position_embeddings if places is None else places.num_embeddings - offset

    @torch.no_grad()
    def __call__(self, tokens: Tensor, positions: Tensor, types: Tensor) -> Tensor:
        return self.family.embedded(self.teacher, self.ids[tokens], positions, types)[:, self.hidden]

    def at(self, tokens: Tensor, position: int, kind: int) -> Tensor:
        return self(tokens, torch.full_like(tokens, position), torch.full_like(tokens, kind))

    def sample(self, weights: Tensor, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        tokens = torch.multinomial(weights, number, replacement=True, generator=generator)
        positions = torch.randint(0, min(SAMPLED_POSITIONS, self.num_positions), (number,), generator=generator)
        types = (torch.rand(number, generator=generator) < 0.25).long() * (self.num_types > 1)
        return tokens, positions, types


@torch.no_grad()
def principal_start(tables: Any, target: EmbeddingTarget, weights: Tensor, root: Tensor, generator: torch.Generator) -> None:
    """Fill narrow tables of tokens, positions and types with principal components of the teacher's embedding outputs.

    Args:
        weights: [V] how much each token counts; their sum is one.
        root: [H, H] the square root of the metric.
    """
    width = tables.word_embeddings.embedding_dim
    tokens = torch.arange(len(target.ids))
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
def regress_projection(
    projection: Any, normed: Callable[[Pairs], Tensor], target: EmbeddingTarget, weights: Tensor, generator: torch.Generator
) -> None:
    """The projection that is best in the least-squares sense for the tables as they are."""
    pairs = target.sample(weights, 16 * PAIRS_PER_STEP, generator)
    inputs = normed(pairs).double()
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    square = inputs.T @ inputs
    damping = 1e-4 * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    solution = torch.linalg.solve(square + damping, inputs.T @ target(*pairs).double())
    projection.weight.copy_(solution[:-1].T)
    projection.bias.copy_(solution[-1])


@torch.no_grad()
def _explained(target: EmbeddingTarget, narrow: Callable[[Pairs], Tensor], weights: Tensor, generator: torch.Generator) -> float:
    pairs = target.sample(weights, 4 * PAIRS_PER_STEP, generator)
    wide = target(*pairs)
    error = (narrow(pairs) - wide).square().sum()
    return float(1 - error / (wide - wide.mean(0)).square().sum().clamp(min=1e-12))
