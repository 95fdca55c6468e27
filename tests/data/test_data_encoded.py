"""Encoded rows: as the tokenizer or image processor gives them, opened as written, the same through every view."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import ConvNextImageProcessor, ViTImageProcessor

from potstill import tasks
from potstill.data import EncodedText, concatenate, load
from potstill.data.encoded import open_rows
from potstill.data.paired import PairedCollator, PairedRows
from potstill.errors import CacheError, DataError
from potstill.modalities.image.imaging import encode_images
from potstill.modalities.text.tokenising import encode_text

TEXT = tasks.build("text-classification")
IMAGE = tasks.build("image-classification")


def _rows(texts: list[str], pairs: list[str] | None = None, first: int = 0) -> Dataset:
    columns = {"text": texts, "label": [i % 2 for i in range(len(texts))], "row_id": list(range(first, first + len(texts)))}
    return Dataset.from_dict(columns | ({"text_pair": pairs} if pairs else {}))


def _equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


@pytest.fixture
def encoded(tmp_path: Path, tokenizer) -> EncodedText:
    return encode_text(_rows(["good film", "", "the movie was awful", "bad"]), tokenizer, tmp_path / "rows")


@pytest.mark.parametrize("pairs", [None, ["a good film is good", "bad", "", "好电影"]])
def test_batches_equal_the_tokenizers_own(tmp_path: Path, tokenizer, pairs: list[str] | None) -> None:
    texts = ["good film", "", "the movie was awful", "bad"]
    rows = encode_text(_rows(texts, pairs), tokenizer, tmp_path, max_tokens=8)
    batch = TEXT.collator(tokenizer)(rows.__getitems__([0, 1, 2, 3]))
    expected = tokenizer(texts, pairs, truncation=True, max_length=8, padding=True, return_tensors="pt")
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value)
    assert batch["row_id"].tolist() == [0, 1, 2, 3]
    assert batch["labels"].tolist() == [0, 1, 0, 1]


def test_left_padding_equals_the_tokenizers_own(encoded: EncodedText, tokenizer) -> None:
    from potstill.data.collate import TextCollator

    batch = TextCollator(0, "left")(encoded.__getitems__([0, 2]))
    expected = tokenizer(["good film", "the movie was awful"], padding=True, padding_side="left", return_tensors="pt")
    torch.testing.assert_close(batch["input_ids"], expected["input_ids"])
    torch.testing.assert_close(batch["attention_mask"], expected["attention_mask"])


def test_cut_texts_are_counted(tmp_path: Path, tokenizer) -> None:
    rows = encode_text(_rows(["good " * 30, "good " * 6, "bad"]), tokenizer, tmp_path, max_tokens=8)
    assert rows.notes == ("1 of 3 texts is longer than 8 tokens and was cut",)
    assert rows.lengths.tolist() == [8, 8, 3]


def test_saved_views_open_as_they_were(tmp_path: Path, encoded: EncodedText, tokenizer) -> None:
    more = encode_text(_rows(["好电影", "坏"], first=10), tokenizer, tmp_path / "more")
    view = concatenate([encoded.subset([2, 0]), more]).subset(np.array([3, 0, 2]))
    assert view.row_ids.tolist() == [11, 2, 10]
    saved = view.save(tmp_path / "saved")
    assert saved.fingerprint == view.fingerprint
    assert saved.lengths.tolist() == view.lengths.tolist()
    assert all(_equal(saved[i], view[i]) for i in range(3))
    assert _equal(view[-1], view[2])


def test_rows_are_pickled_as_a_path(encoded: EncodedText) -> None:
    for rows in (encoded, encoded.subset([3, 1])):
        data = pickle.dumps(rows)
        assert len(data) < 2_000
        assert all(_equal(rows[i], pickle.loads(data)[i]) for i in range(len(rows)))


def test_encoding_again_opens_what_is_there(tmp_path: Path, tokenizer) -> None:
    rows = _rows(["good film", "bad"])
    encode_text(rows, tokenizer, tmp_path)
    written = (tmp_path / "manifest.json").stat().st_mtime_ns
    tokenizer("padding and truncation set by others do not matter", truncation=True, max_length=4, padding="max_length")
    assert encode_text(rows, tokenizer, tmp_path).row_ids.tolist() == [0, 1]
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == written
    assert len(encode_text(_rows(["good", "film", "a"]), tokenizer, tmp_path)) == 3


def test_no_rows_can_be_encoded(tmp_path: Path, tokenizer) -> None:
    assert len(encode_text(_rows(["a"]).select([]), tokenizer, tmp_path)) == 0


def test_damaged_files_are_refused(tmp_path: Path, encoded: EncodedText) -> None:
    file = encoded.folder / "tokens.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CacheError, match=r"tokens\.bin is \d+ bytes long, and should be \d+"):
        open_rows(encoded.folder)
    with pytest.raises(CacheError, match="holds no encoded rows"):
        open_rows(tmp_path / "nothing")


def test_the_same_row_id_twice_is_refused(encoded: EncodedText) -> None:
    with pytest.raises(DataError, match="row ids"):
        concatenate([encoded, encoded.subset([0])])


def test_token_counts(encoded: EncodedText, tokenizer) -> None:
    counts = encoded.token_counts()
    assert counts[tokenizer.cls_token_id] == 4
    assert sum(counts.values()) == encoded.lengths.sum()


LOADED_BY_A_WORKER = """
import sys
import torch
from potstill.data import BucketBatchSampler
from potstill.data.collate import TextCollator
from potstill.data.encoded import open_rows

