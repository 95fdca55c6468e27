"""Models whose answer to a text is one vector: an encoder, its tokens pooled, a linear layer, length one.

Shapes: B batch, T tokens, H hidden width, D width of the embedding.
"""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from potstill.errors import ModelError

HEAD = "ForSentenceEmbedding"
POOLING_MODES = {"cls_token": "cls", "mean_tokens": "mean"}  # name in sentence-transformers → ours
_MODULES = "modules.json"


class SentenceEncoder:
    """The part that all sentence encoders have, whatever encoder they stand on; see `encoder_class`.

    ``logits`` [B, D] are the embedding: pooled over real tokens (the mean, or the first token where the configuration says
    ``sentence_pooling: cls``), through ``sentence_head``, scaled to length one.
    """

    body_class: Any
    base_model_prefix: str
    config: Any
    sentence_head: nn.Linear

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        has_pooler = "add_pooling_layer" in inspect.signature(self.body_class.__init__).parameters
        self.takes_types = "token_type_ids" in inspect.signature(self.body_class.forward).parameters
        body = self.body_class(config, **({"add_pooling_layer": False} if has_pooler else {}))
        setattr(self, self.base_model_prefix, body)
        self.sentence_head = nn.Linear(hidden_width(config), config.num_labels)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """Embed texts.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], zero at padding.
            token_type_ids: [B, T], for encoders that take them.
            output_hidden_states: Whether to return the embeddings and every layer's output, [B, T, H] each.
            ignored: Inputs that other models take.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        body = getattr(self, self.base_model_prefix)
        types = {} if token_type_ids is None or not self.takes_types else {"token_type_ids": token_type_ids}
        outputs = body(
            input_ids=input_ids, attention_mask=mask, output_hidden_states=output_hidden_states, return_dict=True, **types
        )
        pooled = pool(outputs.last_hidden_state, mask, getattr(self.config, "sentence_pooling", "mean"))
        embedding = nn.functional.normalize(self.sentence_head(pooled), dim=-1)
        return SequenceClassifierOutput(logits=embedding, hidden_states=outputs.hidden_states)

    def save_extras(self, folder: Path) -> None:
        """The files of sentence-transformers; see `save_for_sentence_transformers`."""
        save_for_sentence_transformers(self, folder)


class AutoSentenceEncoder:
    """Sentence encoders of any supported type, with the calls of transformers' Auto classes."""

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A model of a configuration with random weights."""
        return encoder_class(config.__class__)(config)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        config: Any = None,
        num_labels: int | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """A saved sentence encoder, or an encoder alone with the pooling that its sentence-transformers files say.

        Args:
            name: Folder or hub id.
            config: Its configuration, read where left out.
            num_labels: Width of the embedding; what the files say, else the hidden width, where left out.
            output_loading_info: Whether to return what was missing, besides the model.
            options: Of `PreTrainedModel.from_pretrained`.

        Raises:
            ModelError: A pooling that is not known here.
        """
        options.pop("trust_remote_code", None)
        config = AutoConfig.from_pretrained(name) if config is None else config
        is_whole = any(kind.endswith(HEAD) for kind in getattr(config, "architectures", None) or ())
        layers = None if is_whole else _layers_of(Path(name), config)
        if layers is not None:
            config.sentence_pooling, config.num_labels = layers[0], num_labels or layers[1]
        model, info = encoder_class(config.__class__).from_pretrained(name, config=config, output_loading_info=True, **options)
        if layers is not None and config.num_labels == layers[1]:
            _fill_head(model.sentence_head, Path(name), layers[2])
            info["missing_keys"] = {key for key in info["missing_keys"] if not str(key).startswith("sentence_head.")}
        return (model, info) if output_loading_info else model


@functools.cache
def encoder_class(config_class: Any) -> Any:
    """The sentence encoder class for a configuration class, for example ``BertForSentenceEmbedding``.

    Raises:
        ModelError: There is no encoder of that type.
    """
    try:
        body_class: Any = AutoModel._model_mapping[config_class]
    except KeyError as err:
        raise ModelError(
            f"{config_class.__name__} belongs to no encoder that transformers knows", "BERT, RoBERTa, DistilBERT, ELECTRA"
        ) from err
    parent = next(each for each in body_class.__mro__[1:] if issubclass(each, PreTrainedModel))
    name = f"{body_class.__name__.removesuffix('Model')}{HEAD}"
    return type(
        name, (SentenceEncoder, parent), {"body_class": body_class, "__module__": __name__, "__doc__": SentenceEncoder.__doc__}
    )


def hidden_width(config: Any) -> int:
    """Width of the encoder's output."""
    return int(getattr(config, "hidden_size", None) or config.dim)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[B, H] out of token states [B, T, H]: their mean over real tokens, or the first token's."""
    if pooling == "cls":
        return states[:, 0]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def save_for_sentence_transformers(model: Any, folder: Path) -> None:
    """Write the files by which sentence-transformers loads a saved sentence encoder, with the same embedding."""
    from safetensors.torch import save_file

    head, pooling = model.sentence_head, getattr(model.config, "sentence_pooling", "mean")
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
    modes = {f"pooling_mode_{name}": value == pooling for name, value in POOLING_MODES.items()}
    for path, values in (
        (_MODULES, modules),
        ("1_Pooling/config.json", {"word_embedding_dimension": head.in_features, **modes}),
        ("2_Dense/config.json", dense),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(json.dumps(values, indent=2), "utf-8")
    (folder / "3_Normalize").mkdir(exist_ok=True)
    weights = {"linear.weight": head.weight.detach().contiguous(), "linear.bias": head.bias.detach().contiguous()}
    save_file(weights, folder / "2_Dense" / "model.safetensors")


def _layers_of(folder: Path, config: Any) -> tuple[str, int, Path | None]:
    """Pooling, width and the linear layer's folder that a folder's sentence-transformers files say; else mean and none."""
    width = hidden_width(config)
    if not (folder / _MODULES).is_file():
        return "mean", width, None
    pooling, dense = "mean", None
    for module in json.loads((folder / _MODULES).read_text("utf-8")):
        layer, place = module["type"].rpartition(".")[2], folder / module["path"]
        if layer == "Pooling":
            pooling = _pooling(json.loads((place / "config.json").read_text("utf-8")), folder)
        elif layer == "Dense":
            settings = json.loads((place / "config.json").read_text("utf-8"))
            if not str(settings.get("activation_function", "")).endswith("Identity") or dense is not None:
                raise ModelError(
                    f"{folder} has a layer {module['path']} after its pooling that is not linear",
                    "pooling, at most one linear layer, and normalising",
                    "choose another teacher",
                )
            dense, width = place, int(settings["out_features"])
    return pooling, width, dense


def _pooling(settings: dict[str, Any], folder: Path) -> str:
    chosen = [
        name.removeprefix("pooling_mode_") for name, value in settings.items() if name.startswith("pooling_mode_") and value
    ]
    if len(chosen) != 1 or chosen[0] not in POOLING_MODES:
        raise ModelError(
            f"{folder} pools its tokens by {' and '.join(chosen) or 'nothing'}",
            ", ".join(POOLING_MODES),
            "choose another teacher",
        )
    return POOLING_MODES[chosen[0]]


@torch.no_grad()
def _fill_head(head: nn.Linear, folder: Path, dense: Path | None) -> None:
    if dense is None:
        head.weight.copy_(torch.eye(head.out_features))
        head.bias.zero_()
        return
    from safetensors.torch import load_file

    weights = load_file(dense / "model.safetensors")
    head.weight.copy_(weights["linear.weight"])
    head.bias.copy_(weights.get("linear.bias", torch.zeros(head.out_features)))
