"""Importance of a decoder's blocks, groups of heads, neurons and hidden units, measured in one forward pass over some texts.

*Source*: blocks by 1 − cos(input, output), Men et al., "ShortGPT", https://arxiv.org/abs/2403.03853; hidden units by the mean
size of their activations after norms, Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation",
https://arxiv.org/abs/2407.14679. Groups and neurons differ from the latter: they count by the energy of what they add to the
residual stream, E|W x|², which also sees how large the weights are that read them.

Shapes: B windows, T tokens, D width, L blocks, G groups, F neurons.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import DataError
from potstill.ground.devices import device_of, frozen, placed
from potstill.modalities.language.packing import NO_SAMPLE
from potstill.models.decoder import Decoder
from potstill.models.families.decoders.base import Layout


@dataclass(frozen=True)
class DecoderImportance:
    """Scores measured on texts; higher is worth more.

    Args:
        layers: [L] mean of 1 − cos(input, output) of each block.
        groups: [L, G] of each key-value head with its query heads.
        neurons: [L, F] of each FFN neuron.
        hidden: [D] of each unit of the residual stream.
        energies: Path of a norm over units that may be cut → [units], the mean square of what it reads.
        tokens: Tokens measured.
    """

    layers: Tensor
    groups: Tensor
    neurons: Tensor
    hidden: Tensor
    energies: Mapping[str, Tensor]
    tokens: int


def measure_decoder(decoder: Decoder, layout: Layout, batches: Iterable[Mapping[str, Tensor]]) -> DecoderImportance:
    """Measure every score in one pass without gradients; the model is left as it was.

    Args:
        decoder: The teacher; run on a GPU where there is one.
        batches: Windows of documents.

    Raises:
        DataError: There is no token.
    """
    recorder = _Recorder(layout)
    with placed(decoder.model), frozen(decoder.model), recorder.hooks():
        for batch in batches:
            device = device_of(decoder.model)
            recorder.mask = (batch["sample_ids"] != NO_SAMPLE).to(device)
            recorder.tokens += int(recorder.mask.sum())
            decoder.hidden({name: value.to(device) for name, value in batch.items()})
    if not recorder.tokens:
        raise DataError("no text was given to measure the teacher on", "at least one window", "check data.source")
    return recorder.result()


class _Recorder:
    """Sums over tokens, gathered by hooks."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.family, self.model = layout, layout.family, layout.model
        self.sums: dict[str, Tensor] = {}
        self.mask = torch.zeros(0, dtype=torch.bool)
        self.tokens = 0

    @contextlib.contextmanager
    def hooks(self) -> Any:
        handles = []
        modules = dict(self.model.named_modules())
        down, attention = self.family.part_over("ffn"), self.family.part_over("query")
        for k in range(self.layout.shape.layers):
            block = f"{self.family.blocks}.{k}"
            handles.append(modules[block].register_forward_hook(self._change(f"layers.{k}"), with_kwargs=True))
            for part, name, size in ((down, "neurons", 1), (attention, "groups", self._group_size)):
                module = modules[f"{block}.{part}"]
                handles.append(module.register_forward_pre_hook(self._energy(f"{name}.{k}", size)))
        for path in self.norms:
            handles.append(modules[path].register_forward_hook(self._norm(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def _group_size(self) -> int:
        return self.layout.heads.per_group * self.layout.heads.size

    @property
    def norms(self) -> list[str]:
        """Paths of the norms over units that may be cut."""
        weights = [weight for weight in self.layout.weights if weight.is_norm]
        counts = {True: self.layout.shape.layers, False: 1}
        return [weight.name.format(k).removesuffix(".weight") for weight in weights for k in range(counts[weight.in_block])]

    def result(self) -> DecoderImportance:
        mean = {name: total.cpu() / self.tokens for name, total in self.sums.items()}
        rows = {
            name: torch.stack([mean[f"{name}.{k}"] for k in range(self.layout.shape.layers)])
            for name in ("layers", "groups", "neurons")
        }
        outputs = [mean[f"out:{path}"] for path in self.norms if len(mean[f"out:{path}"]) == self.layout.shape.hidden]
        hidden = sum((each / each.mean().clamp(min=1e-12) for each in outputs), torch.zeros_like(outputs[0]))
        return DecoderImportance(
            **rows, hidden=hidden, energies={path: mean[f"in:{path}"] for path in self.norms}, tokens=self.tokens
        )

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _change(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            change = 1 - nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
            self._add(name, change[self.mask].double().sum())

        return hook

    def _energy(self, name: str, size: int) -> Callable[..., None]:
        """Σ over tokens of |W x|² of each run of `size` inputs of a projection."""

        def hook(module: Any, args: tuple[Tensor, ...]) -> None:
            inputs = args[0][self.mask].float()
            weight = (module.weight if self.family.inputs_first else module.weight.T).float()  # [inputs, outputs]
            if size == 1:
                self._add(name, (inputs.square().sum(0) * weight.square().sum(1)).double())
            else:
                parts = zip(inputs.split(size, 1), weight.split(size, 0))
                self._add(name, torch.stack([(part @ rows).square().sum() for part, rows in parts]).double())

        return hook

    def _norm(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._add(f"in:{path}", args[0][self.mask].double().square().sum(0))
            self._add(f"out:{path}", output[self.mask].abs().double().sum(0))

        return hook
