"""What a method needs of two models, checked before anything runs; a refusal names the nearest method that works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from potstill.errors import NeedsError
from potstill.ground.counted import counted
from potstill.methods.contract import MethodOptions, ModelFacts, require_taps
from potstill.methods.layers import pair_layers

Pairs = Sequence[tuple[int, int]]


def require_positions(name: str, student: ModelFacts, teacher: ModelFacts, options: MethodOptions, pairs: Pairs) -> None:
    """Blocks of both models give values over the same kind of positions, and over the same tokens."""
    require_taps(name, options, compares_tokens=False)
    if student.has_maps != teacher.has_maps:
        kinds = ["maps" if facts.has_maps else "tokens" for facts in (student, teacher)]
        raise NeedsError(
            f"method {name!r} compares blocks position by position, the student's give {kinds[0]} and the teacher's {kinds[1]}",
            "two convolutional nets, or two transformers",
            f"set distill.method: {_nearest(student, teacher)}",
        )
    if not student.has_maps:
        require_taps(name, options)
        require_same_grids(name, student, teacher, pairs)


def matched_pairs(
    name: str, student: ModelFacts, teacher: ModelFacts, options: MethodOptions, *, same_grids: bool = False
) -> list[tuple[int, int]]:
    """The pairs of blocks that `layers` asks for; refuses models whose positions the method cannot compare."""
    pairs = pair_layers(options.layers, student, teacher)
    require_positions(name, student, teacher, options, pairs)
    if same_grids:
        require_same_grids(name, student, teacher, pairs)
    return pairs


def require_same_grids(name: str, student: ModelFacts, teacher: ModelFacts, pairs: Pairs) -> None:
    """Paired blocks have grids of one size; unknown sizes pass."""
    if not student.strides or not teacher.strides:
        return
    for own, other in pairs:
        strides = student.strides[own - 1], teacher.strides[other - 1]
        if strides[0] != strides[1]:
            raise NeedsError(
                f"method {name!r} needs equal grids, block {own} of the student has a step of {strides[0]} pixels"
                f" and block {other} of the teacher of {strides[1]}",
                "pairs of blocks with the same step",
                f"set distill.layers to such pairs, or distill.method: {_nearest(student, teacher)}",
            )


def require_maps(name: str, student: ModelFacts, teacher: ModelFacts) -> None:
    """Both are convolutional nets."""
    accepted = "convolutional nets such as ResNet on both sides"
    for side, facts in _both(student, teacher):
        if not facts.has_maps:
            lack = f"needs feature maps, the {side} (a model of {facts.modality}s) gives tokens"
            raise _lacking(name, lack, accepted, _nearest(student, teacher))


def require_tokens(name: str, student: ModelFacts, teacher: ModelFacts) -> None:
    """Neither is a convolutional net."""
    for side, facts in _both(student, teacher):
        if facts.has_maps:
            lack = f"needs a first token, the {side} (a convolutional net) gives feature maps"
            raise _lacking(name, lack, "transformers on both sides", _nearest(student, teacher))


def require_attention(name: str, student: ModelFacts, teacher: ModelFacts) -> None:
    """Both have attention heads."""
    for side, facts in _both(student, teacher):
        if not facts.heads:
            lack = f"needs attention in both models, the {side} has none"
            raise _lacking(name, lack, "transformers on both sides", _nearest(student, teacher))


def require_classes(name: str, student: ModelFacts, teacher: ModelFacts, *, least: int, nearest: str = "kd") -> None:
    """Both have at least that many classes; unknown numbers pass."""
    for side, facts in _both(student, teacher):
        if facts.num_classes is not None and facts.num_classes < least:
            lack = f"needs {least} classes or more, the {side} has {facts.num_classes}"
            raise _lacking(name, lack, f"a task with at least {least} classes", nearest)


def _both(student: ModelFacts, teacher: ModelFacts) -> tuple[tuple[str, ModelFacts], ...]:
    return ("student", student), ("teacher", teacher)


def _lacking(name: str, lack: str, accepted: str, nearest: str) -> NeedsError:
    return NeedsError(f"method {name!r} {lack}", accepted, f"set distill.method: {nearest}")


def require_distribution(name: str, options: MethodOptions) -> None:
    """The answers are probabilities of classes that exclude each other."""
    if not options.answers.is_distribution:
        raise NeedsError(
            f"method {name!r} compares probabilities of classes that exclude each other",
            "a task with one class of several for each answer",
            "set distill.method: auto",
        )


def _nearest(student: ModelFacts, teacher: ModelFacts) -> str:
    """The method on features that works where positions are not the same: `at` pools maps, `rkd` compares rows."""
    return "at" if student.has_maps and teacher.has_maps else "rkd"


def require_need(name: str, need: str, side: str, facts: ModelFacts) -> None:
    """One model has what a loss reads of it.

    Args:
        need: ``"attention:3"``, ``"hidden:-1"`` …"""
    part, _, rest = need.partition(":")
    if part in ("attention", "query", "key", "value") and not facts.heads:
        raise NeedsError(
            f"loss {name!r} needs {need!r} of the {side}, which has no attention",
            "transformers on both sides",
            "take the loss sp, or kl",
        )
    if part in ("hidden", "mean", "attention", "query", "key", "value") and rest.lstrip("-").isdigit():
        block = int(rest)
        if abs(block) > facts.layers:
            raise NeedsError(
                f"loss {name!r} needs {need!r} of the {side}, which has {counted(facts.layers, 'block')}",
                f"blocks 1 to {facts.layers}, or -1 to -{facts.layers}",
                "name such a block, or write layers: auto",
            )


def require_outputs(name: str, loss: Any, num_outputs: int | None) -> None:
    """The task has as many classes as a loss on the answer needs; an unknown number passes."""
    least = getattr(loss, "min_classes", 1)
    if num_outputs is not None and num_outputs < least:
        raise NeedsError(
            f"loss {name!r} says nothing about {counted(num_outputs, 'class', 'classes')}",
            f"a task with at least {least} classes",
            "take the loss kl",
        )
