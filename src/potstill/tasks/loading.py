"""Load a student that Potstill saved, whatever its architecture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.models.factory import trust

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    config = _config(path)
    if trust_remote_code and getattr(config, "factory", None):
        trust(config.factory)
    auto_class, task = _auto_class(path, config)
    model = _model(path, config, auto_class)
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


def _config(path: Path) -> Any:
    from transformers import AutoConfig

    from potstill.models.architectures import register
    from potstill.models.module import register as register_modules

    register()
    register_modules()
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ModelError(
            f"{path / 'config.json'} cannot be read ({_first_line(err)})",
            "a configuration that save_pretrained wrote, of a model type that this Potstill or transformers knows",
            "copy the student again, or update potstill and transformers",
        ) from err


def _auto_class(path: Path, config: Any) -> tuple[Any, Any]:
    """The Auto class that the saved head calls for, and the task."""
    from potstill.models.load import auto_class
    from potstill.tasks.inference import name_for
    from potstill.tasks.table import build

    heads = [name for name in getattr(config, "architectures", None) or () if "For" in name]
    if not heads:
        raise ModelError(
            f"{path} holds a {config.model_type} model without a head",
            "a student with the head of its task",
            "load an encoder alone with transformers' AutoModel",
        )
    task = build(name_for(config, ()))
    return auto_class(task.head), task


def _model(path: Path, config: Any, auto_class: Any) -> Any:
    from safetensors import SafetensorError

    from potstill.models.checkpoint import check_weight_files

    check_weight_files(str(path))
    try:
        model, found = auto_class.from_pretrained(path, config=config, use_safetensors=True, output_loading_info=True)
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as err:
        raise ModelError(
            f"the weights in {path} do not load ({_first_line(err)})",
            "the model.safetensors that was saved with this config.json",
            "copy the student again, or run potstill distill again",
        ) from err
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"{path} lacks {len(missing)} weights of its {config.model_type} model, for example {missing[0]}",
            "the model.safetensors that was saved with this config.json",
            "copy the student again, or run potstill distill again",
        )
    return model


def _first_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(err).__name__
