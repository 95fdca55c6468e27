"""Code that loads the student, for the page and the model card."""

from __future__ import annotations

from potstill import modalities
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.report.language_snippets import GENERATE
from potstill.report.metrics import Metrics

_TORCH = """from transformers import pipeline

classify = pipeline("{task}", model="{student}")
print(classify({example}))"""
_TORCH_LABELS = _TORCH.replace('"{student}"', '"{student}", top_k=None')

_TORCH_SPAN = """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{student}")
model = AutoModelForQuestionAnswering.from_pretrained("{student}").eval()
tokens = tokenizer("a question of yours", "a text that holds the answer", return_tensors="pt")
with torch.no_grad():
    found = model(**tokens)
first, last = int(found.start_logits.argmax()), int(found.end_logits.argmax())
print(tokenizer.decode(tokens["input_ids"][0, first : last + 1]))"""

_TORCH_TASKS = """import torch
from transformers import {imports}

{read}
model = {model}.from_pretrained("{student}").eval()
with torch.no_grad():
    logits = model(**inputs).logits[0]
for task, start, stop in {blocks}:
    print(task, model.config.id2label[start + int(logits[start:stop].argmax())])"""

_READ_TEXT = """tokenizer = AutoTokenizer.from_pretrained("{student}")
inputs = tokenizer("a text of yours", return_tensors="pt")"""

_READ_IMAGE = """processor = AutoImageProcessor.from_pretrained("{student}")
inputs = processor(Image.open("an_image_of_yours.png").convert("RGB"), return_tensors="pt")"""

_ONNX_TEXT = """import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{student}")
tokens = tokenizer(["a text of yours"], return_tensors="np")
session = onnxruntime.InferenceSession("{onnx}")
names = {{value.name for value in session.get_inputs()}}
print(session.run(["logits"], {{name: tokens[name] for name in names}})[0])"""

_ONNX_IMAGE = """import onnxruntime
from PIL import Image
from transformers import AutoImageProcessor

image = Image.open("an_image_of_yours.png").convert("RGB")
processor = AutoImageProcessor.from_pretrained("{student}")
pixels = processor(image, return_tensors="np")["pixel_values"]
session = onnxruntime.InferenceSession("{onnx}")
print(session.run(["logits"], {{"pixel_values": pixels}})[0])"""


_EMBED = """from sentence_transformers import SentenceTransformer

embed = SentenceTransformer("{student}")
print(embed.encode([{example}]))"""

# What the hub calls a task, where it is no name of a pipeline.
_HUB_NAMES = {"sentence-embeddings": "sentence-similarity"}
_OF_ANSWERS = {"embedding": _EMBED, "span": _TORCH_SPAN, "labels": _TORCH_LABELS}

# The type of students that a function of the user's own builds.
MODULE = "potstill-module"
_OWN_CODE = """import torch
from PIL import Image

import potstill

# The network is built by the function that the student names; it has to be importable here.
model, processor = potstill.load("{student}", trust_remote_code=True)
pixels = processor(Image.open("an_image_of_yours.png").convert("RGB"), return_tensors="pt")["pixel_values"]
with torch.no_grad():
    print(model.config.id2label[int(model(pixel_values=pixels).logits.argmax())])"""


def load_with_transformers(metrics: Metrics) -> str:
    """Python that loads the student folder, with Potstill only where the student's type is its own."""
    if metrics.task in TOKEN_TASKS:
        return GENERATE.format(student=metrics.files.get("student", "student"))
    if model_type_of(metrics) == MODULE:
        return _OWN_CODE.format(student=metrics.files.get("student", "student"))
    return ("import potstill  # knows the student's type\n" if is_own_type(metrics) else "") + _with_transformers(metrics)


def is_own_type(metrics: Metrics) -> bool:
    """Whether transformers knows the student's type only once potstill is imported."""
    return model_type_of(metrics).startswith("potstill-")


def model_type_of(metrics: Metrics) -> str:
    """The student's type, as its configuration says it; empty where there is no plan."""
    return str(({} if metrics.plan is None else metrics.plan.student).get("model_type", ""))


def _with_transformers(metrics: Metrics) -> str:
    if metrics.tasks:
        return _with_tasks(metrics)
    example = '"an_image_of_yours.png"' if _is_image(metrics) else '"a text of yours"'
    code = _OF_ANSWERS.get(TASKS[metrics.task].answers, _TORCH)
    return code.format(task=pipeline_of(metrics), student=metrics.files.get("student", "student"), example=example)


def _with_tasks(metrics: Metrics) -> str:
    """Each task's answer is the largest logit of its own block."""
    blocks, start = [], 0
    for task, labels in metrics.tasks.items():
        blocks.append((task, start, start + len(labels)))
        start += len(labels)
    is_image, student = _is_image(metrics), metrics.files.get("student", "student")
    model = "AutoModelForImageClassification" if is_image else "AutoModelForSequenceClassification"
    imports = f"AutoImageProcessor, {model}" if is_image else f"{model}, AutoTokenizer"
    read = (_READ_IMAGE if is_image else _READ_TEXT).format(student=student)
    code = _TORCH_TASKS.format(imports=imports, read=read, model=model, student=student, blocks=blocks)
    return f"from PIL import Image\n{code}" if is_image else code


def pipeline_of(metrics: Metrics) -> str:
    """What transformers and the hub call the task."""
    if metrics.task in TOKEN_TASKS:
        return "text-generation"
    same_head = next(name for name, row in TASKS.items() if row.head == TASKS[metrics.task].head)
    return _HUB_NAMES.get(metrics.task, same_head)


def load_with_onnxruntime(metrics: Metrics) -> str | None:
    """Python that runs the exported file with plain onnxruntime; None where nothing was exported to ONNX."""
    onnx = _served_onnx(metrics)
    if onnx is None:
        return None
    code = _ONNX_IMAGE if _is_image(metrics) else _ONNX_TEXT
    return code.format(student=metrics.files.get("student", "student"), onnx=onnx)


def _served_onnx(metrics: Metrics) -> str | None:
    """The file of the model to serve where onnxruntime runs it, else the smallest there is."""
    served = metrics.served or ""
    key = "onnx" if served == "student" else "onnx-" + served.removeprefix("student-").replace("onnxruntime", "fp32")
    return metrics.files.get(key) or metrics.files.get("onnx-int8") or metrics.files.get("onnx")


def _is_image(metrics: Metrics) -> bool:
    return metrics.task in TASKS and not modalities.build(TASKS[metrics.task].modality).has_tokens
