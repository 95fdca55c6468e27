"""Small decoders of many types, a tokenizer with a chat template, and conversations."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "the cat sat on the mat and the dog sat on the log. one and two are three. "
VOCABULARY = 400

COMMON = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
GATED = COMMON | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 8}
TYPES: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "mistral": GATED | {"sliding_window": 16},
    "qwen2": GATED,
    "qwen3": GATED,
    "gemma2": GATED | {"sliding_window": 16, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gemma3_text": GATED | {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi3": GATED | {"pad_token_id": 1},
    "olmo2": GATED,
    "granite": GATED | {"logits_scaling": 3.0},
    "cohere": GATED | {"logit_scale": 0.25},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": VOCABULARY},
    "gpt_neox": COMMON | {"intermediate_size": 48, "max_position_embeddings": 256},
}


def tiny_decoder(model_type: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """A decoder with random weights of this type, in eval mode."""
    settings = TYPES[model_type] | {"bos_token_id": 0, "eos_token_id": 0} | changes
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


@functools.cache
def tiny_tokenizer() -> Any:
    """A byte-level tokenizer of `VOCABULARY` tokens with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<eos>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [TEXT] * 4, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


def save_decoder(folder: Path, model_type: str = "llama", **changes: Any) -> Path:
    """A decoder and the tokenizer in a folder."""
    tiny_decoder(model_type, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_chats(file: Path, count: int = 40) -> Path:
    """Conversations of one or two exchanges."""
    with file.open("w", encoding="utf-8") as stream:
        for number in range(count):
            turns = [turn for _ in range(1 + number % 2) for turn in _exchange(number)]
            stream.write(json.dumps({"messages": turns}) + "\n")
    return file


def _exchange(number: int) -> list[dict[str, str]]:
    answer = "the cat sat on the mat. " * (1 + number % 3)
    return [{"role": "user", "content": f"say {number % 5} times"}, {"role": "assistant", "content": answer.strip()}]
