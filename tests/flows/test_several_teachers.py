"""Several teachers through the real pipeline: other architectures and tokenizers, stages of their own, lines in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from potstill import DistillationPipeline
from potstill.errors import RecipeError
from potstill.flows.distill import stages_for
from potstill.planning.check import check_teachers
from potstill.recipe import make_recipe
from potstill.report.metrics import Metrics
from potstill.tasks import build as build_task

QUICK: dict[str, Any] = {
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16},
}


@pytest.fixture(scope="module")
def letters_distilbert(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another architecture that reads other tokens: words cut into letters, in another order of ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "letters-distilbert"
    tokens = ["[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK]", "▁", *"zyxwvutsrqponmlkjihgfedcba"]
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Split("", "isolated")])
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    torch.manual_seed(1)
    config = DistilBertConfig(vocab_size=len(tokens), dim=32, n_layers=2, n_heads=4, hidden_dim=64, pad_token_id=3)
    DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(recipe: dict[str, Any]) -> Metrics:
    return DistillationPipeline.from_recipe(make_recipe({**QUICK, **recipe})).run()


def test_two_text_teachers_with_their_own_tokens(
    small_bert: Path, letters_distilbert: Path, reviews: Path, tmp_path: Path
) -> None:
    recipe = {
        "teacher": {
            "models": [str(small_bert), {"model": str(letters_distilbert), "epochs": 1}],
            "combine": "learned",
            "epochs": 5,
            "learning_rate": 3e-3,
        },
        "data": {"source": str(reviews), "augment": 1},
        "student": {"ratio": 0.5},
        "distill": {"epochs": 4, "learning_rate": 3e-3},
        "output": str(tmp_path / "out"),
    }
    metrics = run(recipe)
    assert {"teacher", "teacher-2", "ensemble", "student"} <= set(metrics.models)
    ensemble, first, second = (metrics.models[name] for name in ("ensemble", "teacher", "teacher-2"))
    assert ensemble.parameters == first.parameters + second.parameters
    assert metrics.models["ensemble"].agreement == 1.0
    assert metrics.models["student"].agreement == metrics.agreement
    facts = (tmp_path / "out/student/facts.json").read_text("utf-8")
    assert "teacher_weights" in facts
    last = [point.values for point in metrics.history["distill"] if "loss/teacher_weights/teacher_1" in point.values][-1]
    assert last["loss/teacher_weights/teacher_1"] > 0.55, "the teacher that was trained longer has the larger weight"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    recipe["teacher"]["combine"] = "mean"
    changed = DistillationPipeline.from_recipe(make_recipe({**QUICK, **recipe})).run(overwrite=True)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert {path.parent.name for path in after if after[path] != before[path]} == {"student"}, "teachers are not taught again"
    assert changed.models["teacher-2"].quality == second.quality


def test_two_image_teachers_heard_by_agreement_live(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    metrics = run(
        {
            "teacher": {
                "models": [str(small_vit), str(small_vit)],
                "combine": "agreement",
                "from_scratch": True,
                "epochs": 2,
            },
            "data": str(shapes),
            "student": {"ratio": 0.4},
            "distill": {"epochs": 2, "cache": "never"},
            "output": str(tmp_path / "out"),
        }
    )
    assert {"teacher-2", "ensemble"} <= set(metrics.models)


def test_the_pipeline_takes_a_list() -> None:
    pipeline = DistillationPipeline(["a", "b"], "x.csv", {"teacher": {"combine": "agreement"}})
    assert [one.model for one in pipeline.recipe.teacher.all] == ["a", "b"]
    assert pipeline.recipe.teacher.combine == "agreement"


def test_several_teachers_are_for_classes(small_bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    rows = "\n".join(f"a lovely film number {index},{index / 7:.3f}" for index in range(80))
    file.write_text(f"text,label\n{rows}\n", "utf-8")
    recipe = {"teachers": [str(small_bert)] * 2, "data": str(file), "task": "regression", "output": str(tmp_path / "out")}
    with pytest.raises(RecipeError, match=r"2 teachers are given for regression.*leave one teacher"):
        run(recipe)
    assert not (tmp_path / "out/teacher").exists()


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_several_teachers_are_for_whole_rows(task: str) -> None:
    recipe = make_recipe({"teachers": ["a", "b"], "data": "x.csv", "task": task})
    with pytest.raises(RecipeError, match=f"2 teachers are given for {task}.*leave one teacher"):
        check_teachers(recipe, build_task(task))


def test_each_further_teacher_has_two_stages() -> None:
    names = [stage.name for stage in stages_for(make_recipe({"teachers": ["a", "b", "c"], "data": "x.csv"}))]
    assert names.index("teach") < names.index("teach-2") < names.index("teach-3") < names.index("augment")
    assert names.index("cache-3") < names.index("distill")
    one = [stage.name for stage in stages_for(make_recipe({"teacher": "a", "data": "x.csv"}))]
    assert [name for name in names if not name.endswith(("-2", "-3"))] == one
