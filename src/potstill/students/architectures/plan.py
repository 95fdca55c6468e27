"""From a budget to a student of another architecture than its teacher's."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError, RecipeError
from potstill.models.architectures.registration import architecture_of
from potstill.students.architectures import cost
from potstill.students.architectures.shapes import Room, best_config
from potstill.students.budget import BYTES_PER_PARAMETER, only_budget
from potstill.students.plan import StudentPlan
from potstill.students.size import count_of

MAX_RATIO = 0.999
LATENCY_STEPS = 12
SMALL_IMAGE = 64  # pixels per side up to which the first convolution keeps the resolution
VOLATILE_KEYS = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "model_type")


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
    """Plan a student of the architecture `name` for one budget.

    Args:
        name: A name of `ARCHITECTURES`: "bilstm", "textcnn", "static" or "cnn".
        teacher: The teacher, or its configuration.
        ratio: Share of the teacher's parameters to remove, above 0 and up to 0.999.
        params: Or the parameters to land on.
        bytes: Or the bytes of the fp32 weights.
        latency_ms: Or the latency to stay under, as `latency_of` tells it.
        vocabulary_size: Tokens of the student; the teacher's where left out, or what `token_counts` recommend.
        num_labels: Classes of the student; the teacher's where left out.
        token_counts: How often the data uses each token id; lets the plan cut the vocabulary.
        min_vocabulary: Tokens that a cut vocabulary must keep (`vocabulary.required_size`).
        latency_of: Configuration → milliseconds on the target, for `latency_ms`.

    Returns:
        A plan within 1 percentage point of the ratio asked; it keeps no layers of the teacher. Where the architecture cannot
        land there, the nearest plan, with a note that says so.

    Raises:
        RecipeError: No such architecture, not exactly one budget, or one that is out of range.
        ModelError: The teacher reads another modality, or its parameters cannot be told from its configuration.
    """
    config: Any = getattr(teacher, "config", teacher)
    check_modality(name, config)
    whole = count_of(teacher, config)
    counts = _sorted_counts(token_counts, config) if vocabulary_size is None else None
    room = Room(
        name=name,
        start=_start(name, config, num_labels or config.num_labels),
        budget=whole,
        teacher_parameters=whole,
        vocabulary=vocabulary_size or int(getattr(config, "vocab_size", 0)),
        embedding=_embedding_width(config),
        counts=counts,
        min_vocabulary=min_vocabulary or 0,
    )
    asked = _asked_ratio(whole, {"ratio": ratio, "params": params, "bytes": bytes, "latency_ms": latency_ms})
    if asked is None:
        return _plan_for_latency(room, config, float(latency_ms or 0), latency_of)
    return _plan_for_ratio(room, config, asked)


def _plan_for_ratio(room: Room, teacher_config: Any, asked: float) -> StudentPlan:
    whole = room.teacher_parameters
    student = best_config(dataclasses.replace(room, budget=round(whole * (1 - asked))))
    size = cost.parameters(student)
    ratio = 1 - size / whole
    notes = [f"a {room.name} student: its embeddings start from the teacher's, the rest is new"]
    if room.name == "cnn":
        notes = ["a cnn student: nothing of the teacher fits into it, its weights are new"]
    if abs(ratio - asked) > 0.01:
        notes.append(f"ratio {asked:.3f} was asked; the nearest {room.name} gives {ratio:.3f}")
    vocabulary = getattr(student, "vocab_size", None)
    values = {key: value for key, value in student.to_dict().items() if key not in VOLATILE_KEYS}
    return StudentPlan(
        model_type=student.model_type,
        config=copy.deepcopy(values),
        layers=(),
        vocabulary=vocabulary if vocabulary is not None and vocabulary < teacher_config.vocab_size else None,
        parameters=size,
        teacher_parameters=whole,
        ratio_asked=asked,
        ratio=ratio,
        flops=cost.flops(student),
        bytes=size * BYTES_PER_PARAMETER,
        notes=tuple(notes),
    )


def _plan_for_latency(
    room: Room, teacher_config: Any, latency_ms: float, latency_of: Callable[[PreTrainedConfig], float] | None
) -> StudentPlan:
    if latency_of is None:
        raise RecipeError(
            f"latency_ms={latency_ms} is given without a way to tell the latency of an architecture",
            "latency_of: a function from a configuration to milliseconds",
            "pass latency_of=, or ask for ratio=, params= or bytes=",
        )
    low, high, best = 0.0, MAX_RATIO, None
    for _ in range(LATENCY_STEPS):
        middle = (low + high) / 2
        candidate = _plan_for_ratio(room, teacher_config, middle)
        if latency_of(candidate.build_config()) <= latency_ms:
            best, high = candidate, middle
        else:
            low = middle
    if best is None:
        raise RecipeError(
            f"latency_ms={latency_ms} is below what the smallest {room.name} needs",
            "a latency that a student with a thousandth of the teacher's parameters reaches",
            "raise latency_ms, or shorten the inputs",
        )
    return best


def _start(name: str, teacher: Any, num_labels: int) -> Any:
    """A configuration of the architecture with everything settled that the budget does not touch."""
    labels = {} if num_labels != teacher.num_labels else {"id2label": dict(teacher.id2label), "label2id": dict(teacher.label2id)}
    config_class = architecture_of(name).part("config")
    if name != "cnn":
        return config_class(num_labels=num_labels, pad_token_id=teacher.pad_token_id, **labels)
    size = getattr(teacher, "image_size", None) or 224
    side = int(max(size)) if isinstance(size, list | tuple) else int(size)
    stride = 1 if side <= SMALL_IMAGE else 4
    return config_class(num_labels=num_labels, num_channels=teacher.num_channels, image_size=side, stem_stride=stride, **labels)


def check_modality(name: str, config: Any) -> None:
    """Refuse an architecture that does not read what the teacher reads.

    Args:
        name: The architecture.
        config: The teacher's configuration.

    Raises:
        ModelError: One reads texts and the other images.
    """
    modality = architecture_of(name).modality
    if (getattr(config, "vocab_size", None) is not None) == (modality == "text"):
        return
    raise ModelError(
        f"a {name} reads {modality}s, and the teacher is a {config.model_type}, which does not",
        "bilstm, textcnn and static for text, cnn for images",
        "choose one that reads what the teacher reads, or leave the architecture out",
    )


def _asked_ratio(whole: int, given: Mapping[str, float | None]) -> float | None:
    """The share to remove, or None where a latency is asked for."""
    name, value = only_budget(given)
    if name == "latency_ms":
        return None
    per_unit = {"params": 1, "bytes": BYTES_PER_PARAMETER}
    asked = float(value) if name == "ratio" else 1 - value / per_unit[name] / whole
    if not 0 < asked <= MAX_RATIO:
        raise RecipeError(
            f"{name}={value} means a ratio of {asked:.4f} for a teacher of {whole} parameters",
            f"above 0 and up to {MAX_RATIO}, for a student of another architecture",
            f"ask for ratio 0.10 to 0.99, or params {max(1, round(whole * (1 - MAX_RATIO)))} to {whole - 1}",
        )
    return asked


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


def _sorted_counts(token_counts: Mapping[int, int] | np.ndarray | None, config: Any) -> np.ndarray | None:
    if token_counts is None or getattr(config, "vocab_size", None) is None:
        return None
    values = list(token_counts.values()) if isinstance(token_counts, Mapping) else token_counts
    counts = np.sort(np.asarray(values, dtype=np.int64))[::-1]
    return counts[counts > 0][: config.vocab_size]
