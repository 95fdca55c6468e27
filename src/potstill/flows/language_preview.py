"""What a run of a language model would build and keep, found out without training anything."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

from potstill.flows.language import LanguageFlow
from potstill.flows.observer import LoggingObserver
from potstill.modalities.language.rows import TokenRows
from potstill.models.language_model import LanguageModel
from potstill.models.size import parameters_of
from potstill.recipe import Recipe
from potstill.report.numbers import size
from potstill.stages.language.ask import scheme_of
from potstill.students.decoders.make import plan_cut
from potstill.students.plan import StudentPlan, finished, read_config

if TYPE_CHECKING:
    from rich.table import Table

BYTES = {"bytes_fp32": 4.0, "bytes_bf16": 2.0, "bytes_int8": 1.0}
HALF = 2  # bytes of a number in a cache of keys and values


@dataclass(frozen=True)
class LanguagePreview:
    """What would be built.

    Args:
        architecture: Layers, heads, key-value heads, width, FFN and vocabulary of the student.
        kv_bytes_per_token: What generating keeps of each token, in half precision.
        documents: Training documents.
        tokens: Training tokens; those that are learned.
        cache_bytes: The teacher's distributions over them on disk; 0 where the teacher is asked live.
    """

    architecture: dict[str, Any]
    teacher_parameters: int
    parameters: int
    ratio: float
    bytes_fp32: int
    bytes_bf16: int
    bytes_int8: int
    kv_bytes_per_token: int
    documents: int
    tokens: int
    cache_bytes: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def as_table(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(title="what would be built", show_header=False)
        for key, value in self.architecture.items():
            table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
        table.add_row("parameters", f"{self.parameters:,} of {self.teacher_parameters:,} (ratio {self.ratio:.3f})")
        table.add_row(
            "weights", f"{size(self.bytes_fp32)} fp32, {size(self.bytes_bf16)} bf16, about {size(self.bytes_int8)} INT8"
        )
        table.add_row("keys and values of a token", f"{size(self.kv_bytes_per_token)} in half precision")
        table.add_row("training texts", f"{self.documents:,} documents, {self.tokens:,} tokens to learn")
        table.add_row("teacher's distributions on disk", size(self.cache_bytes) if self.cache_bytes else "none, it is asked live")
        for note in self.notes:
            table.add_row("note", note)
        return table


def preview_language(recipe: Recipe) -> LanguagePreview:
    """Plan the student for the recipe's teacher and texts, and say what it and the cache take.

    Raises:
        PotstillError: What the run itself would refuse.
    """
    flow = LanguageFlow(recipe)
    flow.check_answers()
    with tempfile.TemporaryDirectory(prefix="potstill-plan-") as folder:
        run = flow.start(Path(folder), LoggingObserver())
        run.perform(flow.stages[0])
        teacher: LanguageModel = run.open(flow.teacher)
        rows: TokenRows = run.open(flow.rows)
        shape, plan = _student(recipe, teacher, rows)
        tokens = int(rows.documents("train").learned.sum())
        entry_bytes = scheme_of(flow.language).bytes_per_token(shape["vocabulary"])
        return LanguagePreview(
            architecture=shape,
            teacher_parameters=plan.teacher_parameters,
            parameters=plan.parameters,
            ratio=plan.ratio,
            **{name: round(plan.parameters * each) for name, each in BYTES.items()},
            kv_bytes_per_token=HALF * 2 * shape["layers"] * shape["kv_heads"] * shape["head_size"],
            documents=len(rows.documents("train")),
            tokens=tokens,
            cache_bytes=round(tokens * entry_bytes) if flow.keeps_answers else 0,
            notes=plan.notes,
        )


def _student(recipe: Recipe, teacher: LanguageModel, rows: TokenRows) -> tuple[dict[str, Any], StudentPlan]:
    """Shape and plan of the student, cut or named."""
    asked = recipe.student
    if asked.model is None:
        plan = plan_cut(asked, teacher, rows)[0]
        return _shape(SimpleNamespace(**plan.config)), plan
    config = read_config(asked.model)
    whole = parameters_of(teacher.decoder.model)
    with torch.device("meta"):
        size = parameters_of(AutoModelForCausalLM.from_config(config))
    return _shape(config), finished(config, (), None, size, whole, 1 - size / whole)


def _shape(config: Any) -> dict[str, Any]:
    """The sizes of a decoder, by whichever of the usual names its configuration has them."""

    def first(*names: str) -> Any:
        return next((value for name in names if (value := getattr(config, name, None))), None)

    width, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    return {
        "model_type": config.model_type,
        "layers": first("num_hidden_layers", "n_layer"),
        "heads": heads,
        "kv_heads": first("num_key_value_heads") or heads,
        "head_size": first("head_dim") or width // heads,
        "width": width,
        "ffn": first("intermediate_size", "n_inner") or 4 * width,
        "vocabulary": config.vocab_size,
    }
