"""Conversations and texts as people have them, read into one form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from potstill.errors import DataError
from potstill.ground.tables import nearest

ROLES = ("system", "user", "assistant", "tool")
SYNONYMS = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "chatgpt", "ai"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("developer",), "system"),
}
TEXTS = ("text", "content", "document", "body", "文本")
TURNS = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog", "对话")
PROMPTS = ("prompt", "instruction", "question", "query", "problem", "input", "问题", "指令")
COMPLETIONS = ("completion", "response", "answer", "output", "solution", "target", "回答", "输出")
FURTHER = ("input", "context")  # of an instruction
FORMS = "messages (a list of {role, content}), conversations of ShareGPT, instruction and output, prompt and completion, or text"


class Conversation(NamedTuple):
    """A row: turns of a conversation, or a text that is read as it stands.

    Args:
        messages: Mappings with ``role`` and ``content``, as chat templates take them.
        text: A text; None for a conversation.
        is_whole: Whether the text ends here, so that its end is learned.
        tools: What the assistant may call, for the template.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    text: str | None = None
    is_whole: bool = True
    tools: Sequence[Any] | None = None

    @property
    def prompts(self) -> bool:
        """Whether it ends with a turn that waits for an answer."""
        return bool(self.messages) and self.messages[-1]["role"] != "assistant"


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; see `find_columns`."""

    roles: Mapping[str, str] = field(default_factory=dict)

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """A row in one form.

        Raises:
            DataError: Something in the row is not as its form has it; names the row.
        """
        roles = self.roles
        if "messages" in roles:
            turns = row.get(roles["messages"])
            return Conversation(_messages(turns, where), tools=row.get("tools"))
        if "text" in roles:
            return Conversation(text=_text(row.get(roles["text"]), roles["text"], where), is_whole=bool(row.get(IS_WHOLE, True)))
        return Conversation(self._exchange(row, where))

    def _exchange(self, row: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
        prompt, completion = (
            row.get(self.roles["prompt"]),
            row.get(self.roles["completion"]) if "completion" in self.roles else None,
        )
        turns = list(_messages(prompt, where)) if isinstance(prompt, list) else None
        if turns is None:
            said = _text(prompt, self.roles["prompt"], where)
            if further := (row.get(self.roles["input"]) if "input" in self.roles else None):
                said = f"{said}\n\n{_text(further, self.roles['input'], where)}"
            turns = [{"role": "user", "content": said}]
        if (system := row.get("system")) and isinstance(system, str):
            turns.insert(0, {"role": "system", "content": system})
        if "completion" not in self.roles:
            return tuple(turns)
        if isinstance(completion, list):
            return (*turns, *_messages(completion, where, start="assistant"))
        return (*turns, {"role": "assistant", "content": _answer(completion, self.roles["completion"], where)})


IS_WHOLE = "potstill_is_whole"  # column of blocks of one text, false for all but its last


def find_columns(names: Sequence[str], asked: Mapping[str, Any]) -> Columns:
    """Which columns hold conversations, prompts and completions, or texts.

    Args:
        names: Of the columns.
        asked: Role → column as the user says it: messages, text, prompt, completion, input.

    Raises:
        DataError: No such column or role, or nothing that is a known form.
    """
    known = ("messages", "text", "prompt", "completion", "input")
    for role, column in asked.items():
        if role not in known:
            raise DataError(f"data.columns has the role {role!r}", ", ".join(known), f"did you mean {nearest(role, known)!r}?")
        if column not in names:
            guess = nearest(str(column), names)
            raise DataError(f"there is no column {column!r}", ", ".join(names), f"did you mean {guess!r}?" if guess else "")
    if asked:
        roles = {role: str(column) for role, column in asked.items()}
        if not {"messages", "text", "prompt"} & roles.keys():
            raise DataError(
                f"data.columns names {', '.join(roles)} alone", "messages, text, or prompt and completion", "name one of them"
            )
        return Columns(roles)
    by_name = {name.strip().lower(): name for name in names}
    if turns := _first(TURNS, by_name):
        return Columns({"messages": turns})
    prompt, completion = _first(PROMPTS, by_name), _first(COMPLETIONS, by_name)
    if prompt and completion:
        further = next((by_name[name] for name in FURTHER if name in by_name and by_name[name] not in (prompt, completion)), None)
        return Columns({"prompt": prompt, "completion": completion} | ({} if further is None else {"input": further}))
    if text := _first(TEXTS, by_name):
        return Columns({"text": text})
    if prompt:
        return Columns({"prompt": prompt})
    raise DataError(f"the rows have the columns {', '.join(names)}", FORMS, "name the columns: data.columns: {messages: …}")


def read_rows(rows: Iterator[Mapping[str, Any]], split: str, columns: Columns) -> Iterator[Conversation]:
    """Every row in one form.

    Raises:
        DataError: A row is none of the known forms; names the row.
    """
    for number, row in enumerate(rows, 1):
        yield columns.read(row, f"row {number} of the {split} split")


def _first(names: Sequence[str], by_name: Mapping[str, str]) -> str | None:
    return next((by_name[name] for name in names if name in by_name), None)


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise DataError(f"{where} has {_described(value)} in {column!r}", "a text", "correct the row, or leave it out")


def _answer(value: Any, column: str, where: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise DataError(
        f"{where} has an empty completion ({_described(value)} in {column!r})", "a text", "correct the row, or leave it out"
    )


def _messages(turns: Any, where: str, *, start: str | None = None) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where} has {_described(turns)} for its messages", "a list of {role, content}", "correct the row")
    found = tuple(_message(turn, number, where) for number, turn in enumerate(turns, 1))
    _check_order(found, where, start)
    return found


def _message(turn: Any, number: int, where: str) -> Mapping[str, Any]:
    if not isinstance(turn, Mapping) or not ({"role", "from"} & turn.keys()):
        raise DataError(
            f"turn {number} of {where} is {_described(turn)}", "{role, content}, or {from, value} of ShareGPT", "correct it"
        )
    given = str(turn.get("role", turn.get("from"))).strip().lower()
    role = SYNONYMS.get(given, given)
    if role not in ROLES:
        guess = nearest(given, (*ROLES, *SYNONYMS))
        raise DataError(
            f"turn {number} of {where} has the role {given!r}",
            ", ".join(ROLES),
            f"did you mean {guess!r}?" if guess else "correct it",
        )
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts, as of models that also see
        content = "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    extra = {key: value for key, value in turn.items() if key not in ("role", "from", "content", "value") and value is not None}
    has_calls = bool(extra.get("tool_calls"))
    if not has_calls and not (isinstance(content, str) and content.strip()):
        what = "an empty completion" if role == "assistant" else f"an empty turn of the {role}"
        raise DataError(f"turn {number} of {where} is {what}", "a text", "correct the row, or leave it out")
    return {"role": role, "content": content or "", **extra}


def _check_order(messages: Sequence[Mapping[str, Any]], where: str, start: str | None) -> None:
    """A system turn comes first alone, an assistant's after a user's or a tool's, a user's not after another user's."""
    follows: dict[str | None, tuple[str, ...]] = {
        None: ("system", "user") if start is None else (start,),
        "system": ("user",),
        "user": ("assistant",),
        "assistant": ("user", "tool"),
        "tool": ("assistant", "tool"),
    }
    before: str | None = None
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in follows[before]:
            first = "the first turn" if before is None else f"turn {number}, after the {before}'s,"
            raise DataError(
                f"{first} of {where} is the {role}'s",
                f"the {' or '.join(follows[before])}'s",
                "put the turns in order, or join turns of one role",
            )
        before = role


def _described(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    return repr(value)[:40] if isinstance(value, str | int | float) else f"a {type(value).__name__}"
