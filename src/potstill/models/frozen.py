"""Frozen models: in eval mode, without gradients, known by a fingerprint."""

from __future__ import annotations

import json
from typing import Any

import torch
import xxhash
from torch import nn

from potstill.ground.disk import fingerprint

# Settings that say nothing about what the model computes.
_PASSING_SETTINGS = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "id2label",
        "label2id",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_PASSING_PROCESSOR_SETTINGS = frozenset(
    {"_processor_class", "name_or_path", "processor_class", "special_tokens_map_file", "tokenizer_file", "transformers_version"}
)


def freeze(model: nn.Module) -> nn.Module:
    """Put the model in eval mode without gradients, in place, and return it."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    return model


def ensure_eval(model: nn.Module) -> None:
    """Put the model back in eval mode where any part of it has left it."""
    if any(module.training for module in model.modules()):
        model.eval()


def fingerprint_of(model: nn.Module) -> str:
    """A hash of what the model computes: its settings and the bytes of its weights.

    Names, label names and versions do not count; the dtype of the weights does.

    Args:
        model: Any module; settings are read from ``config.to_dict()`` where it has one.

    Returns:
        32 hexadecimal digits.
    """
    digest = xxhash.xxh3_128()
    digest.update(fingerprint(_settings(model)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return type(model).__name__
    # Through JSON, which turns integer keys and odd objects into what a saved configuration would hold.
    plain = json.loads(json.dumps(config.to_dict(), default=str))
    return {key: value for key, value in plain.items() if key not in _PASSING_SETTINGS}


def fingerprint_of_processor(processor: Any) -> str:
    """A hash of a tokenizer or image processor: what it makes of its input, not where it came from.

    Args:
        processor: A tokenizer, an image processor, or None.

    Returns:
        32 hexadecimal digits; the empty string for None.
    """
    if processor is None:
        return ""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        settings = json.loads(backend.to_str())
        # These two follow the last call and are no property of the tokenizer.
        settings.pop("truncation", None)
        settings.pop("padding", None)
        return fingerprint({"tokenizer": settings, "special": _special_tokens(processor)})
    if hasattr(processor, "get_vocab"):
        return fingerprint({"vocabulary": processor.get_vocab(), "special": _special_tokens(processor)})
    plain = json.loads(json.dumps(processor.to_dict(), default=str))
    return fingerprint({key: value for key, value in plain.items() if key not in _PASSING_PROCESSOR_SETTINGS})


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    return {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
