"""Code that runs the exported student with onnxruntime, and without transformers and PyTorch, for the page and the model card."""

from __future__ import annotations

from potstill.contracts.task import TASKS
from potstill.report import snippets
from potstill.report.metrics import Loading, Metrics

_TOKENS = """import json

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{student}/tokenizer.json")
tokenizer.enable_truncation({limit}{stride})
tokenizer.enable_padding(pad_id={pad}, pad_token=tokenizer.id_to_token({pad}), direction="{side}")
session = onnxruntime.InferenceSession("{onnx}")
{labels}
rows = {rows}
encoded = tokenizer.encode_batch(rows{words})
known = {{
    "input_ids": [row.ids for row in encoded],
    "attention_mask": [row.attention_mask for row in encoded],
    "token_type_ids": [row.type_ids for row in encoded],
}}
inputs = {{value.name: np.array(known[value.name], np.int64) for value in session.get_inputs()}}
"""
_PIXELS = """import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{onnx}")
{labels}


def pixels(path):
    image = ImageOps.exif_transpose(Image.open(path)).convert("{mode}"){resize}{crop}
    values = np.atleast_3d(np.asarray(image, np.float32)) * {scale}{norm}
    return values.transpose(2, 0, 1)


rows = ["an_image_of_yours.png", "another_image_of_yours.png"]
inputs = {{"pixel_values": np.stack([pixels(row) for row in rows]).astype(np.float32)}}
"""
_PROCESSOR = """import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained("{student}")
session = onnxruntime.InferenceSession("{onnx}")
{labels}
rows = ["an_image_of_yours.png", "another_image_of_yours.png"]
images = [ImageOps.exif_transpose(Image.open(row)).convert("RGB") for row in rows]
inputs = {{"pixel_values": processor(images, return_tensors="np")["pixel_values"]}}
"""
_LABELS = 'labels = list(json.load(open("{student}/config.json", encoding="utf-8"))["id2label"].values())'
_RUN = 'logits = session.run(["logits"], inputs)[0]\n'
_SOFTMAX = """{indent}probabilities = np.exp({of} - {of}.max(-1, keepdims=True))
{indent}probabilities /= probabilities.sum(-1, keepdims=True)
"""
_CLASS = (
    _SOFTMAX.format(indent="", of="logits")
    + """for row, shares in zip(rows, probabilities):
    print(row, labels[shares.argmax()], float(shares.max()))"""
)
_LABEL_SETS = """for row, shares in zip(rows, 1 / (1 + np.exp(-logits))):
    print(row, {name: float(share) for name, share in zip(labels, shares)})"""
_NUMBERS = """for row, numbers in zip(rows, logits):
    print(row, {name: float(number) for name, number in zip(labels, numbers)})"""
_VECTORS = "print(logits @ logits.T)  # vectors of length one: the cosine of each pair of rows"
_TAGS = (
    _SOFTMAX.format(indent="", of="logits")
    + """for words, row, shares in zip(rows, encoded, probabilities):
    firsts = {word: place for place, word in reversed(list(enumerate(row.word_ids))) if word is not None}
    for word, place in sorted(firsts.items()):
        print(words[word], labels[shares[place].argmax()], float(shares[place].max()))"""
)
_SPANS = """for (question, text), row, (starts, ends) in zip(rows, encoded, zip(*(logits[..., side] for side in (0, 1)))):
    in_text = np.array(row.sequence_ids) == 1
    scores = np.where(in_text[:, None] & np.triu(in_text[None, :]), starts[:, None] + ends[None, :], -np.inf)
    first, last = np.unravel_index(scores.argmax(), scores.shape)
    print(question, text[row.offsets[first][0] : row.offsets[last][1]])"""
_SEVERAL = """for row, answer in zip(rows, logits):
    for task, start, stop in {blocks}:
{softmax}        print(row, task, labels[start + probabilities.argmax()], float(probabilities.max()))"""
_ENDS = {"class": _CLASS, "labels": _LABEL_SETS, "numbers": _NUMBERS, "embedding": _VECTORS, "tags": _TAGS, "span": _SPANS}
_EXAMPLES = {
    ("text",): '["a text of yours", "a second text of yours, which may be longer"]',
    ("text", "text_pair"): '[("a text of yours", "the text that goes with it"), ("a second text of yours, longer", "another")]',
    ("tokens",): '[["A", "text", "of", "yours"], ["A", "second", "text", "of", "yours", ",", "which", "is", "longer"]]',
    ("question", "context"): '[("a question of yours", "a text that holds the answer")]',
}


def load_with_onnxruntime(metrics: Metrics) -> str | None:
    """Python that runs the exported file with plain onnxruntime; None where there is none, or texts need transformers."""
    onnx = _served_onnx(metrics)
    loading = metrics.loading or Loading(model_type="", model_class="", needs="transformers", has_tokenizer_file=True)
    if onnx is None or metrics.task not in TASKS or not (snippets.is_image(metrics) or loading.has_tokenizer_file):
        return None
    kind, student = TASKS[metrics.task].answers, metrics.files.get("student", "student")
    end = _ENDS[kind]
    if metrics.tasks:
        end = _SEVERAL.format(
            blocks=snippets.blocks_of(metrics), softmax=_SOFTMAX.format(indent=" " * 8, of="answer[start:stop]")
        )
    has_names = "labels" in end
    values = {"student": student, "onnx": onnx, "labels": _LABELS.format(student=student) if has_names else ""}
    read = _of_image(loading, values) if snippets.is_image(metrics) else _of_text(metrics, loading, values)
    code = read + _RUN + end
    return code if has_names else code.replace("import json\n\n", "").replace('")\n\nrows', '")\nrows')


def _of_text(metrics: Metrics, loading: Loading, values: dict[str, str]) -> str:
    inputs = snippets.inputs_of(metrics)
    limit = snippets.token_limit(metrics)
    is_span = inputs not in (("text",), ("text", "text_pair"), ("tokens",))
    return _TOKENS.format(
        **values,
        limit=limit,
        stride=', strategy="only_second"' if is_span else "",
        pad=loading.pad_token_id or 0,
        side="left" if loading.pads_left else "right",
        rows=_EXAMPLES[inputs],
        words=", is_pretokenized=True" if inputs == ("tokens",) else "",
    )


def _of_image(loading: Loading, values: dict[str, str]) -> str:
    found = loading.pixels
    if found is None:
        return _PROCESSOR.format(**values)
    resize = f".resize({(found.size[1], found.size[0])}, {found.resample})" if found.size else ""
    crop = ""
    if found.crop is not None and found.size is not None:
        top, left = ((whole - kept) // 2 for whole, kept in zip(found.size, found.crop))
        crop = f".crop({(left, top, left + found.crop[1], top + found.crop[0])})"
    norm = (
        f"\n    values = (values - np.array({found.mean}, np.float32)) / np.array({found.std}, np.float32)" if found.mean else ""
    )
    return _PIXELS.format(**values, mode=found.mode, resize=resize, crop=crop, scale=repr(found.scale), norm=norm)


def _served_onnx(metrics: Metrics) -> str | None:
    """The file of the model to serve where onnxruntime runs it, else the smallest there is."""
    served = metrics.served or ""
    key = "onnx" if served == "student" else "onnx-" + served.removeprefix("student-").replace("onnxruntime", "fp32")
    return metrics.files.get(key) or metrics.files.get("onnx-int8") or metrics.files.get("onnx")
