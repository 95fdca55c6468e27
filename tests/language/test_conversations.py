"""Conversations in every form become the same documents, and exactly the answers are learned, token by token."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_builders import TEMPLATE, TEXT, tiny_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.errors import DataError, RecipeError
from potstill.modalities.language.conversations import IS_WHOLE, Conversation, find_columns, read_rows
from potstill.modalities.language.reading import blocks_of, conversations, read_splits
from potstill.modalities.language.rendering import Renderer

EXCHANGE = ({"role": "user", "content": "say a"}, {"role": "assistant", "content": "the cat"})
LONGER = (
    {"role": "system", "content": "be kind"},
    *EXCHANGE,
    {"role": "user", "content": "and b"},
    {"role": "assistant", "content": "the dog sat."},
)
QWEN = (  # writes an empty thought before the last answer alone, as Qwen3's does
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def read(row: dict[str, Any], **asked: str) -> Conversation:
    return next(read_rows(iter([row]), "train", find_columns(list(row), asked)))


def documents(row: Conversation, **options: Any) -> list[tuple[list[str], list[str]]]:
    """The texts of all tokens and of the learned ones."""
    tokenizer = options.pop("tokenizer", tiny_tokenizer())
    made = Renderer(tokenizer, **{"window": 200, **options}).documents([row])
    return [
        (
            [tokenizer.decode([t]) for t in one.tokens],
            [tokenizer.decode([t]) for t, is_learned in zip(one.tokens, one.learned) if is_learned],
        )
        for one in made
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": list(EXCHANGE)},
        {"conversations": [{"from": "human", "value": "say a"}, {"from": "gpt", "value": "the cat"}]},
        {"instruction": "say a", "input": "", "output": "the cat"},
        {"instruction": "say a", "output": "the cat"},
        {"prompt": "say a", "completion": "the cat"},
        {"prompt": [EXCHANGE[0]], "completion": [EXCHANGE[1]]},
        {"question": "say a", "answer": "the cat"},
        {"messages": [{"role": "User", "content": [{"type": "text", "text": "say a"}]}, EXCHANGE[1]]},
    ],
)
def test_every_form_is_one_conversation(row: dict[str, Any]) -> None:
    assert read(row).messages == EXCHANGE


def test_an_instruction_with_its_input_and_a_system_turn() -> None:
    found = read({"instruction": "add", "input": "1 and 2", "output": "3", "system": "count"})
    assert [turn["content"] for turn in found.messages] == ["count", "add\n\n1 and 2", "3"]
    assert read({"prompt": "say a"}).prompts
    assert read({"text": "a text"}).text == "a text"
    named = read({"a": "say a", "b": "the cat", "text": "no"}, prompt="a", completion="b")
    assert named.messages == EXCHANGE


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "a list of {role, content}"),
        ({"messages": [{"content": "a"}]}, "turn 1 of row 1 of the train split"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "did you mean 'user'"),
        ({"messages": [EXCHANGE[0], EXCHANGE[0]]}, "turn 2, after the user's,"),
        ({"messages": [EXCHANGE[1]]}, "the first turn of row 1"),
        ({"messages": [EXCHANGE[0], {"role": "system", "content": "late"}]}, "the assistant's"),
        ({"messages": [EXCHANGE[0], {"role": "assistant", "content": " "}]}, "an empty completion"),
        ({"prompt": "say a", "completion": ""}, "an empty completion"),
        ({"prompt": "", "completion": "a"}, "nothing in 'prompt'"),
        ({"text": None}, "nothing in 'text'"),
        ({"label": 1, "score": 2}, "label, score"),
    ],
)
def test_rows_that_are_no_conversation_are_refused_by_name(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(row)


@pytest.mark.parametrize(
    ("asked", "words"), [({"message": "text"}, "messages"), ({"text": "txt"}, "text"), ({"completion": "text"}, "prompt")]
)
def test_columns_that_are_not_there_are_refused(asked: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        find_columns(["text"], asked)


def test_exactly_the_answers_are_learned_also_in_the_middle() -> None:
    ((tokens, learned),) = documents(Conversation(LONGER))
    assert "".join(tokens) == "<|system|>be kind<|user|>say a<|assistant|>the cat<eos><|user|>and b<|assistant|>the dog sat.<eos>"
    assert "".join(learned) == "the cat<eos>the dog sat.<eos>"
    assert learned.count("<eos>") == 2
    ((tokens, everything),) = documents(Conversation(LONGER), loss_on="all")
    assert everything == tokens[1:]


def test_the_prompt_is_what_the_model_is_asked_with() -> None:
    renderer = Renderer(tiny_tokenizer(), window=200)
    one = next(renderer.documents([Conversation(LONGER)]))
    prompt = renderer.prompt(LONGER[:4])
    assert np.array_equal(one.tokens[: len(prompt)], prompt)
    assert one.learned[len(prompt)]


def test_a_template_that_rewrites_earlier_turns_gives_a_document_an_answer() -> None:
    found = documents(Conversation(LONGER), template=QWEN)
    assert ["".join(learned) for _, learned in found] == ["<think></think>the cat<eos>", "<think></think>the dog sat.<eos>"]


def test_an_answer_whose_first_letter_joins_the_prompt_is_encoded_as_it_is_generated() -> None:
    words = {"[UNK]": 0, "<eos>": 1, "q": 2, ":": 3, "a": 4, ":a": 5}
    tokenizer = Tokenizer(models.BPE(words, [(":", "a")], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    made.chat_template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}:{% endif %}{% endfor %}"
    row = Conversation(({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))
    ((tokens, learned),) = documents(row, tokenizer=made)
    assert tokens == ["q", ":", "a", "<eos>"]  # and not ":a", which no prompt ends with
    assert learned == ["a", "<eos>"]  # a template without an end of turns gets one


def test_what_is_cut_or_left_out_is_counted() -> None:
    renderer = Renderer(tiny_tokenizer(), window=12)
    long_prompt = ({"role": "user", "content": TEXT}, EXCHANGE[1])
    long_answer = (EXCHANGE[0], {"role": "assistant", "content": TEXT})
    made = list(renderer.documents([Conversation(EXCHANGE), Conversation(long_prompt), Conversation(long_answer)]))
    assert len(made) == 2
    assert (renderer.counts.rows, renderer.counts.truncated, renderer.counts.left_out) == (3, 2, 1)
    assert max(len(one.tokens) for one in made) <= 12


def test_every_byte_of_a_text_is_counted_once_over_its_windows() -> None:
    text = "the cat sat. 猫坐在垫子上 🐈 " * 9
    renderer = Renderer(tiny_tokenizer(), window=20)
    made = list(renderer.documents([Conversation(text=text)]))
    assert len(made) > 3
    first = len(tiny_tokenizer().decode([made[0].tokens[0]]).encode())
    assert sum(one.num_bytes for one in made) == len(text.encode()) - first
    assert [int(token) for one in made for token in one.tokens[1:]][-1] == tiny_tokenizer().eos_token_id
    assert all(before.tokens[-1] == after.tokens[0] for before, after in pairwise(made))
    (unfinished,) = Renderer(tiny_tokenizer(), window=2000).documents([Conversation(text=text, is_whole=False)])
    assert unfinished.tokens[-1] != tiny_tokenizer().eos_token_id


def test_conversations_without_a_template_are_refused(tmp_path: Path) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="<eos>")
    with pytest.raises(DataError, match=r"no chat template.*language\.template"):
        documents(Conversation(EXCHANGE), tokenizer=bare)
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, "utf-8")
    assert documents(Conversation(EXCHANGE), tokenizer=bare, template=str(file)) == documents(Conversation(EXCHANGE))
    with pytest.raises(RecipeError, match="no-such-file"):
        documents(Conversation(EXCHANGE), template="no-such-file")
    with pytest.raises(DataError, match="refuses the turns user, assistant"):
        documents(Conversation(EXCHANGE), template="{{ raise_exception('no') }}")


def test_files_of_every_kind_are_read(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": list(EXCHANGE)} for _ in range(30)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chats.parquet")
    for name in ("chats.jsonl", "chats.parquet"):
        splits, notes = read_splits(tmp_path / name)
        assert {key: len(value) for key, value in splits.items()} == {"train": 24, "validation": 3, "test": 3}
        assert len(notes) == 2
        assert next(iter(conversations(splits["train"], "train"))).messages == EXCHANGE
    (tmp_path / "corpus.txt").write_text((TEXT * 3 + "\n\n") * 40, "utf-8")
    splits, _ = read_splits(tmp_path / "corpus.txt")
    assert len(splits["train"]) > 10
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("train-1", "train-2", "test"):
        (folder / f"{name}.txt").write_text(TEXT * 30, "utf-8")
    splits, _ = read_splits(folder)
    assert set(splits) == {"train", "validation", "test"}
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows[:2])), "utf-8")
    with pytest.raises(DataError, match="at least 3 rows"):
        read_splits(tmp_path / "two.jsonl")


def test_blocks_make_up_the_text_and_its_end_is_the_last(tmp_path: Path) -> None:
    text = "\n\n".join(TEXT * (1 + number % 3) for number in range(60))
    (tmp_path / "a.txt").write_text(text, "utf-8")
    blocks = blocks_of([tmp_path / "a.txt"])
    assert "".join(blocks["text"]) == text
    assert blocks[IS_WHOLE] == [False] * (len(blocks) - 1) + [True]
    (tmp_path / "empty.txt").write_text(" \n", "utf-8")
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        blocks_of([tmp_path / "empty.txt"])
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="iconv"):
        blocks_of([tmp_path / "latin.txt"])
