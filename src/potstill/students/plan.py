"""From a budget to an architecture: what the student looks like, before any weight exists."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError, RecipeError
from potstill.models.families import FAMILIES, family_of
from potstill.students import cost
from potstill.students.budget import BYTES_PER_PARAMETER, MAX_RATIO, asked_ratio
from potstill.students.configurations import CODED_TYPE, student_config
from potstill.students.mobilenet_shapes import best_mobilenet
from potstill.students.resnet_shapes import best_resnet
from potstill.students.search_space import Words, notes_on, space_of, words_of
from potstill.students.shapes import best_shape
from potstill.students.size import built_parameters, count_of, depth_of, flops_of

LATENCY_STEPS = 12


@dataclass(frozen=True)
class StudentPlan:
    """The student to be built.

    Args:
        model_type: Its transformers model type.
        config: Its whole transformers configuration.
        layers: The teacher's layers that it keeps, 1-based (blocks counted over all stages, for ResNet).
        vocabulary: Tokens to cut the vocabulary to; None keeps all, or the student is an image model.
        parameters: Its parameters.
        teacher_parameters: The teacher's.
        ratio_asked: The share of the teacher's parameters that was asked to be removed.
        ratio: The share that this plan removes.
        flops: FLOPs of one row (128 tokens, or one image).
        bytes: Bytes in fp32.
        notes: What a person should know about the plan, one sentence each.
    """

    model_type: str
    config: dict[str, Any]
    layers: tuple[int, ...]
    vocabulary: int | None
    parameters: int
    teacher_parameters: int
    ratio_asked: float
    ratio: float
    flops: int
    bytes: int
    notes: tuple[str, ...] = ()

    def build_config(self) -> PreTrainedConfig:
        """The configuration as a fresh transformers object."""
        values = {name: value for name, value in copy.deepcopy(self.config).items() if name != "model_type"}
        return AutoConfig.for_model(self.model_type, **values)


def plan(
    teacher: PreTrainedModel | PreTrainedConfig,
    *,
    ratio: float | None = None,
    params: int | None = None,
    bytes: int | None = None,
    latency_ms: float | None = None,
    num_labels: int | None = None,
    token_counts: Mapping[int, int] | np.ndarray | None = None,
    min_vocabulary: int | None = None,
    required_ids: Sequence[int] | np.ndarray | None = None,
    latency_of: Callable[[PreTrainedConfig], float] | None = None,
    embeddings: str = "auto",
) -> StudentPlan:
    """Plan a student for one budget.

    Args:
        teacher: The teacher, or its configuration.
        ratio: Share of the teacher's parameters to remove, 0 to 0.97; 0 keeps the architecture.
        params: Or the parameters to land on.
        bytes: Or the bytes of the fp32 weights.
        latency_ms: Or the latency to stay under, as `latency_of` tells it.
        num_labels: Classes of the student; the teacher's where left out.
        token_counts: How often the data uses each token id; lets the plan cut the vocabulary.
        min_vocabulary: Tokens that a cut vocabulary must keep (`vocabulary.required_size`).
        required_ids: Which tokens these are (`vocabulary.required_ids`), so that what a size covers is known and not guessed.
        latency_of: Configuration → milliseconds on the target, for `latency_ms`.
        embeddings: "auto" lets the search put token embeddings together from codes, which is Potstill's own type of encoder;
            "table" keeps a table of rows, so that the student is of a type that transformers has.

    Returns:
        A plan within 1 percentage point of what was asked. Where the model is too small to land there, the nearest plan,
        with a note that says so.

    Raises:
        RecipeError: Not exactly one budget, or one that is out of range.
        ModelError: The teacher's type is not supported.
    """
    config: Any = copy.deepcopy(getattr(teacher, "config", teacher))
    family = family_of(config)
    if isinstance(teacher, PreTrainedModel):
        config.architectures = [type(teacher).__name__]  # tells the kind of head, which a freshly made model does not record
    if num_labels is not None and num_labels != config.num_labels:
        config.num_labels = num_labels
    whole = count_of(teacher, config)
    asked = asked_ratio(whole, ratio=ratio, params=params, bytes=bytes, latency_ms=latency_ms)
    can_cut_words = family.modality == "text" and family.model_type != CODED_TYPE
    words = words_of(config, token_counts if can_cut_words else None, min_vocabulary, required_ids)
    words = replace(words, may_be_coded=embeddings != "table")
    if asked is None:
        return _plan_for_latency(config, whole, words, float(latency_ms or 0), latency_of)
    return _plan_for_ratio(config, whole, words, asked)


def plan_from_config(
    teacher: PreTrainedModel | PreTrainedConfig,
    student: str | Path | PreTrainedConfig,
    *,
    num_labels: int | None = None,
    parameters: int | None = None,
) -> StudentPlan:
    """The plan of a student that is named rather than searched: a hub id, a local folder or a configuration.

    Raises:
        ModelError: The student's configuration cannot be read.
    """
    config: Any = copy.deepcopy(student) if isinstance(student, PreTrainedConfig) else read_config(student)
    config.num_labels = num_labels or getattr(teacher, "config", teacher).num_labels
    if isinstance(teacher, PreTrainedModel) and config.model_type in FAMILIES:
        config.architectures = [family_of(config).class_like(teacher)]
    whole = count_of(teacher, getattr(teacher, "config", teacher))
    size = built_parameters(config) if parameters is None else parameters
    ratio = 1 - size / whole
    depth = depth_of(config)
    teacher_depth = depth_of(getattr(teacher, "config", teacher))
    layers = spaced_layers(teacher_depth, depth) if _has_like_blocks(teacher, config) else ()
    return _finish(config, layers, None, size, whole, ratio, ("the architecture was named, not searched",))


def read_config(student: str | Path) -> Any:
    """The configuration of a student that is named: a hub id or a local folder.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(str(student))
    except (OSError, ValueError) as err:
        raise ModelError(
            f"the student {str(student)!r} has no readable configuration ({str(err).splitlines()[0]})",
            "a hub id, a folder with config.json, or one of the architectures bilstm, textcnn, static, cnn",
            "check the name; offline, the model must already be on this machine",
        ) from err


