"""A decoder of transformers, taken apart into the part that gives hidden states and the head over the vocabulary.

Shapes: B batch, T tokens, D width, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.ground.devices import device_of, frozen
from potstill.models.vocabulary_head import VocabularyHead

# What configurations call a factor of the logits, and whether they are divided by it.
SCALES = {"logit_scale": False, "logits_scaling": True, "lm_head_multiplier": False, "output_multiplier": False}
MULTIPLIED = ("hyperclovax",)  # types whose logits_scaling multiplies
SOFTCAPS = ("final_logit_softcapping",)
INPUTS = ("input_ids", "position_ids", "attention_mask", "inputs_embeds")
PROBE_TOKENS = 8
TOLERANCE = 1e-3


class Decoder:
    """The parts of one model; they stay the model's own.

    Args:
        model: An ``AutoModelForCausalLM``, plain or with adapters of peft.

    Raises:
        ModelError: It has no head over a vocabulary, or does something to its logits that is not known here.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        given: Any = model
        plain = given.get_base_model() if hasattr(given, "get_base_model") else given
        self.plain = plain
        self.config = getattr(plain.config, "text_config", None) or plain.config
        self.layer: Any = plain.get_output_embeddings() if hasattr(plain, "get_output_embeddings") else None
        body = plain.get_decoder() if hasattr(plain, "get_decoder") else None
        self.body: nn.Module = body if isinstance(body, nn.Module) and body is not plain else plain.base_model
        if self.layer is None or self.body is plain or not hasattr(self.layer, "weight"):
            raise ModelError(
                f"{type(plain).__name__} has no head over a vocabulary",
                "a causal language model, as AutoModelForCausalLM loads it",
                "give a model whose class ends in ForCausalLM or LMHeadModel",
            )
        self._scale, self._softcap = _post_processing(self.config)

    @property
    def head(self) -> VocabularyHead:
        """The head as it is now."""
        weight = self.layer.weight
        return VocabularyHead(whole(weight), getattr(self.layer, "bias", None), self._scale, self._softcap)

    def hidden(self, batch: Mapping[str, Any]) -> Tensor:
        """What the head reads, [B, T, D]; rows of several documents are told apart by positions that start again.

        Args:
            batch: ``input_ids`` [B, T] and ``position_ids`` [B, T]; further keys are left out.
        """
        inputs = {name: batch[name] for name in INPUTS if isinstance(batch.get(name), Tensor)}
        return self.body(**inputs, use_cache=False).last_hidden_state  # type: ignore[no-any-return]

    def renumbered(self, ids: Tensor) -> Decoder:
        """The same model over a part of its vocabulary, numbered anew; the weights stay its own.

        Args:
            ids: [V'] its number of each entry.
        """
        return _Renumbered(self, ids)

    def check(self) -> None:
        """Make sure that head and hidden states give the model's own logits.

        Raises:
            ModelError: They do not.
        """
        tokens = torch.arange(PROBE_TOKENS, device=device_of(self.model)).unsqueeze(0) % self.head.weight.shape[0]
        batch = {"input_ids": tokens, "position_ids": torch.arange(PROBE_TOKENS, device=tokens.device).unsqueeze(0)}
        with frozen(self.model):
            expected = self.model(input_ids=tokens, use_cache=False).logits.float()
            found = self.head.logits(self.hidden(batch)[0]).unsqueeze(0)
        if found.shape != expected.shape or (found - expected).abs().max() > TOLERANCE * (1 + expected.abs().max()):
            raise ModelError(
                f"{type(self.plain).__name__} does something to its logits between head and output that is not known here",
                f"a linear head with the factors {', '.join(SCALES)} or a soft cap",
                "take another model, or report this type of model",
            )


class _Renumbered(Decoder):
    """A decoder that reads tokens, and gives distributions over them, by the numbers of another vocabulary."""

    def __init__(self, decoder: Decoder, ids: Tensor) -> None:
        vars(self).update(vars(decoder))
        self._ids, self._full = ids, decoder
        self._head: VocabularyHead | None = None

    @property
    def head(self) -> VocabularyHead:
        """Of the entries alone; the weights do not change, so that they are gathered once for each place."""
        full = self._full.head
        if self._head is None or self._head.weight.device != full.weight.device:
            ids = self._ids.to(full.weight.device)
            bias = None if full.bias is None else full.bias[ids]
            self._head = VocabularyHead(full.weight[ids].detach(), bias, full.scale, full.softcap)
        return self._head

    def hidden(self, batch: Mapping[str, Any]) -> Tensor:
        """As of the whole model."""
        tokens = batch["input_ids"]
        return self._full.hidden({**batch, "input_ids": self._ids.to(tokens.device)[tokens]})


def whole(weight: Tensor) -> Tensor:
    """A weight that is sharded over ranks, gathered; any other as it is."""
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight  # type: ignore[no-any-return]


def _post_processing(config: Any) -> tuple[float, float | None]:
    scale = 1.0
    for name, is_divided in SCALES.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value:
            is_divided = is_divided and config.model_type not in MULTIPLIED
            scale *= 1 / value if is_divided else float(value)
    softcap = next((getattr(config, name) for name in SOFTCAPS if getattr(config, name, None)), None)
    return scale, softcap
