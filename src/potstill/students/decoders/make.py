"""The student of a language model's run: planned for a budget and cut out of the teacher, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor

from potstill.errors import ModelError
from potstill.modalities.language.documents import Documents
from potstill.modalities.language.rows import TokenRows
from potstill.models.families.decoders import decoder_family_of
from potstill.models.families.decoders.base import Layout
from potstill.models.language_model import LanguageModel
from potstill.recipe.model import StudentRecipe
from potstill.students.decoders.cut import choose, cut_decoder, everything
from potstill.students.decoders.importance import measure_decoder
from potstill.students.decoders.plan import DecoderSpace, plan_decoder, shape_in
from potstill.students.plan import StudentPlan
from potstill.students.search import VocabularyCounts
from potstill.students.vocabulary import VocabularyCut, count_tokens, cut_vocabulary, use_order

CALIBRATION_TOKENS, CALIBRATION_WINDOWS = 8192, 16


@dataclass(frozen=True)
class CutStudent:
    """A student as it starts.

    Args:
        plan: Its plan, with the layers that were chosen and the parameters that there are.
        model: It, in eval mode.
        tokenizer: Its tokenizer.
        vocabulary: How its tokens lie among the teacher's; None where it has all of them.
    """

    plan: StudentPlan
    model: Any
    tokenizer: Any
    vocabulary: VocabularyCut | None


def plan_cut(asked: StudentRecipe, teacher: LanguageModel, rows: TokenRows) -> tuple[StudentPlan, Layout]:
    """The plan for the recipe's budget, and the teacher's layout.

    Raises:
        ModelError: The teacher's type is not one that students are cut out of.
        RecipeError: The budget cannot be met.
    """
    model = teacher.decoder.model
    layout = decoder_family_of(model).layout(model)
    words = None
    if asked.vocabulary != "keep" and asked.ratio != 0:
        words = _words(teacher, rows.documents("train"), layout)
    size = asked.vocabulary if isinstance(asked.vocabulary, int) else None
    if size is not None and words is not None:
        _cut_words(teacher, rows.documents("train"), layout, size)  # which refuses a size below what must stay
    space = DecoderSpace(layout, words or VocabularyCounts(), len(teacher.tokenizer), size)
    return plan_decoder(space, asked.budget), layout


def cut_student(asked: StudentRecipe, teacher: LanguageModel, rows: TokenRows) -> CutStudent:
    """Plan the student, measure what of the teacher counts on the training texts, and cut it out.

    Raises:
        ModelError: As `plan_cut`; or the tokenizer cannot be cut.
        RecipeError: As `plan_cut`.
    """
    plan, layout = plan_cut(asked, teacher, rows)
    shape = shape_in(plan, layout)
    if shape == layout.shape:
        return CutStudent(plan, cut_decoder(layout, everything(shape)), teacher.tokenizer, None)
    words = None if plan.vocabulary is None else _cut_words(teacher, rows.documents("train"), layout, plan.vocabulary)
    tokens = None if words is None else torch.as_tensor(words.kept_ids)
    kept = choose(layout, shape, measure_decoder(teacher.decoder, layout, calibration(rows)), tokens)
    model = cut_decoder(layout, kept)
    if words is not None:
        for settings in (model.config, model.generation_config):
            words.renumber(settings, layout.shape.vocabulary)
    size = sum(parameter.numel() for parameter in model.parameters())
    achieved = 1 - size / plan.teacher_parameters
    done = replace(plan, layers=kept.layers, parameters=size, ratio=achieved, bytes=4 * size, config=model.config.to_dict())
    return CutStudent(done, model, teacher.tokenizer if words is None else words.tokenizer, words)


def calibration(rows: TokenRows) -> Iterator[dict[str, Tensor]]:
    """Windows of training texts, spread over all of them, up to a number of tokens."""
    windows = rows.windows("train")
    chosen = np.unique(np.linspace(0, len(windows) - 1, CALIBRATION_WINDOWS).round().astype(int))
    left = CALIBRATION_TOKENS
    for index in chosen:
        if left > 0:
            row = windows[int(index)]
            left -= len(row["input_ids"])
            yield rows.collator([row])


def _counts(documents: Documents, layout: Layout) -> np.ndarray:
    return count_tokens([documents.tokens], layout.shape.vocabulary)


def _words(teacher: LanguageModel, documents: Documents, layout: Layout) -> VocabularyCounts:
    """What the training texts say of the vocabulary."""
    _check_numbers(teacher.tokenizer, layout)
    counts = _counts(documents, layout)
    order, required = use_order(teacher.tokenizer, counts, also=template_ids(teacher.tokenizer))
    return VocabularyCounts(counts[order], required, 0, may_be_coded=False)


def _cut_words(teacher: LanguageModel, documents: Documents, layout: Layout, size: int) -> VocabularyCut:
    counts, also = _counts(documents, layout), template_ids(teacher.tokenizer)
    return cut_vocabulary(teacher.tokenizer, counts, size, also=also)


def _check_numbers(tokenizer: Any, layout: Layout) -> None:
    last = max(tokenizer.get_vocab().values())
    if last >= layout.shape.vocabulary:
        raise ModelError(
            f"the tokenizer numbers tokens up to {last}, and the model has {layout.shape.vocabulary} entries",
            "a model with an entry for each token",
            "keep the vocabulary as it is: --set student.vocabulary=keep",
        )


def template_ids(tokenizer: Any) -> set[int]:
    """Ids of the tokens that the chat template writes around what is said; none without a template."""
    found: set[int] = set()
    if not getattr(tokenizer, "chat_template", None):
        return found
    for roles in (("user", "assistant"), ("system", "user"), ("user", "assistant", "tool")):
        messages = [{"role": role, "content": ""} for role in roles]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # a template that does not know the role
            continue
        found.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    return found
