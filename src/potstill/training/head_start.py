"""A start for the final layer: fitted to the teacher's answers before the phase that trains it.

A phase that teaches features alone leaves the final layer as it was. Gradients need many steps to build one, and move the
features away from where they are meanwhile; least squares need none.
"""

# N rows (or units of rows), D width of the final layer's input, C classes

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from potstill.answers.units import has_units, is_span, read_units
from potstill.ground.devices import device_of, frozen
from potstill.knowledge.responses.dense import DenseLogits
from potstill.models.taps import Taps, head_of
from potstill.students.head_fit import regress
from potstill.training.precision import model_inputs
from potstill.training.preparation import provides

ROWS, RIDGE = 2048, 1e-3


def start_head(model: nn.Module, source: Any, batches: Iterable[Mapping[str, Any]]) -> bool:
    """Fit the final layer of a model to the teacher's logits, by least squares drawn towards the weights that it has.

    Nothing is done where that is not possible: no teacher with all its logits, no linear layer at the end, another number of
    classes, or answers that are spans.

    Args:
        model: Whose layer is fitted, in place; its mode is left as it was.
        source: The teacher, as `DistillationTrainer` holds it, or None.
        batches: Some thousand rows, as the model is trained on; all of them are read.

    Returns:
        Whether it was fitted.
    """
    head = head_of(model)
    if not isinstance(head, nn.Linear) or source is None or not provides(source, "logits"):
        return False
    taps = Taps(model, ("head.in",))
    found: list[tuple[Tensor, Tensor]] = []
    with frozen(model):
        for batch in batches:
            response = source.signal(batch, ("logits",)).response
            if not isinstance(response, DenseLogits) or is_span(batch) or response.values.shape[-1] != head.out_features:
                return False
            inputs = {name: value.to(device_of(model)) for name, value in model_inputs(model, batch).items()}
            features = taps.run(inputs)[1]["head.in"]
            found.append(_of_units(features.double().cpu(), response.values.double().cpu(), batch))
    if not found:
        return False
    features, logits = (torch.cat(parts) for parts in zip(*found))
    home = device_of(head)
    regress(head.cpu(), features, logits, RIDGE)
    head.to(home)
    return True


def _of_units(features: Tensor, logits: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Features [N, D] and logits [N, C] of rows, or of all units of rows."""
    if not has_units(batch):
        return features, logits
    is_there = torch.as_tensor(batch["unit_positions"]).cpu() >= 0
    return read_units(features, batch)[is_there], logits[is_there]
