"""The final layer of a cut student: fitted by least squares to the teacher's logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.answers.units import has_units, head_output, read_units
from potstill.ground.devices import frozen, placed
from potstill.models.families import family_of
from potstill.students.importance import student_inputs, teacher_inputs
from potstill.students.vocabulary import VocabularyCut

HEAD_RIDGE = 0.1  # of the mean squared feature
NEW_HEAD_RIDGE = 0.01  # the same, where there are no weights to stay near to


@torch.no_grad()
def refit_head(teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], cut: VocabularyCut | None) -> None:
    """Least squares from the student's last features to the teacher's logits, drawn towards the weights so far, in place.

    Args:
        batches: In the teacher's tokens; without any, or where the classes differ, nothing changes.
        cut: How the student's tokens lie in the teacher's, where they are fewer.
    """
    head = family_of(student).head(student)
    if not batches or head.out_features != family_of(teacher).head(teacher).out_features:
        return
    regress(head, *_features_and_logits(teacher, student, batches, cut), HEAD_RIDGE)


@torch.no_grad()
def fit_head(teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor, batches: list[Any]) -> None:
    """The final layer that reads the teacher's logits from what goes into the teacher's pooler, as nearly as one layer can.

    The student's own features are far from the teacher's at first, so a layer fitted to them alone would learn their noise.
    """
    head = family_of(student).head(student)
    head.weight.zero_()
    head.bias.zero_()
    if not batches or head.out_features != family_of(teacher).head(teacher).out_features:
        return
    features: list[Tensor] = []
    pooler = family_of(teacher).pooler(teacher)
    assert pooler is not None
    noting = pooler.register_forward_pre_hook(lambda m, args: features.append(args[0].double().cpu()[..., hidden]))
    with noting, placed(teacher), frozen(teacher):
        logits = [head_output(teacher(**teacher_inputs(teacher, batch))).double().cpu() for batch in batches]
    regress(head, torch.cat(features), torch.cat(logits), NEW_HEAD_RIDGE)


@torch.no_grad()
def regress(head: nn.Linear, features: Tensor, logits: Tensor, ridge: float) -> None:
    """Fit a linear layer by least squares from features to logits, drawn towards the weights that it has, in place.

    Args:
        head: D → C, with a bias.
        features: [N, D] float64.
        logits: [N, C] float64.
        ridge: How strongly it is drawn, as a share of the mean squared feature.
    """
    features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    prior = torch.cat([head.weight, head.bias[:, None]], dim=1).double()
    damping = ridge * features[:, :-1].square().mean() * len(features)
    square = features.T @ features + damping * torch.eye(features.shape[1], dtype=features.dtype)
    solution = prior + torch.linalg.solve(square, features.T @ (logits - features @ prior.T)).T
    head.weight.copy_(solution[:, :-1])
    head.bias.copy_(solution[:, -1])


def _features_and_logits(
    teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], cut: VocabularyCut | None
) -> tuple[Tensor, Tensor]:
    """The input of the student's final layer [N, D] and the teacher's logits [N, C], in double precision."""
    features: list[Tensor] = []
    logits: list[Tensor] = []
    noting = family_of(student).head(student).register_forward_pre_hook(lambda m, args: features.append(args[0].double().cpu()))
    with noting, placed(teacher), placed(student), frozen(teacher):
        for batch in batches:
            inputs = teacher_inputs(teacher, batch)
            logits.append(_units_of(head_output(teacher(**inputs)).double().cpu(), batch, inputs))
            student(**student_inputs(student, _in_student_tokens(batch, inputs, cut)))
            features[-1] = _units_of(features[-1], batch, inputs)
    return torch.cat(features), torch.cat(logits)


def _units_of(values: Tensor, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """[B, D] as they are; of [B, T, D] those of the units (of all real tokens, where a batch has none), one below the other."""
    if values.dim() == 2:
        return values
    if not has_units(batch):
        return values[inputs["attention_mask"].bool().cpu()]
    positions = {"unit_positions": batch["unit_positions"]}
    return read_units(values, positions)[batch["unit_positions"] >= 0]


def _in_student_tokens(
    batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor], cut: VocabularyCut | None
) -> Mapping[str, Tensor]:
    """The batch as the student reads it: its own inputs where the batch has both, else the teacher's ids renumbered."""
    if cut is None or "teacher_input_ids" in batch:
        return batch
    read = inputs["input_ids"].cpu()
    table = torch.as_tensor(cut.new_ids(int(max(cut.kept_ids.max(), read.max())) + 1))
    unknown = cut.tokenizer.unk_token_id or 0
    ids = table[read]
    return {**inputs, "input_ids": torch.where(ids < 0, torch.full_like(ids, unknown), ids)}
