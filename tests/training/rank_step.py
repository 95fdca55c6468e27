"""One optimizer step, alone or as one of several ranks.

Usage: python rank_step.py RANK RANKS BATCH ACCUMULATION PORT FILE
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from small_models import HiddenBridge, Rows, arguments, collate, encoder, opinionated
from transformers import TrainerCallback


class Gradients(TrainerCallback):
    """Keeps the gradients of the one step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        module = model.module if hasattr(model, "module") else model
        self.kept = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def step(folder: str, *, batch: int, accumulation: int, ranks: int = 1) -> dict[str, Any]:
    """Gradients, logged losses and the evaluated loss of one step over the same eight ragged rows."""
    from potstill.training.terms import Term
    from potstill.training.trainer import DistillationTrainer

    kept = Gradients()
    trainer = DistillationTrainer(
        encoder(seed=1),
        arguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            max_grad_norm=0.0,
            ddp_backend="gloo" if ranks > 1 else None,
        ),
        teacher=opinionated(),
        losses=["kl", {"name": "ce", "weight": 0.5}, Term("hint", HiddenBridge())],
        train_dataset=Rows(8),
        data_collator=collate,
        callbacks=[kept],
    )
    trainer.train()
    metrics = trainer.evaluate(Rows(7, seed=3))
    logged = {name: value for name, value in trainer.state.log_history[0].items() if name.startswith("loss")}
    return {"gradients": kept.kept, "logged": logged, "eval_loss": metrics["eval_loss"]}


if __name__ == "__main__":
    rank, ranks, batch, accumulation, port, file = sys.argv[1:]
    os.environ.update(
        RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
    )
    found = step(os.path.dirname(file), batch=int(batch), accumulation=int(accumulation), ranks=int(ranks))
    if rank == "0":
        torch.save(found, file)
