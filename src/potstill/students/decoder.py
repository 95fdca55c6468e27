"""Students cut out of decoders: layers, feed-forward neurons, key-value groups of heads, and width, in uniform shapes.

Shapes: L layers, D width, F feed-forward neurons, G key-value heads, H heads, d width of a head, V vocabulary.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from potstill.errors import ModelError, RecipeError
from potstill.ground.devices import frozen
from potstill.models.decoder import Decoder

# Types whose modules have the names of Llama's: their parts are found by name.
TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "granite")
WIDTH_STEP, NEURON_STEP, MOST_WIDTHS = 8, 4, 32
TOLERANCE = 0.01
# Rows and columns of a weight by the end of its name: what each axis counts.
AXES = {
    "embed_tokens.weight": ("vocabulary", "width"),
    "lm_head.weight": ("vocabulary", "width"),
    "q_proj.weight": ("heads", "width"),
    "q_proj.bias": ("heads",),
    "k_proj.weight": ("groups", "width"),
    "k_proj.bias": ("groups",),
    "v_proj.weight": ("groups", "width"),
    "v_proj.bias": ("groups",),
    "o_proj.weight": ("width", "heads"),
    "o_proj.bias": ("width",),
    "gate_proj.weight": ("neurons", "width"),
    "gate_proj.bias": ("neurons",),
    "up_proj.weight": ("neurons", "width"),
    "up_proj.bias": ("neurons",),
    "down_proj.weight": ("width", "neurons"),
    "down_proj.bias": ("width",),
}


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder, the same in every layer.

    Args:
        groups: Key-value heads; each serves `heads` / `groups` heads.
    """

    layers: int
    width: int
    neurons: int
    heads: int
    groups: int
    head_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> DecoderShape:
        """The sizes that a configuration says."""
        heads = config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            config.vocab_size,
        )

    def configured(self, config: Any, kept_layers: Sequence[int]) -> Any:
        """A copy of a teacher's configuration with these sizes.

        Args:
            kept_layers: Of the teacher, from 0.
        """
        made = copy.deepcopy(config)
        made.num_hidden_layers, made.hidden_size, made.intermediate_size = self.layers, self.width, self.neurons
        made.num_attention_heads, made.num_key_value_heads, made.head_dim = self.heads, self.groups, self.head_width
        kinds = getattr(config, "layer_types", None)
        if kinds:
            made.layer_types = [kinds[layer] for layer in kept_layers]
        return made


def require_known(config: Any) -> None:
    """Refuse a decoder that cannot be cut.

    Raises:
        ModelError: Its type is not among `TYPES`, or it has experts.
    """
    if config.model_type not in TYPES:
        raise ModelError(
            f"a student cannot be cut out of a decoder of type {config.model_type!r} yet",
            ", ".join(TYPES),
            "name a student: --student, a folder or hub id with the teacher's tokenizer",
        )


