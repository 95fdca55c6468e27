"""The base of the classes in the table of families.

Paths are relative to the base model (`model.base_model`), or to the whole model for head and pooler. Block numbers are 1-based,
negative ones count from the end, as in need names (``hidden:k``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import NeedsError
from potstill.ground.counted import counted

BLOCK_ROLES = ("query", "key", "value", "attention_output", "attention_norm", "up", "down", "output_norm")


class Family(ABC):
    """One transformers model type. Instances hold nothing; `family_of` gives them."""

    model_type: str
    modality: str  # "text" or "image"
    build: str  # a student is cut out of a teacher of the same build only
    architecture: str  # the class that `Auto…` gives for classification
    blocks_path: str  # the modules that hold the blocks (stages of a convolutional model)
    embedding_paths: tuple[str, ...]  # modules whose output is the embedding; the first that exists counts
    head_paths: tuple[str, ...] = ("classifier",)  # the final linear layer; the first that exists counts
    pooler_paths: tuple[str, ...] = ()  # the linear layer before the final one
    roles: Mapping[str, str] = MappingProxyType({})  # role → path inside a block
    config_keys: Mapping[str, str]  # Potstill's name of a size → the key of the configuration
    fusion: str | None = None  # the graph in which ONNX Runtime looks for operators to fuse; None where there are none
    cuts_vocabulary = False  # whether a student may read fewer tokens

    def base(self, model: nn.Module) -> Any:
        """The model without its head."""
        return model.base_model if isinstance(model, PreTrainedModel) else model

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks (stages of a convolutional model), first to last."""
        return list(self.base(model).get_submodule(self.blocks_path).children())

    def block(self, model: nn.Module, k: int) -> nn.Module:
        """Block `k`, 1-based, negative from the end.

        Raises:
            NeedsError: There is no such block.
        """
        blocks = self.blocks(model)
        if k == 0 or abs(k) > len(blocks):
            raise NeedsError(
                f"block {k} of a {self.model_type} model with {counted(len(blocks), 'block')}",
                f"1 to {len(blocks)}, or -1 to -{len(blocks)}",
                "name an existing block, for example -1 for the last",
            )
        return blocks[k - 1 if k > 0 else k]

    def part(self, model: nn.Module, k: int, role: str) -> Any:
        """The module that plays `role` (one of `BLOCK_ROLES`) in block `k`.

        Raises:
            NeedsError: The family has no such part.
        """
        if role not in self.roles:
            from potstill.models.families import FAMILIES, family_of

            raise NeedsError(
                f"{role!r} of a block is asked of a {self.model_type} model, which has none",
                "models with attention blocks: " + ", ".join(name for name in FAMILIES if family_of(name).roles),
                "use hidden or response knowledge for this model",
            )
        return self.block(model, k).get_submodule(self.roles[role])

    def embedding(self, model: nn.Module) -> nn.Module:
        """The module whose output enters block 1 (``hidden:0``)."""
        return self._first(self.base(model), self.embedding_paths, "embedding")

    def head(self, model: nn.Module) -> nn.Linear:
        """The final linear layer.

        Raises:
            NeedsError: The model is a bare encoder without a head.
        """
        found: nn.Linear = self._first(model, self.head_paths, "classification head")
        return found

    def pooler(self, model: nn.Module) -> nn.Linear | None:
        """The linear layer before the final one, or None where the model has none (as for an answer per token)."""
        modules: dict[str, Any] = dict(model.named_modules())
        return next((modules[path] for path in self.pooler_paths if path in modules), None)

    def _first(self, root: nn.Module, paths: tuple[str, ...], what: str) -> Any:
        modules = dict(root.named_modules())
        for path in paths:
            if path in modules:
                return modules[path]
        raise NeedsError(
            f"this {self.model_type} model ({type(root).__name__}) has no {what}",
            f"a model with one of: {', '.join(paths)}",
            "load it with the Auto class of its task, for example AutoModelForSequenceClassification",
        )

    def class_like(self, teacher: nn.Module) -> str:
        """Name of this family's class with the teacher's kind of head."""
        return self.architecture

    def size(self, config: Any, name: str) -> Any:
        """The size `name` ("hidden", "layers", "heads", …) in a configuration; a sequence where each stage has its own."""
        return getattr(config, self.config_keys[name])

    def strides(self, config: Any) -> tuple[int, ...]:
        """Pixels of the image per step of each block's grid; empty for texts."""
        return ()

    def position_offset(self, config: Any) -> int:
        """Rows of the position table that come before the first token's."""
        return 0

    def image_sides(self, config: Any) -> tuple[int, int] | None:
        """Height and width of the images that a model takes; None where it takes any, or none."""
        return None

    @abstractmethod
    def depth(self, config: Any) -> int:
        """Layers, or blocks over all stages."""

    @abstractmethod
    def inner_sizes(self, config: Any) -> tuple[Any, ...]:
        """What a cut by importance changes: widths inside and between the blocks."""

    @abstractmethod
    def parameters(self, config: Any) -> int:
        """Trainable parameters of the classification model; equals the sum of `p.numel()` of the built one.

        The integers of a coded embedding count too, each as one, so that no ratio hides them.
        """

    @abstractmethod
    def flops(self, config: Any, *, tokens: int = 128, image_size: int = 224) -> int:
        """FLOPs of one forward pass of one row: two for each multiply-accumulate, none for gathers, norms and activations.

        Args:
            config: A configuration of this type.
            tokens: Tokens of a text.
            image_size: Pixels per side, for models that take images of any size.
        """


def pair(size: Any) -> tuple[int, int]:
    """Height and width from one number or two."""
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) else (int(size), int(size))


def copy_linear(source: nn.Linear, target: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    """Copy the `rows` (outputs) and `columns` (inputs) of a linear layer."""
    target.weight.copy_(source.weight[rows][:, columns])
    if source.bias is not None and target.bias is not None:
        target.bias.copy_(source.bias[rows])


def copy_norm(source: Any, target: Any, units: Tensor) -> None:
    """Copy the `units` of a norm, with or without a bias."""
    target.weight.copy_(source.weight[units])
    if getattr(source, "bias", None) is not None:
        target.bias.copy_(source.bias[units])
