"""Texts, and pairs of texts."""

# B batch, T tokens

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features
from transformers import AutoTokenizer

from potstill.data import images
from potstill.data.arrow import table_of
from potstill.data.collate import TextCollator
from potstill.data.columns import is_string, named, named_label, only, others, unclear
from potstill.data.encoded import EncodedRows
from potstill.errors import DataError, ModelError
from potstill.ground.counted import inflected
from potstill.modalities import loading_error
from potstill.modalities.text.segments import split_long
from potstill.modalities.text.tokenising import encode_text, follow, token_limit
from potstill.models import sentence_files
from potstill.models.families import position_offset

_DEFAULT_TOKENS = 128
TEXT_NAMES = (
    *("text", "sentence", "review", "review_text", "content", "utterance", "query", "question", "comment", "tweet", "document"),
    *("body", "message", "review_body", "input", "texts", "sentences", "文本", "内容", "句子", "评论", "正文"),
)
PAIR_NAMES = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("question1", "question2")),
    *(("text", "text_pair"), ("text1", "text2"), ("text_a", "text_b")),
    *(("sentence_a", "sentence_b"), ("sentence_A", "sentence_B")),
    *(("question", "sentence"), ("question", "passage"), ("query", "document"), ("query", "passage"), ("query", "title")),
    *(("q1", "q2"), ("s1", "s2"), ("文本1", "文本2"), ("句子1", "句子2"), ("前提", "假设")),
)