def _has_like_blocks(teacher: Any, config: Any) -> bool:
    """Whether the blocks of a student can stand for blocks of the teacher: not where tokens meet maps, or a family is unknown."""
    kinds = [str(getattr(getattr(model, "config", model), "model_type", "")) for model in (teacher, config)]
    structures = {FAMILIES[kind].structure if kind in FAMILIES else "" for kind in kinds}
    return "" not in structures and ("convolution" not in structures or len(structures) == 1)


def spaced_layers(total: int, kept: int) -> tuple[int, ...]:
    """`kept` of `total` layers, 1-based, evenly spaced, the last among them.

    Example:
        >>> spaced_layers(12, 4)
        (3, 6, 9, 12)
    """
    return tuple(-(-total * k // kept) for k in range(1, kept + 1)) if kept < total else tuple(range(1, total + 1))


def _plan_for_ratio(config: Any, whole: int, words: Words, asked: float) -> StudentPlan:
    family = family_of(config)
    if asked == 0:
        total = depth_of(config)
        return _finish(config, tuple(range(1, total + 1)), None, cost.parameters(config), whole, 0.0, ())
    budget = round(whole * (1 - asked))
    if family.structure == "convolution":
        student = best_mobilenet(config, budget, whole) if family.stage_ends else best_resnet(config, budget, whole)
        depths = [list(family.size(of, "layers")) for of in (config, student)]
        layers = _stage_blocks(*depths)
        return _finish(student, layers, None, cost.parameters(student), whole, asked, ())
    shape = best_shape(space_of(config, family, whole, words), budget)
    student = student_config(config, family, shape)
    layers = spaced_layers(family.size(config, "layers"), shape.layers)
    cut = shape.vocabulary if family.modality == "text" and shape.vocabulary < config.vocab_size else None
    return _finish(student, layers, cut, cost.parameters(student), whole, asked, notes_on(shape, config, words))


def _plan_for_latency(
    config: Any,
    whole: int,
    words: Words,
    latency_ms: float,
    latency_of: Callable[[PreTrainedConfig], float] | None,
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
        candidate = _plan_for_ratio(config, whole, words, middle)
        if latency_of(candidate.build_config()) <= latency_ms:
            best, high = candidate, middle
        else:
            low = middle
    if best is None:
        raise RecipeError(
            f"latency_ms={latency_ms} is below what the smallest student of this teacher needs",
            "a latency that a student with 3 % of the teacher's parameters reaches",
            "raise latency_ms, shorten the inputs, or take a smaller teacher",
        )
    return best


def _finish(
    config: Any, layers: tuple[int, ...], vocabulary: int | None, size: int, whole: int, asked: float, notes: tuple[str, ...]
) -> StudentPlan:
    ratio = 1 - size / whole
    if abs(ratio - asked) > 0.01:
        notes = (*notes, f"ratio {asked:.3f} was asked; the nearest regular architecture gives {ratio:.3f}")
    values = config.to_dict()
    for name in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
        values.pop(name, None)
    return StudentPlan(
        model_type=config.model_type,
        config=values,
        layers=layers,
        vocabulary=vocabulary,
        parameters=size,
        teacher_parameters=whole,
        ratio_asked=asked,
        ratio=ratio,
        flops=flops_of(config),
        bytes=size * BYTES_PER_PARAMETER,
        notes=notes,
    )


def _stage_blocks(teacher_depths: list[int], student_depths: list[int]) -> tuple[int, ...]:
    """Blocks kept, counted over all stages; every stage keeps its first block, which changes the resolution."""
    kept: list[int] = []
    offset = 0
    for teacher_depth, student_depth in zip(teacher_depths, student_depths):
        kept += [offset + block for block in range(1, student_depth + 1)]
        offset += teacher_depth
    return tuple(kept)
