"""Potstill against TextBrewer and torchdistill on the same work: whole processes, from files to a trained and tested student.

    python -m venv /tmp/textbrewer   && /tmp/textbrewer/bin/pip install torch transformers numpy tqdm tensorboard textbrewer
    python -m venv /tmp/torchdistill && /tmp/torchdistill/bin/pip install torch torchvision transformers torchdistill
    python benchmarks/cut_run.py --teacher TEACHER_OR_ENCODER --data FOLDER --output out/cut
    python benchmarks/peers.py --run out/cut --data FOLDER \\
        --peer textbrewer=/tmp/textbrewer/bin/python --peer torchdistill=/tmp/torchdistill/bin/python

Every side is a process of its own in its own interpreter, started in turns, on the same number of threads, in fp32. It gets the
folders of the trained teacher and of the untrained student, and JSON Lines; it reads, tokenises (the student has a vocabulary of
its own), trains with 0.7 · τ² · KL + 0.3 · CE at τ = 2, AdamW, clipping and a rate that falls linearly, and tells the accuracy on
test. All of that is counted, starting the interpreter included. A peer is used through its public interface, as its own examples
do: the teacher live in every step; TextBrewer pads to 128 tokens (examples/notebook_examples/sst2.ipynb), torchdistill to the
longest row of the batch (examples/hf_transformers/text_classification.py). `--pad` has both pad otherwise: `longest`, or so many
tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

TEMPERATURE, ALPHA, MAX_NORM, WARMUP = 2.0, 0.7, 1.0, 0.06
PADS = {"textbrewer": "128", "torchdistill": "longest"}


def main() -> None:
    """Run every side in turns and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data", type=Path, help="folder with train, validation and test .jsonl: text, label")
    parser.add_argument("--peer", action="append", default=[], help="textbrewer=PYTHON or torchdistill=PYTHON")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--pad", help="how both peers pad: longest, or so many tokens; by default each as in its examples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="each with a seed of its own")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--inside", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(SIDES[arguments.inside[0]](Path(arguments.inside[1]))))
        return
    if arguments.run is None or arguments.data is None:
        parser.error("--run and --data are needed")
    pythons = {"potstill": sys.executable, **dict(peer.split("=", 1) for peer in arguments.peer)}
    unknown = sorted(set(pythons) - set(SIDES))
    if unknown:
        parser.error(f"--peer {unknown[0]}: only textbrewer and torchdistill are known")
    with tempfile.TemporaryDirectory() as place:
        write_work(arguments, Path(place))
        found: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.rounds):
            for side, python in pythons.items():
                found[side].append(one_side(side, python, Path(place), seed))
                print(side, json.dumps(found[side][-1]), file=sys.stderr, flush=True)
    print_table(found, arguments)


def one_side(side: str, python: str, place: Path, seed: int) -> dict[str, Any]:
    """Figures of one process, with its seconds from start to end; a side that fails tells its last lines."""
    work = json.loads((place / "work.json").read_text()) | {"seed": seed}
    (place / "work.json").write_text(json.dumps(work))
    threads = str(work["threads"])
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)  # a peer sees its own environment alone
    with open(place / "told", "w+") as told, open(place / "errors", "w+") as errors:
        wall = time.perf_counter()
        child = subprocess.Popen([python, __file__, "--inside", side, str(place)], stdout=told, stderr=errors, env=environment)
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - wall
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (told, errors):
            file.seek(0)
        lines, complaints = told.read().splitlines(), errors.read().splitlines()
    if child.returncode:
        sys.exit(f"{side} failed:\n" + "\n".join((complaints or lines)[-12:]))
    return {**json.loads(lines[-1]), "seconds": wall, "cpu_seconds": used.ru_utime + used.ru_stime}