def parameters_of(config: Any, shape: DecoderShape) -> int:
    """Parameters of a decoder of that shape, counted on a model without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.configured(config, range(shape.layers)))
    return sum(parameter.numel() for parameter in model.parameters())


class _Count:
    """Parameters as a function of the shape, which is linear in layers and in neurons."""

    def __init__(self, config: Any, shape: DecoderShape) -> None:
        self.config, self.shape, self._known = config, shape, {}  # type: ignore[var-annotated]

    def of(self, shape: DecoderShape) -> float:
        """Parameters of the shape."""
        key = (shape.width, shape.groups)
        if key not in self._known:
            one, step = replace(shape, layers=1, neurons=NEURON_STEP), 4 * NEURON_STEP
            base = parameters_of(self.config, one)
            neuron = (parameters_of(self.config, replace(one, neurons=step)) - base) / (step - NEURON_STEP)
            layer = parameters_of(self.config, replace(one, layers=2)) - base
            self._known[key] = base - layer, layer - neuron * NEURON_STEP, neuron
        fixed, layer, neuron = self._known[key]
        return fixed + shape.layers * (layer + shape.neurons * neuron)

    def neurons_for(self, shape: DecoderShape, parameters: float) -> float:
        """Neurons with which the shape has that many parameters."""
        self.of(shape)
        fixed, layer, neuron = self._known[shape.width, shape.groups]
        return ((parameters - fixed) / shape.layers - layer) / neuron


def plan_decoder(config: Any, *, ratio: float | None = None, params: int | None = None) -> tuple[DecoderShape, int]:
    """The shape that keeps layers, width, neurons and groups in about the same measure, and its parameters.

    Args:
        config: Of the teacher.
        ratio: Share of parameters to remove; or `params`, how many remain.

    Raises:
        ModelError: A type that cannot be cut.
        RecipeError: No shape comes within a point of the ratio; names the nearest that can be reached.
    """
    require_known(config)
    whole = DecoderShape.of(config)
    count = _Count(config, whole)
    total = count.of(whole)
    wanted = float(params) if params is not None else total * (1 - float(ratio or 0.0))
    best: tuple[float, DecoderShape, float] | None = None
    nearest = (math.inf, 0.0)
    for shape in _shapes(whole):
        neurons = round(count.neurons_for(shape, wanted) / NEURON_STEP) * NEURON_STEP
        shape = replace(shape, neurons=min(max(neurons, NEURON_STEP), whole.neurons))
        found = count.of(shape)
        off = abs(found - wanted) / total
        nearest = min(nearest, (off, 1 - found / total))
        if off > TOLERANCE:
            continue
        cost = _imbalance(shape, whole) + off
        if best is None or cost < best[0]:
            best = (cost, shape, found)
    if best is None:
        raise RecipeError(
            f"no student of this teacher has a ratio within a point of {1 - wanted / total:.2f}",
            f"for example {nearest[1]:.2f}",
            f"set student.ratio: {nearest[1]:.2f}, or name a student: --student",
        )
    return best[1], parameters_of(config, best[1])


def _shapes(whole: DecoderShape) -> Iterator[DecoderShape]:
    each = whole.heads // whole.groups
    for groups in range(1, whole.groups + 1):
        # Widths are multiples of 8 for the hardware, and configurations of most types are only valid where the heads divide them.
        divide = whole.width % whole.heads == 0
        unit = math.lcm(WIDTH_STEP, groups * each) if divide else WIDTH_STEP
        unit *= max(1, whole.width // unit // MOST_WIDTHS)
        widths = [*range(unit, whole.width, unit), *([whole.width] if not divide or whole.width % (groups * each) == 0 else [])]
        for layers, width in itertools.product(range(1, whole.layers + 1), widths):
            yield replace(whole, layers=layers, width=width, groups=groups, heads=groups * each)


def _imbalance(shape: DecoderShape, whole: DecoderShape) -> float:
    """How unevenly the sizes were cut: layers are dearer than neurons, and width, which all layers share, is dearest."""
    pairs = ((shape.layers, whole.layers, 1.0), (shape.width, whole.width, 3.0), (shape.neurons, whole.neurons, 0.7))
    return sum(weight * math.log(new / old) ** 2 for new, old, weight in (*pairs, (shape.groups, whole.groups, 0.7)))


@dataclass(frozen=True)
class Importance:
    """How much each part of a decoder does on some texts.

    Args:
        layers: [L], 1 − cosine of what goes into a layer and what comes out (block influence).
        width: [D], mean size of each place of the normed states.
        neurons: [L, F], mean size of what each neuron gives.
        groups: [L, G], mean size of what the heads of each group give.
    """

    layers: Tensor
    width: Tensor
    neurons: Tensor
    groups: Tensor


def measure_importance(decoder: Decoder, batches: Iterable[Mapping[str, Any]]) -> Importance:
    """Importance by activations on a few batches; the model stays as it is.

    Source: Men et al. 2024, ShortGPT (arXiv 2403.03853) for layers; Muralidharan et al. 2024, Minitron (arXiv 2407.14679) for the
    others.
    """
    layers: Any = decoder.body.layers
    shape = DecoderShape.of(decoder.config)
    found = Importance(
        torch.zeros(shape.layers),
        torch.zeros(shape.width),
        torch.zeros(shape.layers, shape.neurons),
        torch.zeros(shape.layers, shape.groups),
    )
    weight = [torch.ones(1)]  # of the tokens that count in the batch that runs

    def mean(value: Tensor) -> Tensor:
        return (value.float().abs() * weight[0].unsqueeze(-1)).sum((0, 1)).cpu()

    def on_layer(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            before, after = inputs[0], output[0] if isinstance(output, tuple) else output
            cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            found.layers[number] += float(((1 - cosine) * weight[0]).sum())

        return hook

    def on_input(add: Callable[[Tensor], None]) -> Callable[..., None]:
        return lambda module, inputs: add(inputs[0])

    def add_neurons(number: int, value: Tensor) -> None:
        found.neurons[number] += mean(value)

    def add_groups(number: int, value: Tensor) -> None:
        found.groups[number] += mean(value).view(shape.groups, -1).mean(-1)

    def add_width(value: Tensor) -> None:
        found.width.add_(mean(value))

    handles = []
    for number, layer in enumerate(layers):
        handles += [
            layer.register_forward_hook(on_layer(number)),
            layer.mlp.down_proj.register_forward_pre_hook(on_input(partial(add_neurons, number))),
            layer.self_attn.o_proj.register_forward_pre_hook(on_input(partial(add_groups, number))),
            layer.self_attn.q_proj.register_forward_pre_hook(on_input(add_width)),
            layer.mlp.gate_proj.register_forward_pre_hook(on_input(add_width)),
        ]
    try:
        with frozen(decoder.model):
            for batch in batches:
                weight[0] = (batch["sample_ids"] >= 0).float().to(next(decoder.body.parameters()).device)
                decoder.hidden({name: batch[name] for name in ("input_ids", "position_ids")})
    finally:
        for handle in handles:
            handle.remove()
    return found


def cut_decoder(decoder: Decoder, shape: DecoderShape, importance: Importance) -> tuple[Any, list[int]]:
    """A student of that shape with the most important parts of the teacher, and which layers it kept, from 0.

    Args:
        decoder: The teacher; it is not changed.
    """
    teacher, whole = decoder.plain, DecoderShape.of(decoder.config)
    kept_layers = _largest(importance.layers, shape.layers)
    student = AutoModelForCausalLM.from_config(shape.configured(decoder.config, kept_layers)).to(next(teacher.parameters()).dtype)
    width = torch.tensor(_largest(importance.width, shape.width))
    source = dict(teacher.named_parameters())
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            layer = _layer_of(name)
            old = name if layer is None else name.replace(f".layers.{layer}.", f".layers.{kept_layers[layer]}.")
            chosen = {"width": width, "vocabulary": torch.arange(whole.vocabulary)}
            if layer is not None:
                teachers = kept_layers[layer]
                groups = torch.tensor(_largest(importance.groups[teachers], shape.groups))
                chosen["neurons"] = torch.tensor(_largest(importance.neurons[teachers], shape.neurons))
                chosen["groups"] = _places(groups, whole.head_width)
                chosen["heads"] = _places(groups, whole.head_width * (whole.heads // whole.groups))
            value = source[old].detach()
            for axis, kind in enumerate(_axes(name, tuple(value.shape), whole)):
                if kind is not None:
                    value = value.index_select(axis, chosen[kind].to(value.device))
            parameter.copy_(value)
    student.tie_weights()
    return student.eval(), kept_layers


def _axes(name: str, shape: tuple[int, ...], whole: DecoderShape) -> tuple[str | None, ...]:
    """What each axis of a parameter counts: by its name, and of norms by their size."""
    for end, axes in AXES.items():
        if name.endswith(end):
            return axes
    if len(shape) == 1 and shape[0] == whole.head_width and ("q_norm" in name or "k_norm" in name):
        return (None,)
    if len(shape) == 1 and "q_norm" in name:
        return ("heads",)
    if len(shape) == 1 and "k_norm" in name:
        return ("groups",)
    if shape == (whole.width,):
        return ("width",)
    raise ModelError(
        f"{name} {list(shape)} is a part of the decoder that is not known here", ", ".join(AXES), "name a student: --student"
    )


def _places(blocks: Tensor, size: int) -> Tensor:
    """Every place of blocks of a size."""
    return (blocks.unsqueeze(1) * size + torch.arange(size)).flatten()


def _largest(values: Tensor, count: int) -> list[int]:
    """Places of the largest values, in ascending order."""
    return sorted(values.topk(count).indices.tolist())


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else None
