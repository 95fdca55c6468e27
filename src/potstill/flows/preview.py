"""What a run would build and cost, found out without training anything."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.flows.choice import predicts_tokens
from potstill.flows.distill import DistillFlow
from potstill.flows.language_preview import LanguagePreview, preview_language
from potstill.flows.observer import LoggingObserver
from potstill.ground.devices import compute_device
from potstill.knowledge.cache import estimate, measure_seconds_per_row
from potstill.knowledge.live import LiveTeacher
from potstill.models.party import Teacher
from potstill.models.size import flops
from potstill.planning.block_means import bytes_of_states
from potstill.planning.check import check_all
from potstill.planning.inputs import NOTHING
from potstill.recipe import Recipe
from potstill.report.assemble import shape_of
from potstill.report.numbers import size
from potstill.stages.augment import num_augmented
from potstill.students.make import latency_table, plan_student
from potstill.students.vocabulary import count_tokens

if TYPE_CHECKING:
    from rich.table import Table

GIGA = 1e9
# A step is a forward, a backward of twice its work, and the optimizer's traffic: about four forwards of the student.
STEP_IN_FORWARDS = 4.0


@dataclass(frozen=True)
class Preview:
    """What would be built.

    Args:
        latency_ms: Of one row at batch 1 in PyTorch on this machine, with random weights.
    """

    architecture: dict[str, Any]
    teacher_parameters: int
    parameters: int
    ratio: float
    flops: int
    bytes_fp32: int
    bytes_int8: int
    latency_ms: float
    rows: int
    cache_bytes: int
    cache_seconds: float
    seconds_saved: float
    training_seconds: float
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def as_table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title="what would be built", show_header=False)
        for key, value in self.architecture.items():
            table.add_row(key, str(value))
        table.add_row("parameters", f"{self.parameters:,} of {self.teacher_parameters:,} (ratio {self.ratio:.3f})")
        table.add_row("FLOPs of one row", f"{self.flops / GIGA:.3f} GFLOP")
        table.add_row("weights", f"{size(self.bytes_fp32)} fp32, about {size(self.bytes_int8)} INT8")
        table.add_row("latency, batch 1, PyTorch here", f"{self.latency_ms:.2f} ms")
        table.add_row("rows in a pass", f"{self.rows:,}")
        table.add_row("teacher's answers on disk", f"{size(self.cache_bytes)}, {self.cache_seconds:.0f} s to write")
        table.add_row("time that they save", f"{self.seconds_saved:.0f} s")
        table.add_row("training the student", f"about {self.training_seconds:.0f} s")
        for note in self.notes:
            table.add_row("note", note)
        return table


def preview(recipe: Recipe) -> Preview | LanguagePreview:
    """Plan the student for the recipe's teacher and data, and say what the run would cost.

    Raises:
        PotstillError: What the run itself would refuse.
    """
    if predicts_tokens(recipe, NOTHING):
        return preview_language(recipe)
    check_all(recipe)
    flow = DistillFlow(recipe)
    with tempfile.TemporaryDirectory(prefix="potstill-plan-") as folder:
        run = flow.start(Path(folder), LoggingObserver())
        flow.check_answers()
        run.perform(flow.stages[0])
        flow.check_models()
        teacher: Teacher = flow.open(flow.teacher)
        rows, task = teacher.encoded("train"), teacher.rows.task
        counts = None
        if task.modality.has_tokens and recipe.student.vocabulary != "keep" and recipe.student.ratio != 0:
            counts = count_tokens([rows.tokens], int(teacher.model.config.vocab_size))  # type: ignore[attr-defined]
        planned = plan_student(recipe.student, teacher, counts)
        num_rows = len(rows) + (num_augmented(recipe.data.augment, teacher) if task.modality.can_augment else 0)
        live = LiveTeacher(teacher.model, device=compute_device())
        seconds = measure_seconds_per_row(live, rows, teacher.collator)
        epochs = flow.passes()
        estimated = estimate(num_rows, teacher.num_answers, passes=epochs, seconds_per_row=seconds)
        config = planned.build_config()
        latency = latency_table(teacher)(config)
        share = planned.flops / max(1, flops(teacher.model.config))
        return Preview(
            architecture=shape_of(config.to_dict()),
            teacher_parameters=planned.teacher_parameters,
            parameters=planned.parameters,
            ratio=planned.ratio,
            flops=planned.flops,
            bytes_fp32=planned.bytes,
            bytes_int8=planned.bytes // 4,
            latency_ms=latency,
            rows=num_rows,
            cache_bytes=estimated.bytes + bytes_of_states(flow.forecast, num_rows, run.folder),
            cache_seconds=estimated.seconds_to_write,
            seconds_saved=estimated.seconds_saved,
            training_seconds=epochs * num_rows * seconds * share * STEP_IN_FORWARDS,
            notes=planned.notes,
        )
