"""A small trained world: texts whose label follows from their words, a small BERT that reads them, images of two kinds."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch

WORDS = {
    "good": ["bright", "lovely", "warm", "clever", "joyful", "honest", "graceful", "tender"],
    "bad": ["dull", "dreary", "cold", "clumsy", "bitter", "hollow", "careless", "harsh"],
}
NEUTRAL = [
    "film",
    "book",
    "song",
    "play",
    "story",
    "scene",
    "actor",
    "the",
    "a",
    "this",
    "was",
    "is",
    "and",
    "very",
    "quite",
    "with",
]


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts with one or two telling words, and their label."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.choice(sorted(WORDS))
        words = [chance.choice(NEUTRAL) for _ in range(chance.randint(2, 9))]
        words.insert(chance.randrange(len(words)), chance.choice(WORDS[label]))
        rows.append((" ".join(words), label))
    return rows


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 400 labelled texts."""
    file = tmp_path_factory.mktemp("data") / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows(sentences(400, seed=0))
    return file


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT body of two narrow layers without a head, with a WordPiece tokenizer that knows the words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "small-bert"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokens += [word for word in [*NEUTRAL, *WORDS["good"], *WORDS["bad"]] if word not in tokens]
    tokens += [f"unused{index}" for index in range(120)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer = BertTokenizerFast(tokenizer_object=backend)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def words_distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DistilBERT body that reads other tokens than `small_bert`: whole words, in another order of ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "words-distilbert"
    tokens = ["[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK]", *sorted({*NEUTRAL, *WORDS["good"], *WORDS["bad"]}, reverse=True)]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    torch.manual_seed(1)
    config = DistilBertConfig(vocab_size=len(tokens), dim=32, n_layers=2, n_heads=4, hidden_dim=64, pad_token_id=3, dropout=0.0)
    DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 300 texts whose label is the one of three things that they name, in other columns than `reviews`."""
    file = tmp_path_factory.mktemp("data") / "topics.csv"
    chance = random.Random(1)
    things, others = ["film", "book", "song"], [word for word in NEUTRAL if word not in ("film", "book", "song")]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sentence", "thing"])
        for _ in range(300):
            words = [chance.choice([*others, *WORDS["good"], *WORDS["bad"]]) for _ in range(chance.randint(2, 8))]
            thing = chance.choice(things)
            words.insert(chance.randrange(len(words)), thing)
            writer.writerow([" ".join(words), thing])
    return file


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 96 small pictures: vertical or horizontal bars."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for index in range(96):
        kind = ("vertical", "horizontal")[index % 2]
        pixels = chance.integers(0, 60, (8, 8), dtype=np.uint8)
        place = int(chance.integers(8))
        if kind == "vertical":
            pixels[:, place] = 255
        else:
            pixels[place, :] = 255
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / kind / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def small_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration and image processor of a small vision transformer, without weights."""
    from transformers import ViTConfig, ViTImageProcessor

    folder = tmp_path_factory.mktemp("models") / "small-vit"
    config = ViTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=8,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(folder)
    ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder
