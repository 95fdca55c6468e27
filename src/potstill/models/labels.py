"""Label spaces: the order of the teacher's classes brought into the order of the data's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from potstill.errors import ModelError
from potstill.ground.counted import counted

_PLACEHOLDER = re.compile(r"LABEL_\d+")
_SHOWN_LABELS = 12


@dataclass(frozen=True)
class LabelAlignment:
    """Where each label of the data is among the teacher's classes.

    Args:
        permutation: For label i of the data, the index of the teacher's logit: ``logits[:, permutation]`` is in the
            order of the data.
        notes: What was taken for granted.
    """

    permutation: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Whether both sides have the same order already."""
        return self.permutation == tuple(range(len(self.permutation)))


def teacher_labels(config: Any) -> tuple[str, ...]:
    """The teacher's label names in the order of its logits."""
    return tuple(str(config.id2label.get(index, f"LABEL_{index}")) for index in range(config.num_labels))


def align_labels(config: Any, label_names: Sequence[str]) -> LabelAlignment:
    """Match the data's labels with the teacher's by name.

    Names match exactly, or else ignoring case. Placeholders (``LABEL_0`` … of a teacher that was saved without names, or
    ``0`` … of data without names) match by position.

    Args:
        config: The teacher's configuration, with ``id2label``.
        label_names: The data's labels in the order of their ids.

    Raises:
        ModelError: The two sets differ; both are named.
    """
    theirs, ours = teacher_labels(config), tuple(str(name) for name in label_names)
    if len(theirs) != len(ours):
        raise _mismatch(theirs, ours, f"the teacher has {counted(len(theirs), 'class', 'classes')} and the data has {len(ours)}")
    by_position = tuple(range(len(ours)))
    if theirs == ours:
        return LabelAlignment(by_position)
    if all(_PLACEHOLDER.fullmatch(name) for name in theirs):
        return LabelAlignment(by_position, ("the teacher's classes have no names and are matched with the data's by position",))
    if ours == tuple(str(index) for index in range(len(ours))):
        return LabelAlignment(by_position, ("the data's labels are numbers and are matched with the teacher's by position",))
    if set(theirs) == set(ours) and len(set(ours)) == len(ours):
        return LabelAlignment(tuple(theirs.index(name) for name in ours))
    their_folded, our_folded = [name.strip().casefold() for name in theirs], [name.strip().casefold() for name in ours]
    if set(their_folded) != set(our_folded) or len(set(our_folded)) != len(ours):
        raise _mismatch(theirs, ours, "the teacher and the data have different labels")
    permutation = tuple(their_folded.index(name) for name in our_folded)
    return LabelAlignment(permutation, ("labels of teacher and data were matched without regard to upper and lower case",))


def _mismatch(theirs: Sequence[str], ours: Sequence[str], given: str) -> ModelError:
    only_theirs, only_ours = [name for name in theirs if name not in ours], [name for name in ours if name not in theirs]
    difference = f"only the teacher has {_listed(only_theirs)}; only the data has {_listed(only_ours)}"
    return ModelError(
        f"{given}: {difference}",
        f"the teacher's labels, {_listed(theirs)}",
        "rename the data's labels, give data.label_names in the order of the ids, or choose a teacher trained on these labels",
    )


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    rest = f" and {len(names) - _SHOWN_LABELS} more" if len(names) > _SHOWN_LABELS else ""
    return ", ".join(repr(name) for name in names[:_SHOWN_LABELS]) + rest


def reorder_head(model: nn.Module, permutation: Sequence[int]) -> None:
    """Bring the rows of the model's final linear layers into a new order, in place, so that every user of them agrees.

    Args:
        model: A classifier with a configuration; one with several heads, whose answers are averaged, has each of them in order.
        permutation: New row i is the old row ``permutation[i]``.

    Raises:
        ModelError: The model has no final linear layer of as many rows, or it cannot be said which ones are.
    """
    heads = final_linears(model, len(permutation))
    order = torch.as_tensor(permutation, device=heads[0].weight.device)
    with torch.no_grad():
        for head in heads:
            head.weight.copy_(head.weight[order].clone())
            if head.bias is not None:
                head.bias.copy_(head.bias[order].clone())


def final_linears(model: nn.Module, num_labels: int) -> list[nn.Linear]:
    """The final linear layer of each head that gives `num_labels` values; see `final_linear`.

    Raises:
        ModelError: There is none, or one may read what another gives, so that they need not be heads.
    """
    last: dict[str, nn.Linear] = {}
    for name, module in _outside_body(model, num_labels):
        last[name.partition(".")[0]] = module
    heads = list(last.values())
    if len(heads) > 1 and any(head.in_features == num_labels for head in heads):
        raise ModelError(
            f"{', '.join(last)} of {type(model).__name__} give {num_labels} values each, and which are heads cannot be said",
            "a teacher whose labels are in the order of the data's",
            "give the data's labels in the teacher's order, with data.label_names",
        )
    if not heads:
        raise ModelError(f"no final linear layer with {num_labels} rows is found in {type(model).__name__}", "a classifier")
    return heads


def final_linear(model: nn.Module, num_labels: int) -> nn.Linear:
    """The last linear layer outside the model's body that gives `num_labels` values.

    Raises:
        ModelError: There is none, or there are several heads whose answers are averaged.
    """
    body = _outside_body(model, num_labels)
    if len({name.partition(".")[0] for name, module in body if module.in_features != num_labels}) > 1:
        raise ModelError(
            f"{type(model).__name__} answers with the mean of several heads",
            "a teacher with one head",
            "take the teacher alone, as its own task, or save it with one head",
        )
    return body[-1][1] if body else final_linears(model, num_labels)[-1]


def _outside_body(model: nn.Module, num_labels: int) -> list[tuple[str, nn.Linear]]:
    """Linear layers that give `num_labels` values, by name, without those of the model's body."""
    body = f"{getattr(model, 'base_model_prefix', '')}."
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_labels and not name.startswith(body)
    ]


def name_classes(model: Any, label_names: Sequence[str] | None) -> None:
    """Write label names into the model's configuration, where there are any."""
    if label_names is not None:
        model.config.id2label = dict(enumerate(label_names))
        model.config.label2id = {name: index for index, name in enumerate(label_names)}
