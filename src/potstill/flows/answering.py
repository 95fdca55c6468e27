"""Named answers of a served model to rows as a user has them: texts, words, questions, images, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from potstill.contracts.runner import Runner
from potstill.data.splits import rows_without_labels
from potstill.data.task_rows import to_task
from potstill.evaluate.quality import predict
from potstill.recipe.model import DataRecipe
from potstill.stages.rows import formed


@dataclass(frozen=True)
class Answering:
    """A model that answers rows in words.

    Args:
        task: Its task, which knows the names of its labels.
        runner: It, as served.
        processor: Its tokenizer or image processor.
        measure: The tokenizer that long texts are split by; those of a run are split by its teacher's.
        data: How long texts are read, and the longest input in tokens.
        block: Of a student of several tasks, the number of the task that is asked and its first class.
        batch_size: Rows of one call.
    """

    task: Any
    runner: Runner
    processor: Any
    measure: Any
    data: DataRecipe
    block: tuple[int, int] | None = None
    batch_size: int = 32

    def to(self, content: pa.Table) -> pa.Table:
        """The answers to rows, in order: ``prediction`` and more columns, as `contracts.answers.Answers.named` gives them.

        Args:
            content: The content columns that the modality's `read` makes, at least one row.
        """
        answers = self.task.answers()
        rows = rows_without_labels(content, answers, self.task.label_names)
        rows = formed(self.task, self.data, {"new": rows}, self.measure)[0]["new"]
        if self.block is not None:
            rows = to_task(rows, *self.block)
        with TemporaryDirectory(prefix="potstill-predict-") as place:
            encoded = self.task.encode(rows, self.processor, Path(place), max_tokens=self.data.max_tokens)
            collator = self.task.collator(self.processor)
            found = predict(self.runner, encoded, collator, answers, batch_size=self.batch_size)
        named: pa.Table = answers.named(found, content, rows)
        return named
