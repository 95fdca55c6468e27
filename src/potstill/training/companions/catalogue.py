"""The table of companions, by the name under which a method asks for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from potstill.ground.tables import resolve

if TYPE_CHECKING:
    from potstill.training.companions.contract import Companion

COMPANIONS: Mapping[str, str] = {
    "peers": "potstill.training.companions.peers:Peers",
    "self_average": "potstill.training.companions.average:SelfAverage",
    "noise": "potstill.training.companions.noise:Noise",
    "quarter_turns": "potstill.training.companions.quarter_turns:QuarterTurns",
    "class_pairs": "potstill.training.companions.class_pairs:ClassPairs",
}

Wanted = Mapping[str, Mapping[str, Any]]


def kinds(wanted: Wanted) -> list[type[Companion]]:
    """The classes of the companions that a phase asks for, whose attributes say what they need."""
    return [resolve(COMPANIONS, name, kind="companion") for name in wanted]


def build(wanted: Wanted) -> list[Companion]:
    """The companions of a phase, from their options by name.

    Example:
        >>> [type(one).__name__ for one in build({"peers": {"count": 3}, "class_pairs": {}})]
        ['Peers', 'ClassPairs']
    """
    return [kind(**options) for kind, options in zip(kinds(wanted), wanted.values(), strict=True)]
