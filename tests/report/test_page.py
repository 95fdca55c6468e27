"""The page: whole, self-contained, escaped, in two languages, honest about what is missing."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from potstill.errors import RecipeError
from potstill.report.charts import training_charts
from potstill.report.metrics import ClassResult, Metrics
from potstill.report.onnx_snippets import load_with_onnxruntime
from potstill.report.page import page, render
from potstill.report.plots.canvas import text_width
from potstill.report.plots.classes import recall_per_class
from potstill.report.plots.curves import tradeoff, training_curve
from potstill.report.words import LANGUAGES, same, say
from potstill.report.words_en import ENGLISH
from potstill.report.words_zh import CHINESE

VOID = {"meta", "img", "br", "line", "rect", "circle", "path"}


class _Balance(HTMLParser):
    """Fails where a tag is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def _bare() -> Metrics:
    models = {"teacher": {"quality": {"accuracy": 0.9}}, "student": {"quality": {"accuracy": 0.8}}}
    return Metrics(task="text-classification", metric="accuracy", models=models)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_is_balanced_html_with_both_languages(metrics, lang) -> None:
    for given in (metrics, _bare(), Metrics(task="image-classification", metric="accuracy")):
        text = page(given, lang=lang)
        parser = _Balance()
        parser.feed(text)
        assert parser.open == []
        assert f'<html lang="{lang}" class="show-{lang}">' in text
        assert ENGLISH["models"] in text
        assert CHINESE["models"] in text


def test_the_page_shows_what_training_in_bfloat16_gains_and_costs(metrics) -> None:
    text = page(metrics)
    for shown in ("bf16", "0.061", "97.9 %", ENGLISH["precision_note"], CHINESE["precision_note"]):
        assert shown in text
    assert ENGLISH["precision_note"] not in page(_bare())


def test_the_page_asks_for_nothing_outside(metrics) -> None:
    text = page(metrics)
    for found in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert found.startswith("data:image/png;base64,")
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_every_svg_is_well_formed_and_finite(metrics) -> None:
    plots = re.findall(r"<svg.*?</svg>", page(metrics), flags=re.DOTALL)
    assert len(plots) >= 9
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "nan" not in plot.lower()
        assert "inf" not in plot.lower().replace("info", "")


def test_text_of_the_user_is_escaped_everywhere(metrics) -> None:
    evil = '"><script>alert(1)</script>'
    document = json.loads(metrics.model_dump_json())
    for example in document["worst_examples"]:
        example |= {"text": evil, "label": evil, "teacher_label": evil, "student_label": evil}
    document["worst_examples"][1]["image_png_base64"] = evil
    for key in ("title", "teacher", "command", "created"):
        document[key] = evil
    document["models"][evil] = document["models"]["student"]
    document["per_class"][0]["label"] = evil
    document["history"] = {evil: [{"step": 1, "values": {evil: 1.0, "loss": 2.0}}]}
    document["layers"]["teacher_layers"][0] = evil
    document["quantization"]["candidates"][0] |= {"name": evil, "reason": evil}
    document["data"] |= {"source": evil, "notes": [evil]}
    document["machine"]["cpu"] = evil
    document["warnings"] = [evil]
    text = page(Metrics.model_validate(document))
    assert "<script>alert" not in text
    assert "</script>alert" not in text
    assert text.count("<script>") == 1
    assert text.count("</script>") == 1


def test_warnings_follow_from_the_figures(metrics) -> None:
    text = page(metrics)
    assert say("warn_attention", teacher=2, student=1, value="0.20", limit=0.15).en in text
    assert "The test split has only 360 rows" in text
    metrics.models["baseline"].quality["accuracy"] = 0.99
    assert ENGLISH["warn_baseline"] in page(metrics)
    assert ENGLISH["warn_baseline"] not in text


def test_what_is_missing_is_said() -> None:
    text = page(_bare())
    for key in (
        "no_baseline",
        "no_int8",
        "no_speed",
        "no_history",
        "no_layers",
        "no_attention",
        "no_quantization",
        "no_worst",
        "no_plan",
    ):
        assert ENGLISH[key].replace("'", "&#39;") in text, key
        assert CHINESE[key] in text, key


def test_the_code_loads_the_onnx_file_of_the_model_to_serve(metrics) -> None:
    metrics.files = {"onnx": "export/model.onnx", "onnx-fp32": "export/model.fp32.onnx", "onnx-int8": "export/model.int8.onnx"}
    for served, file in {
        "student": "export/model.onnx",
        "student-onnxruntime": "export/model.fp32.onnx",
        "student-int8": "export/model.int8.onnx",
        None: "export/model.int8.onnx",
    }.items():
        metrics.served = served
        assert f'InferenceSession("{file}")' in (load_with_onnxruntime(metrics) or "")


def test_lines_that_never_move_have_ticks_that_differ() -> None:
    drawn = training_curve({"eval_accuracy": [(0, 1.0), (100, 1.0)]}, same("validation"), same("%"), scale=100)
    ticks = re.findall(r'text-anchor="end" class="tick">([^<]+)<', drawn)
    assert len(ticks) > 1
    assert len(set(ticks)) == len(ticks)


