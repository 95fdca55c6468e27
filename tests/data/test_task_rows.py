"""Rows of several tasks: labels and ids at the places of their task, and back."""

from __future__ import annotations

import pytest
from datasets import Dataset

from potstill.data.splits import Splits
from potstill.data.task_rows import SPAN, blocks_of, join_tasks, numbers_of, of_task, rows_of, to_task
from potstill.errors import DataError


def rows(labels: list[int], first: int, **columns: list[str]) -> Dataset:
    texts = [f"text {index}" for index in range(len(labels))]
    return Dataset.from_dict({"text": texts, **columns, "label": labels, "row_id": list(range(first, first + len(labels)))})


def splits(names: tuple[str, ...], *, unlabelled: Dataset | None = None, **columns: list[str]) -> Splits:
    train = rows([0, 1, -100], 0, **columns)
    others = {name: rows([1], first) for name, first in (("validation", 3), ("test", 4))}
    return Splits(train=train, **others, unlabelled=unlabelled, label_names=names, notes=("seen",), fingerprint=names[0])


PARTS = {"mood": splits(("bad", "good")), "topic": splits(("film", "a/b"), unlabelled=rows([-100], 9))}


def test_labels_and_ids_move_to_the_places_of_their_task() -> None:
    joined = join_tasks(PARTS)
    assert joined.label_names == ("mood/bad", "mood/good", "topic/film", "topic/a/b")
    assert blocks_of(joined.label_names) == {"mood": (0, 2), "topic": (2, 4)}
    assert joined.train["label"][:] == [0, 1, -100, 2, 3, -100]
    assert numbers_of(joined.train["row_id"]).tolist() == [0, 0, 0, 1, 1, 1]
    assert joined.unlabelled is not None
    assert joined.unlabelled["row_id"][:] == [SPAN + 9]
    assert joined.notes == ("mood: seen", "topic: seen")


def test_a_task_gets_its_rows_back() -> None:
    joined = join_tasks(PARTS)
    back = of_task(joined.train, 1, 2)
    assert back["label"][:] == PARTS["topic"].train["label"][:]
    assert back["text"][:] == PARTS["topic"].train["text"][:]
    again = to_task(PARTS["topic"].train, 1, 2)
    assert again.to_dict() == rows_of(joined.train, 1).to_dict()


def test_joined_rows_depend_on_the_order_of_tasks() -> None:
    assert join_tasks(PARTS).fingerprint != join_tasks(dict(reversed(PARTS.items()))).fingerprint


def test_pairs_beside_single_texts_are_refused() -> None:
    pairs = splits(("no", "yes"), text_pair=["a", "b", "c"])
    with pytest.raises(DataError, match=r"rows of same are pairs of texts, rows of mood are single texts"):
        join_tasks({"mood": PARTS["mood"], "same": pairs})
