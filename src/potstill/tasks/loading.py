"""Loading of students that Potstill saved, whatever their architecture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.ground.counted import counted
from potstill.models.architectures import register
from potstill.models.checkpoint import read_config, read_model
from potstill.models.factory import trust
from potstill.models.load import auto_class
from potstill.models.module import register as register_modules
from potstill.tasks.inference import infer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AGAIN = "copy the student again, or run potstill distill again"


def load(folder: str | Path, *, trust_remote_code: bool = False) -> tuple[PreTrainedModel, Any]:
    """A saved student and its tokenizer or image processor.

    Args:
        folder: Of the student, or the output folder of a run, whose `student` folder is then taken.
        trust_remote_code: Whether the function may run that a student made by ``package.module:function`` names.

    Returns:
        The model in eval mode on the CPU, and its processor.

    Raises:
        ModelError: No such folder, or no whole student in it.
    """
    path = _student_folder(Path(os.path.expanduser(str(folder))))
    register()
    register_modules()
    config = read_config(str(path), todo="copy the student again, or update potstill and transformers")
    if trust_remote_code and getattr(config, "factory", None):
        trust(config.factory)
    task = _task(path, config)
    model = _model(path, config, auto_class(task.head))
    return model.eval(), task.load_processor(str(path), model_config=model.config)


def _student_folder(path: Path) -> Path:
    if path.is_file():
        raise ModelError(f"{path} is a file", "the folder that a student was saved in", f"give its folder, {path.parent}")
    if not path.is_dir():
        raise ModelError(
            f"the student folder {path} does not exist",
            "a folder that save_pretrained wrote, or the output folder of a run",
            "check the path; a model of the hub is loaded with transformers' AutoModelForSequenceClassification",
        )
    for candidate in (path, path / "student"):
        if (candidate / "config.json").is_file():
            return candidate
    held = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
    raise ModelError(
        f"{path} has no config.json; it holds {held}",
        "a folder with config.json, model.safetensors and the tokenizer or image processor",
        "give the folder student/ of a finished run, or finish the run with potstill distill",
    )


def _task(path: Path, config: Any) -> Any:
    """The task that the saved head is for."""
    heads = [name for name in getattr(config, "architectures", None) or () if "For" in name]
    if not heads:
        raise ModelError(
            f"{path} holds a {config.model_type} model without a head",
            "a student with the head of its task",
            "load an encoder alone with transformers' AutoModel",
        )
    return infer(config)


def _model(path: Path, config: Any, loader: Any) -> Any:
    model, found = read_model(str(path), loader, todo=AGAIN, config=config)
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{path} lacks {counted(len(missing), 'weight')} of its {config.model_type} model, for example {missing[0]}",
            "the model.safetensors that was saved with this config.json",
            AGAIN,
        )
    return model