def test_names_of_many_models_stay_inside_and_apart() -> None:
    models = ["teacher", "baseline", "student", "student-int8", "student-onnxruntime"]
    drawn = recall_per_class([ClassResult(label="good", rows=10, recall=dict.fromkeys(models, 1.0))])
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="start" class="(?:en )?label">([^<]+)<', drawn)
    assert [name for _, _, name in places] == [say(name).en for name in models]
    assert all(float(x) + text_width(name) <= 520 for x, _, name in places)
    drawn = tradeoff({name: (0.05 * 1.2**at, 1.0) for at, name in enumerate(models)}, "accuracy", same("MB"), same("size"), {})
    labels = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="start" class="(?:en )?label">([^<]+)<', drawn)
    boxes = [(float(x), float(x) + text_width(name), float(y)) for x, y, name in labels]
    for at, (left, right, y) in enumerate(boxes):
        assert not any(left < end and start < right and abs(y - other) < 12 for start, end, other in boxes[:at])


def test_headline_counts_the_model_to_serve_against_pytorch(metrics) -> None:
    text = page(metrics)
    assert '<p class="value">20.0×</p>' in text  # 4.0 ms / 0.2 ms
    assert '<p class="value">40.0×</p>' in text  # 4,000,000 / 100,000 bytes
    assert '<p class="value">97.9 %</p>' in text
    assert "10.0× against the teacher in onnxruntime-fp32" in text  # 2.0 ms / 0.2 ms


def test_many_classes_show_those_where_the_student_loses_most(metrics) -> None:
    metrics.per_class[37].recall["student"] = 0.1
    text = page(metrics)
    assert "recall of the 30 classes of 40" in text
    assert "class 37 (9)" in text


def test_training_curves_leave_out_repeats_and_totals(metrics) -> None:
    values = [
        {"loss": 2.0 / step, "loss/ce": 2.0 / step, "loss/kl": 1.0 / step, "eval_loss_kl": 3.0, "grad_norm": 9.0}
        for step in (1, 2)
    ]
    points = [{"step": step, "values": value} for step, value in enumerate(values, start=1)]
    points.append({"step": 2, "values": {"train_loss": 1.5}})
    document = json.loads(metrics.model_dump_json()) | {"history": {"distill": points}}
    text = page(Metrics.model_validate(document))
    assert ">KL term<" in text
    assert "dashed: validation" in text
    for name in ("loss/ce", "cross-entropy with labels", "train_loss", "grad_norm", "eval_loss_kl"):
        assert f">{name}<" not in text


def test_render_writes_page_and_figures(metrics, tmp_path) -> None:
    path = render(metrics, tmp_path / "report", lang="zh")
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "metrics.json"]
    assert Metrics.read(path.with_name("metrics.json")) == metrics


def test_an_unknown_language_is_refused_before_anything_is_written(metrics, tmp_path) -> None:
    with pytest.raises(RecipeError, match=r"'fr'.*Accepted: en, zh.*What to do"):
        render(metrics, tmp_path / "report", lang="fr")
    assert not (tmp_path / "report").exists()


def test_both_languages_say_the_same_things() -> None:
    assert list(ENGLISH) == list(CHINESE)
    for key, text in ENGLISH.items():
        fields = set(re.findall(r"{(\w+)}", text))
        assert fields == set(re.findall(r"{(\w+)}", CHINESE[key])), key


def test_a_series_has_one_colour_and_the_kept_checkpoint_is_marked(metrics) -> None:
    def logged(*names: str) -> list[dict]:
        return [{"step": step, "values": dict.fromkeys(names, 1.0 / step)} for step in (1, 5, 10)]

    history = {"teach": logged("loss", "eval_accuracy"), "distill": logged("loss/kl", "loss", "eval_macro_f1", "eval_accuracy")}
    history = {
        stage: [
            {**point, "values": {key: value + place / 9 for place, (key, value) in enumerate(point["values"].items())}}
            for point in points
        ]
        for stage, points in history.items()
    }
    found = Metrics.model_validate(json.loads(metrics.model_dump_json()) | {"history": history, "kept_steps": {"distill": 5}})
    teach_loss, teach_checks, distill_loss, distill_checks = training_charts(found)
    colour = {}
    for chart in (teach_loss, teach_checks, distill_loss, distill_checks):
        for style, name in re.findall(r'<rect [^>]*class="(l\d)"/><text [^>]*class="[^"]*label">([^<]+)</text>', chart):
            assert colour.setdefault(name, style) == style
    assert {"loss", "accuracy", "macro F1", "KL term"} <= colour.keys()
    assert len(set(colour.values())) == len(colour)  # and no other series has it
    assert "kept: step 5" in distill_loss
    assert "kept: step 5" in distill_checks
    assert "kept" not in teach_loss


def test_the_title_names_the_models_and_empty_columns_are_left_out(metrics) -> None:
    document = json.loads(metrics.model_dump_json()) | {"title": None, "teacher": "/home/me/models/my-bert/"}
    text = page(Metrics.model_validate(document))
    title = re.search(r"<title>(.*?)</title>", text).group(1)
    assert title.startswith("my-bert (")
    assert "→" in title
    bare = {"teacher": {"quality": {"accuracy": 0.9}}, "student": {"quality": {"accuracy": 0.8}, "retention": 0.89}}
    text = page(Metrics(task="text-classification", metric="accuracy", models=bare))
    table = text[text.index('id="models"') :].partition("</table>")[0]
    assert "FLOPs" not in table
    assert len(re.findall(r"<th[ >]", table)) == 3
    for word in (">None<", ">nan<", " None ", " nan "):
        assert word not in text
