"""Conversations and texts as people have them, read into one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from potstill.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
TEXT_NAMES = ("text", "content", "document", "文本")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Conversation(NamedTuple):
    """A row: turns of a conversation, or a text that is read as it stands."""

    messages: tuple[Message, ...] = ()
    text: str | None = None


def read_rows(rows: Iterator[Mapping[str, Any]], split: str) -> Iterator[Conversation]:
    """Every row in one form.

    Raises:
        DataError: A row is none of the known forms; names the row.
    """
    for number, row in enumerate(rows, 1):
        yield _conversation(row, f"row {number} of the {split} split")


def _conversation(row: Mapping[str, Any], where: str) -> Conversation:
    if isinstance(row.get("messages"), list):
        return Conversation(tuple(Message(turn["role"], turn["content"] or "") for turn in row["messages"]))
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return Conversation((Message("user", row["prompt"]), Message("assistant", row["completion"])))
    for name in TEXT_NAMES:
        if isinstance(row.get(name), str):
            return Conversation(text=row[name])
    raise DataError(
        f"{where} has the columns {', '.join(row)}",
        "messages (a list of {role, content}), prompt and completion, or text",
        "name the columns: data.columns: {messages: …}",
    )
