"""Importance of the teacher's heads, neurons, hidden units, channels and layers on the user's data.

Heads, neurons, units and channels get the diagonal of the Fisher information of a mask put on them: the squared gradient of
one row's log-likelihood, averaged over rows, with the label drawn from the teacher's own softmax, so that no labels are
needed. The draw depends on the row alone, so the split into batches changes nothing.

*Source*: Kwon et al., "A Fast Post-Training Pruning Framework for Transformers", https://arxiv.org/abs/2204.09656 (masks and
Fisher); here per row rather than per batch, with sampled labels. Layers: Muralidharan et al., https://arxiv.org/abs/2407.14679.

Shapes: B rows, T tokens, D width, L layers, F neurons.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.answers.units import head_output
from potstill.errors import DataError
from potstill.ground.devices import placed
from potstill.models.families import family_of
from potstill.models.families.base import Family
from potstill.models.families.encoder import Encoder
from potstill.models.families.stages import Stages
from potstill.models.sentence_model import HEAD
from potstill.tasks import answers_of

FILE_NAME = "importance.safetensors"
IGNORED_LABEL = -100
UNIT_STRIDE = 1 << 20  # keys of the units of one row follow each other, far from those of the next row


@dataclass(frozen=True)
class Importance:
    """Scores measured on data; higher is worth more.

    Args:
        heads: [L, heads] of each attention head.
        neurons: [L, F] of each FFN neuron.
        hidden: [D] of each unit of the residual stream.
        layers: [L] mean of 1 − cos(input, output) of each layer.
        channels: Path of a batch norm (or of what a ConvNeXt adds up) → [channels], for convolutional models.
        neuron_grams: Per layer [F + 1, F + 1], Σ x xᵀ of the FFN's activations x, with a one appended.
        context_grams: Per layer [A + 1, A + 1], the same of the attention's context.
        embedding_metric: [D, D] mean of g gᵀ, g the gradient at the embedding output of one token: which errors there matter.
        rows: Rows measured.
    """

    heads: np.ndarray
    neurons: np.ndarray
    hidden: np.ndarray
    layers: np.ndarray
    channels: Mapping[str, np.ndarray] = field(default_factory=dict)
    neuron_grams: tuple[Tensor, ...] = ()
    context_grams: tuple[Tensor, ...] = ()
    embedding_metric: Tensor | None = None
    rows: int = 0

    def save(self, folder: str | Path) -> None:
        """Write the scores to a folder, which is made where it is not there."""
        tensors = {name: torch.as_tensor(getattr(self, name)) for name in ("heads", "neurons", "hidden", "layers")}
        tensors |= {f"channels:{path}": torch.as_tensor(score) for path, score in self.channels.items()}
        for name in ("neuron_grams", "context_grams"):
            tensors |= {f"{name}:{layer}": gram for layer, gram in enumerate(getattr(self, name))}
        if self.embedding_metric is not None:
            tensors["embedding_metric"] = self.embedding_metric
        Path(folder).mkdir(parents=True, exist_ok=True)
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        save_file(tensors, Path(folder) / FILE_NAME, metadata={"rows": str(self.rows)})

    @classmethod
    def load(cls, folder: str | Path) -> Importance:
        """Read what `save` wrote."""
        with safe_open(Path(folder) / FILE_NAME, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rows = int(file.metadata()["rows"])
        channels = {name.removeprefix("channels:"): tensors[name].numpy() for name in tensors if name.startswith("channels:")}
        heads, neurons, hidden, layers = (tensors[name].numpy() for name in ("heads", "neurons", "hidden", "layers"))
        neuron_grams, context_grams = (
            tuple(tensors[f"{kind}:{layer}"] for layer in range(sum(name.startswith(f"{kind}:") for name in tensors)))
            for kind in ("neuron_grams", "context_grams")
        )
        metric = tensors.get("embedding_metric")
        return cls(heads, neurons, hidden, layers, channels, neuron_grams, context_grams, metric, rows)


def measure(teacher: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], *, seed: int = 0) -> Importance:
    """Measure every score in one pass over `batches`, one backward per batch.

    Args:
        teacher: A model of a supported family; run on a GPU where there is one; weights, mode, gradients and place are left as
            they were.
        batches: Collated batches; `teacher_*` inputs are read where they are present.
        seed: Of the sampled labels.

    Returns:
        The scores, on the CPU.

    Raises:
        DataError: There is no batch.
        ModelError: The model type is not supported.
    """
    family = family_of(teacher)
    recorder = _Recorder(family, teacher)
    was_training = teacher.training
    requires_grad = [parameter.requires_grad for parameter in teacher.parameters()]
    teacher.eval().requires_grad_(False)
    try:
        with placed(teacher), recorder.hooks():
            for batch in batches:
                recorder.measure(batch, seed)
    finally:
        teacher.train(was_training)
        for parameter, flag in zip(teacher.parameters(), requires_grad):
            parameter.requires_grad_(flag)
    if not recorder.rows:
        raise DataError(
            "no calibration batch was given", "at least one batch of the training data", "pass batches of a few hundred rows"
        )
    return recorder.result()


def teacher_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `model` takes of a batch, from the `teacher_*` entries where they are present."""
    own = {name.removeprefix("teacher_"): value for name, value in batch.items() if name.startswith("teacher_")}
    return student_inputs(model, own or batch)


