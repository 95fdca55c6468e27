"""Stages `student`, `baseline` and `distill`: planned, cut out of the teacher, and taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.ground.disk import write_json_atomic
from potstill.models.checkpoint import has_own_processor
from potstill.models.factory import is_factory
from potstill.stages.module_models import module_student
from potstill.stages.named_student import named_processor, named_student
from potstill.stages.task_run import widened_teacher
from potstill.students.cut import cut_student
from potstill.students.plan import StudentPlan, plan, plan_from_config
from potstill.students.vocabulary import VocabularyCut, count_tokens, cut_vocabulary, required_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.models.load import LoadedTeacher
    from potstill.stages.context import Run

CALIBRATION_ROWS = 512
CALIBRATION_BATCH = 32
DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
)


def make_student(run: Run, folder: Path) -> Sequence[str]:
    """Plan the student, cut it out of the teacher, and encode the rows in its tokens."""
    teacher = widened_teacher(run) if run.recipe.tasks else run.teacher
    counts = _token_counts(run, teacher)
    planned = plan_student(run, teacher, counts)
    run.observer.stage_advanced(1, 4, {})
    cut = None
    if planned.vocabulary is not None:
        assert counts is not None
        cut = cut_vocabulary(teacher.processor, counts, planned.vocabulary, unseen_texts=_unseen_texts(run))
    processor = teacher.processor if cut is None else cut.tokenizer
    own = None
    if is_factory(run.recipe.student.model):
        student, own = module_student(run, teacher.processor)
    elif run.recipe.student.model is not None:
        own = named_processor(run, planned, teacher.processor)
        student = named_student(run, planned, own or processor)
    elif run.recipe.student.architecture is not None:
        from potstill.students.architectures.start import init_architecture

        student = init_architecture(teacher.model, planned.build_config(), cut, counts, seed=run.recipe.seed)
    else:
        student = cut_student(
            teacher.model, planned, _calibration(run, teacher), vocabulary_cut=cut, seed=run.recipe.seed, token_counts=counts
        )
    run.observer.stage_advanced(2, 4, {})
    student.save_pretrained(folder / "model")
    (own or processor).save_pretrained(folder / "model")
    notes = list(planned.notes)
    if own is not None or cut is not None:
        _encode(run, own or processor, folder)
    if cut is not None:
        np.save(folder / "kept_ids.npy", cut.kept_ids)
        notes.append(_told(cut))
    run.observer.stage_advanced(4, 4, {})
    named = run.recipe.student.model
    facts = {
        "plan": asdict(planned),
        "vocabulary": _vocabulary_facts(cut),
        "own_tokenizer": own is not None if is_factory(named) else has_own_processor(named),
    }
    write_json_atomic(folder / "facts.json", facts)
    achieved = f"{planned.parameters:,} of {planned.teacher_parameters:,} parameters (ratio {planned.ratio:.3f})"
    return [achieved, *notes]


def plan_student(run: Run, teacher: LoadedTeacher, counts: np.ndarray | None) -> StudentPlan:
    """The plan for the recipe's budget, or for the architecture that it names."""
    recipe = run.recipe.student
    num_labels = run.num_answers
    if is_factory(recipe.model):
        built = module_student(run, teacher.processor)[0]
        return plan_from_config(teacher.model, built.config, num_labels=num_labels, parameters=built.num_parameters())
    if recipe.model is not None:
        return plan_from_config(teacher.model, recipe.model, num_labels=num_labels)
    latency_of = None
    if recipe.latency_ms is not None:
        from potstill.planning.preview import latency_table

        latency_of = latency_table(run)
    required = None if counts is None else required_ids(teacher.processor, counts)
    common: dict[str, Any] = {"num_labels": num_labels, "token_counts": counts, "latency_of": latency_of, **recipe.budget}
    if recipe.architecture is not None:
        from potstill.students.architectures.plan import plan_architecture

        least = None if required is None else len(required)
        return plan_architecture(recipe.architecture, teacher.model, min_vocabulary=least, **common)
    return plan(teacher.model, required_ids=required, embeddings=recipe.embeddings, **common)


