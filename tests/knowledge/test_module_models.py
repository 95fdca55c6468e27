"""Networks of the user's own: found, trusted, looked at, saved, loaded, trained and tapped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, TrainingArguments

from knowledge.user_nets import Small, with_processor
from potstill import DistillationTrainer
from potstill.errors import ModelError, NeedsError, RecipeError
from potstill.knowledge.live import LiveTeacher
from potstill.models import factory
from potstill.models.frozen import fingerprint_of
from potstill.models.module import register, wrap
from potstill.models.taps import TapReader, Taps, available
from potstill.planning.check import check_modules
from potstill.recipe import make_recipe

NETS = "knowledge.user_nets"


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_trusted", {})


def rows(count: int = 12) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 3, 16, 16, generator=generator)
    return [{"pixel_values": pixels[i], "labels": i % 2, "row_id": i} for i in range(count)]


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([torch.as_tensor(row[key]) for row in batch]) for key in batch[0]}


def test_stages_are_the_last_modules_of_each_grid() -> None:
    network, processor = with_processor()
    model = wrap(network, "nets:build", processor).eval()
    assert (list(model.config.stages), list(model.config.hidden_sizes), list(model.config.strides)) == (
        ["fine", "coarse"],
        [12, 24],
        [1, 2],
    )
    pixels = torch.randn(2, 3, 16, 16)
    logits, values = Taps(model, ["hidden:1", "hidden:-1", "head.in"]).run({"pixel_values": pixels})
    torch.testing.assert_close(logits, network(pixels)["logits"])
    torch.testing.assert_close(values["hidden:1"], network.fine(pixels))
    torch.testing.assert_close(values["head.in"], values["hidden:-1"].mean((2, 3)))


def test_a_saved_network_loads_only_where_its_code_is_trusted(tmp_path: Path) -> None:
    register()
    name = f"{NETS}:with_processor"
    model = wrap(*with_processor()[:1], name, with_processor()[1]).eval()
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    with pytest.raises(ModelError, match=rf"made by {NETS}:with_processor, and that code is not trusted.*trust_remote_code=True"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    factory.trust(name)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits)
    assert fingerprint_of(loaded) == fingerprint_of(model)


def test_a_changed_configuration_runs_nothing(tmp_path: Path) -> None:
    register()
    network, processor = with_processor()
    wrap(network, f"{NETS}:with_processor", processor).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"factory": "os:getcwd"}))
    factory.trust(f"{NETS}:with_processor")
    with pytest.raises(ModelError, match="made by os:getcwd, and that code is not trusted"):
        AutoModelForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "no_such_room.nets:build",
            r"cannot be imported \(No module named 'no_such_room'\).*run the command from the folder",
        ),
        (f"{NETS}:biuld", rf"{NETS} has no function 'biuld'.*broken, build"),
        (f"{NETS}:CONSTANT", "has no function 'CONSTANT'"),
        (f"{NETS}:broken", r"failed: RuntimeError: no weights here.*call it yourself"),
        (f"{NETS}:number", r"gave int. Accepted: a torch.nn.Module, or a pair"),
    ],
)
def test_bad_factories_are_told_in_three_beats(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trusted_and_made(name)


def trusted_and_made(name: str) -> Any:
    factory.trust(name)
    return factory.make(name)


def test_networks_that_do_not_fit_the_images_or_classes() -> None:
    network, processor = with_processor()
    with pytest.raises(ModelError, match=r"gives 2 logits and the data has 3 classes.*num_labels"):
        wrap(network, "nets:build", processor, label_names=("a", "b", "c"))
    with pytest.raises(ModelError, match=r"does not run on images \[3, 16, 16\].*teacher.processor"):
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), "nets:square", processor)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"student": {"architecture": "cnn"}}, r"is code, which runs when it is imported.*set teacher.trust_remote_code: true"),
        ({"teacher": {"trust_remote_code": True}}, r"cannot cut a student out of.*student.architecture: cnn"),
        (
            {"teacher": {"trust_remote_code": True}, "student": {"model": f"{NETS}:build"}},
            "set student.trust_remote_code: true",
        ),
    ],
)
def test_recipes_with_code_are_checked_before_anything_is_read(config: dict[str, Any], message: str) -> None:
    teacher = {"model": f"{NETS}:with_processor", **config.get("teacher", {})}
    recipe = make_recipe({**config, "teacher": teacher, "data": {"source": "nowhere"}}, {})
    with pytest.raises(RecipeError, match=message):
        check_modules(recipe)


def test_plain_modules_teach_and_learn_in_the_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student, teacher = Small(4), Small(8)
    student.tap_stages = teacher.tap_stages = ("fine", "coarse")  # type: ignore[assignment]
    before = student.head.weight.detach().clone()
    trainer = DistillationTrainer(
        student,
        TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=6, report_to=[], save_strategy="no", use_cpu=True
        ),
        teacher=teacher,
        losses=["kl", {"name": "at", "layers": [[1, 1], [2, 2]]}, {"name": "rkd_distance"}],
        train_dataset=rows(),
        data_collator=collate,
    )
    trainer.train()
    assert not torch.equal(before, student.head.weight)
    assert available(student)[-4:] == ["hidden:1", "hidden:2", "mean:1", "mean:2"]


def test_a_live_teacher_of_any_answer_and_input_name() -> None:
    teacher = Small()
    signal = LiveTeacher(teacher, TapReader(), dtype="float32").signal(collate(rows(3)), ("logits", "module:fine"))
    assert signal.logits.shape == (3, 2)
    assert signal.taps["module:fine"].shape == (3, 6, 16, 16)


def test_a_stage_that_does_not_exist_is_named() -> None:
    network = Small()
    network.tap_stages = ("fyne",)  # type: ignore[assignment]
    with pytest.raises(NeedsError, match=r"tap_stages of Small names 'fyne'.*did you mean 'fine'"):
        Taps(network, ["hidden:1"])
