"""Trackers and callbacks follow a run while it trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback

from potstill import DistillationPipeline
from potstill.errors import MissingExtra, RecipeError
from potstill.planning.check import check_recipe
from potstill.recipe import make_recipe
from potstill.training import reporting

CONFIG: dict[str, Any] = {
    "teacher": {"epochs": 2, "learning_rate": 3e-3},
    "data": {"augment": "none"},
    "student": {"ratio": 0.5},
    "distill": {"epochs": 2, "learning_rate": 3e-3},
    "quantize": "none",
    "baseline": True,
    "evaluate": {"batch_sizes": [1], "repeats": 1},
}
GIVEN = {"teacher": {"model": "t"}, "data": {"source": "d"}}
OWN = """
from transformers import TrainerCallback

class Counts(TrainerCallback):
    steps = 0

    def on_step_end(self, args, state, control, **kwargs):
        Counts.steps += 1

class NeedsMore(TrainerCallback):
    def __init__(self, folder):
        self.folder = folder

def nothing():
    return None
"""


class Follows(TrainerCallback):
    def __init__(self, folder: Path) -> None:
        self.folder, self.logs, self.files_while_training, self.runs = folder, [], 0, []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.runs.append(args.run_name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))
        self.files_while_training = max(self.files_while_training, len(list(self.folder.rglob("events.out.tfevents.*"))))


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_callbacks.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_callbacks", raising=False)
    yield "own_callbacks"
    sys.modules.pop("own_callbacks", None)


def test_a_run_is_followed_live(small_bert: Path, reviews: Path, tmp_path: Path, own_module: str) -> None:
    output, seen = tmp_path / "out", Follows(tmp_path / "out" / "tensorboard")
    config = CONFIG | {"report_to": ["tensorboard"], "callbacks": [f"{own_module}:Counts"], "trust_code": True}
    DistillationPipeline(small_bert, reviews, config, output).run(callbacks=[seen])
    assert seen.files_while_training >= 1
    assert seen.runs[0].startswith("out: teacher, 20")
    assert len(set(seen.runs)) == len(seen.runs) >= 3
    phases = {folder.name for folder in (output / "tensorboard").iterdir()}
    assert {name.partition("-")[0] for name in phases} >= {"teacher", "baseline"}
    assert len(phases) >= 3
    for name in phases:
        events = EventAccumulator(str(output / "tensorboard" / name))
        events.Reload()
        scalars = events.Tags()["scalars"]
        assert any(scalar.startswith("train/loss") for scalar in scalars)
        assert any(scalar.startswith("eval/") for scalar in scalars)
    assert any("loss/kl" in entry for entry in seen.logs)
    assert sys.modules[own_module].Counts.steps > 3
    before = sys.modules[own_module].Counts.steps
    quiet = {key: value for key, value in config.items() if key not in ("report_to", "callbacks")}
    DistillationPipeline(small_bert, reviews, quiet, output).run(overwrite=True)  # who follows decides no result
    assert sys.modules[own_module].Counts.steps == before


def test_mlflow_has_a_run_for_each_phase(
    small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    DistillationPipeline(small_bert, reviews, CONFIG | {"report_to": ["mlflow"]}, tmp_path / "out").run(False)
    client = mlflow.MlflowClient()
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.run_name.partition(",")[0] for run in runs} == {"out: teacher", "out: baseline: labels", "out: prediction"}
    assert all({"loss", "eval_loss", "eval_accuracy"} <= set(run.data.metrics) for run in runs)
    assert any("loss_kl" in run.data.metrics for run in runs)  # a folder of files cannot hold loss and loss/kl
    assert not [record for record in caplog.records if record.name.startswith("mlflow") and record.levelname == "ERROR"]


def test_wandb_has_a_run_for_each_phase(small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    DistillationPipeline(small_bert, reviews, CONFIG | {"report_to": ["wandb"]}, tmp_path / "out").run(False)
    assert wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 3
    with wandb.init(project="own", dir=tmp_path / "own") as run:
        DistillationPipeline(small_bert, reviews, CONFIG | {"report_to": ["wandb"]}, tmp_path / "again").run(False)
        assert wandb.run is run  # which the user began, and ends


def test_trackio_has_a_run_for_each_phase(
    small_bert: Path, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    DistillationPipeline(small_bert, reviews, CONFIG | {"report_to": ["trackio"]}, tmp_path / "out").run(False)
    names = {run.name.partition(",")[0] for run in trackio.Api().runs("huggingface")}
    assert names == {"out: teacher", "out: baseline: labels", "out: prediction"}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"callbacks": ["own_callbacks:Counts"]}, "trust_code: true"),
        ({"callbacks": ["Counts"]}, r"package\.module:Class"),
        ({"callbacks": ["own_callbacks:nothing"], "trust_code": True}, "gave NoneType"),
        ({"callbacks": ["own_callbacks:NeedsMore"], "trust_code": True}, "needs no arguments"),
        ({"callbacks": ["own_callbacks:Cuonts"], "trust_code": True}, "Counts"),
    ],
)
def test_callbacks_that_cannot_be_made_are_refused(own_module: str, setting: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        check_recipe(make_recipe(GIVEN | setting))


def test_trackers_are_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="wandb"):
        make_recipe(GIVEN | {"report_to": ["wandbd"]})
    monkeypatch.setattr(reporting, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install mlflow"):
        check_recipe(make_recipe(GIVEN | {"report_to": ["mlflow"]}))


@pytest.mark.parametrize("name", reporting.TRACKERS)
def test_every_tracker_has_a_callback_of_transformers(name: str) -> None:
    from potstill.ground.tables import at

    assert issubclass(at(reporting.TRACKERS[name].callback), TrainerCallback)
