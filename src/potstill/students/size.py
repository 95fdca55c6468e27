"""How large a model is, from its configuration: of any type where the closed forms of `cost` do not know it."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from potstill.errors import ModelError
from potstill.students import cost
from potstill.students.mobilenet_shapes import STAGE_DEPTHS


def count_of(teacher: PreTrainedModel | PreTrainedConfig, config: Any) -> int:
    """Parameters of a teacher, counted where there is a model, else from its configuration."""
    if isinstance(teacher, PreTrainedModel):
        return cost.parameters_of(teacher)
    return cost.parameters(config)


def built_parameters(config: Any) -> int:
    """Parameters of a configuration, by building the model without weights where there is no closed form."""
    try:
        return cost.parameters(config)
    except ModelError:
        import torch
        from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

        auto: Any = AutoModelForSequenceClassification
        if type(config) in AutoModelForImageClassification._model_mapping:
            auto = AutoModelForImageClassification
        with torch.device("meta"):
            model = auto.from_config(config)
        return cost.parameters_of(model)


def flops_of(config: Any) -> int:
    """FLOPs of one row; 0 where there is no closed form."""
    try:
        return cost.flops(config)
    except ModelError:
        return 0


def depth_of(config: Any) -> int:
    """Layers, or blocks over all stages."""
    if getattr(config, "model_type", "") == "mobilenet_v2":
        return sum(STAGE_DEPTHS)
    depth = getattr(config, "depths", None)
    return sum(depth) if depth else int(getattr(config, "num_hidden_layers", 1))
