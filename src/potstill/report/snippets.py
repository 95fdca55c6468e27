"""Code that loads the student with transformers, for the page and the model card."""

from __future__ import annotations

from potstill import modalities
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.report.language_snippets import GENERATE
from potstill.report.metrics import Metrics

# What the hub calls a task, where it is no name of a pipeline.
_HUB_NAMES = {"sentence-embeddings": "sentence-similarity"}
_PAIRS = """[
    {"text": "a text of yours", "text_pair": "the text that goes with it"},
    {"text": "a second text of yours, which may be longer", "text_pair": "another"},
]"""
_EXAMPLES = {  # what a row has → rows as a pipeline takes them
    ("text",): '["a text of yours", "a second text of yours, which may be longer"]',
    ("text", "text_pair"): _PAIRS,
    ("tokens",): '["A text of yours", "A second text of yours , which may be longer"]',
    ("image",): '["an_image_of_yours.png", "another_image_of_yours.png"]',
}

_PIPELINE = """from transformers import pipeline

classify = pipeline("{task}", model="{student}"{trust})
rows = {rows}
for answer in classify(rows{options}):
    print(answer)"""

_TAGS = """from transformers import pipeline

tag = pipeline("token-classification", model="{student}", aggregation_strategy="first"{trust})
rows = {rows}
for words in tag(rows):
    print([(word["word"], word["entity_group"], float(word["score"])) for word in words])"""

_SPAN = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{student}"{trust})
model = AutoModelForQuestionAnswering.from_pretrained("{student}"{trust}).eval()


def answer(question, text):
    cut = {{"truncation": "only_second", "max_length": {limit}, "stride": {stride}, "return_overflowing_tokens": True}}
    windows = tokenizer(question, text, **cut, padding=True, return_offsets_mapping=True, return_tensors="pt")
    places, _ = windows.pop("offset_mapping"), windows.pop("overflow_to_sample_mapping")
    in_text = torch.tensor([[part == 1 for part in windows.sequence_ids(window)] for window in range(len(places))])
    with torch.no_grad():
        found = model(**windows)
    starts, ends = (logits.masked_fill(~in_text, -1e9) for logits in (found.start_logits, found.end_logits))
    scores = starts[:, :, None] + ends[:, None, :]
    in_order = torch.ones(scores.shape[1:], dtype=torch.bool).triu()
    scores = scores.masked_fill(~in_order, -2e9)
    window, first, last = (int(place) for place in torch.unravel_index(scores.argmax(), scores.shape))
    return text[places[window, first, 0] : places[window, last, 1]]


print(answer("a question of yours", "a text that holds the answer"))"""

_EMBED = """from sentence_transformers import SentenceTransformer

embed = SentenceTransformer("{student}"{trust})
rows = ["a text of yours", "a second text of yours, which may be longer"]
vectors = embed.encode(rows)
print(embed.similarity(vectors, vectors))"""

_TASKS = """import torch
from transformers import {imports}

{read}
model = {model}.from_pretrained("{student}"{trust}).eval()
with torch.no_grad():
    rows = model(**inputs).logits
for logits in rows:
    for task, start, stop in {blocks}:
        probabilities = logits[start:stop].softmax(-1)
        best = int(probabilities.argmax())
        print(task, model.config.id2label[start + best], float(probabilities[best]))"""

_READ_TEXT = """tokenizer = AutoTokenizer.from_pretrained("{student}"{trust})
rows = {rows}
inputs = tokenizer({given}, truncation=True, max_length={limit}, padding=True, return_tensors="pt")"""
_READ_IMAGE = """processor = AutoImageProcessor.from_pretrained("{student}")
rows = {rows}
images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in rows]
inputs = processor(images, return_tensors="pt")"""

_OWN_CODE = """import torch
from PIL import Image

import potstill

# The network is built by the function that the student names; it has to be importable here.
model, processor = potstill.load("{student}", trust_remote_code=True)
images = [Image.open(path).convert("RGB") for path in ["an_image_of_yours.png"]]
with torch.no_grad():
    logits = model(pixel_values=processor(images, return_tensors="pt")["pixel_values"]).logits
