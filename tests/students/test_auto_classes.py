"""Students of Potstill's own types load with transformers' Auto classes once potstill is imported, in whatever order."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from potstill.models.architectures.coded import CodedForSequenceClassification
from potstill.models.architectures.configuration import CodedEncoderConfig

ORDERS = {
    "potstill first": "import potstill\nfrom transformers import AutoModelForSequenceClassification as Auto",
    "transformers first": "from transformers import AutoModelForSequenceClassification as Auto\nimport potstill",
    "configurations first": (
        "import potstill\nfrom transformers import AutoConfig\nAutoConfig.from_pretrained(folder)\n"
        "from transformers import AutoModelForSequenceClassification as Auto"
    ),
    "pipelines first": (
        "import potstill\nfrom transformers import pipeline\nfrom transformers import AutoModelForSequenceClassification as Auto"
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = CodedEncoderConfig(
        vocab_size=50, embedding_size=24, hidden_size=24, head_dim=8, num_attention_heads=2, code_groups=4
    )
    place = tmp_path_factory.mktemp("student")
    CodedForSequenceClassification(config).save_pretrained(place)
    return place


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports(order, folder):
    program = f"folder = {str(folder)!r}\n{ORDERS[order]}\nprint(type(Auto.from_pretrained(folder)).__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "CodedForSequenceClassification" in done.stdout, done.stderr[-2000:]


def test_importing_potstill_imports_neither_torch_nor_transformers():
    program = "import sys, potstill; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
