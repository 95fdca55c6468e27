"""The gradient of a decoder is the same however the global batch is cut, and a run from chats to a student works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from language_builders import save_decoder, tiny_decoder, tiny_tokenizer, write_chats
from transformers import AutoModelForCausalLM, TrainingArguments

from potstill import DistillationPipeline
from potstill.knowledge.language import LanguageTeacher
from potstill.losses.tokens import TokenCE, TokenDivergence
from potstill.modalities.language.conversations import Conversation
from potstill.modalities.language.documents import Documents, write_documents
from potstill.modalities.language.packing import PackedRows, WindowCollator
from potstill.modalities.language.rendering import Renderer
from potstill.models.decoder import Decoder
from potstill.training.language_trainer import LanguageTrainer
from potstill.training.terms import Term


@pytest.fixture
def documents(tmp_path: Path) -> Documents:
    texts = [Conversation(text="the cat sat on the mat and " * (1 + number % 5)) for number in range(8)]
    return write_documents(Renderer(tiny_tokenizer(), window=48).documents(texts), tmp_path / "documents", {})


class InOrder(torch.utils.data.Dataset):
    """Windows without lengths, so that every cut of a step holds the same ones."""

    def __init__(self, rows: PackedRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_the_same_however_it_is_cut(documents: Documents, tmp_path: Path, is_packed: bool, checkpointing: bool) -> None:
    rows = PackedRows(documents, 48, is_packed=is_packed)
    count, weights = len(rows) - len(rows) % 4, {}
    rows.windows = rows.windows[:count]
    for accumulation in (1, 2, 4):
        student = tiny_decoder(seed=1)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / f"{accumulation}"),
            max_steps=1,
            per_device_train_batch_size=count // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            optim="sgd",
            max_grad_norm=0,
            gradient_checkpointing=checkpointing,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        trainer = LanguageTrainer(
            student,
            arguments,
            terms=[Term("kl", TokenDivergence()), Term("ce", TokenCE())],
            source=LanguageTeacher(Decoder(tiny_decoder(seed=0))),
            train_dataset=InOrder(rows),
            data_collator=WindowCollator(1),
        )
        trainer.train()
        weights[accumulation] = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    start = torch.cat([parameter.detach().flatten() for parameter in tiny_decoder(seed=1).parameters()])
    assert (weights[1] - start).abs().max() > 1e-4
    torch.testing.assert_close(weights[2], weights[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights[4], weights[1], rtol=1e-5, atol=1e-6)


def test_from_chats_to_a_student(tmp_path: Path) -> None:
    teacher, student = save_decoder(tmp_path / "teacher"), save_decoder(tmp_path / "small", seed=1, num_hidden_layers=1)
    metrics = DistillationPipeline(
        str(teacher),
        str(write_chats(tmp_path / "chats.jsonl")),
        {"student": {"model": str(student)}, "distill": {"epochs": 8, "batch_size": 4, "learning_rate": 1e-2}},
        output_dir=tmp_path / "out",
    ).run()
    assert metrics.task == "causal-lm"
    found = metrics.models["student"]
    assert found.quality["perplexity"] is not None
    assert found.quality["bits_per_byte"] is not None
    assert 0 < (found.mean_kl_nats or 0) < 0.1
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert loaded.config.num_hidden_layers == 1
    written = json.loads((tmp_path / "out" / "report" / "metrics.json").read_text("utf-8"))
    assert written["models"]["teacher"]["quality"]["perplexity"] > 1