def load_student(run: Run, folder: Path, *, without_dropout: bool = False) -> tuple[PreTrainedModel, Any]:
    """A student of this run and its tokenizer or image processor, as `Auto…from_pretrained` gives them.

    Args:
        run: The run.
        folder: Where it was saved.
        without_dropout: Load it without dropout: a small student of a teacher that labels many rows does not overfit, and
            dropout takes from the little that it has.
    """
    import transformers

    from potstill.models.architectures import register
    from potstill.models.load import auto_class

    register()
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    if without_dropout:
        for name in DROPOUT_KEYS:
            if getattr(config, name, None) is not None:
                setattr(config, name, 0.0)
    model = auto_class(run.task.name).from_pretrained(folder, config=config).eval()
    return model, run.task.load_processor(str(folder), model_config=model.config)


def kept_layers(run: Run) -> tuple[int, ...]:
    """The teacher's layers (1-based) that the student's blocks were cut from."""
    return tuple(run.facts(run.places.student)["plan"]["layers"])


def kept_ids(run: Run) -> np.ndarray | None:
    """[student vocabulary] the teacher's id of each of the student's tokens; None where both read the same tokens."""
    file = run.folder / run.places.student / "kept_ids.npy"
    return np.load(file) if file.is_file() else None


def _token_counts(run: Run, teacher: LoadedTeacher) -> np.ndarray | None:
    """How often each of the teacher's tokens occurs in the rows to learn from; None where the vocabulary is to stay."""
    if run.task.modality != "text" or run.recipe.student.vocabulary == "keep" or run.recipe.student.model is not None:
        return None
    if run.recipe.student.ratio == 0:
        return None
    size = int(teacher.model.config.vocab_size)
    names = [name for name in ("train", "unlabelled") if run.has(name)]
    counts = count_tokens([run.teacher_rows(name).tokens for name in names], size)  # type: ignore[attr-defined]
    wanted = run.recipe.student.vocabulary
    if isinstance(wanted, int):
        dropped = np.argsort(-counts, kind="stable")[wanted:]
        counts[dropped] = 0
    return counts


def _unseen_texts(run: Run) -> list[str]:
    return [run.task.text_of(row) for row in run.split("validation").select(range(min(500, len(run.split("validation")))))]


def _calibration(run: Run, teacher: LoadedTeacher) -> list[Any]:
    rows = run.teacher_rows("train")
    collator = run.task.collator(teacher.processor)
    drawn = np.random.default_rng(run.recipe.seed).permutation(len(rows))[:CALIBRATION_ROWS]
    drawn = drawn[np.argsort(rows.lengths[drawn], kind="stable")]
    return [
        collator(rows.__getitems__(drawn[start : start + CALIBRATION_BATCH].tolist()))
        for start in range(0, len(drawn), CALIBRATION_BATCH)
    ]


def _encode(run: Run, processor: Any, folder: Path) -> None:
    """Encode every split in the student's tokens."""
    for name in ("train", "validation", "test", "unlabelled", "augmented"):
        if run.has(name):
            run.task.encode(run.split(name), processor, folder / "encoded" / name, max_tokens=run.recipe.data.max_tokens)


def _told(cut: VocabularyCut) -> str:
    return (
        f"vocabulary of {len(cut.kept_ids):,} tokens covers {cut.coverage:.2%} of the training text;"
        f" unseen text becomes {cut.unseen_inflation:.3f} times as long"
    )


def _vocabulary_facts(cut: VocabularyCut | None) -> dict[str, Any] | None:
    if cut is None:
        return None
    return {"tokens": len(cut.kept_ids), "coverage": cut.coverage, "unseen_inflation": cut.unseen_inflation}
