"""DistillationTrainer on a GPU: the losses of the CPU, knowledge live and cached, taps, bridges, 16 bits, resume."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_teacher
import torch
from small_models import Explodes, HiddenBridge, Remembered, Rows, arguments, collate, encoder, opinionated
from transformers import TrainerCallback

from potstill.errors import TrainingError
from potstill.knowledge.cache import CachedTeacher, write_cache
from potstill.knowledge.ensemble import EnsembleTeacher
from potstill.knowledge.live import LiveTeacher
from potstill.models.taps import TapReader
from potstill.training.companions.average import SelfAverage
from potstill.training.companions.peers import Peers
from potstill.training.terms import Term
from potstill.training.trainer import DistillationTrainer

pytestmark = pytest.mark.gpu

KL_CE: list[Any] = [{"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3}]
INSIDE: list[Any] = [*KL_CE, {"name": "hidden_mse", "layers": [[1, 1], [2, 2]]}, {"name": "minilm_v2"}, {"name": "embedding_mse"}]
OWN = ("average_decay", "rows", "balance", "peers")


def trainer(
    folder: Path,
    *,
    gpu: bool,
    losses: Any = KL_CE,
    teacher: Any = "live",
    student: Any = None,
    data: Any = None,
    collator: Any = collate,
    **options: Any,
) -> Any:
    """A trainer on the GPU or the CPU, everything else alike."""
    own = {name: options.pop(name) for name in OWN if name in options}
    if teacher == "live":
        teacher = LiveTeacher(opinionated(), TapReader(), dtype="float32")
    data = data or Rows()
    return DistillationTrainer(
        student or encoder(seed=1),
        arguments(folder, use_cpu=not gpu, logging_steps=1, **options),
        teacher=teacher,
        losses=losses,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        **own,
    )


def history(run: Any, **options: Any) -> list[dict[str, float]]:
    """What each step logged: losses alone."""
    run.train(**options)
    return [
        {name: value for name, value in entry.items() if name.startswith("loss") or name == "step"}
        for entry in run.state.log_history
        if "loss" in entry
    ]


def assert_alike(ours: list[dict[str, float]], theirs: list[dict[str, float]], *, rel: float = 5e-3) -> None:
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.keys() == other.keys()
        for name, value in own.items():
            assert other[name] == pytest.approx(value, rel=rel, abs=2e-3), (name, own["step"])


CASES: dict[str, dict[str, Any]] = {
    "answers": {},
    "inside": {"losses": INSIDE},
    "accumulated": {"losses": INSIDE, "gradient_accumulation_steps": 2},
    "contrast": {"losses": [*KL_CE, {"name": "rkd_distance"}, {"name": "info_nce"}, {"name": "ft"}]},
    "gradient norm": {"losses": INSIDE, "balance": "gradient_norm"},
    "uncertainty": {"balance": "uncertainty"},
    "rows that the student misses": {"rows": {"focus": "student_loss"}},
    "rows that the teacher is unsure of": {"rows": {"focus": "teacher_uncertainty", "order": "curriculum"}},
    "average": {"average_decay": 0.9, "eval_strategy": "epoch"},
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    cpu = history(trainer(tmp_path / "cpu", gpu=False, **copy.deepcopy(CASES[name])))
    run = trainer(tmp_path / "gpu", gpu=True, **copy.deepcopy(CASES[name]))
    gpu = history(run)
    assert_alike(cpu, gpu)
    assert {parameter.device.type for parameter in run.model.parameters()} == {"cuda"}
    assert all(value.is_cuda for value in (*run.objective.modules.parameters(), *run.objective.modules.buffers()))
    assert run.source.device.type == "cuda"  # it followed the student


def test_the_figures_of_an_evaluation_are_those_of_the_cpu(tmp_path: Path) -> None:
    cpu, gpu = (trainer(tmp_path, gpu=gpu, losses=INSIDE).evaluate() for gpu in (False, True))
    for name in ("eval_loss", "eval_loss_kl", "eval_loss_hidden_mse", "eval_agreement", "eval_teacher_kl"):
        assert gpu[name] == pytest.approx(cpu[name], rel=1e-3, abs=1e-4), name


def test_what_is_looked_up_stays_on_the_cpu(tmp_path: Path) -> None:
    rows = Rows()
    placed = trainer(tmp_path, gpu=True)._prepare_inputs(collate(rows.rows[:4]))
    assert {name: value.device.type for name, value in placed.items()} == {
        "input_ids": "cuda",
        "attention_mask": "cuda",
        "labels": "cuda",
        "row_id": "cpu",
    }


def test_a_teacher_as_a_module_computes_in_what_a_measurement_favours(tmp_path: Path) -> None:
    cpu = history(trainer(tmp_path / "cpu", gpu=False))
    gpu = history(trainer(tmp_path / "gpu", gpu=True, teacher=opinionated()))
    assert_alike(cpu, gpu, rel=0.1)


def test_cached_knowledge_is_that_of_the_live_teacher(tmp_path: Path) -> None:
    rows, teacher = tiny_teacher.Rows(), tiny_teacher.make_bert()
    for name, device in (("cpu", "cpu"), ("gpu", "cuda")):
        source = LiveTeacher(copy.deepcopy(teacher), dtype="float32", device=device)
        write_cache(source, rows, tiny_teacher.collate, tmp_path / name, needs=("logits", "hidden:1"))
    batch = tiny_teacher.collate([rows[index] for index in range(8)])
    stored = [CachedTeacher.open(tmp_path / name).signal(batch, ("logits", "hidden:1")) for name in ("cpu", "gpu")]
    torch.testing.assert_close(stored[0].logits, stored[1].logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stored[0].taps["hidden:1"], stored[1].taps["hidden:1"], atol=1e-4, rtol=1e-4)
    placed = {name: value if name == "row_id" else value.cuda() for name, value in batch.items()}
    assert CachedTeacher.open(tmp_path / "gpu").signal(placed, ("logits",)).logits.is_cuda

    def run(folder: str, knowledge: Any, *, gpu: bool) -> list[dict[str, float]]:
        student = tiny_teacher.make_bert(seed=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        options: dict[str, Any] = {"teacher": knowledge, "student": student, "data": rows, "collator": tiny_teacher.collate}
        return history(trainer(tmp_path / folder, gpu=gpu, **options))

    live = run("live", LiveTeacher(teacher, TapReader(), dtype="float32"), gpu=True)
    cached = run("cached", CachedTeacher.open(tmp_path / "gpu"), gpu=True)
    assert_alike(live, cached)
    assert_alike(run("cpu-cached", CachedTeacher.open(tmp_path / "cpu"), gpu=False), cached)


def test_teachers_on_both_devices_are_heard_together(tmp_path: Path) -> None:
    rows = Rows()
    sources = [Remembered(opinionated(), rows), LiveTeacher(opinionated(seed=4), dtype="float32")]
    sources[0].can_provide = lambda need: need == "logits"  # type: ignore[attr-defined]
    cpu, gpu = (history(trainer(tmp_path / str(on), gpu=on, teacher=EnsembleTeacher(sources), data=rows)) for on in (False, True))
    assert_alike(cpu, gpu)


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_16_bits_train_near_to_32(half: str, tmp_path: Path) -> None:
    whole = history(trainer(tmp_path / "whole", gpu=True, losses=INSIDE))
    run = trainer(tmp_path / half, gpu=True, losses=INSIDE, **{half: True})
    assert_alike(whole, history(run), rel=0.1 if half == "bf16" else 0.3)  # fp16 leaves out steps until its scale fits
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_a_resumed_run_goes_on_as_it_would_have(average_decay: float | None, tmp_path: Path) -> None:
    def run(folder: str) -> Any:
        losses = [*KL_CE, Term("hint", HiddenBridge())]
        options: dict[str, Any] = {
            "num_train_epochs": 2,
            "save_strategy": "steps",
            "save_steps": 5,
            "average_decay": average_decay,
        }
        return trainer(tmp_path / folder, gpu=True, losses=losses, student=encoder(seed=1, dropout=0.1), **options)

    whole = history(run("whole"))
    again = history(run("again"), resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert_alike(whole, again, rel=1e-2)


@pytest.mark.parametrize("kind", ["peers", "average"])
def test_students_teach_each_other_and_themselves(kind: str, tmp_path: Path) -> None:
    def options() -> dict[str, Any]:
        if kind == "peers":
            return {"teacher": None, "peers": Peers(2), "losses": ["kl", "ce"]}
        return {"teacher": SelfAverage(noise=False), "average_decay": 0.9, "losses": ["probability_mse", "ce"]}

    cpu, gpu = (history(trainer(tmp_path / str(on), gpu=on, **options())) for on in (False, True))
    assert_alike(cpu, gpu)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(tmp_path: Path) -> None:
    run = trainer(tmp_path, gpu=True, losses=["kl", Term("boom", Explodes(calls=2))])
    with pytest.raises(TrainingError, match="'boom' is not finite on the batch with the row ids"):
        run.train()
    stopped = json.loads((tmp_path / "stopped-at-step-2" / "stopped.json").read_text())
    assert stopped["terms"] == ["boom"]
    assert len(stopped["row_ids"]) == 4
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


class Watcher(TrainerCallback):
    """Notes from the third step on where PyTorch is made to wait for the device."""

    def __init__(self) -> None:
        self.waits: list[str] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= 2:
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("knowledge", ["live", "cached", "rows"])
def test_steps_do_not_wait_for_the_device(knowledge: str, tmp_path: Path) -> None:
    rows, teacher = tiny_teacher.Rows(), tiny_teacher.make_bert()
    write_cache(LiveTeacher(teacher, dtype="float32"), rows, tiny_teacher.collate, tmp_path / "cache")
    source = (
        CachedTeacher.open(tmp_path / "cache") if knowledge == "cached" else LiveTeacher(teacher, TapReader(), dtype="float32")
    )
    options: dict[str, Any] = {"rows": {"focus": "student_loss"}} if knowledge == "rows" else {}
    run = DistillationTrainer(
        tiny_teacher.make_bert(seed=1),
        arguments(tmp_path / "run", use_cpu=False, logging_steps=1000, num_train_epochs=1, max_steps=8),
        teacher=source,
        losses=KL_CE if knowledge == "cached" else [*KL_CE, {"name": "hidden_mse"}],
        train_dataset=rows,
        data_collator=tiny_teacher.collate,
        callbacks=[Watcher()],
        **options,
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run.train()
    torch.cuda.set_sync_debug_mode("default")
    waits = {f"{warning.filename}:{warning.lineno}" for warning in told if "synchroniz" in str(warning.message)}
    assert not [place for place in waits if "/potstill/" in place], waits
