"""The trainer takes data sets as people have them, and gives `compute_metrics` what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from potstill import DistillationTrainer
from potstill.contracts.signal import TeacherSignal
from potstill.errors import TrainingError
from potstill.knowledge.responses.dense import DenseLogits
from potstill.losses import functional as F
from potstill.losses import names

TEXTS = ["good film", "bad", "a very good film", "so bad a film"] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in TEXTS for word in text.split()})
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture
def rows(tokenizer: Any) -> Dataset:
    plain = Dataset.from_dict(
        {
            "text": TEXTS,
            "label": [index % 2 for index in range(len(TEXTS))],
            "idx": list(range(len(TEXTS))),
            "words": [text.split() for text in TEXTS],
            "origin": [None if index % 3 else {"url": "x"} for index in range(len(TEXTS))],
        }
    )
    return plain.map(lambda row: tokenizer(row["text"]))


def bert(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    return BertForSequenceClassification(config)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    given = {"max_steps": 2, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return TrainingArguments(output_dir=str(folder), per_device_train_batch_size=4, **(given | changes))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_mapped_data_set_with_its_texts(rows: Dataset, tokenizer: Any, tmp_path: Path, streamed: bool) -> None:
    data = rows.to_iterable_dataset() if streamed else rows
    trainer = DistillationTrainer(
        bert(), arguments(tmp_path), teacher=bert(1), train_dataset=data, eval_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_the_teacher_reads_columns_that_the_student_does_not(tokenizer: Any, tmp_path: Path) -> None:
    encoded = [tokenizer(text) for text in TEXTS]
    rows = Dataset.from_list(
        [{**one, "token_type_ids": [1] * len(one["input_ids"]), "text": text, "labels": 0} for one, text in zip(encoded, TEXTS)]
    )
    config = DistilBertConfig(vocab_size=32, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    seen: list[set[str]] = []
    teacher = bert(1)
    forward = teacher.forward
    teacher.forward = lambda **inputs: seen.append(set(inputs)) or forward(**inputs)
    teacher.forward.__signature__ = __import__("inspect").signature(forward)
    DistillationTrainer(
        DistilBertForSequenceClassification(config),
        arguments(tmp_path),
        teacher=teacher,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()
    assert all("token_type_ids" in names for names in seen)


class ByNumber:
    """A source that looks answers up by a column of its own."""

    fingerprint = "own"

    def __init__(self) -> None:
        self.seen: list[int] = []

    def can_provide(self, need: str) -> bool:
        return need == "logits"

    def signal(self, batch: Any, needs: Any) -> TeacherSignal:
        self.seen += batch["idx"].tolist()
        return TeacherSignal(DenseLogits(torch.stack([batch["idx"].float(), -batch["idx"].float()], -1)))


def test_a_source_of_ones_own_keeps_the_numbers_it_looks_up(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    source = ByNumber()
    DistillationTrainer(
        bert(), arguments(tmp_path), teacher=source, losses=["kl"], train_dataset=rows, processing_class=tokenizer
    ).train()
    assert set(source.seen) <= set(range(len(TEXTS)))
    assert len(set(source.seen)) > 4


def test_nothing_is_left_out_where_that_is_asked(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seen.append(set(batch[0]))
        return DataCollatorWithPadding(tokenizer)(
            [{name: row[name] for name in ("input_ids", "attention_mask", "label")} for row in batch]
        )

    for keeps in (True, False):
        seen.clear()
        DistillationTrainer(
            bert(),
            arguments(tmp_path, remove_unused_columns=not keeps),
            teacher=bert(1),
            train_dataset=rows,
            data_collator=collate,
        ).train()
        assert ("text" in seen[0]) is keeps


def test_metrics_get_inputs_and_losses(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    def measure(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {"longest": float((prediction.inputs >= 0).sum(-1).max())}

    trainer = DistillationTrainer(
        bert(),
        arguments(tmp_path, include_for_metrics=["inputs", "loss"], per_device_eval_batch_size=4),
        teacher=bert(1),
        eval_dataset=rows,
        processing_class=tokenizer,
        compute_metrics=measure,
    )
    found = trainer.evaluate()
    assert found["eval_longest"] == 4
    assert seen[0].inputs.shape[0] == len(rows) == len(seen[0].losses)
    assert np.mean(seen[0].losses) == pytest.approx(found["eval_loss"], rel=1e-4)
    lengths = [len(row) for row in rows["input_ids"]]
    assert sorted((seen[0].inputs > 0).sum(-1).tolist()) == sorted(lengths)


def test_metrics_are_left_out_where_the_loss_alone_is_wanted(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    trainer = DistillationTrainer(
        bert(),
        arguments(tmp_path, prediction_loss_only=True),
        teacher=bert(1),
        eval_dataset=rows,
        processing_class=tokenizer,
        compute_metrics=lambda prediction: pytest.fail("asked"),
    )
    assert "eval_loss" in trainer.evaluate()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_eval_metrics": True}, "batch_eval_metrics"),
        ({"eval_do_concat_batches": False}, "eval_do_concat_batches"),
        ({"bf16_full_eval": True}, "bf16=True"),
        ({"fp16_full_eval": True}, "fp16=True"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"train_sampling_strategy": "sequential"}, "to_iterable_dataset"),
        ({"label_names": ["target"]}, "rename the column"),
        ({"include_for_metrics": ["logits"]}, "inputs and loss"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        DistillationTrainer(bert(), arguments(tmp_path, **settings), teacher=bert(1))


@pytest.mark.parametrize("model", [None, "bert-base-uncased", dict])
def test_a_trainer_without_a_model_says_so(model: Any) -> None:
    with pytest.raises(TrainingError, match="student"):
        DistillationTrainer(model=model, teacher=bert(1))


@pytest.mark.parametrize("teacher", ["bert-base-uncased", {}, BertForSequenceClassification, [], [None]])
def test_a_teacher_that_is_no_model_is_refused(tmp_path: Path, teacher: Any) -> None:
    with pytest.raises(TrainingError, match=r"the teacher is .*from_pretrained"):
        DistillationTrainer(bert(), arguments(tmp_path), teacher=teacher)


@pytest.mark.parametrize("args", [{"output_dir": "out"}, "out", TrainingArguments])
def test_arguments_of_another_type_are_refused(args: Any) -> None:
    with pytest.raises(TrainingError, match=r"args is .*TrainingArguments\(output_dir"):
        DistillationTrainer(bert(), args, teacher=bert(1))


def test_metrics_get_what_was_made_of_the_logits(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    def measure(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"right": float((prediction.predictions == prediction.label_ids).mean())}

    def trainer(prepare: Any) -> DistillationTrainer:
        return DistillationTrainer(
            bert(),
            arguments(tmp_path, per_device_eval_batch_size=3),
            teacher=bert(1),
            eval_dataset=rows,
            processing_class=tokenizer,
            compute_metrics=measure,
            preprocess_logits_for_metrics=prepare,
        )

    made = trainer(lambda logits, labels: logits.argmax(-1))
    found = made.evaluate()
    assert seen[0].shape == (len(rows),)
    assert found["eval_right"] == 0.5
    assert "eval_agreement" in found  # which is of the logits
    assert made.predict(rows).predictions.tolist() == seen[0].tolist()
    for wrong in (lambda logits, labels: logits.mean(), lambda logits, labels: (logits, labels)):
        with pytest.raises(TrainingError, match="an entry for each row"):
            trainer(wrong).evaluate()


def test_rows_are_grouped_by_length_where_that_is_asked(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    def batches(data: Any, **changes: Any) -> list[int]:
        trainer = DistillationTrainer(
            bert(),
            arguments(tmp_path, **changes),
            teacher=bert(1),
            train_dataset=data,
            processing_class=tokenizer,
        )
        return [int((~batch["attention_mask"].bool()).sum()) for batch in trainer.get_train_dataloader()]

    grouped = {"train_sampling_strategy": "group_by_length"}
    assert sum(batches(rows)) > sum(batches(rows, **grouped)) == 0
    known = rows.add_column("size", [len(row) for row in rows["input_ids"]])
    assert sum(batches(known, length_column_name="size", **grouped)) == 0
    with pytest.raises(TrainingError, match="add the column length"):
        batches(rows.select_columns(["text", "label"]), **grouped)


@pytest.mark.parametrize(
    ("kept", "tokenized", "words"),
    [
        (["text", "label"], True, r"tokenize them: dataset\.map"),
        (["input_ids", "attention_mask", "name", "labels"], True, r"leave out name"),
        (["input_ids", "attention_mask", "label"], False, "pass processing_class=tokenizer"),
    ],
)
def test_rows_that_make_no_batch_say_what_to_do(
    rows: Dataset, tokenizer: Any, tmp_path: Path, kept: list[str], tokenized: bool, words: str
) -> None:
    data = rows.add_column("name", TEXTS).add_column("labels", rows["label"])
    trainer = DistillationTrainer(
        bert(),
        arguments(tmp_path, remove_unused_columns="name" not in kept),
        teacher=bert(1),
        train_dataset=data.select_columns(kept),
        processing_class=tokenizer if tokenized else None,
    )
    with pytest.raises(TrainingError, match=rf"rows cannot be made into a batch.*{words}"):
        trainer.train()


def test_labels_that_are_texts_say_what_to_do(rows: Dataset, tokenizer: Any, tmp_path: Path) -> None:
    data = rows.remove_columns("label").add_column("label", ["good", "bad"] * 8)
    trainer = DistillationTrainer(bert(), arguments(tmp_path), teacher=bert(1), train_dataset=data, processing_class=tokenizer)
    with pytest.raises(TrainingError, match=r"class_encode_column\('label'\)"):
        trainer.train()
    trainer = DistillationTrainer(
        bert(),
        arguments(tmp_path),
        teacher=bert(1),
        train_dataset=data.class_encode_column("label"),
        processing_class=tokenizer,
    )
    trainer.train()


LABELLED = [
    name for name in names() if name in ("ce", "dkd", "nkd", "wsld", "tf_kd", "label_smoothing_kd", "probability_shift", "cs_kd")
]


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("wrong", [-1, -2, 3, 1000])
def test_labels_of_no_class_are_refused_by_every_loss(name: str, wrong: int) -> None:
    import inspect

    function = getattr(F, name)
    parameters = inspect.signature(function).parameters
    logits = {key: torch.randn(4, 3) for key in ("student_logits", "teacher_logits") if key in parameters}
    function(**logits, labels=torch.tensor([0, 1, -100, 2]))
    if name == "cs_kd" and wrong > 0:  # labels only say which rows belong together
        return
    with pytest.raises(IndexError, match=str(wrong)):
        function(**logits, labels=torch.tensor([0, 1, wrong, 2]))


def test_every_loss_of_class_labels_is_among_them() -> None:
    import inspect

    reading = {
        name for name in names() if "labels" in inspect.signature(getattr(F, name)).parameters and name != "bounded_regression"
    }
    assert reading == set(LABELLED)


datasets.disable_progress_bars()
