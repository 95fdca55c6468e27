"""The task follows from the model, else from the columns; teachers for other tasks are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from transformers import BertConfig, PreTrainedConfig, ResNetConfig

from potstill import tasks
from potstill.errors import ModelError, RecipeError


@pytest.mark.parametrize(
    ("config", "columns", "name"),
    [
        (BertConfig(architectures=["BertForSequenceClassification"]), (), "text-classification"),
        (BertConfig(architectures=["BertModel"]), (), "text-classification"),
        (BertConfig(architectures=["BertForMaskedLM"]), ("image",), "text-classification"),
        (ResNetConfig(), (), "image-classification"),
        (PreTrainedConfig(), ("img", "label"), "image-classification"),
        (None, ("review", "label"), "text-classification"),
    ],
)
def test_inferred(config: PreTrainedConfig | None, columns: tuple[str, ...], name: str) -> None:
    assert tasks.infer(config, columns).name == name


def test_a_teacher_for_another_task_is_refused() -> None:
    with pytest.raises(ModelError, match="BertForMultipleChoice, made for another task"):
        tasks.infer(BertConfig(architectures=["BertForMultipleChoice"]), ())


@pytest.mark.parametrize(
    ("head", "name"), [("BertForTokenClassification", "token-classification"), ("BertForQuestionAnswering", "question-answering")]
)
def test_heads_for_words_and_spans_tell(head: str, name: str) -> None:
    assert tasks.infer(BertConfig(architectures=[head]), ()).name == name


def test_what_nobody_can_tell_is_refused() -> None:
    with pytest.raises(RecipeError, match="neither the model nor the columns"):
        tasks.infer(None, ("x", "y"))


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'text-classification'"):
        tasks.build("text-clasification")


def test_importing_the_rooms_loads_no_torch() -> None:
    code = "import sys, potstill.tasks, potstill.data; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
