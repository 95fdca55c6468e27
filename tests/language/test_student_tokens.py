"""Teacher and student read the same numbers as the same tokens, or the run stops before it asks the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_builders import VOCABULARY, save_decoder, tiny_tokenizer, write_chats
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from potstill import DistillationPipeline
from potstill.errors import RecipeError


def _run(tmp_path: Path, method: str = "auto") -> None:
    settings = {"student": {"model": str(tmp_path / "small")}, "distill": {"epochs": 1, "batch_size": 4, "method": method}}
    chats = str(write_chats(tmp_path / "chats.jsonl"))
    DistillationPipeline(str(tmp_path / "teacher"), chats, settings, output_dir=tmp_path / "out").run()


@pytest.mark.parametrize("method", ["kd", "sft"])
def test_a_student_with_other_tokens_is_refused(tmp_path: Path, method: str) -> None:
    save_decoder(tmp_path / "teacher")
    save_decoder(tmp_path / "small", seed=1)
    text = tiny_tokenizer().backend_tokenizer.to_str().replace('"<|tool|>"', '"<|else|>"')
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), eos_token="<eos>", pad_token="<pad>")
    other.save_pretrained(tmp_path / "small")
    with pytest.raises(RecipeError, match=r"tokens otherwise(.|\n)*with the teacher's tokenizer"):
        _run(tmp_path, method)


def test_a_longer_head_on_the_same_tokens_learns(tmp_path: Path) -> None:
    save_decoder(tmp_path / "teacher")
    save_decoder(tmp_path / "small", seed=1, vocab_size=VOCABULARY + 24)
    _run(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student").config.vocab_size == VOCABULARY + 24
