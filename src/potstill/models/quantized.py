"""How the weights of a saved model are quantized, as its configuration says."""

from __future__ import annotations

from typing import Any


def method_of(config: Any) -> str | None:
    """The way of quantizing that a configuration names; None where it names none."""
    settings = getattr(config, "quantization_config", None)
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    return None if settings is None else str(getattr(method, "value", method))
