"""Checkpoints: what they hold besides the student, and which of them are whole."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import TrainingError
from potstill.ground.disk import read_json
from potstill.training.companions.contract import Companion

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # folder of a phase that holds them
STATE_FILE = "distill_state.safetensors"
PREFIX = "_distill."
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
_RESUME = ("optimizer.pt", "scheduler.pt", "trainer_state.json")


@contextlib.contextmanager
def attached(student: Any, modules: nn.ModuleDict) -> Iterator[None]:
    """The trained parts of the losses are a submodule of the student, and no part of what it saves."""
    had_list = "_keys_to_ignore_on_save" in student.__dict__
    ignored = student.__dict__.get("_keys_to_ignore_on_save")
    student._distill = modules
    own = {f"{PREFIX}{name}" for name in modules.state_dict()}
    student._keys_to_ignore_on_save = set(getattr(student, "_keys_to_ignore_on_save", None) or ()) | own
    try:
        yield
    finally:
        del student._distill
        if had_list:
            student._keys_to_ignore_on_save = ignored
        else:
            del student._keys_to_ignore_on_save


def save_state(folder: str | Path, modules: nn.ModuleDict, companions: Sequence[Companion]) -> None:
    """Write `distill_state.safetensors` next to the student, where there is something to write."""
    tensors = {f"loss.{name}": value for name, value in modules.state_dict().items()}
    for companion in companions:
        tensors |= {f"{companion.key}.{name}": value for name, value in companion.state().items()}
    if tensors:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, Path(folder) / STATE_FILE)


def load_state(folder: str | Path, modules: nn.ModuleDict, companions: Sequence[Companion] | None) -> None:
    """Restore what `save_state` wrote; the student's own weights are loaded before.

    Args:
        companions: Those whose state is restored; None to leave it alone.

    Raises:
        TrainingError: The checkpoint was written with other losses or other companions.
    """
    file = Path(folder) / STATE_FILE
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in (load_file(file) if file.exists() else {}).items():
        key, _, rest = name.partition(".")
        parts.setdefault(key, {})[rest] = value
    losses, expected = parts.pop("loss", {}), set(modules.state_dict())
    kept = {companion.key: companion for companion in companions or () if companion.state()}
    if set(losses) != expected or (companions is not None and set(parts) != set(kept)):
        titles = [kept[key].title if key in kept else "weight averaging" for key in sorted(set(parts) ^ set(kept))]
        difference = sorted(expected ^ set(losses))[:4] or titles
        raise TrainingError(
            f"the checkpoint {folder} belongs to other losses or settings, it differs in {', '.join(difference)}",
            "the losses and average_decay that the checkpoint was written with",
            "give the same losses, or train into a new output folder",
        )
    try:
        modules.load_state_dict(losses)
    except RuntimeError as err:
        raise TrainingError(
            f"the trained parts of the losses in {folder} have other shapes",
            "the student, teacher and losses that the checkpoint was written with",
            "train into a new output folder",
        ) from err
    for key, companion in kept.items():
        companion.restore(parts[key])


def load_renamed(folder: str | Path, model: nn.Module) -> None:
    """Load weights that were saved under other names than the model's own.

    transformers writes some families (ViT, for one) under the names of their first release, and its trainer, which loads
    checkpoints by name and passes over names that it does not know, would leave those weights as they are.

    Args:
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


def where_to_go_on(folder: str | Path) -> str | None:
    """The step and epoch of the newest whole checkpoint in `folder`, in words; None where there is none."""
    checkpoint = newest_checkpoint(folder)
    state = None if checkpoint is None else read_json(checkpoint / "trainer_state.json")
    if not isinstance(state, dict):
        return None
    return (
        f"step {state['global_step']:,} of {state['max_steps']:,} (epoch {state['epoch']:.2f} of {state['num_train_epochs']:g})"
    )


def is_whole(checkpoint: Path) -> bool:
    """Whether every part is there; the trainer's state is written last, so a readable one says that the rest is whole."""
    if not any((checkpoint / name).exists() for name in _WEIGHTS) or not all((checkpoint / name).exists() for name in _RESUME):
        return False
    state = read_json(checkpoint / "trainer_state.json")
    return isinstance(state, dict) and state.get("global_step") == _step_of(checkpoint)


def without_losses(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A student's state dict without the parts that only train it."""
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


def _step_of(checkpoint: Path) -> int:
    match = re.fullmatch(r"checkpoint-(\d+)", checkpoint.name)
    return int(match.group(1)) if match else -1
