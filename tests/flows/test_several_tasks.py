"""Several tasks through the real pipeline: a teacher and rows for each, one student with a block of classes for each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from potstill import DistillationPipeline
from potstill.errors import DataError, ModelError, NeedsError, RecipeError
from potstill.flows.distill import DistillFlow, stages_for
from potstill.flows.observer import LoggingObserver
from potstill.flows.preview import preview
from potstill.flows.reevaluate import reevaluate
from potstill.knowledge.teachers import of_own_teachers
from potstill.knowledge.widened import widened_teacher
from potstill.planning.check import check_recipe
from potstill.recipe import Recipe, make_recipe
from potstill.report.metrics import Metrics

QUICK: dict[str, Any] = {
    "quantize": "int8",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 16, "similarity_rows": 16},
}
BLOCKS = {"mood": ["mood/bad", "mood/good"], "topic": ["topic/book", "topic/film", "topic/song"]}


def tasks_of(mood: Path, reviews: Path, topic: Path, topics: Path) -> dict[str, Any]:
    columns = {"text": "sentence", "label": "thing"}
    return {
        "mood": {"teacher": str(mood), "data": str(reviews)},
        "topic": {"teacher": str(topic), "data": {"source": str(topics), "columns": columns}},
    }


def run(recipe: dict[str, Any], **options: Any) -> Metrics:
    return DistillationPipeline.from_recipe(make_recipe({**QUICK, **recipe})).run(**options)


def opened(recipe: Recipe, folder: Path) -> DistillFlow:
    """The flow of a finished run."""
    flow = DistillFlow(recipe)
    flow.start(folder, LoggingObserver())
    return flow


@pytest.fixture(scope="module")
def recipe(
    small_bert: Path, words_distilbert: Path, reviews: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    return {
        "tasks": tasks_of(small_bert, reviews, words_distilbert, topics),
        "teacher": {"epochs": 16, "learning_rate": 3e-3},
        "data": {"augment": 1},
        "student": {"ratio": 0.5},
        "distill": {"method": "kd", "epochs": 8, "learning_rate": 3e-3, "cache": "always"},
        "baseline": True,
        "output": str(tmp_path_factory.mktemp("tasks") / "out"),
    }


@pytest.fixture(scope="module")
def cached(recipe: dict[str, Any]) -> Metrics:
    """A whole run: a BERT for one task, a DistilBERT with tokens of its own for the other."""
    return run(recipe)


def test_one_student_learns_both_tasks(cached: Metrics, recipe: dict[str, Any]) -> None:
    assert cached.tasks == BLOCKS
    assert {"teacher", "baseline", "student", "student-int8"} <= set(cached.models)
    for name, least in (("teacher", 0.9), ("student", 0.8), ("student-int8", 0.75)):
        quality = cached.models[name].quality
        assert quality["accuracy"] == pytest.approx((quality["mood/accuracy"] + quality["topic/accuracy"]) / 2)
        assert min(quality["mood/accuracy"], quality["topic/accuracy"]) >= least, (name, quality)
    student, teacher = cached.models["student"].quality, cached.models["teacher"].quality
    assert cached.retention == pytest.approx(student["accuracy"] / teacher["accuracy"])
    assert [one.label for one in cached.per_class] == [name for names in BLOCKS.values() for name in names]
    assert "retention" in cached.confidence
    out = Path(recipe["output"])
    assert not (out / "work/tasks/mood").exists()
    assert (out / "work/tasks/topic/model/config.json").is_file()


def test_the_student_is_served_by_plain_libraries(cached: Metrics, recipe: dict[str, Any]) -> None:
    out = Path(recipe["output"])
    import potstill  # noqa: F401  the student's type may be Potstill's own

    model = AutoModelForSequenceClassification.from_pretrained(out / "student").eval()
    assert list(model.config.id2label.values()) == [name for names in BLOCKS.values() for name in names]
    tokens = AutoTokenizer.from_pretrained(out / "student")(["this film was lovely"], return_tensors="np")
    session = onnxruntime.InferenceSession(str(out / "export/model.onnx"))
    names = [value.name for value in session.get_inputs()]
    logits = session.run(["logits"], {name: tokens[name] for name in names})[0]
    assert logits.shape == (1, 5)
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(tokens[name]) for name in names}).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert logits[0, :2].argmax() == 1
    assert logits[0, 2:].argmax() == 1
    card = (out / "README.md").read_text("utf-8")
    assert "| mood | 0 to 1 | bad, good |" in card
    assert "| topic | 2 to 4 | book, film, song |" in card


def test_live_answers_equal_the_cached_ones(cached: Metrics, recipe: dict[str, Any], tmp_path: Path) -> None:
    out, changed = Path(recipe["output"]), {"distill": {**recipe["distill"], "cache": "never", "epochs": 1}, "baseline": False}
    live = run({**recipe, **changed, "quantize": "none", "output": str(tmp_path / "out")})
    assert live.models["teacher"].quality == cached.models["teacher"].quality
    assert not (tmp_path / "out/work/cache").exists()
    held = opened(make_recipe({**QUICK, **recipe}), out)
    rows = held.student.encoded("train", "validation", "test", "augmented")
    batch = held.student.collator(rows.__getitems__(range(len(rows))))
    kept = of_own_teachers(held.teachers).signal(batch).logits
    shutil.copytree(out, tmp_path / "uncached", ignore=shutil.ignore_patterns("logits"))
    asked = of_own_teachers(opened(held.recipe, tmp_path / "uncached").teachers).signal(batch).logits
    torch.testing.assert_close(kept, asked, atol=1e-2, rtol=1e-3)
    assert (kept.argmax(-1) >= batch["task_classes"][:, 0]).all()
    assert (kept.argmax(-1) < batch["task_classes"][:, 1]).all()


def test_a_finished_run_is_not_done_again_and_is_measured_again(cached: Metrics, recipe: dict[str, Any]) -> None:
    out = Path(recipe["output"])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    run(recipe)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    figures = reevaluate(out)["models"]
    assert {"teacher", "student", "student-onnxruntime"} <= set(figures)
    assert figures["student"]["quality"] == pytest.approx(cached.models["student"].quality)
    assert figures["teacher"]["quality"] == pytest.approx(cached.models["teacher"].quality)
    other = reevaluate(out, data=recipe["tasks"]["topic"]["data"]["source"], task="topic")
    assert other["rows"] == 300
    assert set(other["models"]["student"]["quality"]) >= {"accuracy", "topic/accuracy"}
    assert other["models"]["teacher"]["quality"]["topic/accuracy"] >= 0.9
    with pytest.raises(RecipeError, match=r"rows of which task.*mood, topic.*--task"):
        reevaluate(out, data=recipe["tasks"]["topic"]["data"]["source"])


def test_a_student_starts_with_what_every_teacher_knows(cached: Metrics, recipe: dict[str, Any]) -> None:
    held = opened(make_recipe({**QUICK, **recipe}), Path(recipe["output"]))
    joint = held.open(held.teacher)
    wide, own = widened_teacher(joint, held.teachers, held.recipe.seed).model, held.teachers[0].model
    rows = joint.encoded("train")
    batch = joint.collator(rows.__getitems__(range(len(rows))))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    theirs = of_own_teachers(held.teachers).signal(batch).logits
    with torch.no_grad():
        logits, expected = wide(**inputs).logits, own(**inputs).logits
    torch.testing.assert_close(logits[:, :2], expected)
    is_topic = batch["task_classes"][:, 0] == 2
    error, wanted = (logits - theirs)[is_topic, 2:], theirs[is_topic, 2:]
    assert error.square().mean() < wanted.square().mean(), "least squares is nearer than no weights at all"


def test_teachers_that_share_their_body_keep_their_heads(small_bert: Path, reviews: Path, topics: Path, tmp_path: Path) -> None:
    """Two heads on one frozen body, one of them in memory: a student of the same shape starts as both teachers in one."""
    from transformers import AutoConfig

    places = []
    for name, labels in (("mood", ["bad", "good"]), ("topic", ["book", "film", "song"])):
        config = AutoConfig.from_pretrained(small_bert, num_labels=len(labels), id2label=dict(enumerate(labels)))
        torch.manual_seed(len(labels))
        model = AutoModelForSequenceClassification.from_pretrained(small_bert, config=config)
        model.classifier.weight.data.normal_()
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(small_bert).save_pretrained(tmp_path / name)
        places.append(tmp_path / name)
    pipeline = DistillationPipeline(
        {"mood": AutoModelForSequenceClassification.from_pretrained(places[0]), "topic": places[1]},
        {"mood": Dataset.from_csv(str(reviews), cache_dir=str(tmp_path / "cache")), "topic": topics},
        {
            **QUICK,
            "tasks": {"topic": {"data": {"columns": {"text": "sentence", "label": "thing"}}}},
            "data": {"augment": "none"},
            "student": {"ratio": 0},
            "distill": {"epochs": 1},
            "quantize": "none",
        },
        tmp_path / "out",
        processor={"mood": AutoTokenizer.from_pretrained(places[0])},
    )
    metrics = pipeline.run()
    assert metrics.models["student"].parameters == metrics.models["teacher"].parameters + 3 * 49
    held = DistillFlow(pipeline.recipe, tasks=pipeline._tasks)
    held.start(tmp_path / "out", LoggingObserver())
    head = widened_teacher(held.open(held.teacher), held.teachers, 0).model.classifier
    own = held.teachers[1].model.classifier
    torch.testing.assert_close(head.weight[2:], own.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(head.bias[2:], own.bias, atol=1e-5, rtol=0)


def test_image_tasks(small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    for index in range(60):
        kind = ("dark", "light")[index % 2]
        (tmp_path / "shades" / kind).mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 60, (8, 8), dtype=np.uint8) + np.uint8(150 * (index % 2))
        Image.fromarray(pixels).save(tmp_path / "shades" / kind / f"{index}.png")
    metrics = run(
        {
            "tasks": {
                "bars": {"teacher": str(small_vit), "data": str(shapes)},
                "shade": {"teacher": str(small_vit), "data": str(tmp_path / "shades")},
            },
            "teacher": {"from_scratch": True, "epochs": 3},
            "student": {"ratio": 0.4},
            "distill": {"epochs": 2},
            "quantize": "none",
            "output": str(tmp_path / "out"),
        }
    )
    assert metrics.tasks == {"bars": ["bars/horizontal", "bars/vertical"], "shade": ["shade/dark", "shade/light"]}
    assert {"bars/accuracy", "shade/accuracy"} <= set(metrics.models["student"].quality)
    assert "AutoModelForImageClassification" in (tmp_path / "out/README.md").read_text("utf-8")


def test_stages_of_further_tasks_stand_beside_those_of_the_first() -> None:
    recipe = make_recipe({"tasks": {name: {"teacher": name, "data": "x.csv"} for name in ("a", "b", "c")}})
    names = [stage.name for stage in stages_for(recipe)]
    assert names[:4] == ["data", "teach", "teach-b", "teach-c"]
    assert names.index("cache-c") < names.index("student") < names.index("distill")
    assert all(stage.trains for stage in stages_for(recipe) if stage.name.startswith("teach"))


def test_the_pipeline_takes_mappings(small_bert: Path, reviews: Path, topics: Path) -> None:
    pipeline = DistillationPipeline({"mood": small_bert, "topic": "b"}, {"mood": reviews, "topic": topics}, {"ratio": 0.5})
    assert {name: one.teacher.model for name, one in pipeline.recipe.tasks.items()} == {"mood": str(small_bert), "topic": "b"}
    with pytest.raises(RecipeError, match="teachers of the tasks mood, topic are given, and data of mood"):
        DistillationPipeline({"mood": "a", "topic": "b"}, {"mood": "m.csv"})
    with pytest.raises(RecipeError, match="the teacher of task 'topic' is in memory"):
        DistillationPipeline({"mood": "a", "topic": torch.nn.Linear(1, 1)}, {"mood": "m.csv", "topic": "t.csv"})


def refused(recipe: dict[str, Any], tmp_path: Path) -> str:
    with pytest.raises((RecipeError, DataError, ModelError, NeedsError)) as caught:
        run({**recipe, "output": str(tmp_path / "out")})
    assert not (tmp_path / "out/teacher").exists()
    return str(caught.value)


def test_a_teacher_with_other_classes_names_its_task(small_bert: Path, reviews: Path, topics: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(small_bert, num_labels=4))
    model.save_pretrained(tmp_path / "four")
    AutoTokenizer.from_pretrained(small_bert).save_pretrained(tmp_path / "four")
    told = refused({"tasks": tasks_of(small_bert, reviews, tmp_path / "four", topics)}, tmp_path)
    assert told.startswith("task 'topic': ")
    assert "LABEL_3" in told


def test_pairs_and_single_texts_do_not_mix(small_bert: Path, reviews: Path, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    rows = "\n".join(f"the film {index},a book,{'same' if index % 2 else 'other'}" for index in range(60))
    file.write_text(f"sentence1,sentence2,label\n{rows}\n", "utf-8")
    tasks = {"mood": {"teacher": str(small_bert), "data": str(reviews)}, "same": {"teacher": str(small_bert), "data": str(file)}}
    told = refused({"tasks": tasks}, tmp_path)
    assert "rows of same are pairs of texts, rows of mood are single texts" in told
    assert "tasks that all read single texts, or all pairs" in told


def test_texts_and_images_do_not_mix(small_bert: Path, reviews: Path, small_vit: Path, shapes: Path, tmp_path: Path) -> None:
    bars = {"teacher": {"model": str(small_vit), "from_scratch": True}, "data": str(shapes)}
    told = refused({"tasks": {"mood": {"teacher": str(small_bert), "data": str(reviews)}, "bars": bars}}, tmp_path)
    assert "the tasks are of different kinds: mood is text-classification, bars is image-classification" in told
    assert "give each kind a recipe of its own" in told


@pytest.mark.parametrize(
    "method", ["tinybert", "rkd", "dml", "takd", "rco", "crd", "ctkd", "noisy_teacher", "mean_teacher", "sskd"]
)
def test_methods_that_read_more_than_answers_are_refused(method: str, tmp_path: Path) -> None:
    tasks = {name: {"teacher": "nowhere", "data": "nowhere"} for name in ("a", "b")}
    told = refused({"tasks": tasks, "distill": {"method": method}}, tmp_path)
    assert f"method '{method}' does not work for several tasks" in told
    assert "augmented_kd" in told
    assert "set distill.method: kd" in told


def test_losses_that_read_more_than_answers_are_refused(tmp_path: Path) -> None:
    tasks = {name: {"teacher": "nowhere", "data": "nowhere"} for name in ("a", "b")}
    told = refused({"tasks": tasks, "distill": {"losses": ["kl", "hidden_mse"]}}, tmp_path)
    assert "each task has a teacher of its own" in told
    assert "take the loss kl" in told


def test_what_self_stands_for_decides_whether_it_works() -> None:
    tasks = {name: {"teacher": "nowhere", "data": "nowhere"} for name in ("a", "b")}
    check_recipe(make_recipe({"tasks": tasks, "distill": {"method": "self"}}))
    with pytest.raises(NeedsError, match=r"method 'self' does not work for several tasks"):
        check_recipe(make_recipe({"tasks": tasks, "distill": {"method": "self", "online": {"itself": "cs_kd"}}}))


@pytest.mark.parametrize("task", ["regression", "token-classification"])
def test_tasks_of_other_kinds_are_refused(task: str) -> None:
    tasks = {name: {"teacher": "nowhere", "data": "nowhere"} for name in ("a", "b")}
    with pytest.raises(RecipeError, match=rf"tasks are given, and task is {task}.*leave task out"):
        check_recipe(make_recipe({"tasks": tasks, "task": task}))


def test_a_plan_counts_the_classes_of_all_tasks(recipe: dict[str, Any]) -> None:
    found = preview(make_recipe({**QUICK, **recipe}))
    assert found.rows == 2 * (320 + 240), "four fifths to train on, and one augmented row for each"
    assert found.parameters < found.teacher_parameters