def write_work(arguments: argparse.Namespace, place: Path) -> None:
    """What every side is given: teacher, student, files, and what to do."""
    from cut_run import open_cut

    flow = open_cut(arguments.run)
    teacher = flow.open(flow.teacher)
    teacher.model.save_pretrained(place / "teacher")
    teacher.processor.save_pretrained(place / "teacher")
    shutil.copytree(arguments.run / "work/student/model", place / "student")
    (place / "data").mkdir()
    for name in ("train", "validation", "test"):
        lines = (arguments.data / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)
        kept = lines[: arguments.rows] if name == "train" else lines
        (place / "data" / f"{name}.jsonl").write_text("".join(kept), "utf-8")
    names = ("epochs", "batch_size", "learning_rate", "pad", "threads")
    (place / "work.json").write_text(json.dumps({name: getattr(arguments, name) for name in names}))


# -- what the peers share: models, rows and the test; no line of Potstill


class Work:
    """Teacher, student and tokenised rows of one side.

    Args:
        place: Where the work lies.
        side: Whose way of padding is taken.
    """

    def __init__(self, place: Path, side: str) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.facts = json.loads((place / "work.json").read_text())
        self.place, self.pad = place, self.facts["pad"] or PADS[side]
        torch.set_num_threads(self.facts["threads"])
        torch.manual_seed(self.facts["seed"])
        self.teacher = AutoModelForSequenceClassification.from_pretrained(place / "teacher").eval()
        self.student = AutoModelForSequenceClassification.from_pretrained(place / "student").train()
        self.tokenizers = {who: AutoTokenizer.from_pretrained(place / who) for who in ("teacher", "student")}
        self.rows = self.read("train", ("teacher", "student"))
        self.steps = -(-len(self.rows) // self.facts["batch_size"]) * self.facts["epochs"]

    def read(self, split: str, who: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a file with their label and the tokens of each model."""
        lines = (self.place / "data" / f"{split}.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts, numbers = [row["text"] for row in rows], self.student.config.label2id
        limit = {"truncation": True, "max_length": 128}
        tokens = {name: self.tokenizers[name](texts, **limit)["input_ids"] for name in who}
        return [{"label": numbers[row["label"]], **{name: tokens[name][i] for name in who}} for i, row in enumerate(rows)]

    def batch(self, rows: Sequence[dict[str, Any]], who: str) -> dict[str, Any]:
        """Inputs of a model [B, T], padded."""
        how = {"padding": True} if self.pad == "longest" else {"padding": "max_length", "max_length": int(self.pad)}
        tokens = [{"input_ids": row[who]} for row in rows]
        return dict(self.tokenizers[who].pad(tokens, return_tensors="pt", return_attention_mask=True, **how))

    def accuracy(self) -> float:
        """Of the student on the test split."""
        import torch

        rows, right = self.read("test", ("student",)), 0
        self.student.eval()
        with torch.inference_mode():
            for start in range(0, len(rows), 32):
                part = rows[start : start + 32]
                answers = self.student(**self.batch(part, "student")).logits.argmax(-1).tolist()
                right += sum(answer == row["label"] for answer, row in zip(answers, part))
        return right / len(rows)

    def done(self, train: Callable[[], None], package: str) -> dict[str, Any]:
        """Train, then test."""
        from importlib.metadata import version

        before = time.process_time()
        train()
        after = time.process_time()
        figures = {"accuracy": self.accuracy(), "steps": self.steps, "version": version(package), "pad": self.pad}
        parts = {"start, models, rows": before, "training": after - before, "test": time.process_time() - after}
        return {**figures, "parts": parts}


def with_textbrewer(place: Path) -> dict[str, Any]:
    """GeneralDistiller with the logits of a live teacher."""
    import logging

    import torch
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
    from transformers import get_linear_schedule_with_warmup

    logging.disable(logging.INFO)
    work = Work(place, "textbrewer")

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        labels = torch.tensor([row["label"] for row in rows])
        return {"teacher": work.batch(rows, "teacher"), "student": {**work.batch(rows, "student"), "labels": labels}}

    loader = torch.utils.data.DataLoader(work.rows, work.facts["batch_size"], shuffle=True, collate_fn=collate)
    distiller = GeneralDistiller(
        TrainingConfig(
            device="cpu", output_dir=str(place / "textbrewer"), log_dir=str(place / "textbrewer-log"), ckpt_frequency=1
        ),
        DistillationConfig(
            temperature=TEMPERATURE, hard_label_weight=1 - ALPHA, kd_loss_type="ce", kd_loss_weight=ALPHA * TEMPERATURE**2
        ),
        work.teacher,
        work.student,
        lambda batch, outputs: {"logits": outputs.logits},
        lambda batch, outputs: {"logits": outputs.logits, "losses": outputs.loss, "labels": batch["labels"]},
    )
    optimizer = torch.optim.AdamW(work.student.parameters(), lr=work.facts["learning_rate"])

    def train() -> None:
        distiller.train(
            optimizer,
            loader,
            num_epochs=work.facts["epochs"],
            scheduler_class=get_linear_schedule_with_warmup,
            scheduler_args={"num_warmup_steps": round(WARMUP * work.steps), "num_training_steps": work.steps},
            max_grad_norm=MAX_NORM,
        )

    return work.done(train, "textbrewer")


def with_torchdistill(place: Path) -> dict[str, Any]:
    """DistillationBox with KDLoss on the logits of a live teacher."""
    import logging

    import torch

    declare_detection_operators()
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.core.interfaces.registry import register_forward_proc_func
    from torchdistill.datasets.registry import register_collate_func

    logging.disable(logging.INFO)
    work = Work(place, "torchdistill")
    for parameter in work.teacher.parameters():
        parameter.requires_grad_(False)

    @register_collate_func
    def collate_pairs(items: list[Any]) -> Any:
        rows = [work.rows[index] for index, _, _ in items]
        labels = torch.tensor([row["label"] for row in rows])
        return {who: work.batch(rows, who) for who in ("teacher", "student")}, labels, {}

    @register_forward_proc_func
    def teacher_logits(model: Any, batch: Any, *_: Any, **__: Any) -> Any:
        return model(**batch["teacher"]).logits

    @register_forward_proc_func
    def student_logits(model: Any, batch: Any, *_: Any, **__: Any) -> Any:
        return model(**batch["student"]).logits

    rows = [(index, 0) for index in range(len(work.rows))]
    loader = {
        "dataset_id": "train",
        "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
        "collate_fn": "collate_pairs",
        "kwargs": {"batch_size": work.facts["batch_size"]},
    }
    paths = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}
    knowledge = {"temperature": TEMPERATURE, "alpha": 1 - ALPHA, "beta": ALPHA, "reduction": "batchmean"}
    settings = {
        "num_epochs": work.facts["epochs"],
        "train_data_loader": loader,
        "teacher": {"forward_proc": "teacher_logits", "requires_grad": False},
        "student": {"forward_proc": "student_logits", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": work.facts["learning_rate"]}, "max_grad_norm": MAX_NORM},
        "scheduler": {
            "key": "LinearLR",
            "kwargs": {"start_factor": 1.0, "end_factor": 0.01, "total_iters": work.steps},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": {**paths, **knowledge}}, "weight": 1.0}}},
        },
    }
    box = DistillationBox(work.teacher, work.student, {"train": rows}, settings, torch.device("cpu"), None, False, 1)

    def train() -> None:
        for epoch in range(work.facts["epochs"]):
            box.pre_epoch_process(epoch=epoch)
            for batch, targets, extra in box.train_data_loader:
                box.pre_forward_process()
                loss = box.forward_process(batch, targets, extra)
                box.post_forward_process(loss=loss)
            box.post_epoch_process()

    return work.done(train, "torchdistill")


def declare_detection_operators() -> None:
    """Let torchvision be imported beside a torch that its compiled part does not fit; none of these operators is used.

    The wheel of torchvision on PyPI is built for CUDA; beside a torch for the CPU alone its import fails for want of operators.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in list(sys.modules):
            if name.split(".")[0] == "torchvision":
                del sys.modules[name]
        operators = torch.library.Library("torchvision", "DEF")
        for name in _operator_names():
            operators.define(f"{name}(Tensor x) -> Tensor")
        KEPT.append(operators)


def _operator_names() -> Iterator[str]:
    for name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
        yield from (name, f"_{name}_backward")
    yield from ("nms", "qnms", "qroi_align")


KEPT: list[Any] = []


def with_potstill(place: Path) -> dict[str, Any]:
    """The teacher asked once, its answers kept, and a stage of training in buckets of like length."""
    import torch

    from potstill.cli.printing import quiet_libraries
    from potstill.data.splits import load
    from potstill.evaluate.quality import predict
    from potstill.exports.runtimes import TorchRunner
    from potstill.knowledge.cache import CachedTeacher, write_cache
    from potstill.knowledge.live import LiveTeacher
    from potstill.models.load import load_teacher
    from potstill.tasks import build
    from potstill.tasks.loading import load as load_student
    from potstill.training.phase_settings import PhaseSettings, total_steps
    from potstill.training.phases import train_phase

    quiet_libraries()
    work, marks = json.loads((place / "work.json").read_text()), [time.process_time()]
    torch.set_num_threads(work["threads"])
    task, folder = build("text-classification"), Path(tempfile.mkdtemp(dir=place))
    splits = load(place / "data", task=task)
    teacher = load_teacher(place / "teacher", task, label_names=splits.label_names)
    student, tokenizer = load_student(place / "student")
    marks.append(time.process_time())
    collator, rows = task.collator(tokenizer), task.encode(splits.train, tokenizer, folder / "student")
    theirs = task.encode(splits.train, teacher.processor, folder / "teacher")
    marks.append(time.process_time())
    write_cache(LiveTeacher(teacher.model, dtype="float32"), theirs, task.collator(teacher.processor), folder / "cache")
    marks.append(time.process_time())
    settings = PhaseSettings(
        epochs=work["epochs"],
        batch_size=work["batch_size"],
        learning_rate=work["learning_rate"],
        seed=work["seed"],
        warmup=WARMUP,
        max_gradient_norm=MAX_NORM,
        select="last",
    )
    train_phase(
        student,
        rows=rows,
        collator=collator,
        folder=folder / "training",
        terms=[{"name": "kl", "weight": ALPHA, "temperature": TEMPERATURE}, {"name": "ce", "weight": 1 - ALPHA}],
        teacher=CachedTeacher.open(folder / "cache"),
        settings=settings,
    )
    marks.append(time.process_time())
    found = predict(TorchRunner(student), task.encode(splits.test, tokenizer, folder / "test"), collator)
    marks.append(time.process_time())
    names = ("start", "models, rows", "tokens", "answers", "training", "test")
    return {
        "accuracy": float(task.quality(found.logits, found.labels)["accuracy"]),
        "steps": total_steps(len(rows), settings),
        "version": "here",
        "pad": "buckets",
        "parts": {name: after - before for name, before, after in zip(names, [0.0, *marks], marks)},
    }


SIDES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "potstill": with_potstill,
    "textbrewer": with_textbrewer,
    "torchdistill": with_torchdistill,
}


def print_table(found: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Medians of the seconds and mean accuracy over the rounds; the ratio is the peer's CPU seconds over Potstill's."""
    middle = {side: {key: statistics.median(one[key] for one in rounds) for key in KEYS} for side, rounds in found.items()}
    about = f"{arguments.epochs} epochs, batch size {arguments.batch_size}, {arguments.threads} thread(s)"
    print(f"{arguments.rows or 'all'} rows, {about}, {arguments.rounds} round(s), whole processes")
    print(f"{'side':<24} {'padded to':>10} {'seconds':>9} {'CPU s':>9} {'accuracy':>9} {'ratio (CPU)':>12}")
    for side, figures in middle.items():
        one = found[side][-1]
        name, ratio = f"{side} {one['version']}", figures["cpu_seconds"] / middle["potstill"]["cpu_seconds"]
        accuracy = statistics.mean(round_["accuracy"] for round_ in found[side])
        shown = f"{figures['seconds']:>9.1f} {figures['cpu_seconds']:>9.1f} {accuracy:>9.4f} {ratio:>12.2f}"
        print(f"{name:<24} {one['pad']:>10} {shown}")
    for side, rounds in found.items():
        parts = ", ".join(f"{name} {spent:.1f}" for name, spent in rounds[-1]["parts"].items())
        print(f"  {side}, CPU s: {parts}")


KEYS = ("seconds", "cpu_seconds")


if __name__ == "__main__":
    main()
