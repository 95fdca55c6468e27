"""The page on phones and screens: a browser measures that nothing is cut and nothing scrolls sideways."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from potstill.report.metrics import Metrics
from potstill.report.page import page

BROWSER = next((name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None)
WIDTHS = (360, 390, 768, 1200)
# Of a page in a frame of a phone's width (a window of a desktop's browser is never that narrow): its width, what is wider
# than its place, and texts of plots that reach out of their plot.
MEASURE = """<script>
window.addEventListener("load", function () {
  var found = {};
  document.querySelectorAll("iframe").forEach(function (frame) {
    var page = frame.contentDocument, body = page.documentElement, wide = [], cut = [];
    page.querySelectorAll("details").forEach(function (one) { one.open = true; });
    var places = "section, table, .plot, .scroll, .card, td" + (frame.clientWidth < 480 ? ", pre" : "");  // long lines of code
    page.querySelectorAll(places).forEach(function (one) {
      if (one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0) { wide.push(one.textContent.slice(0, 40)); }
    });
    page.querySelectorAll("svg").forEach(function (plot) {
      var place = plot.getBoundingClientRect();
      plot.querySelectorAll("text").forEach(function (text) {
        var box = text.getBoundingClientRect();
        if (box.width && (box.left < place.left - 1 || box.right > place.right + 1)) { cut.push(text.textContent); }
      });
    });
    found[frame.id] = {width: body.scrollWidth, window: frame.clientWidth, wide: wide, cut: cut};
  });
  document.title = JSON.stringify(found);
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_nothing_is_cut_or_scrolls_sideways(metrics: Metrics, tmp_path: Path, lang: str) -> None:
    document = json.loads(metrics.model_dump_json())
    values = {"loss": 2.0, "loss/kl": 1.0, "loss/hidden_mse": 3.0, "eval_loss": 2.5, "eval_accuracy": 0.9, "eval_macro_f1": 0.8}
    names = list(values)
    document["history"] = {
        "teach": [
            {"step": step, "values": {name: values[name] / step + names.index(name) for name in names}} for step in (1, 2, 3)
        ],
        "distill: a phase with a long name": [
            {"step": step, "values": {name: values[name] / step + names.index(name) for name in names}} for step in (1, 900, 2700)
        ],
    }
    document["kept_steps"] = {"teach": 2}
    for model in document["models"].values():  # every column is there, as wide as a run makes it
        model |= {"wdsr": 0.973, "agreement": 0.953, "mean_kl_nats": 0.1571, "ece": 0.0125, "flops": 7_970_000}
        model["quality"] |= {"macro_f1": 0.9641, "mcc": 0.9602}
        model["formats"] = {"safetensors": 3_210_000, "onnx-fp32": 3_270_000}
        document["confidence"] |= {f"{name}.accuracy": {"low": 0.9444, "high": 0.9811} for name in document["models"]}
    document["stages"] = {"data": 1.0, "teach-a-task-with-a-long-name": 100.0, "evaluate": 571.2}
    file = tmp_path / "page.html"
    file.write_text(page(Metrics.model_validate(document), lang=lang), "utf-8")
    frames = "".join(
        f'<iframe id="{width}" src="page.html" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS
    )
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!doctype html><html><head>{MEASURE}</head><body>{frames}</body></html>", "utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=8000"]
    command = [str(BROWSER), *options, "--dump-dom", outer.as_uri()]
    text = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout
    match = re.search(r"<title>(\{.*?\})</title>", text, re.DOTALL)
    if match is None:
        pytest.skip("Chromium did not run here")
    for found in json.loads(unescape(match.group(1))).values():
        assert found["width"] <= found["window"]
        assert found["wide"] == []
        assert found["cut"] == []
