"""Comparison of teacher and student layer by layer: CKA of hidden states, difference of attention."""

from __future__ import annotations

import logging
from typing import Any

from potstill.errors import NeedsError
from potstill.evaluate.similarity import AttentionDifference, attention_difference, layer_similarity
from potstill.ground.devices import placed
from potstill.knowledge.teachers import paired_batches
from potstill.models.party import Student, Teacher
from potstill.models.taps import TapReader, available
from potstill.report import metrics as figures

logger = logging.getLogger(__name__)

MOST_TOKENS_SHOWN = 24
BATCH = 16


def compare_layers(student: Student, teacher: Teacher, num_rows: int, seed: int) -> figures.LayerSimilarity | None:
    """Layer similarity and attention difference on test rows; None where the models show nothing inside."""
    batches = paired_batches(student, teacher, "test", num_rows=num_rows, batch_size=BATCH, seed=seed)
    needs, teacher_needs = _hidden(student.model), _hidden(teacher.model)
    if not needs or not teacher_needs:
        return None
    read = TapReader().read
    with placed(student.model) as ours, placed(teacher.model) as theirs:
        try:
            cka = layer_similarity(ours, theirs, batches, student_needs=needs, teacher_needs=teacher_needs, read=read)
        except NeedsError as error:
            logger.info("layers are not compared: %s", error)
            return None
        attention = _attention(student, ours, theirs, batches, read)
    pairs = [] if attention is None else _as_figures(attention, _tokens(student, batches))
    warnings = [
        f"attention of student layer {one.student_layer} differs from teacher layer {one.teacher_layer} by {one.jsd:.3f} nats"
        f" (above {figures.ATTENTION_WARNING})"
        for one in pairs
        if (one.jsd or 0.0) > figures.ATTENTION_WARNING
    ]
    return figures.LayerSimilarity(
        teacher_layers=teacher_needs, student_layers=needs, cka=cka.T.tolist(), attention=pairs, warnings=warnings
    )


def _attention(student: Student, ours: Any, theirs: Any, batches: list[Any], read: Any) -> AttentionDifference | None:
    if student.has_own_tokens and student.rows.task.modality.has_tokens:
        logger.info("attention is not compared: teacher and student read other tokens")
        return None
    pairs = [(block, layer) for block, layer in enumerate(student.kept_layers, start=1)]
    try:
        return attention_difference(ours, theirs, batches, pairs=pairs, read=read)
    except NeedsError as error:
        logger.info("attention is not compared: %s", error)
        return None


def _hidden(model: Any) -> list[str]:
    return [name for name in available(model) if name == "embedding" or name.startswith("hidden:")]


def _as_figures(attention: AttentionDifference, tokens: list[str]) -> list[figures.AttentionDifference]:
    found = []
    for index, (block, layer) in enumerate(attention.pairs):
        student_map, teacher_map = attention.maps[index]
        shown = min(len(student_map), MOST_TOKENS_SHOWN)
        found.append(
            figures.AttentionDifference(
                teacher_layer=layer,
                student_layer=block,
                jsd=float(attention.divergence[index]),
                tokens=tokens[:shown],
                teacher_map=teacher_map[:shown, :shown].tolist(),
                student_map=student_map[:shown, :shown].tolist(),
            )
        )
    return found


def _tokens(student: Student, batches: list[Any]) -> list[str]:
    """Tokens of the first row, which is the one whose maps are shown."""
    if not student.rows.task.modality.has_tokens or not batches:
        return []
    return [str(token) for token in student.processor.convert_ids_to_tokens(batches[0]["input_ids"][0].tolist())]
