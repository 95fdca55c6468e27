"""A LoRA adapter: what is trained, what is saved, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from language_builders import TYPES, save_decoder, tiny_decoder, tiny_tokenizer, write_chats
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainingArguments

from potstill import DistillationPipeline
from potstill.errors import MissingExtra, RecipeError
from potstill.knowledge.language import LanguageTeacher
from potstill.losses.tokens import TokenCE, TokenDivergence
from potstill.modalities.language.conversations import Conversation
from potstill.modalities.language.documents import write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator
from potstill.modalities.language.rendering import Renderer
from potstill.models.adapters import check_lora, lora_targets, with_lora
from potstill.models.decoder import Decoder
from potstill.planning.check import check_recipe
from potstill.recipe import Recipe
from potstill.recipe.adapter import LoraRecipe
from potstill.training.checkpoints import newest_checkpoint
from potstill.training.language_trainer import LanguageTrainer
from potstill.training.terms import Term


@pytest.mark.parametrize("model_type", TYPES)
def test_an_adapter_starts_as_the_model_and_trains_nothing_else(model_type: str) -> None:
    model = tiny_decoder(model_type)
    tokens = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        before = model(tokens).logits
        adapted = with_lora(model, LoraRecipe(rank=4), seed=0)
        torch.testing.assert_close(adapted(tokens).logits, before)
    assert {name for name, weight in adapted.named_parameters() if weight.requires_grad} == {
        name for name, _ in adapted.named_parameters() if "lora_" in name
    }
    assert Decoder(adapted).layer is Decoder(adapted.get_base_model()).layer


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_an_adapter_is_the_same_however_it_is_cut(tmp_path: Path, checkpointing: bool) -> None:
    texts = [Conversation(text="the cat sat on the mat and " * (1 + number % 5)) for number in range(8)]
    rows = PackedRows(
        write_documents(Renderer(tiny_tokenizer(), window=48).documents(texts), tmp_path / "d", {}), 48, is_packed=False
    )
    count, found = len(rows) - len(rows) % 4, {}
    rows.windows = rows.windows[:count]
    in_order = [rows[index] for index in range(count)]
    for accumulation in (1, 2, 4):
        base = tiny_decoder(seed=1)
        start = {name: value.clone() for name, value in base.state_dict().items()}
        student = with_lora(base, LoraRecipe(rank=4), seed=3)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / f"{accumulation}"),
            max_steps=1,
            per_device_train_batch_size=count // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=1.0,
            optim="sgd",
            max_grad_norm=0,
            gradient_checkpointing=checkpointing,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        LanguageTrainer(
            student,
            arguments,
            terms=[Term("kl", TokenDivergence()), Term("ce", TokenCE())],
            source=LanguageTeacher(Decoder(tiny_decoder(seed=0))),
            train_dataset=in_order,
            data_collator=WindowCollator(1),
        ).train()
        found[accumulation] = {name: value.detach() for name, value in student.named_parameters() if "lora_" in name}
        for name, value in student.unload().state_dict().items():
            torch.testing.assert_close(value, start[name], rtol=0, atol=0)
    assert max(value.abs().max() for name, value in found[1].items() if "lora_B" in name) > 1e-4
    for accumulation in (2, 4):
        torch.testing.assert_close(found[accumulation], found[1], rtol=1e-5, atol=1e-6)


def test_an_adapter_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    texts = [Conversation(text="the cat sat on the mat and " * (1 + number % 5)) for number in range(8)]
    documents = write_documents(Renderer(tiny_tokenizer(), window=48).documents(texts), tmp_path / "d", {})
    rows, found = PackedRows(documents, 48, is_packed=False), []
    for checkpoint in (None, str(tmp_path / "checkpoints" / "checkpoint-2")):
        student = with_lora(tiny_decoder(seed=1), LoraRecipe(rank=4), seed=3 if checkpoint is None else 4)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "checkpoints"),
            max_steps=4,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        terms, collator = [Term("ce", TokenCE())], WindowCollator(1)
        trainer = LanguageTrainer(student, arguments, terms=terms, train_dataset=rows, data_collator=collator)
        trainer.train(resume_from_checkpoint=checkpoint)
        found.append({name: value.detach() for name, value in student.named_parameters()})
        assert newest_checkpoint(tmp_path / "checkpoints") is not None
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-7)


def _run(tmp_path: Path, **student: Any) -> Path:
    teacher = save_decoder(tmp_path / "teacher")
    small = save_decoder(tmp_path / "small", seed=1, num_hidden_layers=1)
    settings = {
        "student": {"model": str(small), "adapter": "lora", **student},
        "distill": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2},
    }
    chats = str(write_chats(tmp_path / "chats.jsonl"))
    DistillationPipeline(str(teacher), chats, settings, output_dir=tmp_path / "out").run()
    return tmp_path / "out" / "student"


def test_the_merged_student_answers_as_base_and_adapter(tmp_path: Path) -> None:
    folder = _run(tmp_path, lora={"rank": 4, "alpha": 8, "targets": ["q_proj", "down_proj"]})
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "small").eval()
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, folder / "adapter").eval()(tokens).logits
        torch.testing.assert_close(merged(tokens).logits, adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - plain).abs().max() > 1e-3


def test_targets_that_cannot_be_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'query_proj'(.|\n)*q_proj, k_proj"):
        _run(tmp_path, lora={"targets": ["query_proj"]})
    with pytest.raises(RecipeError, match="'lm_head', the head over the vocabulary"):
        lora_targets(tiny_decoder(), ["q_proj", "lm_head"])


def test_an_adapter_without_its_package_or_its_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": "t"},
            "data": {"source": "d.csv"},
            "task": "text-classification",
            "student": {"adapter": "lora"},
        }
    )
    with pytest.raises(RecipeError, match="predicts no tokens"):
        check_recipe(recipe)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"potstill\[llm\]"):
        check_lora(tiny_decoder(), LoraRecipe())
