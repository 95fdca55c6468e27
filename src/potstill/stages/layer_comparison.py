"""How alike teacher and student are inside: CKA of layers, difference of attention."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data.encoded import EncodedRows
from potstill.data.paired import PairedCollator, PairedRows
from potstill.errors import NeedsError
from potstill.evaluate.similarity import AttentionDifference, LayerSimilarity, attention_difference, layer_similarity
from potstill.ground.devices import placed
from potstill.models.taps import TapReader, available
from potstill.report import metrics as figures
from potstill.stages.student import kept_layers, load_student
from potstill.stages.teacher_sources import has_own_tokens, training_collator

if TYPE_CHECKING:
    from potstill.stages.context import Run

logger = logging.getLogger(__name__)

MOST_TOKENS_SHOWN = 24
BATCH = 16


def compare_insides(run: Run) -> figures.LayerSimilarity | None:
    """Layer similarity and attention difference on test rows; None where the models show nothing inside."""
    student, processor = load_student(run, run.folder / "student")
    teacher = run.teacher.model
    batches = _batches(run, processor)
    needs = {side: _hidden(model) for side, model in (("student", student), ("teacher", teacher))}
    if not needs["student"] or not needs["teacher"]:
        return None
    reader = TapReader()
    with placed(student), placed(teacher):
        try:
            layers = layer_similarity(
                student, teacher, batches, student_needs=needs["student"], teacher_needs=needs["teacher"], read=reader.read
            )
        except NeedsError as error:
            logger.info("layers are not compared: %s", error)
            return None
        attention = _attention(run, student, teacher, batches, reader)
    return _as_figures(run, layers, attention, batches, processor)


def _attention(run: Run, student: Any, teacher: Any, batches: list[Any], reader: TapReader) -> AttentionDifference | None:
    if has_own_tokens(run) and run.task.modality == "text":
        logger.info("attention is not compared: teacher and student read other tokens")
        return None
    pairs = [(block, layer) for block, layer in enumerate(kept_layers(run), start=1)]
    try:
        return attention_difference(student, teacher, batches, pairs=pairs, read=reader.read)
    except NeedsError as error:
        logger.info("attention is not compared: %s", error)
        return None


def _hidden(model: Any) -> list[str]:
    return [name for name in available(model) if name == "embedding" or name.startswith("hidden:")]


def _batches(run: Run, processor: Any) -> list[Any]:
    rows: EncodedRows = run.student_rows("test")
    collator = training_collator(run, processor)
    if has_own_tokens(run):
        collator = PairedCollator(collator, run.task.collator(run.teacher.processor))
        rows = PairedRows(rows, run.teacher_rows("test"))
    drawn = np.random.default_rng(run.recipe.seed).permutation(len(rows))[: run.recipe.evaluate.similarity_rows]
    chosen = [drawn[start : start + BATCH].tolist() for start in range(0, len(drawn), BATCH)]
    return [collator(rows.__getitems__(part)) for part in chosen]


def _as_figures(
    run: Run, layers: LayerSimilarity, attention: AttentionDifference | None, batches: list[Any], processor: Any
) -> figures.LayerSimilarity:
    found = []
    warnings = []
    if attention is not None:
        tokens = _tokens(run, batches, processor)
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


def _tokens(run: Run, batches: list[Any], processor: Any) -> list[str]:
    """Tokens of the first row, which is the one whose maps are shown."""
    if run.task.modality != "text" or not batches:
        return []
    return [str(token) for token in processor.convert_ids_to_tokens(batches[0]["input_ids"][0].tolist())]
