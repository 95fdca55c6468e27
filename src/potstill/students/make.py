"""The student of a run: planned, cut out of the teacher, built or loaded, and the rows encoded for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from potstill.contracts.stage import Observer
from potstill.data.run_rows import Rows
from potstill.errors import ModelError
from potstill.ground.devices import seeded
from potstill.ground.disk import write_json_atomic
from potstill.models.checkpoint import has_own_processor
from potstill.models.factory import is_factory, make
from potstill.models.labels import name_classes
from potstill.models.load import new_model
from potstill.models.party import Teacher
from potstill.models.size import parameters_of
from potstill.recipe.model import StudentRecipe
from potstill.students.cut import cut_student
from potstill.students.importance import Importance
from potstill.students.plan import StudentPlan, plan, plan_from_config
from potstill.students.vocabulary import count_tokens, cut_vocabulary, required_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CALIBRATION_ROWS = 512
CALIBRATION_BATCH = 32
UNSEEN_TEXTS = 500


@dataclass(frozen=True)
class StudentOptions:
    """What making a student reads of a recipe."""

    student: StudentRecipe
    max_tokens: int | None
    seed: int


def make_student(
    options: StudentOptions,
    rows: Rows,
    teacher: Teacher,
    folder: Path,
    observer: Observer,
    importance: Importance | None = None,
) -> Sequence[str]:
    """Plan the student, cut it out of the teacher, and encode the rows in its tokens.

    Args:
        options: What the recipe says.
        rows: All rows, augmented ones included.
        teacher: Who it is cut out of.
        folder: Receives ``model``, ``encoded`` where the tokens are others, and ``facts.json``.
        importance: Scores of the teacher's parts on `calibration_batches`; measured where they are needed and not given.

    Returns:
        Notes for the user.
    """
    asked = options.student
    counts = _token_counts(asked, rows, teacher)
    observer.stage_step("plan")
    planned = plan_student(asked, teacher, counts)
    observer.stage_step("make it" if asked.model or asked.architecture else "cut it out of the teacher")
    observer.stage_advanced(1, 4, {})
    cut = None
    if planned.vocabulary is not None:
        assert counts is not None
        found = rows.split("validation")
        unseen = [rows.task.text_of(row) for row in found.select(range(min(UNSEEN_TEXTS, len(found))))]
        cut = cut_vocabulary(teacher.processor, counts, planned.vocabulary, unseen_texts=unseen)
    processor = teacher.processor if cut is None else cut.tokenizer
    own = None
    if is_factory(asked.model):
        student, own = _module_student(str(asked.model), teacher, options.seed)
    elif asked.model is not None:
        own = _named_processor(asked.model, planned, teacher)
        student = _named_student(asked.model, planned, own or processor, teacher, options.seed)
        if parameters_of(student) >= parameters_of(teacher.model):
            observer.warn(f"the student {asked.model} is not smaller than the teacher")
    elif asked.architecture is not None:
        from potstill.students.architectures.start import init_architecture

        student = init_architecture(teacher.model, planned.build_config(), cut, counts, seed=options.seed)
    else:
        batches = calibration_batches(teacher, options.seed)
        known: dict[str, Any] = {"token_counts": counts, "importance": importance}
        student = cut_student(teacher.model, planned, batches, cut, options.seed, **known)
    observer.stage_step("encode the rows in its tokens")
    observer.stage_advanced(2, 4, {})
    student.save_pretrained(folder / "model")
    (own or processor).save_pretrained(folder / "model")
    notes, vocabulary = list(planned.notes), None
    if own is not None or cut is not None:
        encode_rows(rows, own or processor, folder / "encoded", options.max_tokens)
    if cut is not None:
        np.save(folder / "kept_ids.npy", cut.kept_ids)
        vocabulary = {"tokens": len(cut.kept_ids), "coverage": cut.coverage, "unseen_inflation": cut.unseen_inflation}
        notes.append(
            f"vocabulary of {len(cut.kept_ids):,} tokens covers {cut.coverage:.2%} of the training text;"
            f" unseen text becomes {cut.unseen_inflation:.3f} times as long"
        )
    observer.stage_advanced(4, 4, {})
    facts = {
        "plan": asdict(planned),
        "vocabulary": vocabulary,
        "own_tokenizer": own is not None if is_factory(asked.model) else has_own_processor(asked.model),
    }
    write_json_atomic(folder / "facts.json", facts)
    achieved = f"{planned.parameters:,} of {planned.teacher_parameters:,} parameters (ratio {planned.ratio:.3f})"
    return [achieved, *notes]


def plan_student(asked: StudentRecipe, teacher: Teacher, counts: np.ndarray | None) -> StudentPlan:
    """The plan for the recipe's budget, or for the architecture that it names."""
    num_labels = teacher.num_answers
    if asked.plain and is_factory(asked.model):
        raise _not_plain(f"the student {asked.model}", "a network of your own code")
    if is_factory(asked.model):
        built = _module_student(str(asked.model), teacher, 0)[0]
        return plan_from_config(teacher.model, built.config, num_labels=num_labels, parameters=built.num_parameters())
    if asked.model is not None:
        named = plan_from_config(teacher.model, asked.model, num_labels=num_labels)
        if asked.plain:
            _check_plain(named.model_type, f"the student {asked.model}")
        return named
    latency_of = None if asked.latency_ms is None else latency_table(teacher)
    required = None if counts is None else required_ids(teacher.processor, counts)
    common: dict[str, Any] = {"num_labels": num_labels, "token_counts": counts, "latency_of": latency_of, **asked.budget}
    if asked.architecture is not None:
        from potstill.students.architectures.plan import plan_architecture

        least = None if required is None else len(required)
        return plan_architecture(asked.architecture, teacher.model, min_vocabulary=least, **common)
    planned = plan(teacher.model, required_ids=required, embeddings="table" if asked.plain else asked.embeddings, **common)
    if asked.plain:
        _check_plain(planned.model_type, "a student of this teacher")
    return planned


