"""The first weights of a student of another architecture: token embeddings from the teacher, the rest drawn."""

# V tokens of the student, W the teacher's embedding width, E the student's

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.ground.devices import seeded
from potstill.models.architectures.configuration import OwnConfig
from potstill.models.architectures.registration import ARCHITECTURES
from potstill.models.families.narrow import COUNT_POWER
from potstill.students.vocabulary import VocabularyCut, counts_by_id

SMOOTHING = 1e-3  # the `a` of a / (a + p(token)), Arora et al. 2017


def init_architecture(
    teacher: PreTrainedModel,
    config: PreTrainedConfig,
    vocabulary_cut: VocabularyCut | None = None,
    token_counts: Mapping[int, int] | np.ndarray | None = None,
    *,
    seed: int = 0,
) -> PreTrainedModel:
    """Build the student of `config`.

    Its token embeddings are the principal components of the teacher's token embeddings, tokens weighted by how often the data
    uses them, scaled to a mean square of one. The token weights of static embeddings start at a / (a + p(token)). Everything
    else is drawn.

    Args:
        teacher: Read only.
        config: From a plan (`StudentPlan.build_config`); not changed.
        vocabulary_cut: From `cut_vocabulary`, where the student has fewer tokens than the teacher.
        token_counts: Token id of the teacher → occurrences, where there is no cut; all tokens alike where left out.
        seed: Of everything drawn.

    Returns:
        The student in eval mode, on the CPU, in fp32.

    Raises:
        ModelError: The configuration is not of one of these architectures, or does not fit the teacher's tokens.
    """
    if not isinstance(config, OwnConfig):
        raise ModelError(
            f"a {config.model_type} configuration is not one of these architectures",
            ", ".join(f"potstill-{name}" for name in ARCHITECTURES),
            "take the configuration from plan_architecture, or call cut_student for a student of the teacher's own architecture",
        )
    name = config.model_type.removeprefix("potstill-")
    own: Any = copy.deepcopy(config)
    if vocabulary_cut is not None and hasattr(own, "vocab_size"):
        vocabulary_cut.renumber(own, int(teacher.config.vocab_size))
    with seeded(seed):
        student: Any = ARCHITECTURES[name].part("classifier")(own).eval()
    if hasattr(own, "vocab_size"):
        _fill_embeddings(teacher, student, vocabulary_cut, _counts(teacher, student.config, vocabulary_cut, token_counts))
    return student


@torch.no_grad()
def _fill_embeddings(teacher: PreTrainedModel, student: Any, cut: VocabularyCut | None, counts: np.ndarray) -> None:
    source: Any = teacher.get_input_embeddings()
    table = source.weight.detach().cpu().float()
    rows = table if cut is None else table[torch.as_tensor(cut.kept_ids)]
    target = student.get_input_embeddings().weight
    target.copy_(principal_components(rows, torch.as_tensor(counts.astype(np.float64) ** COUNT_POWER + 1e-2), target.shape[1]))
    if hasattr(student.encoder, "token_scores"):
        share = torch.as_tensor(counts / max(counts.sum(), 1))
        student.encoder.token_scores.weight.copy_(torch.log(SMOOTHING / (SMOOTHING + share))[:, None])


def principal_components(rows: Tensor, weights: Tensor, width: int) -> Tensor:
    """The `width` principal components of `rows`, whose mean square over the weighted rows is one.

    Args:
        rows: [V, W] float.
        weights: [V] how much each row counts, positive.
        width: Components to keep, at most W.

    Returns:
        [V, width], the largest component first.

    Raises:
        ModelError: `width` is more than W.
    """
    if width > rows.shape[1]:
        raise ModelError(
            f"the student's embeddings are {width} wide, the teacher's {rows.shape[1]}",
            f"at most {rows.shape[1]}, since they start as principal components of the teacher's",
            "plan the student with plan_architecture, or lower embedding_size",
        )
    share = (weights / weights.sum()).double()[:, None]
    centred = rows.double() - (share * rows.double()).sum(0)
    basis = torch.linalg.eigh(centred.T @ (share * centred)).eigenvectors.flip(1)[:, :width]
    components = centred @ basis
    scale = (share * components.square()).sum(0).mean().sqrt().clamp(min=1e-6)
    return (components / scale).float()


def _counts(
    teacher: PreTrainedModel, config: Any, cut: VocabularyCut | None, token_counts: Mapping[int, int] | np.ndarray | None
) -> np.ndarray:
    """[V] occurrences of each of the student's tokens; ones where nothing is known."""
    if cut is not None:
        return cut.kept_counts
    table: Any = teacher.get_input_embeddings()
    if config.vocab_size != table.num_embeddings:
        raise ModelError(
            f"the student has {config.vocab_size} tokens, the teacher {table.num_embeddings}, and no vocabulary cut is given",
            "the result of cut_vocabulary",
            f"call cut_vocabulary(tokenizer, token_counts, {config.vocab_size}) and pass it as vocabulary_cut",
        )
    if token_counts is None:
        return np.ones(config.vocab_size, dtype=np.int64)
    return counts_by_id(token_counts, config.vocab_size)
