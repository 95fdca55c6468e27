"""What a processor makes and a model cannot read is refused while both are loaded, with both sizes in one message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    default_data_collator,
)

from potstill import DistillationPipeline, DistillationTrainer, load, tasks
from potstill.errors import ModelError, NeedsError
from potstill.models.load import load_teacher
from potstill.planning.inputs import InMemory, Inputs
from potstill.recipe.model import DataRecipe, OneTeacherRecipe

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TASK = tasks.build("text-classification")


def tokenizer(words: int = 16, *, pair_type: int = 1, **settings: Any) -> PreTrainedTokenizerFast:
    names = [*SPECIAL, *(f"w{index}" for index in range(words - len(SPECIAL)))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B:{pair_type} [SEP]:{pair_type}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    given = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | settings
    return PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def bert(rows: int = 16, **settings: Any) -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(vocab_size=rows, **SIZES, **settings))


def saved(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def added() -> PreTrainedTokenizerFast:
    made = tokenizer()
    made.add_tokens(["<url>", "<user>"])
    return made


def padded() -> PreTrainedTokenizerFast:
    made = tokenizer(pad_token=None)
    made.add_special_tokens({"pad_token": "<pad>"})
    return made


@pytest.mark.parametrize(("made", "needed"), [(lambda: tokenizer(20), 20), (added, 18), (padded, 17)])
def test_more_tokens_than_rows_of_the_embedding(tmp_path: Path, made: Any, needed: int) -> None:
    message = rf"has 16 token embeddings, and its tokenizer {needed} tokens\..*Accepted:.*What to do: save the tokenizer"
    folder = saved(tmp_path, bert(), made())
    with pytest.raises(ModelError, match=message):
        load_teacher(folder, TASK)
    with pytest.raises(ModelError, match=message):  # a saved student
        load(folder)


def test_a_larger_vocabulary_file_without_tokenizer_json(tmp_path: Path) -> None:
    folder = saved(tmp_path, bert(), tokenizer())
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, "[MASK]", *(f"w{index}" for index in range(20))]), "utf-8")
    assert len(BertTokenizer.from_pretrained(folder)) > 16
    with pytest.raises(ModelError, match="has 16 token embeddings, and its tokenizer 25 tokens"):
        load_teacher(folder, TASK)


def inputs(model: Any, processor: Any) -> Inputs:
    return Inputs("", OneTeacherRecipe(model="x"), DataRecipe(source="x"), 0, TASK.name, InMemory(model, processor))


def test_a_teacher_in_memory_is_held_against_its_tokenizer() -> None:
    with pytest.raises(ModelError, match="BertForSequenceClassification has 16 token embeddings, and its tokenizer 18 tokens"):
        inputs(bert(), added()).load(None)
    with pytest.raises(ModelError, match="the tokenizer of BertForSequenceClassification has no padding token"):
        inputs(bert(), tokenizer(pad_token=None)).load(None)


def test_a_pipeline_refuses_it_before_anything_is_trained(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"w{i % 9} w{i % 7},LABEL_{i % 2}\n" for i in range(60)), "utf-8")
    pipeline = DistillationPipeline(bert(), str(rows), output_dir=tmp_path / "out", processor=added())
    with pytest.raises(ModelError, match="has 16 token embeddings, and its tokenizer 18 tokens"):
        pipeline.run()
    assert not list((tmp_path / "out" / "work").glob("*/model*"))


def test_the_limit_of_positions_is_kept_and_the_callers_tokenizer_is_left_alone() -> None:
    own = tokenizer(model_max_length=500)
    assert inputs(bert(max_position_embeddings=12), own).load(None).processor.model_max_length == 12
    roberta = RobertaForSequenceClassification(
        RobertaConfig(vocab_size=16, max_position_embeddings=12, pad_token_id=0, bos_token_id=2, eos_token_id=3, **SIZES)
    )
    assert inputs(roberta, own).load(None).processor.model_max_length == 11
    assert own.model_max_length == 500


def test_more_kinds_of_segments_than_the_model_has(tmp_path: Path) -> None:
    folder = saved(tmp_path, bert(), tokenizer(pair_type=2, model_input_names=["input_ids", "token_type_ids", "attention_mask"]))
    with pytest.raises(ModelError, match="has 2 segment embeddings, and its tokenizer 3 segments"):
        load_teacher(folder, TASK)


@torch.no_grad()
def test_a_model_of_one_kind_of_segments_reads_pairs(tmp_path: Path) -> None:
    own = tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    loaded = load_teacher(saved(tmp_path, bert(type_vocab_size=1), own), TASK)
    batch = loaded.processor("w1 w2", "w3", return_tensors="pt")
    assert "token_type_ids" not in batch
    loaded.model(**batch)
    taken = inputs(bert(type_vocab_size=1), own).load(None).processor
    assert "token_type_ids" not in taken.model_input_names
    assert "token_type_ids" in own.model_input_names


def vit(**settings: Any) -> ViTForImageClassification:
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **sizes, **settings))


def test_images_of_another_size_than_the_model_has_positions_for(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit(), ViTImageProcessor(size={"height": 16, "width": 16}))
    with pytest.raises(ModelError, match=r"takes images of 8 x 8 pixels, its image processor makes 16 x 16"):
        load_teacher(folder, tasks.build("image-classification"))


def test_images_of_other_channels(tmp_path: Path) -> None:
    folder = saved(tmp_path, vit(num_channels=1), ViTImageProcessor(size={"height": 8, "width": 8}))
    with pytest.raises(ModelError, match="makes 3 channels, the model takes 1"):
        load_teacher(folder, tasks.build("image-classification"))


ROW = {"input_ids": [2, 5, 6, 3], "attention_mask": [1, 1, 1, 1], "labels": 0}


@pytest.mark.parametrize(
    ("settings", "row", "message"),
    [
        ({"max_position_embeddings": 3}, {}, "input_ids has rows of 4 tokens, and the {} has positions for 3"),
        ({}, {"token_type_ids": [0, 0, 2, 2]}, "token_type_ids holds 2, and the {}'s kinds of segments are 2"),
        (
            {"type_vocab_size": 1},
            {"token_type_ids": [0, 0, 1, 1]},
            "token_type_ids holds 1, and the {}'s kinds of segments are 1",
        ),
    ],
)
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_trainer_names_rows_that_a_model_cannot_read(
    tmp_path: Path, settings: dict[str, Any], row: dict[str, Any], message: str, who: str
) -> None:
    narrow, wide = bert(**settings), bert(type_vocab_size=8)
    student, teacher = (narrow, wide) if who == "student" else (wide, narrow)
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, max_steps=1)
    trainer = DistillationTrainer(
        student, args, teacher=teacher, train_dataset=[ROW | row] * 4, data_collator=default_data_collator
    )
    with pytest.raises(NeedsError, match=message.format(who)):
        trainer.train()
