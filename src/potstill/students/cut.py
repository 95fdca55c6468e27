"""Students whose weights are cut out of the teacher."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from potstill.errors import ModelError
from potstill.ground.devices import placed, seeded
from potstill.models.architectures import coded, register
from potstill.models.families import family_of
from potstill.models.families.base import copy_linear
from potstill.models.families.encoder import EmbeddingFacts, Encoder
from potstill.models.families.stages import Stages
from potstill.models.sentence_model import HEAD, encoder_class
from potstill.students import encoder_cut
from potstill.students.head_fit import fit_head, refit_head
from potstill.students.importance import Importance, measure, teacher_inputs
from potstill.students.plan import StudentPlan
from potstill.students.vocabulary import VocabularyCut, count_tokens

logger = logging.getLogger(__name__)


def cut_student(
    teacher: PreTrainedModel,
    plan: StudentPlan,
    batches: Iterable[Mapping[str, Tensor]] = (),
    vocabulary_cut: VocabularyCut | None = None,
    seed: int = 0,
    *,
    token_counts: np.ndarray | None = None,
    importance: Importance | None = None,
) -> PreTrainedModel:
    """Build the planned student with weights from the teacher.

    Layers are copied; heads, FFN neurons, hidden units and channels are chosen by importance on `batches`; output projections
    and the final layer are re-fitted by least squares where something was cut; embedding rows follow the vocabulary, and a narrow
    embedding is fitted to the teacher's. A plan of the teacher's own shape gives the teacher's weights unchanged.

    Args:
        teacher: The model to cut; not changed.
        plan: From `plan`.
        batches: Calibration batches, a few hundred rows, in the teacher's tokens (`teacher_*` inputs where they are present).
            Needed wherever something other than layers or the vocabulary is cut.
        vocabulary_cut: From `cut_vocabulary`, where the plan cuts the vocabulary.
        seed: Of everything drawn.
        token_counts: [V] how often the data uses each token, for coded embeddings; counted on `batches` where left out.
        importance: From `measure`, best on these same batches; measured where it is left out and needed.

    Returns:
        The student in eval mode, on the CPU, in fp32.

    Raises:
        ModelError: The plan does not fit the teacher, or asks for a vocabulary cut that was not given.
    """
    batches = list(batches)
    weight = next(teacher.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        moved: Any = copy.deepcopy(teacher)
        teacher = moved.to(device="cpu", dtype=torch.float32)
    config = _student_config(teacher, plan, vocabulary_cut)
    if hasattr(teacher.config, "sentence_pooling"):
        config.sentence_pooling = teacher.config.sentence_pooling
    family = family_of(config)
    with seeded(seed):
        student = _class_named(family.class_like(teacher), type(config))(config).eval()
    scores = _importance(teacher, student, batches, seed, importance)
    if isinstance(family, Stages):
        family.copy_channels(teacher, student, None if scores is None else scores.channels)
        if scores is not None:
            with placed(student):
                settle_statistics(student, batches)
            if family.refits_head:
                refit_head(teacher, student, batches, None)
        return student
    assert isinstance(family, Encoder)
    kept = encoder_cut.choose(teacher, student, plan.layers, scores)
    encoder_cut.copy_layers(teacher, student, kept, scores)
    metric = None if scores is None else scores.embedding_metric
    facts = EmbeddingFacts(
        ids=torch.arange(_tokens(student)) if vocabulary_cut is None else torch.as_tensor(vocabulary_cut.kept_ids),
        counts=_counts(teacher, batches, token_counts) if vocabulary_cut is None else vocabulary_cut.kept_counts,
        metric=None if metric is None else metric[kept.hidden][:, kept.hidden],
        seed=seed,
    )
    explained = family.fill_embeddings(teacher, student, kept.hidden, facts)
    if explained is not None:
        logger.info("Fitted embeddings explain %.1f %% of the teacher's embedding variance", 100 * explained)
    _copy_head(teacher, student, kept.hidden, batches)
    is_other_type = scores is not None or family is not family_of(teacher)
    if is_other_type and not _reads_other_features(teacher, student):
        refit_head(teacher, student, batches, vocabulary_cut)
    return student


@torch.no_grad()
def settle_statistics(student: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]) -> None:
    """Measure the batch norms' running statistics again, as a mean over `batches`."""
    norms = [module for module in student.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    student.train()
    for batch in batches:
        student(**teacher_inputs(student, batch))
    student.eval()
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def _class_named(name: str, config_class: Any) -> Any:
    """A model class of Potstill's own encoder, of sentence embeddings, or of transformers."""
    if name.endswith(HEAD):
        register()
        return encoder_class(config_class)
    return getattr(coded, name, None) or getattr(transformers, name)


def _student_config(teacher: PreTrainedModel, plan: StudentPlan, cut: VocabularyCut | None) -> Any:
    config: Any = plan.build_config()
    old, new = family_of(teacher), family_of(config)
    if old.build != new.build:
        raise ModelError(
            f"a {new.model_type} student cannot be cut out of a {old.model_type} teacher",
            f"a student of the same build ({old.build})",
            "load such a student with its own weights, and distil by response losses",
        )
    if plan.vocabulary is not None and cut is None:
        raise ModelError(
            f"the plan keeps {plan.vocabulary} tokens and no vocabulary cut is given",
            "the result of cut_vocabulary",
            f"call cut_vocabulary(tokenizer, token_counts, {plan.vocabulary}) and pass it as vocabulary_cut",
        )
    if cut is not None:
        cut.renumber(config, teacher.config.vocab_size)
    return config


def _importance(
    teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], seed: int, known: Importance | None
) -> Importance | None:
    """Scores, only where something inside a layer is cut or the embedding is narrowed."""
    old, new = family_of(teacher), family_of(student)
    is_same = old.inner_sizes(teacher.config) == new.inner_sizes(student.config)
    if is_same and (not batches or type(teacher) is type(student)):
        return None
    if not batches:
        raise ModelError(
            "heads, neurons, hidden units or channels are to be cut and no calibration batch is given",
            "batches of the training data, a few hundred rows",
            "pass batches=, collated for the teacher",
        )
    return measure(teacher, batches, seed=seed) if known is None else known


def _tokens(model: PreTrainedModel) -> int:
    return int(getattr(model.config, "vocab_size", 0) or 0)


def _counts(teacher: PreTrainedModel, batches: list[Any], known: np.ndarray | None) -> np.ndarray:
    """Token counts, of the batches where they are not known; all ones where there are none."""
    if known is not None:
        return known
    size = _tokens(teacher)
    if not batches or not size:
        return np.ones(size)
    inputs = (teacher_inputs(teacher, batch) for batch in batches)
    return count_tokens((values["input_ids"][values["attention_mask"].bool()].cpu().numpy() for values in inputs), size)


@torch.no_grad()
def _copy_head(teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor, batches: list[Any]) -> None:
    old, new = family_of(teacher), family_of(student)
    source, target = old.pooler(teacher), new.pooler(student)
    if source is not None and target is not None:
        copy_linear(source, target, hidden, hidden)
    old_head, new_head = old.head(teacher), new.head(student)
    if _reads_other_features(teacher, student):
        fit_head(teacher, student, hidden, batches)
    elif old_head.out_features == new_head.out_features:
        copy_linear(old_head, new_head, torch.arange(old_head.out_features), hidden)


def _reads_other_features(teacher: PreTrainedModel, student: PreTrainedModel) -> bool:
    """Whether the student's final layer reads the encoder and the teacher's a pooler, so that its weights mean nothing."""
    return family_of(teacher).pooler(teacher) is not None and family_of(student).pooler(student) is None
