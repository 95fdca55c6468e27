"""LoRA adapters of causal language models, by peft.

Source: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from potstill.errors import MissingExtra, RecipeError
from potstill.ground.devices import seeded
from potstill.models.decoder import Decoder
from potstill.recipe.adapter import LoraRecipe


def with_lora(model: Any, options: LoraRecipe, *, seed: int) -> Any:
    """The model with a new adapter; the model's own weights are frozen and stay as they are.

    Raises:
        MissingExtra: peft is not installed.
        RecipeError: A target does not exist, or is the head.
    """
    peft = _peft()
    targets = lora_targets(model, options.targets)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
        task_type="CAUSAL_LM",
    )
    with seeded(seed):
        return peft.get_peft_model(model, config)


def check_lora(model: Any, options: LoraRecipe) -> None:
    """Make sure that the model can get this adapter, before time is spent on anything else.

    Raises:
        MissingExtra: peft is not installed.
        RecipeError: A target does not exist, or is the head.
    """
    _peft()
    lora_targets(model, options.targets)


def _peft() -> Any:
    try:
        import peft
    except ImportError as err:
        raise MissingExtra("student.adapter: lora", "llm") from err
    return peft


def lora_targets(model: Any, wanted: str | Sequence[str]) -> list[str]:
    """Full names of the layers that get an adapter, in the model's order.

    Args:
        wanted: ``"auto"``, or names of layers: the last parts of their full names.

    Raises:
        RecipeError: A name fits no linear layer, or the head.
    """
    head = Decoder(model).layer
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    inner = [name for name, layer in found.items() if layer is not head]
    if wanted == "auto":
        return inner
    accepted = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in inner))
    for each in wanted:
        if any(layer is head and _fits(name, each) for name, layer in found.items()):
            raise RecipeError(
                f"student.lora.targets names {each!r}, the head over the vocabulary, which the losses read as one weight",
                accepted,
                f"leave {each!r} out",
            )
        if not any(_fits(name, each) for name in inner):
            raise RecipeError(
                f"student.lora.targets names {each!r}, and no linear layer of the student is called that",
                accepted,
                "set student.lora.targets: auto, or names out of these",
            )
    return [name for name in inner if any(_fits(name, each) for each in wanted)]


def _fits(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")
