"""Models whose answer to a text is one vector: an encoder, its tokens pooled, a linear layer, length one.

Shapes: B batch, T tokens, H hidden width, D width of the embedding.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import SequenceClassifierOutput

from potstill.errors import ModelError
from potstill.models import sentence_files

HEAD = "ForSentenceEmbedding"


class SentenceEncoder:
    """The part that all sentence encoders have, whatever encoder they stand on; see `encoder_class`.

    ``logits`` [B, D] are the embedding: pooled over real tokens (the mean, or what the configuration says under
    ``sentence_pooling``), through ``sentence_head``, scaled to length one.
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

    def save_pretrained(self, folder: str | Path, *args: Any, **options: Any) -> None:
        """As transformers saves it, with the files of its encoder where that is none of transformers' own."""
        if self.body_class.is_remote_code():
            Path(folder).mkdir(parents=True, exist_ok=True)
            custom_object_save(getattr(self, self.base_model_prefix), folder, config=self.config)
        super().save_pretrained(folder, *args, **options)  # type: ignore[misc]

    def save_extras(self, folder: Path) -> None:
        """The files of sentence-transformers; see `sentence_files.write`."""
        sentence_files.write(folder, self.sentence_head, getattr(self.config, "sentence_pooling", "mean"))


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
        files = None if is_whole else (sentence_files.read(name) or sentence_files.SentenceFiles())
        if files is not None:
            width = files.width or hidden_width(config)
            config.sentence_pooling, config.num_labels = files.pooling, num_labels or width
        model, info = encoder_class(config.__class__).from_pretrained(name, config=config, output_loading_info=True, **options)
        if files is not None and config.num_labels == width:
            _fill_head(model.sentence_head, files.dense)
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


def is_sentence_transformer(model: Any) -> bool:
    """Whether an object is a model of the package sentence-transformers."""
    return any(kind.__module__.split(".")[0] == "sentence_transformers" for kind in type(model).__mro__) and hasattr(
        model, "save"
    )


def unpacked(encoder: Any, read_processor: Callable[[str, Any], Any] = lambda folder, config: None) -> tuple[Any, Any]:
    """The sentence encoder that a model of sentence-transformers is, read from a copy that it saves, and its processor.

    Args:
        encoder: The model; not changed.
        read_processor: From that copy's folder and the configuration to the processor.

    Raises:
        ModelError: Layers, a pooling or a prompt that have no counterpart here.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(folder)
        model = AutoSentenceEncoder.from_pretrained(folder, dtype=torch.float32)
        processor = read_processor(folder, model.config)
    model.config._name_or_path = ""
    return model.eval(), processor


def hidden_width(config: Any) -> int:
    """Width of the encoder's output."""
    return int(getattr(config, "hidden_size", None) or config.dim)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[B, H] out of token states [B, T, H]: their mean or maximum over real tokens, or the first token's."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "max":
        return states.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(states.dtype).min).amax(1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


@torch.no_grad()
def _fill_head(head: nn.Linear, dense: Path | None) -> None:
    if dense is None:
        head.weight.copy_(torch.eye(head.out_features))
        head.bias.zero_()
        return
    from safetensors.torch import load_file

    weights = load_file(dense)
    head.weight.copy_(weights["linear.weight"])
    head.bias.copy_(weights.get("linear.bias", torch.zeros(head.out_features)))
