"""Small models of every family on disk, each with a tokenizer or image processor of its own kind, and data for them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from students.builders import DEBERTA_V3

TELLING = {"good": ["bright", "lovely", "warm", "clever"], "bad": ["dull", "dreary", "cold", "clumsy"]}
CHINESE = {"good": list("好美喜爱佳"), "bad": list("坏丑厌恨劣")}
NEUTRAL = ["film", "book", "song", "the", "a", "this", "was", "is", "very", "with"]
CHINESE_NEUTRAL = list("这部电影书本很是有的了人看")
KIND = {
    "bert": "WordPiece",
    "distilbert": "WordPiece",
    "electra": "WordPiece",
    "roberta": "bytes",
    "xlm-roberta": "Unigram",
    "deberta-v2": "Unigram",
}


def texts(count: int, *, seed: int = 0, chinese: bool = False) -> tuple[list[str], list[str]]:
    """Texts with one telling word each, and their labels."""
    chance = random.Random(seed)
    telling, neutral, joint = (CHINESE, CHINESE_NEUTRAL, "") if chinese else (TELLING, NEUTRAL, " ")
    made, labels = [], []
    for row in range(count):
        label = ("bad", "good")[row % 2]
        words = chance.choices(neutral, k=chance.randint(2, 8))
        words.insert(chance.randrange(len(words)), chance.choice(telling[label]))
        made.append(joint.join(words))
        labels.append(label)
    return made, labels


def dataset(count: int = 120, *, seed: int = 0, chinese: bool = False, **more: Sequence[Any]) -> Dataset:
    """Labelled texts in memory."""
    made, labels = texts(count, seed=seed, chinese=chinese)
    return Dataset.from_dict({"text": made, "label": labels, **more})


def tokenizer_of(kind: str, *, size: int = 400) -> transformers.PreTrainedTokenizerFast:
    """A trained tokenizer: WordPiece as BERT's, byte-level BPE as RoBERTa's, Unigram as XLM-R's."""
    bert_like = kind == "WordPiece"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if bert_like else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    common: dict[str, Any] = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if bert_like:
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        backend.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(**common)
    elif kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    else:
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **common)
    spoken = texts(600, seed=7)[0] + texts(300, seed=8, chinese=True)[0]
    words = [f"{first}{second}" for first in NEUTRAL for second in NEUTRAL]  # so that there is a vocabulary to cut
    backend.train_from_iterator(spoken + words, trainer)
    first, last = ("[CLS]", "[SEP]") if bert_like else ("<s>", "</s>")
    ends = [(name, backend.token_to_id(name)) for name in (first, last)]
    pair = f"{first} $A {last} $B:1 {last}:1" if bert_like else f"{first} $A {last} {last} $B {last}"
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", pair=pair, special_tokens=ends)
    if bert_like:
        return transformers.BertTokenizerFast(tokenizer_object=backend)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def text_teacher(folder: Path, model_type: str, *, labels: Sequence[str] = ("bad", "good"), **changes: Any) -> Path:
    """A teacher of three narrow layers with a head of random weights, and its tokenizer, written to a folder."""
    tokenizer = tokenizer_of(KIND[model_type])
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id}
    if model_type == "distilbert":
        sizes |= {"dim": 48, "hidden_dim": 96, "n_layers": 3, "n_heads": 4}
    else:
        sizes |= {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    if model_type == "electra":
        sizes["embedding_size"] = 48
    if model_type == "deberta-v2":
        sizes |= DEBERTA_V3 | {"position_buckets": 16}
    config = transformers.AutoConfig.for_model(model_type, **(sizes | _names(labels) | changes))
    _build(transformers.AutoModelForSequenceClassification, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def image_teacher(folder: Path, model_type: str, *, labels: Sequence[str] = ("horizontal", "vertical"), **changes: Any) -> Path:
    """A teacher that reads pictures of 16 by 16 pixels, with its image processor, written to a folder."""
    if model_type == "resnet":
        sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 2], "layer_type": "basic"}
    elif model_type == "convnext":
        sizes = {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "patch_size": 2}
    elif model_type == "mobilenet_v2":
        sizes = {"depth_multiplier": 0.35, "depth_divisible_by": 4, "min_depth": 4, "finegrained_output": False}
    else:
        sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
        sizes |= {"image_size": 16, "patch_size": 8}
    config = transformers.AutoConfig.for_model(model_type, **(sizes | _names(labels) | changes))
    _build(transformers.AutoModelForImageClassification, config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


def image_folder(folder: Path, *, count: int = 80) -> Path:
    """Pictures of one bright bar, in a sub-folder for each direction."""
    from PIL import Image

    chance = np.random.default_rng(0)
    for index in range(count):
        pixels = chance.integers(0, 60, (16, 16), dtype=np.uint8)
        place = int(chance.integers(16))
        kind = ("vertical", "horizontal")[index % 2]
        pixels[(slice(None), place) if kind == "vertical" else (place, slice(None))] = 255
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{index:03d}.png")
    return folder


def _names(labels: Sequence[str]) -> Mapping[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def _build(auto: Any, config: Any) -> Any:
    torch.manual_seed(0)
    config.architectures = []  # None is more than the Auto classes can read for DeiT
    return auto.from_config(config).eval()
