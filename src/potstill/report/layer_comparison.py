"""Comparison of teacher and student layer by layer: CKA of hidden states, difference of attention."""

from __future__ import annotations

import logging
from typing import Any

from potstill.errors import NeedsError
from potstill.evaluate.similarity import AttentionDifference, LayerSimilarity, attention_difference, layer_similarity
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
    needs = {side: _hidden(party.model) for side, party in (("student", student), ("teacher", teacher))}
    if not needs["student"] or not needs["teacher"]:
        return None
    read = TapReader().read
    with placed(student.model) as ours, placed(teacher.model) as theirs:
        try:
            layers = layer_similarity(
                ours, theirs, batches, student_needs=needs["student"], teacher_needs=needs["teacher"], read=read
            )
        except NeedsError as error:
            logger.info("layers are not compared: %s", error)
            return None
        attention = _attention(student, ours, theirs, batches, read)
    return _as_figures(student, layers, attention, batches)


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


def _as_figures(
    student: Student, layers: LayerSimilarity, attention: AttentionDifference | None, batches: list[Any]
) -> figures.LayerSimilarity:
    found = []
    warnings = []
    if attention is not None:
        tokens = _tokens(student, batches)
        for index, (block, layer) in enumerate(attention.pairs):
            divergence = float(attention.divergence[index])
            student_map, teacher_map = attention.maps[index]
            shown = min(len(student_map), MOST_TOKENS_SHOWN)
            found.append(
                figures.AttentionDifference(
                    teacher_layer=layer,
                    student_layer=block,
                    jsd=divergence,
                    tokens=tokens[:shown],
                    teacher_map=teacher_map[:shown, :shown].tolist(),
                    student_map=student_map[:shown, :shown].tolist(),
                )
            )
            if divergence > figures.ATTENTION_WARNING:
                warnings.append(
                    f"attention of student layer {block} differs from teacher layer {layer} by {divergence:.3f} nats"
                    f" (above {figures.ATTENTION_WARNING})"
                )
    return figures.LayerSimilarity(
        teacher_layers=list(layers.teacher),
        student_layers=list(layers.student),
        cka=layers.matrix.T.tolist(),
        attention=found,
        warnings=warnings,
    )


def _tokens(student: Student, batches: list[Any]) -> list[str]:
    """Tokens of the first row, which is the one whose maps are shown."""
    if not student.rows.task.modality.has_tokens or not batches:
        return []
    return [str(token) for token in student.processor.convert_ids_to_tokens(batches[0]["input_ids"][0].tolist())]
