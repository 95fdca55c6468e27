"""Text classification: one class for a text or a pair of texts."""

# B batch, T tokens

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from potstill.answers.quality import classification_quality, per_class
from potstill.contracts.answers import OneClass
from potstill.data.collate import TextCollator
from potstill.data.columns import find_text
from potstill.data.encoded import EncodedText
from potstill.errors import ModelError
from potstill.modalities.text.segments import split_long
from potstill.models.families import position_offset
from potstill.tasks.loading import head_names, loading_error

_DEFAULT_TOKENS = 128


class TextClassification(OneClass):
    """One class for a text, or for a pair of texts."""

    name = "text-classification"
    modality = "text"

    def find_columns(self, dataset: Dataset, asked: Mapping[str, str] | None, *, labelled: bool = True) -> dict[str, str]:
        """``text``, optionally ``text_pair``, and ``label`` → columns; see `potstill.data.columns.find_text`."""
        return find_text(dataset.features, asked, labelled=labelled)

    def load_model(self, name_or_path: str, *, num_labels: int, label_names: Sequence[str]) -> PreTrainedModel:
        """A model for sequence classification; its head is new where the checkpoint has none of this size.

        Raises:
            ModelError: Nothing to load there.
        """
        names = head_names(num_labels, label_names)
        try:
            return AutoModelForSequenceClassification.from_pretrained(name_or_path, ignore_mismatched_sizes=True, **names)
        except (OSError, ValueError) as err:
            raise loading_error(name_or_path, "a model for text classification", err) from err

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer, with its limit brought down to the model's positions.

        Raises:
            ModelError: Nothing to load there, or a tokenizer without a padding token.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        except (OSError, ValueError, ImportError) as err:
            raise loading_error(name_or_path, "a tokenizer", err) from err
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            # transformers makes an empty tokenizer, which reads every word as unknown, where the files are missing
            raise ModelError(
                f"{name_or_path} has no tokenizer: tokenizer.json (or vocab.txt, or a SentencePiece model) is missing",
                "a tokenizer in the same folder as the model",
                "save it there with tokenizer.save_pretrained",
            )
        if tokenizer.pad_token_id is None:
            raise ModelError(
                f"the tokenizer of {name_or_path} has no padding token",
                "a tokenizer with one",
                "set tokenizer.pad_token and save it",
            )
        limit = position_limit(model_config)
        if limit is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
        return tokenizer

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Long texts as overlapping segments; see `potstill.modalities.text.segments.split_long` for the options."""
        return split_long(dataset, processor, **options)

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedText:
        """Tokenised rows; see `potstill.modalities.text.tokenising.encode_text`."""
        return EncodedText.encode(dataset, processor, folder, max_tokens=max_tokens)

    def collator(self, processor: Any) -> TextCollator:
        """Pads to the longest row of the batch."""
        return TextCollator(processor.pad_token_id, processor.padding_side, processor.pad_token_type_id)

    def example_inputs(self, model: PreTrainedModel, *, batch: int = 1, tokens: int | None = None) -> dict[str, torch.Tensor]:
        """Random token ids [B, T] int64 without padding, an all-ones mask, and token types where the model takes them."""
        limit = position_limit(model.config)
        tokens = tokens or (_DEFAULT_TOKENS if limit is None else min(_DEFAULT_TOKENS, limit))
        vocabulary = int(model.config.vocab_size)
        ids = torch.randint(0, vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))
        pad = getattr(model.config, "pad_token_id", None)
        if pad is not None:
            ids[ids == pad] = (pad + 1) % vocabulary
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if _takes_token_types(model):
            inputs["token_type_ids"] = torch.zeros_like(ids)
        return inputs

    def dynamic_axes(self, model: PreTrainedModel) -> dict[str, dict[int, str]]:
        """Batch and tokens of every input."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if _takes_token_types(model) else [])]
        return {name: {0: "batch", 1: "tokens"} for name in names}

    def quality(self, logits: np.ndarray, labels: np.ndarray, *, teacher: np.ndarray | None = None) -> dict[str, float]:
        """Accuracy, macro F1 and Matthews correlation; see `potstill.answers.quality.classification_quality`."""
        return classification_quality(logits, labels)

    def per_class(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
        """Precision, recall and F1 of each class; see `potstill.answers.quality.per_class`."""
        return per_class(logits, labels)

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The text; of a pair both, with a line between them."""
        pair = row.get("text_pair")
        return str(row["text"]) if pair is None else f"{row['text']} | {pair}"


def position_limit(config: Any) -> int | None:
    """The most tokens that a model can take, or None where it does not say.

    RoBERTa and its kin number positions from the padding id + 1, so they take that many fewer.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - position_offset(config)


def _takes_token_types(model: PreTrainedModel) -> bool:
    if int(getattr(model.config, "type_vocab_size", 0) or 0) < 2:
        return False
    return "token_type_ids" in inspect.signature(model.forward).parameters