def student_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `model` takes of a batch, without labels, on the model's device."""
    accepted = set(inspect.signature(model.forward).parameters) - {"labels"}
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items() if name in accepted and isinstance(value, Tensor)}


class _Recorder:
    """Masks of ones put on the model by hooks, whose gradients are gathered per row."""

    def __init__(self, family: Family, model: PreTrainedModel) -> None:
        self.family, self.model, self.answers = family, model, answers_of(model)
        self.masks: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        self.change: dict[int, Tensor] = {}
        self.token_mask: Tensor | None = None
        self.rows = 0

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        family = self.family
        with contextlib.ExitStack() as hooks:
            if isinstance(family, Stages):
                for name, module, axis in family.scored_modules(self.model):
                    hooks.enter_context(module.register_forward_hook(self._channel_hook(f"channels:{name}", axis)))
            else:
                assert isinstance(family, Encoder)
                for handle in self._encoder_hooks(family):
                    hooks.enter_context(handle)
            yield

    def measure(self, batch: Mapping[str, Tensor], seed: int) -> None:
        inputs = teacher_inputs(self.model, batch)
        self.masks, self.token_mask = {}, inputs.get("attention_mask")
        with torch.enable_grad():
            logits, counted = self.answers.arrange({"logits": head_output(self.model(**inputs)).float()}, batch)
            if counted is None and logits.dim() == 3:
                counted = inputs["attention_mask"].bool()
            loss = sampled_loss(self.model, logits, counted, batch, inputs, seed)
            names = list(self.masks)
            gradients = torch.autograd.grad(loss, [self.masks[name] for name in names])
        for name, gradient in zip(names, gradients):
            if name == "embedding":
                tokens = self._real_tokens(gradient)
                self._add(name, (tokens.T @ tokens).double())
            else:
                self._add("hidden" if name.startswith("hidden") else name, gradient.double().square().sum(0))
        self.rows += len(logits)
        self.masks = {}

    def result(self) -> Importance:
        sums = {name: total.cpu() for name, total in self.sums.items()}
        mean = {name: total / self.rows for name, total in sums.items()}
        depth = range(1, 1 + sum(name.startswith("layers:") for name in mean))
        channels = {name.removeprefix("channels:"): value.numpy() for name, value in mean.items() if name.startswith("channels:")}
        return Importance(
            heads=np.array([mean[f"heads:{k}"].numpy() for k in depth]),
            neurons=np.array([mean[f"neurons:{k}"].numpy() for k in depth]),
            hidden=mean["hidden"].numpy() if depth else np.zeros(0),
            layers=np.array([float(mean[f"layers:{k}"]) for k in depth]),
            channels=channels,
            neuron_grams=tuple(sums[f"neuron_gram:{k}"] for k in depth),
            context_grams=tuple(sums[f"context_gram:{k}"] for k in depth),
            embedding_metric=mean.get("embedding"),
            rows=self.rows,
        )

    def _add(self, name: str, value: Tensor) -> None:
        self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _mask(self, name: str, value: Tensor, size: int) -> Tensor:
        """A [B, size] mask of ones, fresh for this batch."""
        self.masks[name] = torch.ones(value.shape[0], size, device=value.device, dtype=value.dtype, requires_grad=True)
        return self.masks[name]

    def _encoder_hooks(self, family: Encoder) -> list[Any]:
        model = self.model
        handles = [family.embedding(model).register_forward_hook(self._embedding_hook)]
        size = family.head_size(model.config)
        for k in range(1, len(family.blocks(model)) + 1):
            output, down = family.part(model, k, "attention_output"), family.part(model, k, "down")
            handles.append(output.register_forward_pre_hook(self._input_hook(f"heads:{k}", f"context_gram:{k}", size)))
            handles.append(down.register_forward_pre_hook(self._input_hook(f"neurons:{k}", f"neuron_gram:{k}", 1)))
            handles += [
                family.part(model, k, role).register_forward_hook(self._unit_hook(f"hidden:{k}:{role}"))
                for role in ("attention_norm", "output_norm")
            ]
            handles.append(family.block(model, k).register_forward_hook(self._change_hook(k)))
        return handles

    def _input_hook(self, name: str, gram: str, group: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            value = args[0]
            tokens = self._real_tokens(value.detach())
            widened = torch.cat([tokens, tokens.new_ones(len(tokens), 1)], dim=1)
            self._add(gram, (widened.T @ widened).double())
            mask = self._mask(name, value, value.shape[-1] // group)
            return (value * mask.repeat_interleave(group, dim=1)[:, None, :], *args[1:])

        return hook

    def _unit_hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output * self._mask(name, output, output.shape[-1])[:, None, :]

        return hook

    def _embedding_hook(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        probe = torch.zeros_like(output, requires_grad=True)
        self.masks["embedding"] = probe
        return output * self._mask("hidden:0", output, output.shape[-1])[:, None, :] + probe

    def _channel_hook(self, name: str, axis: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            mask = self._mask(name, output, output.shape[axis])
            return output * (mask[:, :, None, None] if axis == 1 else mask[:, None, None, :])

        return hook

    def _change_hook(self, k: int) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            after = (output[0] if isinstance(output, tuple) else output).detach()
            change = 1 - nn.functional.cosine_similarity(args[0].detach().double(), after.double(), dim=-1)
            mask = torch.ones_like(change) if self.token_mask is None else self.token_mask.to(change)
            self._add(f"layers:{k}", ((change * mask).sum(1) / mask.sum(1).clamp(min=1)).sum())

        return hook

    def _real_tokens(self, value: Tensor) -> Tensor:
        """[tokens, D]: padding left out."""
        return value.flatten(0, 1) if self.token_mask is None else value[self.token_mask.bool()]


def sampled_loss(
    model: PreTrainedModel, logits: Tensor, counted: Tensor | None, batch: Mapping[str, Tensor], inputs: Any, seed: int
) -> Tensor:
    """−log p of one answer per row (or unit) drawn from the model's own distribution, summed.

    The distribution is what the model's answers stand for: one class, a yes or no for each label, or a normal distribution of
    unit variance around numbers and embeddings.
    """
    problem = "embedding" if type(model).__name__.endswith(HEAD) else getattr(model.config, "problem_type", None)
    if problem not in ("embedding", "regression", "multi_label_classification"):
        labels = _sampled_labels(logits.detach(), batch, inputs, seed)
        labels = labels if counted is None else labels.masked_fill(~counted, IGNORED_LABEL)
        return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")
    uniform = _uniform(batch, inputs, logits.shape[1:], seed).to(logits.device)
    if problem == "multi_label_classification":
        drawn = (uniform < logits.detach().double().sigmoid()).to(logits.dtype)
        return nn.functional.binary_cross_entropy_with_logits(logits, drawn, reduction="sum")
    noise = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).to(logits.dtype)
    return 0.5 * (logits - (logits.detach() + noise)).square().sum()


def _sampled_labels(logits: Tensor, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor], seed: int) -> Tensor:
    """One label per row (or unit), drawn from the softmax by a uniform number that depends on the row (and unit) alone."""
    cumulative = torch.softmax(logits.double(), dim=-1).cumsum(-1)
    uniform = _uniform(batch, inputs, logits.shape[1:-1], seed).to(logits.device)
    return (cumulative < uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)


def _row_keys(batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> np.ndarray:
    if "row_id" in batch:
        return np.asarray(batch["row_id"].cpu(), dtype=np.uint64)
    value = next(iter(inputs.values())).flatten(1).double()
    mask = inputs.get("attention_mask")
    value = value if mask is None or mask.shape != value.shape else value * mask
    return np.asarray((value * torch.arange(1, value.shape[1] + 1, device=value.device)).sum(1).cpu()).view(np.uint64)


def _uniform(batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor], counts: Sequence[int], seed: int) -> Tensor:
    """A number in [0, 1) for each row [B], or for each of `counts` numbers of each row, by the SplitMix64 mixer."""
    with np.errstate(over="ignore"):
        z = _row_keys(batch, inputs)
        for count in counts:
            z = z[:, None] * np.uint64(UNIT_STRIDE) + np.arange(count, dtype=np.uint64)
        z = z + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / float(1 << 53))
