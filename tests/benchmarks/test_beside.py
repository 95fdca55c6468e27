"""Students that train beside each other take the steps that they would take alone, and those of the trainer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from beside import Learner, Settings, answer, measure, train_epoch
from cifar_device import DeviceRows
from cifar_nets import PAIRS, StagedNet, resnet
from cifar_rows import Views
from method_cells import METHODS, stages_of
from potstill import DistillationTrainer
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader

PAIR = PAIRS["vgg13-vgg8"]
BATCH, EPOCHS, SEED, COUNT, SIDE = 16, 2, 3, 48, 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of images that `decode_once` could have written."""
    chance = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("images") / "train.npz"
    pixels = chance.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(file, pixels=pixels, labels=chance.integers(0, 10, COUNT))
    return file


def rows_of(images: Path) -> DeviceRows:
    return DeviceRows(images, torch.device("cpu"), seed=SEED)


def net(seed: int, *, depth: int = 8, widths: tuple[int, ...] = (8, 16, 32)) -> StagedNet:
    torch.manual_seed(seed)
    return resnet(depth, widths, 10).to(memory_format=torch.channels_last)


def teacher() -> LiveTeacher:
    return LiveTeacher(net(1, depth=14, widths=(16, 16, 40)), TapReader(), dtype="float32")


def learner(method: str, source: LiveTeacher, rows: DeviceRows, *, is_half: bool = False) -> Learner:
    student = net(SEED)
    stages = stages_of(method, PAIR, student, source.model, EPOCHS, batch=BATCH)
    return Learner(method, student, stages, source, rows, Settings(BATCH, EPOCHS, SEED, is_half=is_half))


def trained(methods: tuple[str, ...], images: Path) -> dict[str, dict[str, torch.Tensor]]:
    rows, source = rows_of(images), teacher()
    learners = [learner(method, source, rows) for method in methods]
    for epoch in range(EPOCHS):
        train_epoch(source, learners, rows, epoch)
        assert len(measure(learners, rows)) == len(methods)
    assert all(each.fault is None for each in learners)
    return {each.name: each.net.state_dict() for each in learners}


def test_alone_and_beside_others_a_student_becomes_the_same(images: Path) -> None:
    together = trained(METHODS, images)
    for method in METHODS:
        (alone,) = trained((method,), images).values()
        assert all(torch.equal(value, alone[name]) for name, value in together[method].items()), method


@pytest.mark.parametrize("method", METHODS)
def test_one_step_has_the_gradient_of_the_trainer(method: str, images: Path, tmp_path: Path) -> None:
    rows, source = rows_of(images), teacher()
    own = learner(method, source, rows)
    batch = next(rows.epoch(0, BATCH))
    own.begin()
    torch.manual_seed(7)
    loss = own.loss(batch, answer(source, [own], batch))
    loss.backward()

    trainer, student = prepared_trainer(method, source, images, tmp_path)
    torch.manual_seed(7)
    expected = trainer.compute_loss(student, dict(batch))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    both = zip(gradients(own.net, own.part.objective.modules), gradients(student, trainer.objective.modules), strict=True)
    for (name, found), (other, wanted) in both:
        assert name == other
        torch.testing.assert_close(found, wanted, msg=f"{method} {name}")


def prepared_trainer(method: str, source: LiveTeacher, images: Path, folder: Path) -> tuple[DistillationTrainer, StagedNet]:
    student = net(SEED)
    stage = stages_of(method, PAIR, student, source.model, EPOCHS, batch=BATCH)[0]
    with np.load(images) as held:
        views = Views(held["pixels"], held["labels"], is_augmented=False)
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, seed=SEED, report_to=[])
    trainer = DistillationTrainer(
        student, arguments, teacher=source, losses=stage.losses(), train_dataset=views, data_collator=views.collate
    )
    trainer.prepare()
    student.train()
    return trainer, student


def gradients(*modules: torch.nn.Module) -> list[tuple[str, Any]]:
    named = [pair for module in modules for pair in module.named_parameters() if pair[1].grad is not None]
    assert named
    return [(name, parameter.grad) for name, parameter in named]


def test_views_are_the_images_shifted_and_flipped(images: Path) -> None:
    rows = rows_of(images)
    with np.load(images) as held:
        whole = Views(held["pixels"], held["labels"], is_augmented=False)
    plain, num_new = next(rows.plain(COUNT))
    expected = whole.collate([{"index": index, "view": 0} for index in range(COUNT)])
    assert num_new == COUNT
    torch.testing.assert_close(plain["pixel_values"], expected["pixel_values"], rtol=1e-4, atol=1e-5)

    seen = []
    for batch in rows.epoch(1, BATCH):
        for row, view in zip(batch["row_id"].tolist(), batch["pixel_values"]):
            assert is_view(view, expected["pixel_values"][row]), row
        seen += batch["row_id"].tolist()
    assert sorted(seen) == list(range(COUNT))


def is_view(view: torch.Tensor, image: torch.Tensor) -> bool:
    """Whether the inner pixels are those of the image, shifted by at most one and perhaps flipped."""
    inner = view[:, 1:-1, 1:-1]
    flipped = image.flip(-1)
    windows = (
        whole[:, down : down + SIDE - 2, right : right + SIDE - 2]
        for whole in (image, flipped)
        for down in range(3)
        for right in range(3)
    )
    return any(torch.allclose(inner, window, rtol=1e-4, atol=1e-4) for window in windows)


def test_every_test_image_counts_once(images: Path) -> None:
    assert sum(num_new for _, num_new in rows_of(images).plain(20)) == COUNT


def test_in_bfloat16_every_loss_stays_finite(images: Path) -> None:
    rows, source = rows_of(images), teacher()
    source.dtype = "bfloat16"
    learners = [learner(method, source, rows, is_half=True) for method in METHODS]
    for epoch in range(EPOCHS):
        train_epoch(source, learners, rows, epoch)
        measure(learners, rows)
    assert [each.fault for each in learners] == [None] * len(METHODS)
    assert all(torch.isfinite(value).all() for each in learners for value in each.net.state_dict().values())


def test_a_student_whose_loss_is_not_finite_stops_alone(images: Path) -> None:
    rows, source = rows_of(images), teacher()
    lost, fine = learner("kd", source, rows), learner("baseline", source, rows)
    with torch.no_grad():
        lost.net.classifier.weight.fill_(float("nan"))
    train_epoch(source, [lost, fine], rows, 0)
    measure([lost, fine], rows)
    train_epoch(source, [lost, fine], rows, 1)
    assert lost.fault == "kl and ce not finite near step 3"
    assert fine.fault is None
    assert fine.part.done == 2 * (COUNT // BATCH)
