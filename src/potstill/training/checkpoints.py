"""What a checkpoint holds beside the student: trained parts of losses and raw weights; and which checkpoint is whole."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import TrainingError
from potstill.training.averaging import WeightAverage

logger = logging.getLogger(__name__)

STATE_FILE = "distill_state.safetensors"
PREFIX = "_distill."
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_RESUME = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


def save_state(folder: str | Path, modules: nn.ModuleDict, average: WeightAverage | None) -> None:
    """Write `distill_state.safetensors` beside the student, where there is something to write."""
    tensors = {f"loss.{name}": value for name, value in modules.state_dict().items()}
    if average is not None:
        tensors.update({f"raw.{name}": value for name, value in average.state().items()})
    if tensors:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, Path(folder) / STATE_FILE)


def load_state(folder: str | Path, modules: nn.ModuleDict, average: WeightAverage | None) -> None:
    """Restore what `save_state` wrote; the student's own weights are loaded before.

    Raises:
        TrainingError: The checkpoint was written with other losses or another averaging.
    """
    file = Path(folder) / STATE_FILE
    tensors = load_file(file) if file.exists() else {}
    losses = {name.removeprefix("loss."): value for name, value in tensors.items() if name.startswith("loss.")}
    raw = {name.removeprefix("raw."): value for name, value in tensors.items() if name.startswith("raw.")}
    expected = set(modules.state_dict())
    if set(losses) != expected or bool(raw) != (average is not None):
        difference = sorted(expected ^ set(losses))[:4] or ["weight averaging"]
        raise TrainingError(
            f"the checkpoint {folder} belongs to other losses or settings, it differs in {', '.join(difference)}",
            "the losses and average_decay that the checkpoint was written with",
            "give the same losses, or train into a new output folder",
        )
    _load_strict(modules, losses, folder)
    if average is not None:
        average.restore(raw)


def load_renamed(folder: str | Path, model: nn.Module) -> None:
    """Load weights that were saved under other names than the model's own.

    transformers writes some families (ViT, for one) under the names of their first release, and its trainer, which loads
    checkpoints by name and passes over names that it does not know, would leave those weights as they are.

    Args:
        folder: The checkpoint.
        model: Whose weights are loaded, in place; nothing is done where the names agree.
    """
    if not isinstance(model, PreTrainedModel) or not (set(_names(Path(folder))) - set(model.state_dict())):
        return
    loaded = type(model).from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(loaded.state_dict(), strict=False)


def _names(folder: Path) -> list[str]:
    """Names of the weights in a checkpoint; none where they are kept in another way."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    if not (folder / "model.safetensors").is_file():
        return []
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return list(weights.keys())


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in `folder`; one that a kill cut short is passed over, and written again later."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=_step_of, reverse=True)
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
        logger.info("the checkpoint %s is not whole", checkpoint.name)
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every part is there; the trainer's state is written last, so a readable one says that the rest is whole."""
    if not any((checkpoint / name).exists() for name in _WEIGHTS) or not all((checkpoint / name).exists() for name in _RESUME):
        return False
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(state.get("global_step") == _step_of(checkpoint))


def without_losses(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A student's state dict without the parts that only train it."""
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


def _load_strict(modules: nn.ModuleDict, losses: Mapping[str, Tensor], folder: str | Path) -> None:
    try:
        modules.load_state_dict(dict(losses))
    except RuntimeError as err:
        raise TrainingError(
            f"the trained parts of the losses in {folder} have other shapes",
            "the student, teacher and losses that the checkpoint was written with",
            "train into a new output folder",
        ) from err


def _step_of(checkpoint: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match.group(1)) if match else -1
