"""The search for the shape of an architecture that fits a budget best.

The other sizes are searched over a grid, and one width is solved for, so that each grid point lands just under the budget; the
point with the lowest penalty wins. Penalties are chosen by hand: they share a budget between vocabulary, embedding and body.

Letters: V vocabulary, E embedding width, H units or filters, L layers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from potstill.students.search import VocabularyCounts

TOLERANCE_OF_TEACHER = 0.004  # how far below its budget a student may land, of the teacher's parameters …
TOLERANCE_OF_BUDGET = 0.05  # … and of the budget, whichever is smaller
USUAL_EMBEDDING = 256
USUAL_WIDTH, USUAL_CHANNELS = 256, 64
LARGEST_CHANNELS = 4096
PENALTIES = {
    "coverage": 0.15,  # × percent of the data's token occurrences that the vocabulary lacks
    "vocabulary": 0.05,  # × log2(V of the teacher / V)
    "embedding": 0.5,  # × log2(usual E / E) ** 2, where E is the smaller
    "width": 0.25,  # × log2(usual H / H) ** 2, in both directions
    "layers": 0.5,  # × (L - 1) of a BiLSTM, whose steps cannot run side by side
    "depth": 0.5,  # × |L - 2| of a CNN's stages
    "last_stage": 0.5,  # × |log2(last stage / twice the one before)|
}


@dataclass(frozen=True)
class TextWidths:
    """What a network for texts may vary.

    Args:
        solved: The key that is solved for.
        largest: Its largest value.
        layers: Numbers of layers to try.
        alike: Further keys that are as large as the one that is solved for.
        is_embedding_alone: Whether nothing follows the embedding, which is then best as wide as the teacher's.
    """

    solved: str
    largest: int = 2048
    layers: tuple[int, ...] = (1,)
    alike: tuple[str, ...] = ()
    is_embedding_alone: bool = False


TEXTS = {
    "bilstm": TextWidths("num_units", layers=(1, 2), alike=("classifier_size",)),
    "textcnn": TextWidths("num_filters"),
    "static": TextWidths("classifier_size", largest=4096, is_embedding_alone=True),
}


@dataclass(frozen=True)
class Room:
    """What the search may use.

    Args:
        start: A configuration of the architecture whose other keys are settled (classes, padding, image size).
        teacher_parameters: What ratios refer to.
        vocabulary: The teacher's, or the one that was asked for; 0 for images.
        embedding: The teacher's embedding width, which a student's does not pass; 0 for images.
        words: What the data says of the vocabulary.
    """

    name: str
    start: Any
    budget: int
    teacher_parameters: int
    vocabulary: int = 0
    embedding: int = 0
    words: VocabularyCounts = field(default_factory=VocabularyCounts)

    @property
    def step(self) -> int:
        """Widths are multiples of this: 8 in real models, finer in small ones."""
        return 8 if self.budget >= 100_000 else 4 if self.budget >= 20_000 else 1


def best_config(room: Room) -> Any:
    """The configuration of the lowest penalty that lands on the budget; the nearest where none does."""
    tolerance = min(TOLERANCE_OF_TEACHER * room.teacher_parameters, TOLERANCE_OF_BUDGET * room.budget)
    best, best_key = None, (math.inf, math.inf)
    for config, penalty in _texts(room, TEXTS[room.name]) if room.name in TEXTS else _cnns(room):
        gap = room.budget - config.parameters()
        missed = 0.0 if 0 <= gap <= tolerance else float(abs(gap))
        if (missed, penalty) < best_key:
            best, best_key = config, (missed, penalty)
    return best


def _texts(room: Room, varied: TextWidths) -> Iterator[tuple[Any, float]]:
    for vocabulary in room.words.sizes(room.vocabulary):
        for embedding in _multiples(room.step, room.embedding):
            if vocabulary * embedding > room.budget and embedding > room.step:
                break
            for layers in varied.layers:
                values = {"vocab_size": vocabulary, "embedding_size": embedding, "num_hidden_layers": layers}

                def build(width: int, values: dict[str, int] = values) -> Any:
                    return _changed(room.start, values | dict.fromkeys((varied.solved, *varied.alike), width))

                width = _largest(build, room, varied.largest)
                wanted = room.embedding if varied.is_embedding_alone else min(USUAL_EMBEDDING, room.embedding)
                penalty = PENALTIES["embedding"] * max(0.0, math.log2(wanted / embedding)) ** 2
                penalty += PENALTIES["width"] * math.log2(USUAL_WIDTH / width) ** 2
                penalty += PENALTIES["vocabulary"] * math.log2(room.vocabulary / vocabulary)
                penalty += PENALTIES["layers"] * (layers - 1)
                if room.words.counts is not None:
                    penalty += PENALTIES["coverage"] * 100 * float(1 - room.words.coverage(np.array(vocabulary)))
                yield build(width), penalty


def _largest(build: Callable[[int], Any], room: Room, top: int) -> int:
    """The largest multiple of the step, at least one step, whose configuration is within the budget."""
    low, high = 1, max(1, top // room.step)
    while low < high:
        middle = (low + high + 1) // 2
        if build(middle * room.step).parameters() <= room.budget:
            low = middle
        else:
            high = middle - 1
    return low * room.step


def _cnns(room: Room) -> Iterator[tuple[Any, float]]:
    """Stages of w, 2w, 4w channels and a last stage that is solved for."""
    for depth in (1, 2, 3):
        for width in _multiples(room.step, 512):
            stages = (width, 2 * width, 4 * width)

            def build(last: int, stages: tuple[int, ...] = stages, depth: int = depth) -> Any:
                return _changed(room.start, {"hidden_sizes": [*stages, last], "depths": [depth] * 4})

            last = _largest(build, room, LARGEST_CHANNELS)
            if build(last).parameters() > room.budget and width > room.step:
                break
            penalty = PENALTIES["last_stage"] * abs(math.log2(last / (2 * stages[-1])))
            penalty += PENALTIES["width"] * math.log2(USUAL_CHANNELS / width) ** 2
            yield build(last), penalty + PENALTIES["depth"] * abs(depth - 2)


def _multiples(step: int, top: int) -> range:
    return range(min(step, top), top + 1, step)


def _changed(config: Any, values: Mapping[str, Any]) -> Any:
    """A shallow copy with other values; building a new configuration takes a hundred times as long."""
    changed = copy.copy(config)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed
