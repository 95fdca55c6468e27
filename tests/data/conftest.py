"""Tiny tokenizer, image processor and files for the tests of data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, ViTImageProcessor

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "great", "bad", "awful", "film", "movie", "the", "a", "was", "is", "##s", "好", "坏", "电", "影"]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of twenty tokens that marks pairs by token types."""
    words = {token: i for i, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


@pytest.fixture
def processor() -> ViTImageProcessor:
    """An image processor for 8 × 8 pixels."""
    return ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])


@pytest.fixture
def write_lines(tmp_path: Path):
    """Writes rows as JSON Lines and gives the path."""

    def write(rows: list[dict], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of twelve images of several sizes."""
    random = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / label / f"{number:02}.png")
    return tmp_path / "pets"


@pytest.fixture
def reviews() -> list[dict]:
    """Forty rows of two classes, no text twice."""
    return [
        {"text": f"the film {i} was {'good' if i % 2 else 'bad'}", "label": "positive" if i % 2 else "negative"}
        for i in range(40)
    ]
