"""The files of sentence-transformers: what they say of an encoder (pooling, linear layer, longest text), read and written.

All forms since its version 0.4 are read: one `pooling_mode` (from 5.4 on) or a switch for each, the limit of tokens among the
encoder's settings or among those of its calls, folders of this machine or names of the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError, first_line

if TYPE_CHECKING:
    from torch import nn

_SWITCHES = {  # a mode → its switch in files of versions before 5.4
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
POOLINGS = ("mean", "cls", "max")
"""The modes that a sentence encoder may have here."""
_MODULES = "modules.json"
_LAYERS = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
_ENCODER_FILES = tuple(
    f"sentence_{kind}_config.json" for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TODO = "choose another teacher"


@dataclass(frozen=True)
class SentenceFiles:
    """What the files of a saved sentence encoder say.

    Args:
        pooling: One of `POOLINGS`.
        width: Of the embedding, where a linear layer says it.
        dense: The weights of the linear layer after pooling; None where there is none.
        max_tokens: The longest text in tokens, where the files say it and not the tokenizer alone.
        lowers_case: Whether texts are read in lower case.
    """

    pooling: str = "mean"
    width: int | None = None
    dense: Path | None = None
    max_tokens: int | None = None
    lowers_case: bool = False


def read(name: str | Path) -> SentenceFiles | None:
    """The files of a folder or hub name; None where it was not saved by sentence-transformers.

    Raises:
        ModelError: A file that cannot be read, or layers, a pooling or a prompt that have no counterpart here.
    """
    modules = _json(name, _MODULES)
    if modules is None:
        return None
    _refuse_prompt(name)
    found: dict[str, Any] = {}
    for module in modules:
        layer, place = str(module["type"]).rpartition(".")[2], str(module["path"])
        if layer not in _LAYERS:
            raise ModelError(f"{name} has a layer {layer} ({place})", ", ".join(_LAYERS), _TODO)
        if layer == "Transformer":
            found |= _of_encoder(name, place)
        elif layer == "Pooling":
            found["pooling"] = _pooling(_needed(name, f"{place}/config.json"), name)
        elif layer == "Dense":
            if "dense" in found:
                raise _not_linear(name, place)
            found |= _of_dense(name, place)
    return SentenceFiles(**found)


def write(folder: Path, head: nn.Linear, pooling: str) -> None:
    """Write the files by which sentence-transformers, of any version, loads an encoder that lies in the folder."""
    from safetensors.torch import save_file

    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    paths = ("", "1_Pooling", "2_Dense", "3_Normalize")
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(zip(kinds, paths))
    ]
    dense = {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    switches = {switch: mode == pooling for mode, switch in _SWITCHES.items()}
    for path, values in (
        (_MODULES, modules),
        ("1_Pooling/config.json", {"word_embedding_dimension": head.in_features, **switches}),
        ("2_Dense/config.json", dense),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(values, indent=2), "utf-8")
    (folder / "3_Normalize").mkdir(exist_ok=True)
    weights = {"linear.weight": head.weight.detach().contiguous(), "linear.bias": head.bias.detach().contiguous()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")


def _of_encoder(name: str | Path, place: str) -> dict[str, Any]:
    """The limit of tokens and the case of letters."""
    files = (_json(name, f"{place}/{file}" if place else file) for file in _ENCODER_FILES)
    settings: dict[str, Any] = next((each for each in files if each), {})
    calls = settings.get("processing_kwargs") or {}
    limits = [settings.get("max_seq_length"), *((calls.get(kind) or {}).get("max_length") for kind in ("common", "text"))]
    known = [int(limit) for limit in limits if limit]
    return {"max_tokens": min(known, default=None), "lowers_case": bool(settings.get("do_lower_case"))}


def _of_dense(name: str | Path, place: str) -> dict[str, Any]:
    settings = _needed(name, f"{place}/config.json")
    reads = {
        settings.get("module_input_name") or "sentence_embedding",
        settings.get("module_output_name") or "sentence_embedding",
    }
    is_linear = str(settings.get("activation_function") or "Identity").endswith("Identity")
    if not is_linear or settings.get("use_residual") or reads != {"sentence_embedding"}:
        raise _not_linear(name, place)
    weights = _file(name, f"{place}/model.safetensors")
    if weights is None:
        raise ModelError(
            f"{name} has no weights of its linear layer in safetensors ({place}/model.safetensors)",
            "weights in safetensors",
            f"save it again with a newer version: SentenceTransformer({str(name)!r}).save({str(name)!r})",
        )
    return {"dense": weights, "width": int(settings["out_features"])}


def _not_linear(name: str | Path, place: str) -> ModelError:
    return ModelError(
        f"{name} has a layer {place} after its pooling that is not linear",
        "pooling, at most one linear layer, and normalising",
        _TODO,
    )


def _pooling(settings: Mapping[str, Any], name: str | Path) -> str:
    """The one mode of pooling; the mean where the file says none, as sentence-transformers takes it."""
    named = settings.get("pooling_mode")
    if named is None:
        named = [mode for mode, switch in _SWITCHES.items() if settings.get(switch)] or ["mean"]
    chosen = [named] if isinstance(named, str) else list(named)
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise ModelError(f"{name} pools its tokens by {' and '.join(map(str, chosen))}", ", ".join(POOLINGS), _TODO)
    return str(chosen[0])


def _refuse_prompt(name: str | Path) -> None:
    """Refuse a prompt that is put before every text."""
    settings = _json(name, "config_sentence_transformers.json") or {}
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name"))
    if prompt:
        raise ModelError(
            f"{name} puts {prompt!r} before every text",
            "a teacher without a default prompt",
            "put it before the texts of the data, and set default_prompt_name: null in config_sentence_transformers.json",
        )


def _needed(name: str | Path, file: str) -> Any:
    found = _json(name, file)
    if found is None:
        raise ModelError(f"{name} names {file} in its {_MODULES} and lacks it", "all files of the encoder", "save it again")
    return found


def _json(name: str | Path, file: str) -> Any:
    """What a file holds; None where there is no such file.

    Raises:
        ModelError: It is not JSON.
    """
    path = _file(name, file)
    if path is None:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise ModelError(f"{path} cannot be read: {first_line(err)}", "JSON", "save the encoder again") from err


def _file(name: str | Path, file: str) -> Path | None:
    """A file of a folder or hub name on this machine; None where it is not there."""
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser() / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    silent = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        found = cached_file(str(name), file, **silent)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)
