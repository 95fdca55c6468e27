"""Any module of Potstill and any class of transformers can be imported in any order, and Potstill's types load in each."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import potstill

CLASSES = (
    "transformers:BertForSequenceClassification",
    "transformers:ViTForImageClassification",
    "transformers:DistilBertForSequenceClassification",
    "transformers:RobertaModel",
    "transformers:DebertaV2ForSequenceClassification",
    "transformers:ElectraForTokenClassification",
    "transformers:DeiTForImageClassificationWithTeacher",
    "transformers:ResNetForImageClassification",
    "transformers:AutoModelForSequenceClassification",
    "transformers:AutoModel",
    "transformers:AutoConfig",
    "transformers:AutoTokenizer",
    "transformers:PreTrainedModel",
    "transformers:Trainer",
    "transformers:pipeline",
    "transformers.modeling_layers:GradientCheckpointingLayer",
    "transformers.modeling_utils:PreTrainedModel",
    "transformers.models.auto.modeling_auto:AutoModelForImageClassification",
    "transformers.models.auto.configuration_auto:CONFIG_MAPPING",
    "transformers.models.electra.modeling_electra:ElectraModel",
    "transformers.models.auto.image_processing_auto:AutoImageProcessor",
)
MODULES = sorted(
    info.name for info in pkgutil.walk_packages(potstill.__path__, "potstill.") if not info.name.endswith("__main__")
)
ROOMS = ["potstill", *(name for name in MODULES if name.count(".") == 1)]
# Each order is a list of "module" or "module:attribute", imported in a process of its own that has torch but not transformers.
PROGRAM = """
import importlib, json, os, sys, traceback
import numpy, torch

def check():
    from transformers import AutoConfig, AutoModelForSequenceClassification
    config = AutoConfig.for_model("potstill-encoder", vocab_size=8, embedding_size=8, hidden_size=8, head_dim=4,
        num_attention_heads=1, code_groups=2, codes_per_group=4, position_rank=2, num_hidden_layers=1, intermediate_size=8)
    assert type(AutoModelForSequenceClassification.from_config(config)).__name__ == "CodedForSequenceClassification"

def go(order):
    for step in order:
        module, _, attribute = step.partition(":")
        found = importlib.import_module(module)
        if attribute:
            getattr(found, attribute)
    check()

failed = {}
for order in json.load(sys.stdin):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            go(order)
        except BaseException:
            os.write(write, traceback.format_exc()[-1500:].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode()
    os.waitpid(child, 0)
    if text:
        failed[" then ".join(order)] = text
print(json.dumps(failed))
"""


def failures(orders: list[list[str]]) -> dict[str, str]:
    """Orders of imports that fail, with their tracebacks."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=json.dumps(orders), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def of_index(index: int) -> str:
    return CLASSES[index % len(CLASSES)]


def test_potstill_then_a_class():
    assert failures([["potstill", name] for name in CLASSES[::2]]) == {}


def test_a_room_then_a_class():
    assert failures([[room, of_index(2 * index + 1)] for index, room in enumerate(ROOMS[1::3])]) == {}


def test_a_class_then_a_room_then_another_class():
    assert failures([[of_index(index), room, of_index(index + 5)] for index, room in enumerate(ROOMS[::6])]) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_module_then_a_class():
    assert failures([[module, of_index(index)] for index, module in enumerate(MODULES)]) == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_room_before_and_after_a_class():
    orders = [[room, of_index(index)] for index, room in enumerate(ROOMS)]
    assert failures([*orders, *([of_index(index), room, of_index(index + 7)] for index, room in enumerate(ROOMS))]) == {}
