"""Conversations and texts in tokens: by the tokenizer's chat template, with the tokens of the answers marked.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from potstill.errors import DataError
from potstill.modalities.language.conversations import Conversation
from potstill.modalities.language.documents import Document

LossOn = Literal["assistant", "all"]


@dataclass
class Counts:
    """What happened to rows while they were encoded."""

    rows: int = 0
    truncated: int = 0
    left_out: int = 0
    tokens: int = 0
    learned: int = 0


class Renderer:
    """Makes documents of conversations.

    Args:
        tokenizer: A fast tokenizer.
        window: Tokens that a document may have.
        loss_on: Whether the assistant's tokens alone are learned, or all.
        template: A chat template instead of the tokenizer's.
    """

    def __init__(self, tokenizer: Any, *, window: int, loss_on: LossOn = "assistant", template: str | None = None) -> None:
        self.tokenizer, self.window, self.loss_on, self.template = tokenizer, window, loss_on, template
        self.counts = Counts()

    def documents(self, rows: Iterable[Conversation]) -> Iterator[Document]:
        """The documents of all rows, in their order."""
        for row in rows:
            self.counts.rows += 1
            made = self._texts(row.text) if row.text is not None else self._turns(row)
            for document in made:
                self.counts.tokens += len(document.tokens)
                self.counts.learned += int(document.learned.sum())
                yield document

    def _texts(self, text: str) -> Iterator[Document]:
        """A text in pieces of a window, each of which begins with the last token of the one before."""
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        tokens, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        if self.tokenizer.eos_token_id is not None and (not tokens or tokens[-1] != self.tokenizer.eos_token_id):
            tokens, offsets = [*tokens, self.tokenizer.eos_token_id], [*offsets, (len(text), len(text))]
        sizes = _byte_sizes(text, offsets)
        for start in range(0, max(1, len(tokens) - 1), self.window - 1):
            span = slice(start, start + self.window)
            learned = np.ones(len(tokens[span]), bool)
            learned[0] = False
            yield Document(np.array(tokens[span]), learned, int(sizes[span][1:].sum()))

    def _turns(self, row: Conversation) -> Iterator[Document]:
        """A conversation, cut at the window."""
        text, spans = self._rendered(row)
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        learned = np.zeros(len(offsets), bool)
        for start, stop in spans:
            learned |= (offsets[:, 0] >= start) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        if self.loss_on == "all":
            learned[:] = True
        learned[:1] = False
        if len(offsets) > self.window:
            self.counts.truncated += 1
        sizes = _byte_sizes(text, offsets)[: self.window]
        learned = learned[: self.window]
        if not learned.any():
            self.counts.left_out += 1
            return
        yield Document(np.array(encoded["input_ids"][: self.window]), learned, int(sizes[learned].sum()))

    def _rendered(self, row: Conversation) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as the template writes it, and from where to where the assistant speaks, end of turn included."""
        messages = [message._asdict() for message in row.messages]
        text = self._apply(messages, generation=False)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._apply(messages[:number], generation=True)
            after = self._apply(messages[: number + 1], generation=False)
            if not after.startswith(before) or not text.startswith(after):
                raise DataError(
                    "the chat template does not write a conversation turn by turn, so the answers cannot be found in it",
                    "a template under which a longer conversation begins as a shorter one",
                    "name another: data.template, or learn from all tokens: data.loss_on: all",
                )
            spans.append((len(before), len(after.rstrip("\n"))))
        return text, spans

    def _apply(self, messages: list[dict[str, Any]], *, generation: bool) -> str:
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            messages, tokenize=False, add_generation_prompt=generation, chat_template=self.template
        )


def _byte_sizes(text: str, offsets: Any) -> np.ndarray:
    """[T] bytes of the text that each token stands for."""
    ends = np.concatenate([[0], np.cumsum([len(letter.encode("utf-8", "surrogatepass")) for letter in text])])
    spans = np.asarray(offsets, np.int64).reshape(-1, 2)
    starts = np.maximum(spans[:, 0], np.concatenate([[0], np.maximum.accumulate(spans[:-1, 1])]) if len(spans) else 0)
    return np.maximum(ends[spans[:, 1]] - ends[np.minimum(starts, spans[:, 1])], 0)
