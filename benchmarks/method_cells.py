"""What a cell of the comparison of methods is: a student, the stages of a method at its published weights, and a schedule."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cifar_nets import Pair, StagedNet, build
from cifar_rows import CLASSES
from potstill.ground.disk import write_json_atomic
from potstill.methods import catalogue
from potstill.methods.contract import MethodOptions, ModelFacts, Phase, TermSpec

METHODS = ("baseline", "kd", "at", "sp", "rkd", "crd", "review_kd", "dkd", "dist", "simkd")
BATCH, RATE, MOMENTUM, DECAY = 64, 0.05, 0.9, 5e-4  # of the published protocol
WARM_UP = 0.1  # share of the steps, where the schedule is a cosine


def stages_of(
    method: str,
    pair: Pair,
    student: StagedNet,
    teacher: StagedNet,
    epochs: float,
    *,
    batch: int = BATCH,
    rate: float = RATE,
) -> tuple[Phase, ...]:
    """The stages of the catalogue's method at the weights published for CIFAR nets and for the pair.

    Args:
        method: In `METHODS`.
        pair: Whose weights and learning rate are taken.
        student: Not trained yet.
        teacher: Trained or not; only its shape is looked at.
        epochs: Over all stages.
        batch: Rows of a batch.
        rate: Peak of the learning rate.
    """
    if method == "baseline":
        return (Phase("labels", (TermSpec("ce"),), epochs=epochs, learning_rate=rate),)
    options = MethodOptions(epochs=epochs, learning_rate=rate)
    if method == "kd":  # logits alone, α = 0.9 at τ = 4
        options = replace(options, alpha=0.9, temperature=4.0, has_taps=False)
    if method == "dist":
        options = replace(options, temperature=4.0)
    if method == "crd":  # without the response, like every other feature of the published tables
        options = replace(options, alpha=0.0)
    stages = catalogue.build(method, facts_of(student), facts_of(teacher), options)
    return tuple(replace(stage, terms=tuple(_for_pair(term, pair, batch) for term in stage.terms)) for stage in stages)


def _for_pair(term: TermSpec, pair: Pair, batch: int) -> TermSpec:
    if term.name == "dkd":
        return replace(term, options={**term.options, "beta": pair.response_beta})
    if term.name == "review_kd":
        rise = [[end, weight * pair.review_weight] for end, weight in term.weight["phases"]]
        return replace(term, weight={"phases": rise})
    if term.name == "sp":  # rows of its matrices have length one whatever B is, and the mean runs over B²
        return replace(term, weight=term.weight * batch / BATCH)
    return term


def facts_of(net: StagedNet) -> ModelFacts:
    """What the methods ask of a net."""
    return ModelFacts(len(net.widths), net.widths[-1], None, "image", num_classes=CLASSES, strides=net.strides)


def rate_factor(share: float, num_steps: int, *, is_stepped: bool = False) -> float:
    """Factor of the learning rate when `share` of `num_steps` is done: the published steps, or a cosine behind a short rise."""
    if is_stepped:
        return 0.1 ** sum(share >= end for end in (150 / 240, 180 / 240, 210 / 240))
    if share < WARM_UP:
        return (share * num_steps + 1) / (WARM_UP * num_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def new(name: str, seed: int) -> StagedNet:
    """A net with random weights, laid out for convolutions."""
    torch.manual_seed(seed)
    return build(name, CLASSES).to(memory_format=torch.channels_last)


def record(file: Path, accuracies: list[float], seconds: float, told: dict[str, Any]) -> None:
    """Write one cell."""
    figures = {"last": accuracies[-1], "best": max(accuracies), "epochs": accuracies, "seconds": round(seconds, 1)}
    write_json_atomic(file, {**told, **figures, "threads": torch.get_num_threads()})
