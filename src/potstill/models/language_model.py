"""Causal language models and their tokenizers, loaded from folders or hub ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from potstill.errors import ModelError, first_line
from potstill.models.decoder import Decoder
from potstill.models.frozen import freeze

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class LanguageModel:
    """A language model of a run, loaded when it is asked for.

    Args:
        name: As messages say it: ``"teacher"``.
        source: Folder or hub id.
        load_model: Gives the model.
        load_tokenizer: Gives its tokenizer.
    """

    name: str
    source: str
    load_model: Callable[[], Any]
    load_tokenizer: Callable[[], Any]
    _kept: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.load_tokenizer()

    @cached_property
    def decoder(self) -> Decoder:
        """The model, frozen, taken apart; loaded once."""
        decoder = Decoder(freeze(self.load_model()))
        decoder.check()
        return decoder


@dataclass(frozen=True)
class RenumberedModel(LanguageModel):
    """A language model that reads the tokens of a smaller vocabulary; its weights are loaded once with the whole model.

    Args:
        original: The whole model.
        ids: [V'] its number of each token.
    """

    original: LanguageModel = field(kw_only=True)
    ids: torch.Tensor = field(kw_only=True, compare=False)

    @cached_property
    def decoder(self) -> Decoder:
        """The whole model, read and asked by the numbers of the smaller vocabulary."""
        return self.original.decoder.renumbered(self.ids)


def load_decoder(name_or_path: str, *, dtype: str = "fp32", trust_remote_code: bool = False) -> Any:
    """A causal language model in eval mode.

    Raises:
        ModelError: Nothing to load there, or a model of another kind.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as err:
        raise ModelError(
            f"{name_or_path} does not give a causal language model ({first_line(err)[:200]})",
            "a folder written by save_pretrained, or a hub id, of a model that AutoModelForCausalLM loads",
            "check the path; save the tokenizer in the same folder",
        ) from err
    return model.eval()


def load_tokenizer(name_or_path: str, *, trust_remote_code: bool = False) -> Any:
    """Its tokenizer; one without a padding token pads with its end token.

    Raises:
        ModelError: No tokenizer there, or one that does not say where tokens lie in the text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as err:
        raise ModelError(
            f"{name_or_path} does not give a tokenizer ({first_line(err)[:200]})",
            "a folder with tokenizer.json",
            "save it there with tokenizer.save_pretrained",
        ) from err
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {name_or_path} is a slow one, which does not say where its tokens lie in a text",
            "a fast tokenizer (tokenizer.json)",
            "convert it with transformers.convert_slow_tokenizer and save it again",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def language_model(name: str, source: str | Path, *, dtype: str = "fp32", trust_remote_code: bool = False) -> LanguageModel:
    """A model of a run from a folder or hub id."""
    return LanguageModel(
        name,
        str(source),
        lambda: load_decoder(str(source), dtype=dtype, trust_remote_code=trust_remote_code),
        lambda: load_tokenizer(str(source), trust_remote_code=trust_remote_code),
    )
