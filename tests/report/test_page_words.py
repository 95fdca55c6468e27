"""The page in words: no key of the program's own, nothing empty, and in Chinese nothing of English but names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import potstill
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.report.metrics import Metrics
from potstill.report.names import phase_name, readable, task_name
from potstill.report.page import page
from potstill.report.remarks import REMARKS, remark
from potstill.report.words_en import ENGLISH

SOURCE = Path(potstill.__file__).parent
HELD = {"notes", "note", "warnings", "reason"}
# What is printed while a run works and never stands in metrics.json; then sentences that are put together of parts, which
# `SHOWN` has as a whole.
LEFT_OUT = {
    "7: 7",
    "7, column 7",
    "7 equals PyTorch within 7 (largest logit difference)",
    "labels are not needed and not read (7); to measure by them: 7",
    "7: 7 7 on validation",
    "7 is the 7 of 7 candidate within a drop of 7",
    "7 word of contexts lies 7, and no answer is there in these windows",
    "vocabulary 7 → 7, about 7",
}


def _text(node: ast.AST) -> str | None:
    """A sentence with 7 in the place of every value; None where the node is no sentence."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else _value(part.value)  # type: ignore[attr-defined,misc]
            for part in node.values
        )
    return None


def _value(node: ast.expr) -> str:
    name = getattr(getattr(node, "func", None), "id", "")
    if name == "inflected" and isinstance(node, ast.Call) and isinstance(node.args[1], ast.Constant):
        return str(node.args[1].value)
    if name == "counted" and isinstance(node, ast.Call) and isinstance(node.args[1], ast.Constant):
        return f"7 {node.args[1].value}"
    if isinstance(node, ast.IfExp) and isinstance(node.body, ast.Constant):
        return str(node.body.value)
    return "7"


def _is_held(node: ast.AST) -> bool:
    return getattr(node, "id", None) in HELD or getattr(node, "attr", None) in HELD


def _sentences(node: ast.AST) -> Iterator[str]:
    for part in ast.iter_child_nodes(node) if isinstance(node, ast.List | ast.Tuple | ast.IfExp | ast.Starred) else [node]:
        if part is not node:
            yield from _sentences(part)
        elif (text := _text(part)) is not None and " " in text:
            yield text


def _remarks_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend") and _is_held(node.func.value):
                yield from (text for one in node.args for text in _sentences(one))
            yield from (text for one in node.keywords if one.arg in HELD for text in _sentences(one.value))
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from _sentences(node.value) if any(map(_is_held, targets)) else ()


def test_every_remark_that_a_stage_can_leave_has_its_chinese() -> None:
    found = [
        (file.relative_to(SOURCE).as_posix(), text)
        for room in ("answers", "data", "evaluate", "exports", "modalities", "models", "planning", "report", "stages", "students")
        for file in sorted((SOURCE / room).rglob("*.py"))
        for text in _remarks_of(file)
    ]
    assert len(found) > 30
    missing = [(file, text) for file, text in found if remark(text).zh == text and text not in LEFT_OUT]
    assert missing == []


SHOWN = [
    "no test split was given: 360 of 1797 training rows are held out for it (stratified, seed 0)",
    "mood: 1 of 24 rows of the test split also occurs in training (leak)",
    "dynamic is the fastest of 10 candidates within a drop of 0.01: p50 0.065 ms with 1 thread, drop +0.0056; 3 lost more",
    "fp32 is the smallest of those within 3 % of the fastest (dynamic): p50 0.065 ms with 2 threads, drop +0.0056",
    "static is the smallest of 3 candidates within a drop of 0.01: drop +0.0056; speeds were not measured:"
    " PyTorch sees no NVIDIA GPU on this machine; evaluate on one that has it",
    "1 word of contexts lies beyond 20 tokens, or has no token, and no answer is there in these windows",
    "2 questions of the train split are longer than half a window and were cut",
    "vocabulary 30522 → 5000, about 98.20% of the data's token occurrences",
    "drop +0.0200 is over 0.01",
    "not measured: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu",
    "this machine shows no energy counters (common in virtual machines)",
    "the data: the rows for the test split have no labels, so they are no test split; rows carved out of the training rows are"
    " used instead. For predictions: potstill predict OUT --data FILE -o predictions.csv",
]
ENGLISH_WORDS = re.compile(r"\b(the|is|are|of|and|with|was|were|not|than|rows|from|split|drop|thread|threads)\b")


@pytest.mark.parametrize("text", SHOWN)
def test_remarks_are_in_the_language_of_the_page(text: str) -> None:
    said = remark(text)
    assert said.en == text
    assert re.search(r"[\u4e00-\u9fff]", said.zh)
    assert not ENGLISH_WORDS.search(said.zh), said.zh


