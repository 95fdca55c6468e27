"""What the search for a student may choose from: the shapes around its teacher, and what the data says of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potstill.models.families import Family, head_size
from potstill.students import cost
from potstill.students.configurations import CODED_TYPE, code_choices, position_offset
from potstill.students.shapes import Shape, Space, coverage


@dataclass(frozen=True)
class Words:
    """What is known of the vocabulary: counts (tokens that must stay first, where they are known), and how many must stay."""

    counts: np.ndarray | None
    required: int = 0
    reserve: int | None = None
    may_be_coded: bool = True


def words_of(
    config: Any,
    token_counts: Mapping[int, int] | np.ndarray | None,
    min_vocabulary: int | None,
    required_ids: Sequence[int] | np.ndarray | None,
) -> Words:
    """Counts of the data's tokens from the most frequent down, the required ones first."""
    if token_counts is None:
        return Words(None)
    counts = np.zeros(config.vocab_size, dtype=np.int64)
    pairs = token_counts.items() if isinstance(token_counts, Mapping) else enumerate(token_counts)
    for token_id, count in pairs:
        if 0 <= token_id < len(counts):
            counts[token_id] = count
    if required_ids is None:
        found = np.sort(counts)[::-1]
        return Words(found[found > 0], min_vocabulary or 0)
    required = np.zeros(len(counts), dtype=bool)
    required[np.asarray(required_ids, dtype=np.int64)] = True
    rest = np.sort(counts[~required])[::-1]
    ordered = np.concatenate([np.sort(counts[required])[::-1], rest[rest > 0]])
    return Words(ordered, int(required.sum()), 0)


def space_of(config: Any, family: Family, whole: int, words: Words) -> Space:
    """The shapes that a student of a teacher with `whole` parameters may have."""
    hidden, attention, ffn = cost.widths(config)
    size = head_size(family, config)
    is_text = family.modality == "text"
    embedding = cost.embedding_width(config, hidden) if is_text else hidden
    positions = getattr(config, "max_position_embeddings", 0)
    token_types = getattr(config, "type_vocab_size", 0)
    teacher = Shape(
        layers=family.size(config, "layers"),
        hidden=hidden,
        heads=attention // size,
        ffn=ffn,
        embedding=embedding,
        vocabulary=config.vocab_size if is_text else 1,
        factorised=embedding != hidden,
    )
    return Space(
        teacher=teacher,
        head_size=size,
        qkv_bias=getattr(config, "qkv_bias", True),
        num_labels=config.num_labels,
        teacher_parameters=whole,
        counts=words.counts,
        min_vocabulary=words.required,
        reserve=words.reserve,
        image=None if is_text else config,
        positions=(positions, positions - position_offset(family, config)),
        token_types=(token_types, max(2, token_types)),
        has_pooler=cost.has_pooler(config),
        codes=code_choices(config, family, teacher) if words.may_be_coded or family.model_type == CODED_TYPE else (),
        coded_only=family.model_type == CODED_TYPE,
    )


def notes_on(shape: Shape, config: Any, words: Words) -> tuple[str, ...]:
    """What a person should know about a shape, one sentence each."""
    notes = []
    if shape.codes:
        notes.append(
            f"embeddings of all {shape.vocabulary} tokens put together from {shape.groups} × {shape.codes} pieces; "
            "the integers that tell which count as parameters"
        )
    if shape.factorised:
        notes.append(f"embeddings of rank {shape.embedding}, projected to width {shape.hidden}")
    if words.counts is not None and shape.vocabulary < config.vocab_size:
        share = float(coverage(words.counts, np.array(shape.vocabulary), words.reserve))
        notes.append(f"vocabulary {config.vocab_size} → {shape.vocabulary}, about {share:.2%} of the data's token occurrences")
    return tuple(notes)
