"""Methods with a chain through the real pipeline: takd, rco and ban on texts and images; every model of the chain is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from potstill import DistillationPipeline
from potstill.errors import Faults, RecipeError
from potstill.planning.check import check_recipe
from potstill.recipe import make_recipe
from potstill.report.metrics import Metrics

QUICK: dict[str, Any] = {
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16},
}


def recipe_of(kind: str, small_bert: Path, small_vit: Path, reviews: Path, shapes: Path) -> dict[str, Any]:
    if kind == "text":
        teacher = {"model": str(small_bert), "epochs": 4, "learning_rate": 3e-3}
        return {"teacher": teacher, "data": {"source": str(reviews), "augment": 1}, "student": {"ratio": 0.6}}
    teacher = {"model": str(small_vit), "from_scratch": True, "epochs": 4}
    return {"teacher": teacher, "data": {"source": str(shapes)}, "student": {"ratio": 0.6}}


@pytest.fixture(params=["text", "image"])
def recipe(
    request: pytest.FixtureRequest, small_bert: Path, small_vit: Path, reviews: Path, shapes: Path, tmp_path: Path
) -> dict[str, Any]:
    return {**QUICK, **recipe_of(request.param, small_bert, small_vit, reviews, shapes), "output": str(tmp_path / "out")}


def run(recipe: dict[str, Any], **distill: Any) -> Metrics:
    learning = {"epochs": 2, "learning_rate": 2e-3}
    return DistillationPipeline.from_recipe(make_recipe({**recipe, "distill": {**learning, **distill}})).run()


def test_assistants_lie_between_teacher_and_student(recipe: dict[str, Any], tmp_path: Path) -> None:
    metrics = run(recipe, method="takd", cache="always")
    sizes = [metrics.models[name].parameters for name in ("teacher", "assistant-1", "student")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] ** 2 == pytest.approx(sizes[0] * sizes[2], rel=0.1)
    assert (tmp_path / "out/work/chain/assistant-1/answers").is_dir()
    assert not list((tmp_path / "out").rglob("training"))


def test_generations_are_kept_and_measured_together(recipe: dict[str, Any]) -> None:
    metrics = run(recipe, method="ban", cache="never", chain={"generations": 2, "ensemble": True})
    assert metrics.models["generation-1"].parameters == metrics.models["student"].parameters
    assert metrics.models["generations"].parameters == 2 * metrics.models["student"].parameters
    assert "generation-2" not in metrics.models


def test_the_route_leads_over_states_of_the_teacher(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["teacher"]["anchors"] = 2
    metrics = run(recipe, method="rco")
    kept = tmp_path / "out/teacher/anchors"
    evaluated = [point.step for point in metrics.history["teach"] if "eval_loss" in point.values]
    best = json.loads((kept.parent / "facts.json").read_text("utf-8"))["best"]["step"]
    anchors = [f"anchor-{number}" for number in range(1, 1 + min(2, sum(step < best for step in evaluated)))]
    states = [(place / "model.safetensors").read_bytes() for place in (*(kept / name for name in anchors), kept.parent)]
    assert len(set(states)) == 1 + len(anchors)
    assert {name for name in metrics.history if name.startswith("distill: anchor")} == {f"distill: {name}" for name in anchors}
    named = {**recipe, "teacher": str(kept.parent), "output": str(tmp_path / "named")}
    metrics = run(named, method="rco", chain={"route": [str(kept.parent)]})
    assert {"distill: anchor-1", "distill: prediction"} <= set(metrics.history)
    with pytest.raises(RecipeError, match=r"this teacher is trained already.*distill\.options\.route"):
        run({**named, "output": str(tmp_path / "refused")}, method="rco")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "kd", "chain": {"generations": 2}}, r"chain\.generations is set for method 'kd'.*distill\.method: ban"),
        ({"method": "ban", "chain": {"route": ["x"]}}, r"chain\.route is set for method 'ban'.*rco"),
        ({"method": "rco", "chain": {"route": ["nowhere"]}}, r"'nowhere', which hold no model"),
        ({"method": "takd", "losses": ["kl"]}, r"distill\.losses.*takd"),
    ],
)
def test_settings_of_chains_that_cannot_work_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((RecipeError, Faults), match=told):
        check_recipe(make_recipe({"teacher": "a", "data": "x.csv", "distill": changes}))


def test_assistants_need_room() -> None:
    with pytest.raises(RecipeError, match=r"same size.*distill\.method: ban"):
        check_recipe(make_recipe({"teacher": "a", "data": "x.csv", "ratio": 0, "method": "takd"}))
