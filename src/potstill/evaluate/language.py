"""Measurement of language models on a test split: perplexity, bits per byte, calibration, closeness to the teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from potstill.ground.devices import compute_device, placed
from potstill.knowledge.language import LanguageTeacher
from potstill.models.decoder import Decoder
from potstill.training.language_figures import TokenFigures, batch_on


def measure_tokens(
    decoder: Decoder,
    windows: Any,
    collator: Any,
    *,
    teacher: Decoder | None = None,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenFigures:
    """The figures of a model over the learned tokens of all windows.

    Args:
        teacher: Compared with, where there is one and it has the same tokens.
    """
    figures, device = TokenFigures(has_teacher=teacher is not None), compute_device()
    source = None if teacher is None else LanguageTeacher(teacher)
    order = np.argsort(windows.lengths, kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
    loader: Any = DataLoader(windows, batch_sampler=batches, collate_fn=collator)
    with placed(decoder.model), torch.no_grad():
        for done, batch in enumerate(loader, 1):
            batch = batch_on(batch, device)
            signal = None if source is None else source.signal(batch, ("logits",))
            figures.update(decoder.hidden(batch), decoder.head, batch["targets"], signal)
            if on_progress is not None:
                on_progress(done, len(batches))
    return figures
