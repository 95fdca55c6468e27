"""Limits of a batch's numbers, checked before a network runs on it: token ids by its vocabulary, labels by its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import NeedsError
from potstill.knowledge.live import LiveTeacher
from potstill.losses.contract import IGNORED_LABEL
from potstill.modalities.text.texts import position_limit
from potstill.training.terms import Term

_SHOWN_ROWS = 8


@dataclass(frozen=True)
class Limit:
    """Whole numbers of a batch that index something of a network.

    Args:
        owner: Whose they are, for the message: "the teacher's vocabulary has".
        instead: Column that is read instead of `column` where a batch has it.
    """

    column: str
    count: int
    owner: str
    todo: str
    ignored: int | None = None
    instead: str = ""

    def check(self, batch: dict[str, Any]) -> None:
        """Refuse a batch that goes beyond."""
        column = self.instead if self.instead in batch else self.column
        numbers = batch.get(column)
        if not isinstance(numbers, Tensor) or numbers.device.type != "cpu" or numbers.is_floating_point() or not numbers.numel():
            return
        beyond = (numbers >= self.count) | (numbers < 0)
        if self.ignored is not None:
            beyond &= numbers != self.ignored
        if not bool(beyond.any()):
            return
        raise NeedsError(
            f"{column} holds {int(numbers[beyond][0])}{_rows(batch, beyond)}, and {self.owner} {self.count}",
            f"0 to {self.count - 1}" + ("" if self.ignored is None else f", or {self.ignored} for none"),
            self.todo,
        )


@dataclass(frozen=True)
class Longest:
    """The most tokens of a row that a network has positions for.

    Args:
        owner: Whose they are, for the message: "the teacher has".
    """

    count: int
    owner: str
    instead: str = ""

    def check(self, batch: dict[str, Any]) -> None:
        """Refuse a batch that is longer."""
        column = self.instead if self.instead in batch else "input_ids"
        tokens = batch.get(column)
        if isinstance(tokens, Tensor) and tokens.dim() == 2 and tokens.shape[1] > self.count:
            raise NeedsError(
                f"{column} has rows of {tokens.shape[1]} tokens, and {self.owner} positions for {self.count}",
                f"rows of at most {self.count} tokens",
                f"tokenize with truncation=True, max_length={self.count}",
            )


class CheckedCollator:
    """A collator whose batches are held against limits that are found later.

    Args:
        limits: Read at each call; shared, so that what is added later counts.
    """

    def __init__(self, collator: Callable[[list[Any]], Any], limits: Sequence[Limit | Longest]) -> None:
        self.collator, self.limits = collator, limits

    def __call__(self, rows: list[Any]) -> Any:
        batch = self.collator(rows)
        for limit in self.limits:
            limit.check(batch)
        return batch


def of_tokens(student: nn.Module, source: Any) -> list[Limit | Longest]:
    """Limits of the tokens, segments and lengths that student and teachers read.

    Args:
        source: Of knowledge, or None; only live models that read the batch set a limit.
    """
    found = _limits(student, "the student", "")
    return found + [limit for model in models_of(source) for limit in _limits(model, "the teacher", "teacher_")]


def _limits(model: nn.Module, owner: str, prefix: str) -> list[Limit | Longest]:
    config = getattr(model, "config", None)
    instead = {column: f"{prefix}{column}" if prefix else "" for column in ("input_ids", "token_type_ids")}
    found: list[Limit | Longest] = [
        Limit("input_ids", count, f"{owner}'s vocabulary has", _OTHER_TOKENS, instead=instead["input_ids"])
        for count in _vocabulary(model)
    ]
    kinds, positions = getattr(config, "type_vocab_size", None), position_limit(config) if _has_positions(model) else None
    if kinds:
        found.append(
            Limit("token_type_ids", kinds, f"{owner}'s kinds of segments are", _NO_TYPES, instead=instead["token_type_ids"])
        )
    return found + ([] if positions is None else [Longest(positions, f"{owner} has", instead["input_ids"])])


def of_labels(terms: Sequence[Term], classes: int, head: nn.Module | None) -> list[Limit]:
    """The limit of labels that losses take for numbers of classes, where the model's last layer says how many there are."""
    reads_classes = any("labels" in term.loss.needs_batch() and not term.loss.reads_numbers() for term in terms)
    if not reads_classes or getattr(head, "out_features", None) != classes:
        return []
    return [
        Limit(
            "labels", classes, "the student's classes are", "check the labels, or give the student as many classes", IGNORED_LABEL
        )
    ]


_OTHER_TOKENS = (
    "tokenize for it: give its own tokens as teacher_input_ids and teacher_attention_mask, or a model of the same tokens"
)


_NO_TYPES = "leave token_type_ids out of the batch, or tokenize for this model"


def _vocabulary(model: nn.Module) -> list[int]:
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return []
    count = getattr(table, "num_embeddings", None)
    return [count] if isinstance(count, int) else []


def _has_positions(model: nn.Module) -> bool:
    """Whether there is a table with a row for each position; others may read longer rows than they were trained on."""
    return any(path.endswith("position_embeddings") and hasattr(part, "num_embeddings") for path, part in model.named_modules())


def models_of(source: Any) -> Iterator[nn.Module]:
    """The live models of a source that read the student's batch, or tokens of their own in it."""
    if isinstance(source, LiveTeacher):  # others may read the row anew, in tokens of their own
        yield source.model
    several = getattr(source, "sources", ())
    for one in several.values() if isinstance(several, Mapping) else several:
        yield from models_of(one)


def _rows(batch: dict[str, Any], beyond: Tensor) -> str:
    ids = batch.get("row_id")
    rows = torch.nonzero(beyond.flatten(1).any(dim=1) if beyond.dim() > 1 else beyond).flatten()
    if not isinstance(ids, Tensor) or len(ids) != len(beyond):
        return ""
    shown = ", ".join(str(int(ids[at])) for at in rows[:_SHOWN_ROWS])
    return f" in the rows with row_id {shown}{' …' if len(rows) > _SHOWN_ROWS else ''}"
