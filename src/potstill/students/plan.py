"""Plans of students: the architecture that a budget allows, before any weight exists."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError, RecipeError
from potstill.models import checkpoint
from potstill.models.families import family_of, family_or_none
from potstill.models.families.encoder import Encoder
from potstill.models.families.stages import Stages
from potstill.models.size import built_parameters, depth_of, flops, parameters, parameters_of
from potstill.students.search import VocabularyCounts, best_shape, space_of

MAX_RATIO = 0.97
LATENCY_STEPS = 12
BYTES_PER_PARAMETER = 4
VOLATILE_KEYS = ("_name_or_path", "transformers_version", "architectures", "auto_map", "dtype", "torch_dtype")


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
        latency_ms: Or the latency to stay under, as `latency_of` measures it.
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
        config.architectures = [type(teacher).__name__]  # says the kind of head, which a freshly made model does not record
    if num_labels is not None and num_labels != config.num_labels:
        config.num_labels = num_labels
    whole = count_of(teacher, config)
    counts = token_counts if family.cuts_vocabulary else None
    words = VocabularyCounts.of(config, counts, min_vocabulary, required_ids, may_be_coded=embeddings != "table")
    return plan_for_budget(
        lambda share: _plan_for_ratio(config, whole, words, share),
        whole,
        {"ratio": ratio, "params": params, "bytes": bytes, "latency_ms": latency_ms},
        latency_of,
        least=0,
        top=MAX_RATIO,
        accepted=f"0 (same architecture) to {MAX_RATIO}",
        todo=f"ask for ratio 0.10 to 0.95, or params {round(whole * (1 - MAX_RATIO))} to {whole}",
        too_slow=(
            f"latency_ms={latency_ms} is below what the smallest student of this teacher needs",
            "a latency that a student with 3 % of the teacher's parameters reaches",
            "raise latency_ms, shorten the inputs, or take a smaller teacher",
        ),
    )


def plan_for_budget(
    planned: Callable[[float], StudentPlan],
    whole: int,
    given: Mapping[str, float | None],
    latency_of: Callable[[PreTrainedConfig], float] | None,
    *,
    least: float,
    top: float,
    accepted: str,
    todo: str,
    too_slow: tuple[str, str, str],
    digits: int = 3,
) -> StudentPlan:
    """The plan for the one budget that is given; for a latency the smallest ratio that is fast enough, by bisection.

    Args:
        whole: The teacher's parameters.
        given: Values by the name of the budget.
        least: The smallest ratio that is accepted.
        accepted: Which ratios are accepted, for the error.
        todo: What to do where it is none of them.
        too_slow: The error where no student is fast enough.
        digits: Digits of the ratio in an error.

    Raises:
        RecipeError: Not exactly one budget, one that is out of range or cannot be reached, or a latency without `latency_of`.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise RecipeError(
            f"{len(named)} budgets are given ({', '.join(named) or 'none'})",
            "exactly one of ratio, params, bytes, latency_ms",
            "keep the one that binds",
        )
    name, value = next(iter(named.items()))
    if name == "latency_ms":
        return _fast_enough(planned, value, latency_of, top, too_slow)
    asked = float(value if name == "ratio" else 1 - (value // BYTES_PER_PARAMETER if name == "bytes" else value) / whole)
    if not least <= asked <= top:
        raise RecipeError(
            f"{name}={value} means a ratio of {asked:.{digits}f} for a teacher of {whole} parameters", accepted, todo
        )
    return planned(asked)


def _fast_enough(
    planned: Callable[[float], StudentPlan],
    latency_ms: float,
    latency_of: Callable[[PreTrainedConfig], float] | None,
    top: float,
    too_slow: tuple[str, str, str],
) -> StudentPlan:
    if latency_of is None:
        raise RecipeError(
            f"latency_ms={latency_ms} is given without a way to measure the latency of an architecture",
            "latency_of: a function from a configuration to milliseconds",
            "pass latency_of=, or ask for ratio=, params= or bytes=",
        )
    low, high, best = 0.0, top, None
    for _ in range(LATENCY_STEPS):
        middle = (low + high) / 2
        candidate = planned(middle)
        if latency_of(candidate.build_config()) <= latency_ms:
            best, high = candidate, middle
        else:
            low = middle
    if best is None:
        raise RecipeError(*too_slow)
    return best


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
    own, family = getattr(teacher, "config", teacher), family_or_none(config)
    if isinstance(teacher, PreTrainedModel) and family is not None:
        config.architectures = [family.class_like(teacher)]
    whole = count_of(teacher, own)
    size = built_parameters(config) if parameters is None else parameters
    old = family_or_none(own)
    # blocks stand for blocks of the teacher, but not where tokens meet maps, or where a family is unknown
    is_alike = old is not None and family is not None and (old.build == family.build or bool(old.roles and family.roles))
    layers = spaced_layers(depth_of(own), depth_of(config)) if is_alike else ()
    return finished(config, layers, None, size, whole, 1 - size / whole, ("the architecture was named, not searched",))


def read_config(student: str | Path) -> Any:
    """The configuration of a student that is named: a hub id or a local folder.

    Raises:
        ModelError: It cannot be read.
    """
    todo = "check the name, or take one of the architectures bilstm, textcnn, static, cnn; offline, download the model first"
    return checkpoint.read_config(str(student), role="the student ", todo=todo)


def spaced_layers(total: int, kept: int) -> tuple[int, ...]:
    """`kept` of `total` layers, 1-based, evenly spaced, the last among them.

    Example:
        >>> spaced_layers(12, 4)
        (3, 6, 9, 12)
    """
    return tuple(-(-total * k // kept) for k in range(1, kept + 1)) if kept < total else tuple(range(1, total + 1))


def _plan_for_ratio(config: Any, whole: int, words: VocabularyCounts, asked: float) -> StudentPlan:
    family = family_of(config)
    if asked == 0:
        return finished(config, tuple(range(1, family.depth(config) + 1)), None, parameters(config), whole, 0.0)
    budget = round(whole * (1 - asked))
    if isinstance(family, Stages):
        student = family.narrowed(config, budget, whole)
        return finished(student, family.kept_blocks(config, student), None, parameters(student), whole, asked)
    assert isinstance(family, Encoder)
    space = space_of(config, family, whole, words)
    shape = best_shape(space, budget)
    student = space.config_of(shape)
    layers = spaced_layers(space.teacher.layers, shape.layers)
    cut = shape.vocabulary if shape.vocabulary < space.teacher.vocabulary else None
    return finished(student, layers, cut, parameters(student), whole, asked, space.notes_on(shape))


def count_of(teacher: PreTrainedModel | PreTrainedConfig, config: Any) -> int:
    """Parameters of a teacher, counted where there is a model, else from its configuration."""
    return parameters_of(teacher) if isinstance(teacher, PreTrainedModel) else parameters(config)


def finished(
    config: Any,
    layers: tuple[int, ...],
    vocabulary: int | None,
    size: int,
    whole: int,
    asked: float,
    notes: tuple[str, ...] = (),
    *,
    nearest: str = "regular architecture",
) -> StudentPlan:
    """The plan of a student of that configuration and size, with a note where it misses what was asked."""
    ratio = 1 - size / whole
    if abs(ratio - asked) > 0.01:
        notes = (*notes, f"ratio {asked:.3f} was asked; the nearest {nearest} gives {ratio:.3f}")
    operations = 0  # where there is no closed form
    with contextlib.suppress(ModelError):
        operations = flops(config)
    return StudentPlan(
        model_type=config.model_type,
        config={name: value for name, value in config.to_dict().items() if name not in VOLATILE_KEYS},
        layers=layers,
        vocabulary=vocabulary,
        parameters=size,
        teacher_parameters=whole,
        ratio_asked=asked,
        ratio=ratio,
        flops=operations,
        bytes=size * BYTES_PER_PARAMETER,
        notes=notes,
    )
