"""Checks of a model folder before anything is loaded from it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from potstill.contracts.task import Task
from potstill.errors import ModelError, first_line
from potstill.ground.disk import spelling
from potstill.models.quantized import method_of

_HEADLESS = ("Model", "ForMaskedLM", "ForPreTraining", "ForMaskedImageModeling", "Encoder", "Backbone")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


MODELS_OF_RUN = ("student", "teacher")  # folders of a run's output that are models
PROCESSOR_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def has_own_processor(name: str | None) -> bool:
    """Whether a named model brings a tokenizer or image processor of its own; a hub id always does, no name never."""
    if name is None:
        return False
    folder = Path(name).expanduser()
    return not folder.is_dir() or any((folder / file).is_file() for file in PROCESSOR_FILES)


def check_folder(name: str, role: str = "teacher") -> None:
    """Refuse a path that is no model folder; hub names pass.

    Raises:
        ModelError: The path does not exist, is a file, holds an adapter or a run, or has no config.json.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith((".", "~", os.sep)) or os.path.isabs(name) or name.count("/") > 1 or name.endswith("/"):
            raise ModelError(f"the {role} {name} does not exist", "a model folder or a hub name", spelling(path))
        return
    if path.is_file():
        raise ModelError(
            f"the {role} {name} is a file", "the folder that save_pretrained wrote", f"give its folder, {path.parent}"
        )
    if (path / "config.json").exists():
        return
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{name} holds an adapter, not a model",
            "a whole model",
            "merge the adapter into its base with peft's merge_and_unload() and save the result with save_pretrained",
        )
    models = [path / held for held in MODELS_OF_RUN if (path / held / "config.json").is_file()]
    if models:
        raise ModelError(
            f"{name} holds models in folders of their own, as the output folder of a run does",
            "the folder of one model",
            f"give {' or '.join(map(str, models))}",
        )
    held = sorted(item.name for item in path.iterdir())[:8]
    raise ModelError(
        f"the {role} folder {name} has no config.json; it holds {', '.join(held) or 'nothing'}",
        "a folder that save_pretrained wrote (config.json, model.safetensors and the tokenizer or image processor)",
        "save the model there with model.save_pretrained(...), or give the right folder",
    )


def check_config(name: str, config: Any, task: Task) -> None:
    """Refuse configurations that no teacher of the task can have.

    Raises:
        ModelError: A model trained for another kind of answers, quantized weights, or an encoder with a decoder.
    """
    method = method_of(config)
    if method is not None:
        raise quantized(name, method)
    problem = getattr(config, "problem_type", None)
    fitting = task.siblings.get(str(problem))
    if fitting is not None and fitting != task.name:
        raise ModelError(
            f"{name} was trained for {str(problem).replace('_', ' ')}, the task is {task.name}",
            f"a teacher for {task.name}",
            f"set task: {fitting}, or choose another teacher",
        )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is a {config.model_type}, an encoder with a decoder", "encoders and image models", "choose another teacher"
        )


def quantized(name: str, how: str) -> ModelError:
    """The error for a model whose weights are quantized."""
    return ModelError(
        f"{name} has quantized weights ({how}), which a student cannot be made from",
        "weights in float32, bfloat16 or float16",
        "load the model that it was quantized from, without quantization_config",
    )


def check_fits_task(name: str, config: Any, task: Task, *, architectures: Sequence[str] | None = None) -> bool | None:
    """Whether the checkpoint says that it has a head for the task; None where it says nothing.

    Raises:
        ModelError: It is of a kind that the task cannot use, or was trained for another task.
    """
    import transformers

    auto_class = getattr(transformers, f"AutoModel{task.head}", transformers.AutoModel)  # a head of our own: any encoder
    if type(config) not in auto_class._model_mapping and not hasattr(config, "auto_map"):
        raise ModelError(
            f"{name} is a {config.model_type} model, which transformers does not offer for {task.name}",
            "for texts BERT, RoBERTa, DistilBERT, ELECTRA or XLM-R; for images ViT, DeiT or ResNet",
            "choose such a teacher, or set the right task",
        )
    kinds = list(architectures or getattr(config, "architectures", None) or [])
    if not kinds:
        return None
    if any(task.head in kind for kind in kinds):
        return True
    if all(kind.endswith(_HEADLESS) and not kind.endswith("LMHeadModel") for kind in kinds):
        return False
    raise ModelError(
        f"{name} is a {kinds[0]}, which was trained for another task than {task.name}",
        f"a model {task.head}, or a pretrained one without a head ({', '.join(_HEADLESS[:3])})",
        "choose the checkpoint that was fine-tuned for this task, or the pretrained one that it came from",
    )


def check_weight_files(name: str) -> None:
    """Refuse a folder without safetensors; hub names pass and are left to transformers.

    Raises:
        ModelError: No weights at all, or only pickled ones.
    """
    path = Path(name)
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return
    pickled = sorted(item.name for pattern in _PICKLED for item in path.glob(pattern))
    if pickled:
        raise ModelError(
            f"{name} has its weights only as {pickled[0]}, a pickle, which may run code when it is opened",
            "weights in safetensors",
            'if you trust the file, convert it: python -c "from transformers import AutoModel as M; import sys; '
            f"M.from_pretrained('{name}').save_pretrained('{name}')\" with the class that the model was trained as",
        )
    raise ModelError(f"{name} has a config.json but no weights", "model.safetensors", "copy or download the weights as well")


def read_config(
    name: str,
    *,
    role: str = "",
    trust_remote_code: bool = False,
    todo: str = "check the name; offline, download the model first and give its folder",
) -> Any:
    """The configuration of a folder or hub name.

    Args:
        name: Of the model.
        role: Said before the name, such as ``"the student "``.
        trust_remote_code: Whether code that comes with it may run.
        todo: What the error advises.

    Raises:
        ModelError: It cannot be read, or brings code that is not trusted.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as err:
        if "trust_remote_code" in str(err):
            raise ModelError(
                f"{name} brings its own code",
                "models that transformers knows, unless you trust the code",
                "read the code, then set teacher.trust_remote_code: true",
            ) from err
        raise ModelError(
            f"{role}{name} cannot be read as a model: {first_line(err)}",
            "a folder that save_pretrained wrote, or the name of a hub model that is in the local cache or can be downloaded",
            todo,
        ) from err


def read_model(
    name: str,
    auto_class: Any,
    *,
    todo: str = "save the model again with save_pretrained, or download it again",
    **settings: Any,
) -> tuple[Any, dict[str, Any]]:
    """A model with its weights, and what transformers found missing or mismatched.

    Args:
        name: A folder or hub name.
        auto_class: Whose `from_pretrained` loads it.
        todo: What the error advises.
        **settings: Of `from_pretrained`.

    Raises:
        ModelError: No weights in safetensors, or weights that cannot be read.
    """
    from safetensors import SafetensorError

    check_weight_files(name)
    try:
        with _quiet_transformers():
            return auto_class.from_pretrained(name, use_safetensors=True, output_loading_info=True, **settings)  # type: ignore[no-any-return]
    except ModelError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as err:
        raise ModelError(f"the weights of {name} cannot be read: {first_line(err)}", "whole safetensors files", todo) from err


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No report of missing weights and no progress bar; what matters of them becomes a note or an error."""
    from transformers.utils import logging as transformers_logging

    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()
