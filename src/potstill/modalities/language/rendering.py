"""Conversations and texts in tokens: by the tokenizer's chat template, with the tokens of the answers marked.

Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np

from potstill.errors import DataError, RecipeError, first_line
from potstill.modalities.language.conversations import Conversation
from potstill.modalities.language.documents import Document

LossOn = Literal["assistant", "all"]
Piece = tuple[str, bool]  # a part of a conversation as the template writes it, and whether it is learned


@dataclass
class Counts:
    """What happened to rows while they were encoded.

    Args:
        rows: Read.
        truncated: Longer than the window, so that their end is not read.
        left_out: Without a learned token within the window.
        tokens: Of all documents.
        learned: Tokens that are predicted; the others are masked.
    """

    rows: int = 0
    truncated: int = 0
    left_out: int = 0
    tokens: int = 0
    learned: int = 0


class Renderer:
    """Makes documents of conversations.

    The tokens of a conversation are those of its whole text where the beginning of each answer is the beginning of a token;
    else prompt and answers are encoded one by one, as they are met when the model generates.

    Args:
        tokenizer: A fast tokenizer.
        window: Tokens that a document may have.
        loss_on: Whether the assistant's tokens alone are learned, or all.
        template: A chat template instead of the tokenizer's; text, or a file with it.
    """

    def __init__(self, tokenizer: Any, *, window: int, loss_on: LossOn = "assistant", template: str | None = None) -> None:
        self.tokenizer, self.window, self.loss_on = tokenizer, window, loss_on
        self.template = read_template(template)
        self.counts = Counts()
        self._specials = set(tokenizer.all_special_ids)

    def documents(self, rows: Iterable[Conversation]) -> Iterator[Document]:
        """The documents of all rows, in their order.

        Raises:
            DataError: There is no chat template, or it does not write conversations turn by turn.
        """
        for row in rows:
            self.counts.rows += 1
            made = self._texts(row) if row.text is not None else self._turns(row)
            for document in made:
                self.counts.tokens += len(document.tokens)
                self.counts.learned += int(document.learned.sum())
                yield document

    def _texts(self, row: Conversation) -> Iterator[Document]:
        """A text in pieces of a window, each of which begins with the last token of the one before."""
        text, eos = row.text or "", self.tokenizer.eos_token_id
        encoded = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        tokens, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        if row.is_whole and eos is not None and (not tokens or tokens[-1] != eos):
            tokens, offsets = [*tokens, eos], [*offsets, (len(text), len(text))]
        sizes = _byte_sizes(text, offsets)
        for start in range(0, max(1, len(tokens) - 1), self.window - 1):
            span = slice(start, start + self.window)
            learned = np.ones(len(tokens[span]), bool)
            learned[:1] = False
            if learned.any():
                yield Document(np.array(tokens[span]), learned, int(sizes[span][1:].sum()))

    def _turns(self, row: Conversation) -> Iterator[Document]:
        """A conversation, cut at the window; one document an answer where the template rewrites earlier turns."""
        for pieces in self._renderings(row):
            tokens, learned, sizes = self._encoded(pieces)
            if self.loss_on == "all":
                learned[:] = True
            learned[:1] = False
            self.counts.truncated += len(tokens) > self.window
            span = slice(0, self.window)
            if not learned[span].any():
                self.counts.left_out += 1
                continue
            yield Document(tokens[span], learned[span], int(sizes[span][learned[span]].sum()))

    def _renderings(self, row: Conversation) -> Iterator[list[Piece]]:
        messages, answers = list(row.messages), [number for number, one in enumerate(row.messages) if one["role"] == "assistant"]
        whole = self._pieces(messages, answers, row.tools)
        if whole is not None:
            yield whole
            return
        for number in answers:
            one = self._pieces(messages[: number + 1], [number], row.tools)
            if one is None:
                raise DataError(
                    "the chat template does not write an answer behind the prompt that asks for it, so it cannot be found",
                    "a template whose text of a conversation begins with the text of its prompt",
                    "name another: language.template, or learn from all tokens: language.loss_on: all",
                )
            yield one

    def _pieces(self, messages: list[Mapping[str, Any]], answers: Sequence[int], tools: Any) -> list[Piece] | None:
        """The conversation in parts that are learned or not; None where an earlier part is written otherwise than alone."""
        text = self._apply(messages, tools, generation=False)
        pieces: list[Piece] = []
        place = 0
        for number in answers:
            before = self._apply(messages[:number], tools, generation=True)
            after = self._apply(messages[: number + 1], tools, generation=False)
            if not text.startswith(before):  # the prompt ends otherwise than the answer begins
                before = _common(before, text)
                if len(before) < len(self._apply(messages[:number], tools, generation=False)):
                    return None
            if not text.startswith(after) or len(before) < place:
                return None
            stop = len(after.rstrip())
            pieces += [(text[place : len(before)], False), (text[len(before) : stop], True)]
            place = stop
        return [piece for piece in (*pieces, (text[place:], False)) if piece[0]]

    def _encoded(self, pieces: list[Piece]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, which of them are learned, and bytes of text of each."""
        text = "".join(piece for piece, _ in pieces)
        tokens, offsets = self._tokens(text)
        ends = np.cumsum([len(piece) for piece, _ in pieces])
        starts = set(offsets[:, 0].tolist()) | {len(text)}
        if all(int(end) in starts for end in ends):
            owner = np.searchsorted(ends, offsets[:, 0], side="right").clip(max=len(pieces) - 1)
            learned = np.array([is_learned for _, is_learned in pieces])[owner] & (offsets[:, 1] > offsets[:, 0])
            sizes = _byte_sizes(text, offsets)
        else:
            parts = [(*self._tokens(piece), piece, is_learned) for piece, is_learned in pieces]
            tokens = np.concatenate([part[0] for part in parts])
            learned = np.concatenate([np.full(len(part[0]), part[3]) for part in parts])
            sizes = np.concatenate([_byte_sizes(part[2], part[1]) for part in parts])
        end, eos = len(learned) - 1, self.tokenizer.eos_token_id
        if eos is not None and learned[-1:].any() and tokens[end] not in self._specials:  # the template writes no end of a turn
            tokens, learned, sizes = np.append(tokens, eos), np.append(learned, True), np.append(sizes, 0)
        return tokens, learned, sizes

    def _tokens(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        return np.array(encoded["input_ids"], np.int64), np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> np.ndarray:
        """The tokens that a model is asked with: the turns, and the beginning of an answer."""
        return self._tokens(self._apply(list(messages), tools, generation=True))[0]

    def _apply(self, messages: list[Mapping[str, Any]], tools: Any, *, generation: bool) -> str:
        template = self.template or self.tokenizer.chat_template
        if template is None:
            raise DataError(
                "the rows are conversations, and the tokenizer has no chat template",
                "a tokenizer with a chat template, or texts",
                "name one: language.template: a file with a Jinja template, or give rows with the column text",
            )
        try:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                messages, tokenize=False, add_generation_prompt=generation, chat_template=template, tools=tools or None
            )
        except (jinja2.TemplateError, TypeError, KeyError, ValueError) as err:
            raise DataError(
                f"the chat template refuses the turns {', '.join(one['role'] for one in messages)} ({first_line(err)})",
                "turns that the template knows",
                "change the rows, or name another template: language.template",
            ) from err


def read_template(given: str | None) -> str | None:
    """A chat template: as it is, or out of the file that is named.

    Raises:
        RecipeError: It is neither a template nor a file.
    """
    if given is None or "{" in given:
        return given
    path = Path(given).expanduser()
    if not path.is_file():
        raise RecipeError(f"language.template is {given!r}", "a Jinja template, or a file with one", "check the path")
    return path.read_text("utf-8")


def _common(one: str, other: str) -> str:
    count = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    return one[:count]


def _byte_sizes(text: str, offsets: Any) -> np.ndarray:
    """[T] bytes of the text that each token stands for."""
    ends = np.concatenate([[0], np.cumsum([len(letter.encode("utf-8", "surrogatepass")) for letter in text])])
    spans = np.asarray(offsets, np.int64).reshape(-1, 2)
    starts = np.maximum(spans[:, 0], np.concatenate([[0], np.maximum.accumulate(spans[:-1, 1])]) if len(spans) else 0)
    return np.maximum(ends[spans[:, 1]] - ends[np.minimum(starts, spans[:, 1])], 0)