class Texts:
    """Rows of one text or of a pair; see `contracts.modality.Modality` for what each member means."""

    name = "text"
    roles: Sequence[str] = ("text", "text_pair")
    column_names: Sequence[str] = TEXT_NAMES
    noun = "texts"
    processor_noun = "a tokenizer"
    has_tokens = True
    can_augment = True
    is_windowed = False
    can_turn = False

    def find_content(self, features: Features, roles: Mapping[str, str], *, taken: Sequence[str] | None = None) -> dict[str, str]:
        """``text``, and ``text_pair`` where two columns have names that go together."""
        if "text" in roles:
            return dict(roles)
        labels = named_label(features, roles) if taken is None else taken
        strings = [name for name in others(features, {*roles.values(), *labels}) if is_string(features[name])]
        free = others(features, {*roles.values(), *labels})
        # texts of digits alone, which a table file gives as whole numbers
        strings += [name for name in named(free, TEXT_NAMES) if str(getattr(features[name], "dtype", "")) == "int64"]
        lower = {name.lower(): name for name in strings}
        pairs = [(lower[a.lower()], lower[b.lower()]) for a, b in PAIR_NAMES if a.lower() in lower and b.lower() in lower]
        if "text_pair" in roles or len(pairs) != 1:
            return {**roles, "text": only("text", named(strings, TEXT_NAMES) or strings, features)}
        if set(named(strings, TEXT_NAMES)) - set(pairs[0]):
            raise unclear("text", strings, features)
        return {**roles, "text": pairs[0][0], "text_pair": pairs[0][1]}

    def read_folder(self, folder: Path, files: Sequence[Path], *, labelled: bool) -> Dataset | None:
        """None: texts come in files; a folder of images is refused."""
        if files or (folder / "data").is_dir():
            return None
        if images.class_folders(folder) or images.image_files(folder):
            raise DataError(
                f"{folder} holds images, and the teacher reads texts",
                "texts with labels for this teacher, or a teacher of images",
                "give another source, or another teacher",
            )
        return None

    def read(
        self,
        dataset: Dataset,
        roles: Mapping[str, str],
        split: str,
        notes: list[str],
        *,
        folder: Path | None,
        skip_corrupt: bool,
        start: int = 0,
    ) -> tuple[pa.Table, list[int] | None]:
        """``text`` and ``text_pair`` as strings; empty texts are kept and counted."""
        wanted = [role for role in self.roles if role in roles]
        table = table_of(dataset, [roles[role] for role in wanted])
        content = pa.table({role: _strings(table.column(roles[role]), roles[role]) for role in wanted})
        empty = sum(_num_empty(chunk) for chunk in content["text"].chunks)
        if empty == content.num_rows and not start:
            raise DataError(
                f"all {empty} texts of the {split} split are empty (column {roles['text']!r})",
                "texts with at least one character",
                "name the column that holds the texts: data.columns: {text: …}",
            )
        if empty:
            notes.append(
                f"{empty} of {content.num_rows} texts of the {split} split"
                f" {inflected(empty, 'is empty; it is', 'are empty; they are')} kept"
            )
        return content, None

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer, with the limit and the case that files of sentence-transformers say, and at most the model's positions.

        Raises:
            ModelError: Nothing to load there, a tokenizer without a padding token, or with more tokens than the model has rows.
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
        sentences = sentence_files.read(name_or_path)
        if sentences is not None:
            follow(sentences, tokenizer)
        self.check_reads(name_or_path, model_config, tokenizer)
        return self.fitted(tokenizer, model_config) or tokenizer

    def reading(self, processor: Any, max_tokens: int | None) -> dict[str, Any]:
        """The longest row, and how rows are filled."""
        return {
            "max_tokens": token_limit(processor, max_tokens),
            "pad_token_id": processor.pad_token_id,
            "pads_left": processor.padding_side == "left",
            "has_tokenizer_file": bool(getattr(processor, "is_fast", False)),
        }

    def check_reads(self, name: str, config: Any, processor: Any) -> None:
        """Refuses more token ids, or more kinds of segments, than the model has embeddings, and rows that cannot be padded."""
        if processor.pad_token_id is None:
            raise ModelError(
                f"the tokenizer of {name} has no padding token",
                "a tokenizer with one",
                "set tokenizer.pad_token and save it",
            )
        _check_count(name, "token", getattr(config, "vocab_size", None), num_ids(processor), "vocab_size", "tokens")
        kinds = getattr(config, "type_vocab_size", None)
        if kinds and kinds > 1 and "token_type_ids" in processor.model_input_names:  # with a single kind they say nothing
            types = processor("a", "a")["token_type_ids"]
            _check_count(name, "segment", kinds, max((*types, processor.pad_token_type_id)) + 1, "type_vocab_size", "segments")

    def fitted(self, processor: Any, config: Any) -> Any | None:
        """The tokenizer with the limit of a model with fewer positions, and without segments where it has a single kind."""
        limit = min(position_limit(config) or processor.model_max_length, processor.model_max_length)
        is_single = getattr(config, "type_vocab_size", None) == 1
        names = [name for name in processor.model_input_names if not (is_single and name == "token_type_ids")]
        if limit == processor.model_max_length and names == processor.model_input_names:
            return None
        fitting = copy.deepcopy(processor)
        fitting.model_max_length, fitting.model_input_names = limit, names
        return fitting

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Long texts as overlapping segments; see `potstill.modalities.text.segments.split_long` for the options."""
        return split_long(dataset, processor, **options)

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> EncodedRows:
        """Tokenised rows; see `potstill.modalities.text.tokenising.encode_text`."""
        return encode_text(dataset, processor, folder, max_tokens=max_tokens)

    def collator(self, processor: Any) -> Callable[..., dict[str, torch.Tensor]]:
        """Pads to the longest row of the batch."""
        return TextCollator(processor.pad_token_id, processor.padding_side, processor.pad_token_type_id)

    def see(self, rows: Any) -> None:
        """Nothing: the length of example inputs is given."""

    def middle(self, rows: Any) -> int | None:
        """The median length."""
        return int(np.median(rows.lengths))

    def example_inputs(self, model: Any, *, batch: int = 1, tokens: int | None = None) -> dict[str, torch.Tensor]:
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

    def dynamic_axes(self, model: Any) -> dict[str, dict[int, str]]:
        """Batch and tokens of every input."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if _takes_token_types(model) else [])]
        return {name: {0: "batch", 1: "tokens"} for name in names}

    def text_of(self, row: Mapping[str, Any]) -> str:
        """The text; of a pair both, with a line between them."""
        pair = row.get("text_pair")
        return str(row["text"]) if pair is None else f"{row['text']} | {pair}"

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The text."""
        return {"text": self.text_of(row)}

    def augmented(self, rows: Dataset, *, num: int, seed: int, tokenizer: Any, embeddings: np.ndarray) -> Sequence[Any]:
        """Texts or pairs; see `potstill.modalities.text.augment.augment_texts`."""
        from potstill.modalities.text.augment import augment_texts

        texts = list(rows["text"])
        if "text_pair" in rows.column_names:
            texts = list(zip(texts, rows["text_pair"], strict=True))
        return augment_texts(texts, num=num, seed=seed, tokenizer=tokenizer, embeddings=embeddings)

    def augmented_rows(self, made: Sequence[Any], *, first_row_id: int, no_label: np.ndarray) -> Dataset:
        """See `potstill.modalities.text.augment.augmented_rows`."""
        from potstill.modalities.text.augment import augmented_rows

        return augmented_rows(made, first_row_id=first_row_id, no_label=no_label)

    def passes(self, *, has_maps: bool) -> tuple[float, float]:
        """Eight passes at 3e-4."""
        return 8.0, 3e-4


def position_limit(config: Any) -> int | None:
    """The most tokens that a model can take, or None where it does not say.

    RoBERTa and its kin number positions from the padding id + 1, so they take that many fewer.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - position_offset(config)


def num_ids(tokenizer: Any) -> int:
    """Rows of embeddings that a tokenizer needs: its largest token id and one, added tokens included.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> from transformers import PreTrainedTokenizerFast
        >>> num_ids(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 7}))))
        8
    """
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def _check_count(name: str, what: str, held: int | None, needed: int, key: str, made: str) -> None:
    if held is not None and needed > held:
        raise ModelError(
            f"{name} has {held:,} {what} embeddings, and its tokenizer {needed:,} {made}",
            f"a {key} that holds all of them, and weights to it",
            "save the tokenizer that the model was trained with in its folder; for tokens that were added to it call"
            f" model.resize_token_embeddings({needed}) and train the model"
            if what == "token"
            else "save the tokenizer that the model was trained with in its folder",
        )


def _takes_token_types(model: Any) -> bool:
    if int(getattr(model.config, "type_vocab_size", 0) or 0) < 2:
        return False
    return "token_type_ids" in inspect.signature(model.forward).parameters


def _strings(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        texts = pc.cast(column, pa.large_string())
        return pc.fill_null(texts, "") if texts.null_count else texts
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
        raise DataError(
            f"column {name!r} holds {column.type}", "a column of texts", "name another column: data.columns: {text: …}"
        ) from err


def _num_empty(texts: pa.Array) -> int:
    return pc.sum(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)).as_py() or 0
