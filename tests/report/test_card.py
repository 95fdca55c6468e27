"""The model card, the printed table and the TensorBoard files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import yaml
from rich.console import Console

from potstill.errors import MissingExtra
from potstill.report.card import card, write_card
from potstill.report.metrics import Loading, Metrics
from potstill.report.table import summary_table
from potstill.report.tensorboard import attention_image, write_tensorboard


def _front_matter(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_says_what_the_hub_reads(metrics) -> None:
    metrics.teacher, metrics.base_models, metrics.datasets = "org/teacher", ["org/teacher"], ["org/reviews"]
    head = _front_matter(card(metrics))
    assert head["license"] == "unknown"
    assert head["base_model"] == "org/teacher"
    assert head["datasets"] == ["org/reviews"]
    metrics.base_models.append("org/second")
    assert _front_matter(card(metrics))["base_model"] == ["org/teacher", "org/second"]
    assert head["pipeline_tag"] == "text-classification"
    assert head["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.931}]


def test_a_name_of_the_form_of_a_hub_id_is_no_hub_id_by_itself(metrics) -> None:
    """A relative path looks like one, and is not where the card is written or read."""
    metrics.teacher, metrics.data.source = "models/teacher", "data/reviews"
    text = card(metrics)
    assert not {"base_model", "datasets"} & _front_matter(text).keys()
    assert "models/teacher" not in text
    assert "data/reviews" not in text


def test_the_published_card_names_nothing_of_the_output_folder(metrics) -> None:
    text = card(metrics, repository="me/small")
    assert 'model="me/small"' in text
    assert "hf download me/small --local-dir ." in text
    assert 'Tokenizer.from_file("./tokenizer.json")' in text
    for word in ("In this folder", "report/", '"student', "me/small/"):
        assert word not in text
    head = _front_matter(text)
    assert head["model-index"][0]["name"] == "small"
    assert "\n# small\n" in text


def test_a_given_licence_is_passed_on(metrics) -> None:
    metrics.license = "apache-2.0"
    text = card(metrics)
    assert _front_matter(text)["license"] == "apache-2.0"
    assert "it is unknown" not in text


def test_the_card_has_figures_use_and_limits(metrics) -> None:
    text = card(metrics)
    assert "| student-int8 | 93.0 % | 97.9 % | 102 K | 100 kB | 0.2 ms (onnxruntime-int8) |" in text
    assert 'pipeline("text-classification", model="student")' in text
    assert 'InferenceSession("export/model.int8.onnx")' in text
    assert "The test split has only 360 rows" in text


def test_names_cannot_break_the_card(metrics) -> None:
    metrics.teacher = metrics.data.source = "a`|\n<script>"
    head, _, body = card(metrics)[4:].partition("---\n")
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["dataset"]["name"] == "a`|\n<script>"
    assert "<script>" not in body


def test_paths_of_the_machine_stay_out_of_the_card(metrics, tmp_path) -> None:
    metrics.teacher, metrics.data.source = str(tmp_path / "bert"), str(tmp_path / "rows.csv")
    text = card(metrics)
    assert str(tmp_path) not in text
    assert "base_model" not in _front_matter(text)
    assert "distilled from `bert`" in text


def test_the_card_of_a_run_with_nothing_but_a_task(tmp_path) -> None:
    path = write_card(Metrics(task="image-classification", metric="accuracy"), tmp_path / "out")
    assert path.name == "README.md"
    assert "## Limits" in path.read_text("utf-8")


def test_the_code_of_the_card_is_python(metrics) -> None:
    for task in ("text-classification", "image-classification"):
        metrics.task = task
        for block in card(metrics).split("```python\n")[1:]:
            compile(block.split("```")[0], "card", "exec")


def test_the_table_lists_every_model_and_runtime(metrics) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(metrics))
    text = console.export_text()
    for word in (
        "teacher",
        "baseline",
        "student-int8",
        "onnxruntime-int8",
        "20.0×",
        "2.00×",
        "gap closed 60 %",
        "WDSR 97.5 %",
    ):
        assert word in text


def test_the_table_fits_eighty_characters_with_a_long_name(metrics) -> None:
    metrics.models["student-onnxruntime"] = metrics.models["student"]
    metrics.models["student-onnxruntime"].latency_ms["openvino-int8"] = metrics.models["student"].latency_ms["onnxruntime-fp32"]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(metrics))
    text = console.export_text()
    assert "onnxruntime-fp32" in text
    assert "…" not in text


def test_the_table_of_a_bare_run_prints() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(Metrics(task="t", metric="accuracy", models={"student": {}})))
    assert "student" in console.export_text()


def test_tensorboard_holds_history_models_and_maps(metrics, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        folder = write_tensorboard(metrics, tmp_path / "tensorboard")
    assert len(list(folder.iterdir())) == 1
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("distill/loss")] == [1.0, 0.5]
    assert events.Scalars("models/student/accuracy")[0].value == pytest.approx(0.931)
    assert len(events.Tags()["images"]) == 1


def test_without_tensorboard_the_extra_is_named(metrics, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"potstill\[track\]"):
        write_tensorboard(metrics, tmp_path)


def test_attention_image_of_equal_maps_has_an_empty_difference(metrics) -> None:
    image = attention_image(metrics.layers.attention[0])
    side = image.shape[0]
    assert image.shape[1] == 3 * side + 2 * 8
    assert np.all(image[:, -side:] == 0)
    assert image.max() == 1


def test_a_student_of_the_users_own_code_is_loaded_with_its_consent(metrics) -> None:
    from potstill.report.snippets import load_with_transformers

    metrics.loading = Loading(model_type="potstill-module", model_class="ModuleForImageClassification", needs="potstill")
    code = load_with_transformers(metrics)
    compile(code, "card", "exec")
    assert "potstill.load(" in code
    assert "trust_remote_code=True" in code
