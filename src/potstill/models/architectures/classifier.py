"""Base classes of the architectures: initial weights, and the way from token ids or pixels to logits."""

# B batch, T tokens, C classes, D width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple


class StudentModel(PreTrainedModel):
    """Starts weights as fits each kind of layer, and names the part without the head `encoder`."""

    base_model_prefix = "encoder"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            _start_lstm(module)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1.0)
        else:
            super()._init_weights(module)


class TextEncoder(StudentModel):
    """Token embeddings, which padding never reaches; what follows is the subclass's `encode`."""

    _input_embed_layer = "word_embeddings"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> BaseModelOutputWithPooling:
        """Hidden states [B, T, D] and the pooled text; arguments as in the classifier."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask.bool()
        embedded = self.dropout(self.word_embeddings(input_ids)) * mask.unsqueeze(-1)
        states, pooled = self.encode(embedded, mask, input_ids)
        return pooled_output([embedded, *states], pooled, output_hidden_states)

    def encode(self, embedded: Tensor, mask: Tensor, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """The hidden states behind the embeddings, and the pooled text.

        Args:
            embedded: [B, T, E], zero at padding.
            mask: [B, T] bool, true on real tokens.
            input_ids: [B, T] int64.
        """
        raise NotImplementedError


class StudentClassifier(StudentModel):
    """An encoder, a perceptron where `classifier_size` asks for one, and the classes.

    Subclasses name the encoder's class; the configuration says how wide its pooled output is (`pooled_size`).
    """

    encoder_class: type[StudentModel]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = self.encoder_class(config)
        width = pooled = int(config.pooled_size)
        self.dense: nn.Linear | None = None
        if getattr(config, "classifier_size", 0):
            width = config.classifier_size
            self.dense = nn.Linear(pooled, width)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def classify(self, outputs: Any, labels: Tensor | None) -> SequenceClassifierOutput:
        """Logits [B, C] from the pooled output, and the loss where there are labels."""
        pooled = outputs.pooler_output
        if self.dense is not None:
            pooled = torch.relu(self.dense(self.dropout(pooled)))
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class TextClassifier(StudentClassifier):
    """A text encoder with a classification head."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **ignored: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T], zero at padding, which may lie on either side; all ones where left out.
            labels: [B] int64; gives the loss.
            output_hidden_states: Whether to return the embeddings and every layer's output, [B, T, D] each.
            ignored: Inputs that other models take, for example `token_type_ids`.
        """
        return self.classify(self.encoder(input_ids, attention_mask, output_hidden_states=output_hidden_states), labels)


def pooled_output(states: list[Tensor], pooled: Tensor, asked: bool | None) -> BaseModelOutputWithPooling:
    """The output of an encoder, with all of its hidden states where they were asked for."""
    return BaseModelOutputWithPooling(
        last_hidden_state=states[-1], pooler_output=pooled, hidden_states=tuple(states) if asked else None
    )


def _start_lstm(lstm: nn.LSTM) -> None:
    """Orthogonal recurrence, and a forget gate that starts open (Jozefowicz et al. 2015)."""
    for name, value in lstm.named_parameters():
        if name.startswith("weight_ih"):
            init.xavier_uniform_(value)
        elif name.startswith("weight_hh"):
            init.orthogonal_(value)
        elif name.startswith("bias_ih"):
            bias = torch.zeros_like(value)
            bias[lstm.hidden_size : 2 * lstm.hidden_size] = 1.0
            init.copy_(value, bias)
        else:
            init.zeros_(value)