for probabilities in logits.softmax(-1):
    best = int(probabilities.argmax())
    print(model.config.id2label[best], float(probabilities[best]))"""


def load_with_transformers(metrics: Metrics) -> str:
    """Python that loads the student folder, with Potstill only where code of the user's own makes the student."""
    student = metrics.files.get("student", "student")
    if metrics.task in TOKEN_TASKS:
        return GENERATE.format(student=student)
    loading = metrics.loading
    if loading is not None and loading.needs == "potstill":
        return _OWN_CODE.format(student=student)
    trust = ", trust_remote_code=True" if loading is not None and loading.needs == "trust_remote_code" else ""
    if metrics.tasks:
        return _of_several(metrics, student, trust)
    kind = TASKS[metrics.task].answers
    limit = token_limit(metrics)
    code = _OF_ANSWERS.get(kind, _PIPELINE)
    return code.format(
        task=pipeline_of(metrics),
        student=student,
        trust=trust,
        rows=_EXAMPLES.get(inputs_of(metrics), ""),
        options=_WAYS.get(kind, "") + ("" if is_image(metrics) else f", truncation=True, max_length={limit}"),
        limit=limit,
        stride=max(1, limit // 4),
    )


_OF_ANSWERS = {"embedding": _EMBED, "span": _SPAN, "tags": _TAGS}
_WAYS = {"labels": ", top_k=None", "numbers": ', top_k=None, function_to_apply="none"'}


def _of_several(metrics: Metrics, student: str, trust: str) -> str:
    """Each task's answer is the largest logit of its own block."""
    rows, is_pair = _EXAMPLES[inputs_of(metrics)], len(inputs_of(metrics)) > 1
    given = '[row["text"] for row in rows], [row["text_pair"] for row in rows]' if is_pair else "rows"
    model = "AutoModelForImageClassification" if is_image(metrics) else "AutoModelForSequenceClassification"
    imports = f"AutoImageProcessor, {model}" if is_image(metrics) else f"{model}, AutoTokenizer"
    read = _READ_IMAGE if is_image(metrics) else _READ_TEXT
    code = _TASKS.format(
        imports=imports,
        read=read.format(student=student, trust=trust, rows=rows, given=given, limit=token_limit(metrics)),
        model=model,
        student=student,
        trust=trust,
        blocks=blocks_of(metrics),
    )
    return f"from PIL import Image, ImageOps\n{code}" if is_image(metrics) else code


def blocks_of(metrics: Metrics) -> list[tuple[str, int, int]]:
    """Each task with the first of its logits and the end of them."""
    blocks, start = [], 0
    for task, labels in metrics.tasks.items():
        blocks.append((task, start, start + len(labels)))
        start += len(labels)
    return blocks


def pipeline_of(metrics: Metrics) -> str:
    """What transformers and the hub call the task."""
    if metrics.task in TOKEN_TASKS:
        return "text-generation"
    same_head = next(name for name, row in TASKS.items() if row.head == TASKS[metrics.task].head)
    return _HUB_NAMES.get(metrics.task, same_head)


def inputs_of(metrics: Metrics) -> tuple[str, ...]:
    """What a row has, in order."""
    if metrics.loading is not None and metrics.loading.inputs:
        return tuple(metrics.loading.inputs)
    modality = modalities.build(TASKS[metrics.task].modality)
    return tuple(modality.roles[: 2 if modality.is_windowed else 1])


def token_limit(metrics: Metrics) -> int:
    """The longest row in tokens."""
    return (None if metrics.loading is None else metrics.loading.max_tokens) or _USUAL_TOKENS


_USUAL_TOKENS = 512


def is_image(metrics: Metrics) -> bool:
    """Whether rows are images."""
    return metrics.task in TASKS and not modalities.build(TASKS[metrics.task].modality).has_tokens
