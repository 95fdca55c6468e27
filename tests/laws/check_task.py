"""Laws of answers, modalities and tasks, for entries of the tables and for others that a test adds."""

# N rows, B batch

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from potstill.answers.judging import judged, known_rows
from potstill.contracts.answers import Answers, Predictions
from potstill.contracts.modality import Modality
from potstill.contracts.task import Task
from potstill.data import load
from potstill.losses import build as build_loss


def check_answers(answers: Answers, logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray, parts: Sequence[int]) -> None:
    """Streaming changes no figure, a model is closest to itself, rows without labels count for nothing.

    Args:
        answers: What is checked.
        logits: Answers to some rows, first axis N.
        teacher: Another model's.
        labels: As encoded rows have them.
        parts: Where the rows are cut into batches.
    """
    for loss in (*answers.from_teacher, *([] if answers.from_labels is None else [answers.from_labels])):
        build_loss(loss["name"], **{key: value for key, value in loss.items() if key not in ("name", "weight")})
    assert not known_rows(np.asarray(_plain(answers.missing(3, answers.label_names)))).any()
    at_once = _judge(answers, logits, teacher, labels)
    streamed = answers.judge()
    for rows in np.split(np.arange(len(logits)), parts):
        streamed.update(_found(logits, labels, rows), _found(teacher, labels, rows))
    _same(streamed.quality(), at_once.quality())
    _same(vars(streamed.closeness()), vars(at_once.closeness()))
    assert streamed.worst(_names(answers, logits), 3) == at_once.worst(_names(answers, logits), 3)
    _same(answers.scaled(None).judge().__class__.__name__, at_once.__class__.__name__)
    itself = _judge(answers, teacher, teacher, labels)
    assert itself.closeness().agreement in (None, 1.0)
    assert itself.closeness().mean_kl_nats in (None, 0.0)
    tensors = [torch.from_numpy(values).float() for values in (logits, teacher)]
    assert float(answers.distance(tensors[1], tensors[1]).abs().max()) < 1e-5
    assert float(answers.distance(tensors[1], tensors[0]).mean()) > 0
    if answers.has_uncertainty:
        unsure = answers.uncertainty(tensors[0])
        assert unsure.shape == (len(logits),)
        assert bool(((unsure >= 0) & (unsure <= 1)).all())


def check_modality(modality: Modality, rows: Dataset, processor: Any, folder: Path) -> None:
    """Content is found and read, rows are encoded once and whole, also none of them, and batches may be cut anywhere."""
    roles = modality.find_content(rows.features, {}, taken=["label"])
    assert set(roles) <= set(modality.roles)
    content, keep = modality.read(rows, roles, "train", [], folder=None, skip_corrupt=False)
    assert content.num_rows == len(rows)
    assert keep is None or keep == list(range(len(rows)))
    assert set(content.column_names) <= set(modality.roles)
    assert modality.noun
    assert modality.processor_noun.startswith(("a ", "an "))


def check_task(task: Task, rows: Dataset, processor: Any, model: Any, folder: Path, *, label_names: Sequence[str]) -> None:
    """Rows, model and answers fit together, and batches may be cut anywhere.

    Args:
        task: What is checked.
        rows: With labels.
        processor: Tokenizer or the like.
        model: With the task's head.
        folder: For encoded rows.
        label_names: Names of the model's outputs.
    """
    splits = load(rows, task=task, validation=rows, test=rows)
    task.label_names = splits.label_names
    train = splits.train
    if task.modality.is_windowed:
        train, _ = task.modality.split_long(train, processor, first_row_id=10_000, split="train")
    encoded = task.encode(train, processor, folder / "rows")
    assert len(task.encode(train.select([]), processor, folder / "none")) == 0
    assert sorted(encoded.row_ids.tolist()) == sorted(train["row_id"])
    assert task.text_of(train[0])
    collator, answers = task.collator(processor), task.answers(encoded.labels)
    whole = _answered(model, answers, collator(encoded.__getitems__([0, 1, 2, 3])))
    for number in range(4):
        alone = _answered(model, answers, collator(encoded.__getitems__([number])))
        width = [slice(0, size) for size in alone.shape[1:]]
        torch.testing.assert_close(alone[0], whole[(number, *width)], atol=1e-4, rtol=1e-4)
    inputs = task.example_inputs(model, batch=2)
    assert set(task.dynamic_axes(model)) == set(inputs)
    with torch.no_grad():
        model(**inputs)
    check_named(task, rows, processor, model)


def check_named(task: Task, rows: Dataset, processor: Any, model: Any) -> None:
    """Rows without labels are answered in words, one line for each, alike alone and together."""
    from potstill.exports.runtimes import TorchRunner
    from potstill.flows.answering import Answering
    from potstill.recipe.model import DataRecipe

    roles = task.find_columns(rows, None, labelled=False)
    bare = rows.select_columns([roles[role] for role in task.modality.roles if role in roles])
    content, _ = task.modality.read(bare, roles, "new", [], folder=None, skip_corrupt=False)
    answering = Answering(task, TorchRunner(model), processor, processor, DataRecipe(source=""))
    named = answering.to(content)
    assert named.num_rows == len(rows)
    assert "prediction" in named.column_names
    alone = answering.to(content.slice(3, 1))
    assert alone.schema == named.schema
    assert alone.column("prediction").type == named.column("prediction").type


def _answered(model: Any, answers: Answers, batch: dict[str, Any]) -> torch.Tensor:
    from potstill.answers.units import head_output
    from potstill.models.inputs import InputNames

    known = {name: value for name, value in batch.items() if name in InputNames(model).names and name != "labels"}
    with torch.no_grad():
        return answers.arrange({"logits": head_output(model(**known))}, batch)[0]


def _found(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Predictions:
    return Predictions(logits[rows], labels[rows], rows)


def _judge(answers: Answers, logits: np.ndarray, teacher: np.ndarray, labels: np.ndarray) -> Any:
    rows = np.arange(len(logits))
    return judged(answers.judge(), _found(logits, labels, rows), _found(teacher, labels, rows))


def _names(answers: Answers, logits: np.ndarray) -> Sequence[str]:
    return answers.label_names or [str(number) for number in range(logits.shape[-1])]


def _plain(missing: np.ndarray) -> Any:
    """Lists of labels as arrays: an empty list, or a mark that nothing is known, has no label."""
    return np.full((len(missing), 1), -100) if missing.dtype == object else missing


def _same(found: Any, expected: Any) -> None:
    if isinstance(found, dict):
        assert set(found) == set(expected)
        for key, value in found.items():
            _same(value, expected[key])
    elif isinstance(found, float):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    else:
        assert found == expected