def _check_plain(model_type: str, who: str) -> None:
    if not type(AutoConfig.for_model(model_type)).__module__.startswith("transformers."):
        raise _not_plain(who, f"of the type {model_type}")


def _not_plain(who: str, kind: str) -> ModelError:
    return ModelError(
        f"student.plain is true, and {who} is {kind}, which transformers does not have",
        "a teacher, or a student.model, of a type that transformers has",
        "set student.plain: false; such a student loads with trust_remote_code=True and without Potstill"
        if kind.startswith("of the type")
        else "set student.plain: false",
    )


def latency_table(teacher: Teacher) -> Callable[[PreTrainedConfig], float]:
    """A function that measures an architecture on this machine: median milliseconds of one row at batch 1, each shape once."""
    known: dict[str, float] = {}
    task = teacher.rows.task

    def latency_of(config: PreTrainedConfig) -> float:
        key = config.to_json_string()
        if key not in known:
            model = new_model(task, config)
            tokens = task.modality.middle(teacher.encoded("train"))
            known[key] = _median_ms(model, task.example_inputs(model, batch=1, tokens=tokens))
        return known[key]

    return latency_of


def _median_ms(model: Any, inputs: dict[str, torch.Tensor], repeats: int = 15) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 3):
            started = time.perf_counter()
            model(**inputs)
            times.append(time.perf_counter() - started)
    return sorted(times[3:])[repeats // 2] * 1e3


def encode_rows(rows: Rows, processor: Any, folder: Path, max_tokens: int | None) -> None:
    """Encode every split in the tokens of a processor, a folder for each."""
    for name in rows.names:
        rows.task.encode(rows.split(name), processor, folder / name, max_tokens=max_tokens)


def _token_counts(asked: StudentRecipe, rows: Rows, teacher: Teacher) -> np.ndarray | None:
    """How often each of the teacher's tokens occurs in the rows to learn from; None where the vocabulary is to stay."""
    if not rows.task.modality.has_tokens or asked.vocabulary == "keep" or asked.model is not None or asked.ratio == 0:
        return None
    size = int(teacher.model.config.vocab_size)
    names = [name for name in ("train", "unlabelled") if rows.has(name)]
    counts = count_tokens([teacher.encoded(name).tokens for name in names], size)  # type: ignore[attr-defined]
    if isinstance(asked.vocabulary, int):
        dropped = np.argsort(-counts, kind="stable")[asked.vocabulary :]
        counts[dropped] = 0
    return counts


def calibration_batches(teacher: Teacher, seed: int) -> list[Any]:
    """Batches of training rows in the teacher's tokens, drawn by the seed, on which the teacher's parts are scored."""
    rows = teacher.encoded("train")
    drawn = np.random.default_rng(seed).permutation(len(rows))[:CALIBRATION_ROWS]
    drawn = drawn[np.argsort(rows.lengths[drawn], kind="stable")]
    return [
        teacher.collator(rows.__getitems__(drawn[start : start + CALIBRATION_BATCH].tolist()))
        for start in range(0, len(drawn), CALIBRATION_BATCH)
    ]


def _named_student(name: str, planned: StudentPlan, processor: Any, teacher: Teacher, seed: int) -> PreTrainedModel:
    """The student that the recipe names, with its own weights where it has them, else random ones of the seed.

    Raises:
        ModelError: It cannot be loaded, or cannot read what the processor makes.
    """
    task, label_names = teacher.rows.task, teacher.rows.label_names
    task.modality.check_reads(f"the student {name}", planned.build_config(), processor)
    folder = Path(name).expanduser()
    if not folder.is_dir() or any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*.bin")):
        student = task.load_model(name, num_labels=teacher.num_answers, label_names=label_names)
    else:
        with seeded(seed):
            student = new_model(task, planned.build_config())
    name_classes(student, label_names or None)
    made: PreTrainedModel = student.eval()
    return made


def _named_processor(name: str, planned: StudentPlan, teacher: Teacher) -> Any:
    """What a named student reads with; None where that is just what the teacher reads with."""
    config, task = planned.build_config(), teacher.rows.task
    if has_own_processor(name):
        return task.load_processor(name, model_config=config)
    return task.modality.fitted(teacher.processor, config)


def _module_student(name: str, teacher: Teacher, seed: int) -> tuple[PreTrainedModel, Any]:
    """The student that the recipe names as code, from a seed, and what it reads with: its own, or None.

    Raises:
        ModelError: It fails, or has other classes than the data.
    """
    from potstill.models.module import wrap

    label_names = teacher.rows.label_names
    with seeded(seed):
        network, own = make(name, len(label_names))
    return wrap(network, name, own or teacher.processor, label_names=label_names).eval(), own