def test_what_no_sentence_fits_stays_as_it_is() -> None:
    assert remark("something else").zh == "something else"
    assert remark("name: something else").zh == "name: something else"
    assert len(REMARKS) == len(set(REMARKS.values())) + 1  # one sentence is said in two forms


def test_tasks_stages_and_series_have_names_in_both_languages() -> None:
    for task in (*TASKS, *TOKEN_TASKS):
        assert re.search(r"[\u4e00-\u9fff]", task_name(task).zh), task
    for key in ("teach", "cache-topic", "distill: prediction", "data", "export", "evaluate"):
        assert re.search(r"[\u4e00-\u9fff]", phase_name(key).zh), key
    assert readable("eval_peer_2_accuracy").en == "network 2: accuracy"
    assert readable("mood/macro_f1").zh == "mood：宏平均 F1"
    assert "_" not in readable("loss/some_new_term").en


KINDS: dict[str, dict[str, Any]] = {
    "class": {},
    "labels": {"task": "multi-label", "answers": "labels", "metric": "micro_f1"},
    "numbers": {"task": "regression", "answers": "numbers", "metric": "concordance"},
    "embedding": {"task": "sentence-embeddings", "answers": "embedding", "metric": "teacher_cosine"},
    "span": {"task": "question-answering", "answers": "span", "metric": "f1"},
    "tokens": {"task": "causal-lm", "answers": "tokens", "metric": "accuracy"},
    "image": {"task": "image-classification"},
}


@pytest.fixture(params=KINDS)
def of_kind(request: pytest.FixtureRequest, metrics: Metrics) -> Metrics:
    """A run's figures of each kind, with remarks, doubts and gaps."""
    document = json.loads(metrics.model_dump_json()) | KINDS[request.param]
    for model in document["models"].values():
        model["quality"] = {document["metric"]: model["quality"]["accuracy"], "mse": None}
    document["data"] = {"source": "data.csv", "rows": {"train": 100, "validation": 20, "test": 20}, "notes": SHOWN}
    document["layers"]["warnings"] = ["attention of student layer 1 differs from teacher layer 2 by 0.201 nats (above 0.15)"]
    document["energy"] = {"reason": "this machine shows no energy counters (common in virtual machines)"}
    document["machine"] |= {"cores": 2, "threads": 2, "other_work": 4, "cpu_share": 0.5, "throttled_share": 0.2}
    document["quantization"]["reason"] = SHOWN[2]
    document["quantization"]["candidates"][0] |= {"accepted": False, "reason": "drop +0.0200 is over 0.01"}
    document["plan"]["notes"] = ["ratio 0.900 was asked; the nearest regular architecture gives 0.870"]
    document["confidence"]["student - baseline"] = {"low": -0.01, "high": 0.05}
    document["title"] = None
    return Metrics.model_validate(document)


def _visible(text: str, lang: str) -> str:
    """What a reader of one language sees, without code."""
    other = {"en": "zh", "zh": "en"}[lang]
    body = re.sub(r"<(script|style|pre|title)\b.*?</\1>", " ", text, flags=re.DOTALL)
    body = re.sub(rf'<span class="{other}"[^>]*>.*?</span>', " ", body, flags=re.DOTALL)
    body = re.sub(rf'<text [^>]*class="{other} [^>]*>.*?</text>', " ", body, flags=re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", " ", body))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nothing_is_empty_and_no_key_is_shown(of_kind: Metrics, lang: str) -> None:
    seen = _visible(page(of_kind, lang=lang), lang)
    for word in ("None", "nan", "NaN", "null", "inf"):
        assert not re.search(rf"(?<![\w-]){word}(?![\w-])", seen), word
    for key in ("eval_", "macro_f1", "micro_f1", "teacher_cosine", "hidden:", "student-int8", "num_hidden", "_f1"):
        assert key not in seen, key


def test_the_chinese_page_is_chinese(of_kind: Metrics) -> None:
    seen = _visible(page(of_kind, lang="zh"), "zh")
    english = [(match.start(), seen[max(0, match.start() - 60) : match.end() + 40]) for match in ENGLISH_WORDS.finditer(seen)]
    assert english == []


def test_no_word_is_left_over() -> None:
    """Every text of the page is used by its key; those that are put together are named by their start."""
    code = " ".join(file.read_text("utf-8") for file in (SOURCE / "report").rglob("*") if file.suffix in (".py", ".j2"))
    rest = code.replace((SOURCE / "report" / "words_en.py").read_text("utf-8"), "")
    rest = rest.replace((SOURCE / "report" / "words_zh.py").read_text("utf-8"), "")
    joined = ("loads_", "note_", "student-", "teacher-", "measured here", "converted")
    unused = [key for key in ENGLISH if f'"{key}"' not in rest and not key.startswith(joined)]
    assert unused == []
