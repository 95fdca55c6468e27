"""Copy the most important channels of a ResNet into a narrower, shallower one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.models.families import family_of
from potstill.students.importance import Importance, teacher_inputs


@torch.no_grad()
def cut_resnet(teacher: PreTrainedModel, student: PreTrainedModel, importance: Importance | None) -> None:
    """Fill `student` from `teacher`: every stage keeps its first blocks, every convolution its best channels.

    Channels that a residual sum joins are chosen together, by the sum of their scores over the stage.
    """
    scores = ChannelScores(teacher, importance)
    old_base: Any = teacher.base_model
    new_base: Any = student.base_model
    stem = scores.best(["embedder.embedder.normalization"], student.config.embedding_size)
    copy_convolution(old_base.embedder.embedder, new_base.embedder.embedder, stem, torch.arange(student.config.num_channels))
    inputs = stem
    for stage, (old_stage, new_stage) in enumerate(zip(old_base.encoder.stages, new_base.encoder.stages)):
        outputs = _stage_channels(scores, old_stage, stage, inputs, student.config.hidden_sizes[stage])
        for number, (old_block, new_block) in enumerate(zip(old_stage.layers, new_stage.layers)):
            path = f"encoder.stages.{stage}.layers.{number}"
            _copy_block(scores, path, old_block, new_block, inputs, outputs)
            inputs = outputs
    old_head, new_head = family_of(teacher).head(teacher), family_of(student).head(student)
    new_head.weight.copy_(old_head.weight[:, inputs])
    new_head.bias.copy_(old_head.bias)


@torch.no_grad()
def settle_statistics(student: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Measure the batch norms' running statistics anew, as a mean over `batches`."""
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    student.train()
    for batch in batches:
        student(**teacher_inputs(student, batch))
    student.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


class ChannelScores:
    """Channel scores by module path; the norm's scale where nothing was measured."""

    def __init__(self, teacher: PreTrainedModel, importance: Importance | None) -> None:
        prefix = f"{teacher.base_model_prefix}."
        modules = {name: module for name, module in teacher.base_model.named_modules() if isinstance(module, nn.BatchNorm2d)}
        measured = {name.removeprefix(prefix): score for name, score in importance.channels.items()} if importance else {}
        self.scores = {name: measured.get(name, module.weight.detach().abs().cpu().numpy()) for name, module in modules.items()}

    def best(self, paths: list[str], kept: int) -> Tensor:
        """The `kept` channels of the largest sum of scores over norms, ascending."""
        total = np.sum([self.scores[path] for path in paths if path in self.scores], axis=0)
        return torch.as_tensor(np.sort(np.argsort(-total, kind="stable")[:kept]))


def _stage_channels(scores: ChannelScores, stage_module: Any, stage: int, inputs: Tensor, kept: int) -> Tensor:
    """The stage's output channels; those of its input where the teacher adds the input as it is."""
    if isinstance(stage_module.layers[0].shortcut, nn.Identity) and len(inputs) == kept:
        return inputs
    paths = [f"encoder.stages.{stage}.layers.0.shortcut.normalization"]
    for number, block in enumerate(stage_module.layers):
        paths.append(f"encoder.stages.{stage}.layers.{number}.layer.{len(block.layer) - 1}.normalization")
    return scores.best(paths, kept)


def _copy_block(scores: ChannelScores, path: str, old: Any, new: Any, inputs: Tensor, outputs: Tensor) -> None:
    if not isinstance(new.shortcut, nn.Identity):
        if isinstance(old.shortcut, nn.Identity):
            _select_channels(new.shortcut, inputs, outputs)
        else:
            copy_convolution(old.shortcut, new.shortcut, outputs, inputs)
    before = inputs
    last = len(old.layer) - 1
    for number, (old_layer, new_layer) in enumerate(zip(old.layer, new.layer)):
        width = new_layer.convolution.out_channels
        after = outputs if number == last else scores.best([f"{path}.layer.{number}.normalization"], width)
        copy_convolution(old_layer, new_layer, after, before)
        before = after


def copy_convolution(old: Any, new: Any, outputs: Tensor, inputs: Tensor | None) -> None:
    """Copy channels of a convolution and its norm; `inputs` is None where each filter sees its own channel alone."""
    weight = old.convolution.weight[outputs]
    new.convolution.weight.copy_(weight if inputs is None else weight[:, inputs])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(new.normalization, name).copy_(getattr(old.normalization, name)[outputs])


def _select_channels(shortcut: Any, inputs: Tensor, outputs: Tensor) -> None:
    """A shortcut that hands on the channels that both sides keep."""
    weight = (outputs[:, None] == inputs[None, :]).float()
    shortcut.convolution.weight.copy_(weight[:, :, None, None])
    shortcut.normalization.running_var.fill_(1.0 - shortcut.normalization.eps)
