"""Vision transformers: patches, extra tokens, positions, and blocks that begin with a norm."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from potstill.models.families.base import copy_norm, pair
from potstill.models.families.encoder import EmbeddingFacts, Encoder, Shape


class ViT(Encoder):
    """ViT."""

    model_type = "vit"
    architecture = "ViTForImageClassification"
    modality = "image"
    build = "pre-norm"
    fusion = "vit"
    blocks_path = "layers"
    embedding_paths = ("embeddings",)
    roles: Mapping[str, str] = MappingProxyType(
        {
            "query": "attention.q_proj",
            "key": "attention.k_proj",
            "value": "attention.v_proj",
            "attention_output": "attention.o_proj",
            "attention_norm": "layernorm_before",
            "up": "mlp.fc1",
            "down": "mlp.fc2",
            "output_norm": "layernorm_after",
        }
    )
    drops_heads = True
    extra_tokens: tuple[str, ...] = ("cls_token",)  # the embeddings' parameters that hold them

    def with_shape(self, config: Any, shape: Shape) -> Any:
        """With an explicit head size, where the attention is narrower than the width."""
        changed = super().with_shape(config, shape)
        if shape.heads * self.head_size(config) != shape.hidden:
            changed.head_dim = self.head_size(config)
        return changed

    def strides(self, config: Any) -> tuple[int, ...]:
        """Those of the patches, the same for every block."""
        return (pair(config.patch_size)[0],) * self.depth(config)

    def image_sides(self, config: Any) -> tuple[int, int] | None:
        """Those for which there are positions."""
        return pair(config.image_size)

    def outer_parameters(self, config: Any, shape: Shape) -> Any:
        """Patches, extra tokens, positions, last norm and final layer."""
        hidden, (patches, pixels), extra = shape.hidden, self._patches(config), len(self.extra_tokens)
        embeddings = pixels * hidden + hidden + extra * hidden + (patches + extra) * hidden
        return embeddings + 2 * hidden + hidden * config.num_labels + config.num_labels

    def flops(self, config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
        """Of an image of the configuration's size."""
        shape, (patches, pixels) = self.shape_of(config), self._patches(config)
        layers = shape.layers * self._layer_multiply_adds(config, shape, patches + len(self.extra_tokens))
        return int(2 * (layers + patches * pixels * shape.hidden + shape.hidden * config.num_labels))

    def _patches(self, config: Any) -> tuple[int, int]:
        """Patches of an image, and numbers in each."""
        (height, width), (patch_height, patch_width) = pair(config.image_size), pair(config.patch_size)
        return (height // patch_height) * (width // patch_width), config.num_channels * patch_height * patch_width

    @torch.no_grad()
    def fill_embeddings(self, teacher: Any, student: Any, hidden: Tensor, kept: EmbeddingFacts) -> float | None:
        """Units of the patches, the extra tokens, the positions and the last norm are copied."""
        source, target = self.base(teacher), self.base(student)
        for name in (*self.extra_tokens, "position_embeddings"):
            if hasattr(source.embeddings, name):
                getattr(target.embeddings, name).copy_(getattr(source.embeddings, name)[..., hidden])
        old, new = source.embeddings.patch_embeddings.projection, target.embeddings.patch_embeddings.projection
        new.weight.copy_(old.weight[hidden])
        new.bias.copy_(old.bias[hidden])
        copy_norm(source.layernorm, target.layernorm, hidden)
        return None


class DeiT(ViT):
    """DeiT, with a token for distillation; of two heads the one on the class token is the student's start."""

    model_type = "deit"
    head_paths = ("classifier", "cls_classifier")
    architecture = "DeiTForImageClassification"
    extra_tokens = ("cls_token", "distillation_token")