rows = open_rows(sys.argv[1])
sampler = BucketBatchSampler(rows.lengths, 2, shuffle=False)
batches = [
    list(torch.utils.data.DataLoader(rows, batch_sampler=sampler, collate_fn=TextCollator(0, "right"), num_workers=workers))
    for workers in (0, 1)
]
for first, second in zip(*batches, strict=True):
    torch.testing.assert_close(first, second)
print("batches", len(batches[0]))
"""


def test_dataloader_workers_read_the_same_rows(encoded: EncodedText, tmp_path: Path) -> None:
    """In a process of its own: a loader forks, which a process full of other libraries' threads may not survive."""
    program = [sys.executable, "-c", LOADED_BY_A_WORKER, str(tmp_path / "rows")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "batches 2", done.stderr[-2000:]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]),
        lambda: ViTImageProcessor(size={"height": 8, "width": 12}, resample=3, do_normalize=False),
        lambda: ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=0.9),
    ],
    ids=["vit", "bicubic", "convnext"],
)
def test_image_batches_equal_the_processors_own(tmp_path: Path, image_folder: Path, make) -> None:
    processor = make()
    splits = load(image_folder, task=IMAGE)
    rows = encode_images(splits.train, processor, tmp_path / "rows")
    batch = IMAGE.collator(processor)(rows.__getitems__(range(len(rows))))
    expected = processor([row["image"].convert("RGB") for row in splits.train], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(batch["pixel_values"], expected.float(), atol=1e-5, rtol=1e-5)
    assert batch["labels"].tolist() == splits.train["label"][:]
    assert _equal(rows.subset([4]).save(tmp_path / "one")[0], rows[4])


def test_grey_images_and_pixel_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    rows = Dataset.from_dict({"image": pixels.tolist(), "label": [i % 2 for i in range(20)]})
    splits = load(rows, task=IMAGE, columns={"image": "image"})
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    encoded = encode_images(splits.train, processor, tmp_path)
    assert encoded.shape == (1, 8, 8)
    batch = IMAGE.collator(processor)(encoded.__getitems__([0, 1]))
    assert batch["pixel_values"].shape == (2, 1, 8, 8)
    assert batch["pixel_values"].min() >= -1


def test_paired_rows_join_by_row_id(tmp_path: Path, encoded: EncodedText, tokenizer) -> None:
    paired = PairedRows(encoded.subset([1, 3]), encoded.subset([3, 2, 1]))
    collator = TEXT.collator(tokenizer)
    batch = PairedCollator(collator, collator)(paired.__getitems__([0, 1]))
    torch.testing.assert_close(batch["teacher_input_ids"], batch["input_ids"])
    assert "teacher_labels" not in batch
    with pytest.raises(DataError, match="1 of the student's 1 rows"):
        PairedRows(encoded.subset([0]), encoded.subset([1]))
