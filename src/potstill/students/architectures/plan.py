"""Plans of students of another architecture than their teacher's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.models.architectures.registration import architecture_of
from potstill.students.architectures.shapes import Room, best_config
from potstill.students.plan import StudentPlan, count_of, finished, plan_for_budget
from potstill.students.search import VocabularyCounts

MIN_RATIO = 1e-12  # above 0
MAX_RATIO = 0.999
SMALL_IMAGE = 64  # pixels per side up to which the first convolution keeps the resolution


def plan_architecture(
    name: str,
    teacher: PreTrainedModel | PreTrainedConfig,
    *,
    ratio: float | None = None,
    params: int | None = None,
    bytes: int | None = None,
    latency_ms: float | None = None,
    vocabulary_size: int | None = None,
    num_labels: int | None = None,
    token_counts: Mapping[int, int] | np.ndarray | None = None,
    min_vocabulary: int | None = None,
    latency_of: Callable[[PreTrainedConfig], float] | None = None,
) -> StudentPlan:
    """Plan a student of the architecture `name` for one budget; arguments that are not named here are those of `plan`.

    Args:
        name: A name of `ARCHITECTURES`: "bilstm", "textcnn", "static" or "cnn".
        ratio: Share of the teacher's parameters to remove, above 0 and up to 0.999.
        vocabulary_size: Tokens of the student; the teacher's where left out, or what `token_counts` recommend.

    Returns:
        A plan within 1 percentage point of the ratio asked; it keeps no layers of the teacher. Where the architecture cannot
        land there, the nearest plan, with a note that says so.

    Raises:
        RecipeError: No such architecture, not exactly one budget, or one that is out of range.
        ModelError: The teacher reads another modality, or its parameters do not follow from its configuration.
    """
    config: Any = getattr(teacher, "config", teacher)
    check_modality(name, config)
    whole = count_of(teacher, config)
    counts = token_counts if vocabulary_size is None and getattr(config, "vocab_size", None) is not None else None
    room = Room(
        name=name,
        start=_start(name, config, num_labels or config.num_labels),
        budget=whole,
        teacher_parameters=whole,
        vocabulary=vocabulary_size or int(getattr(config, "vocab_size", 0)),
        embedding=_embedding_width(config),
        words=VocabularyCounts.of(config, counts, min_vocabulary, None, may_be_coded=False),
    )
    return plan_for_budget(
        lambda share: _plan_for_ratio(room, config, share),
        whole,
        {"ratio": ratio, "params": params, "bytes": bytes, "latency_ms": latency_ms},
        latency_of,
        least=MIN_RATIO,
        top=MAX_RATIO,
        accepted=f"above 0 and up to {MAX_RATIO}, for a student of another architecture",
        todo=f"ask for ratio 0.10 to 0.99, or params {max(1, round(whole * (1 - MAX_RATIO)))} to {whole - 1}",
        too_slow=(
            f"latency_ms={latency_ms} is below what the smallest {name} needs",
            "a latency that a student with a thousandth of the teacher's parameters reaches",
            "raise latency_ms, or shorten the inputs",
        ),
        digits=4,
    )


def _plan_for_ratio(room: Room, teacher_config: Any, asked: float) -> StudentPlan:
    whole = room.teacher_parameters
    student = best_config(dataclasses.replace(room, budget=round(whole * (1 - asked))))
    note = f"a {room.name} student: its embeddings start from the teacher's, the rest is new"
    if not room.vocabulary:
        note = f"a {room.name} student: nothing of the teacher fits into it, its weights are new"
    vocabulary = getattr(student, "vocab_size", None)
    cut = vocabulary if vocabulary is not None and vocabulary < teacher_config.vocab_size else None
    return finished(student, (), cut, student.parameters(), whole, asked, (note,), nearest=room.name)


def _start(name: str, teacher: Any, num_labels: int) -> Any:
    """A configuration of the architecture with everything settled that the budget does not touch."""
    labels = {} if num_labels != teacher.num_labels else {"id2label": dict(teacher.id2label), "label2id": dict(teacher.label2id)}
    config_class = architecture_of(name).part("config")
    if hasattr(config_class, "vocab_size"):
        return config_class(num_labels=num_labels, pad_token_id=teacher.pad_token_id, **labels)
    size = getattr(teacher, "image_size", None) or 224
    side = int(max(size)) if isinstance(size, list | tuple) else int(size)
    stride = 1 if side <= SMALL_IMAGE else 4
    return config_class(num_labels=num_labels, num_channels=teacher.num_channels, image_size=side, stem_stride=stride, **labels)


def check_modality(name: str, config: Any) -> None:
    """Refuse an architecture that does not read what the teacher of that configuration reads.

    Raises:
        ModelError: One reads texts and the other images.
    """
    architecture = architecture_of(name)
    if (getattr(config, "vocab_size", None) is not None) == hasattr(architecture.part("config"), "vocab_size"):
        return
    raise ModelError(
        f"a {name} reads {architecture.modality}s, and the teacher is a {config.model_type}, which does not",
        "bilstm, textcnn and static for text, cnn for images",
        "choose one that reads what the teacher reads, or leave the architecture out",
    )


def _embedding_width(config: Any) -> int:
    """Width of the teacher's token embeddings; 0 for an image model."""
    if getattr(config, "vocab_size", None) is None:
        return 0
    for name in ("embedding_size", "hidden_size", "dim", "d_model"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    raise ModelError(
        f"the width of the token embeddings of a {config.model_type} model is not in its configuration",
        "a configuration with embedding_size, hidden_size, dim or d_model",
        "take another teacher, or name a ready student as student.model",
    )
