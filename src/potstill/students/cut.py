"""Cut the student's weights out of the teacher."""

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

from potstill.answers.units import has_units, head_output, read_units
from potstill.errors import ModelError
from potstill.ground.devices import frozen, placed, seeded
from potstill.models.architectures import coded, register
from potstill.models.families import family_of
from potstill.models.sentence_model import HEAD, encoder_class
from potstill.students import encoder_cut
from potstill.students.coding import product_codes, rebuilt
from potstill.students.configurations import position_offset
from potstill.students.convnext_cut import cut_convnext
from potstill.students.embedding_fit import fit_embeddings, gather_embeddings
from potstill.students.importance import Importance, measure, student_inputs, teacher_inputs
from potstill.students.mobilenet_cut import cut_mobilenet
from potstill.students.mobilenet_shapes import widths
from potstill.students.plan import StudentPlan
from potstill.students.resnet_cut import cut_resnet, settle_statistics
from potstill.students.vocabulary import VocabularyCut, count_tokens

logger = logging.getLogger(__name__)

HEAD_RIDGE = 0.1  # of the mean squared feature
NEW_HEAD_RIDGE = 0.01  # the same, where there are no weights to stay near to
UNSEEN_COUNT = 0.1  # occurrences that a token is given beyond those in the data, so that unseen ones keep codes of their own
TOKEN_ID_KEYS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")

_CUTS = {"resnet": cut_resnet, "convnext": cut_convnext, "mobilenet_v2": cut_mobilenet}


def cut_student(
    teacher: PreTrainedModel,
    plan: StudentPlan,
    batches: Iterable[Mapping[str, Tensor]] = (),
    vocabulary_cut: VocabularyCut | None = None,
    seed: int = 0,
    *,
    token_counts: np.ndarray | None = None,
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

    Returns:
        The student in eval mode, on the CPU, in fp32.

    Raises:
        ModelError: The plan does not fit the teacher, or asks for a vocabulary cut that was not given.
    """
    batches = list(batches)
    teacher = _on_cpu(teacher)
    config = _student_config(teacher, plan, vocabulary_cut)
    if hasattr(teacher.config, "sentence_pooling"):
        config.sentence_pooling = teacher.config.sentence_pooling
    family = family_of(config)
    with seeded(seed):
        student = _class_named(family.class_like(teacher), config)(config).eval()
    importance = _importance(teacher, student, batches, seed)
    if family.structure == "convolution":
        _CUTS[family.model_type](teacher, student, importance)
        if importance is not None:
            with placed(student):
                settle_statistics(student, batches)
            if family.model_type != "resnet":
                _refit_head(teacher, student, batches, None)
        return student
    kept = encoder_cut.choose(teacher, student, plan.layers, importance)
    encoder_cut.copy_layers(teacher, student, kept, importance)
    counts = token_counts if vocabulary_cut is None else vocabulary_cut.kept_counts
    _fill_embeddings(teacher, student, kept.hidden, vocabulary_cut, _counts(teacher, batches, counts), importance, seed)
    _copy_head(teacher, student, kept.hidden, batches)
    is_other_type = importance is not None or family.model_type != family_of(teacher).model_type
    if is_other_type and not _reads_other_features(teacher, student):
        _refit_head(teacher, student, batches, vocabulary_cut)
    return student


def _class_named(name: str, config: Any) -> Any:
    """A model class of Potstill's own encoder, of sentence embeddings, or of transformers."""
    if name.endswith(HEAD):
        register()
        config_class: Any = type(config)
        return encoder_class(config_class)
    return getattr(coded, name, None) or getattr(transformers, name)


def _on_cpu(teacher: PreTrainedModel) -> PreTrainedModel:
    """The teacher itself where it is fp32 on the CPU, else such a copy."""
    weight = next(teacher.parameters())
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        return teacher
    moved: Any = copy.deepcopy(teacher)
    return moved.to(device="cpu", dtype=torch.float32)


def _student_config(teacher: PreTrainedModel, plan: StudentPlan, cut: VocabularyCut | None) -> Any:
    config: Any = plan.build_config()
    old, new = family_of(teacher), family_of(config)
    if old.structure != new.structure:
        raise ModelError(
            f"a {new.model_type} student cannot be cut out of a {old.model_type} teacher",
            f"a student of the same build ({old.structure})",
            "load such a student with its own weights, and distil by response losses",
        )
    if new.modality != "text":
        return config
    if plan.vocabulary is not None and cut is None:
        raise ModelError(
            f"the plan keeps {plan.vocabulary} tokens and no vocabulary cut is given",
            "the result of cut_vocabulary",
            f"call cut_vocabulary(tokenizer, token_counts, {plan.vocabulary}) and pass it as vocabulary_cut",
        )
    if cut is None:
        return config
    config.vocab_size = len(cut.kept_ids)
    table = cut.new_ids(max(int(cut.kept_ids.max()) + 1, teacher.config.vocab_size))
    for key in TOKEN_ID_KEYS:
        old_id = getattr(config, key, None)
        if isinstance(old_id, int) and 0 <= old_id < len(table):
            setattr(config, key, int(table[old_id]) if table[old_id] >= 0 else None)
    return config


def _importance(teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], seed: int) -> Importance | None:
    """Scores, measured only where something inside a layer is cut or the embedding is narrowed."""
    shapes = [_inner_shape(model) for model in (teacher, student)]
    is_same = shapes[0] == shapes[1] and _is_coded(student) == _is_coded(teacher)
    if is_same and (not batches or type(teacher) is type(student)):
        return None
    if not batches:
        raise ModelError(
            "heads, neurons, hidden units or channels are to be cut and no calibration batch is given",
            "batches of the training data, a few hundred rows",
            "pass batches=, collated for the teacher",
        )
    return measure(teacher, batches, seed=seed)


def _inner_shape(model: PreTrainedModel) -> tuple[Any, ...]:
    config: Any = model.config
    family = family_of(model)
    if family.structure == "convolution":
        return _channels(config)
    attention = family.attention(model, 1)[3]
    return family.size(config, "hidden"), family.size(config, "ffn"), attention


def _channels(config: Any) -> tuple[Any, ...]:
    """Widths of a convolutional model."""
    if config.model_type == "mobilenet_v2":
        return widths(config).flat
    return (getattr(config, "embedding_size", None), *config.hidden_sizes)


def _fill_embeddings(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    hidden: Tensor,
    cut: VocabularyCut | None,
    counts: np.ndarray,
    importance: Importance | None,
    seed: int,
) -> None:
    if family_of(student).modality == "image":
        _copy_image_embeddings(teacher, student, hidden)
        return
    kept_ids = torch.arange(student.config.vocab_size) if cut is None else torch.as_tensor(cut.kept_ids)
    if not _is_coded(student) and _same_embedding_form(teacher, student):
        gather_embeddings(teacher, student, kept_ids, hidden)
        return
    metric = importance.embedding_metric if importance is not None else None
    metric = None if metric is None else metric[hidden][:, hidden]
    if _is_coded(student):
        _fill_coded(teacher, student, hidden, counts, metric)
        return
    explained = fit_embeddings(teacher, student, kept_ids, hidden, counts, metric=metric, seed=seed)
    logger.info("Narrow embeddings explain %.1f %% of the teacher's embedding variance", 100 * explained)


def _same_embedding_form(teacher: PreTrainedModel, student: PreTrainedModel) -> bool:
    """Whether rows can be gathered as they are: the same type, and a narrow table of the same width on both sides or none."""
    bases: list[Any] = [teacher.base_model, student.base_model]
    narrow = [base.embeddings.word_embeddings.embedding_dim if hasattr(base, "embeddings_project") else None for base in bases]
    return type(teacher) is type(student) and narrow[0] == narrow[1]


def _is_coded(student: PreTrainedModel) -> bool:
    return isinstance(student, coded.CodedPreTrainedModel)


@torch.no_grad()
def _fill_coded(
    teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor, counts: np.ndarray, metric: Tensor | None
) -> None:
    """Codes of the teacher's tokens, its positions in few directions, its token types and its norm."""
    source: Any = teacher.base_model.embeddings
    target: Any = student.base_model.embeddings
    if type(source) is type(target) and len(hidden) == source.word_embeddings.embedding_dim and _same_sizes(source, target):
        target.load_state_dict(source.state_dict())
        return
    table = source.word_embeddings.weight[:, hidden]
    weights = torch.as_tensor(np.sqrt(np.asarray(counts, dtype=np.float64) + UNSEEN_COUNT)).float()
    words = target.word_embeddings
    assigned, tables = product_codes(table, weights, groups=words.groups, codes=words.codes_per_group, metric=metric)
    words.fill(assigned, tables)
    lost = ((rebuilt(assigned, tables) - table).square().sum(1) * weights).sum()
    spread = ((table - table.mean(0)).square().sum(1) * weights).sum().clamp(min=1e-12)
    logger.info("Coded embeddings explain %.1f %% of the teacher's embedding variance", 100 * float(1 - lost / spread))
    offset = position_offset(family_of(teacher), teacher.config)
    target.position_embeddings.fill(source.position_embeddings.weight[offset:][:, hidden])
    target.token_type_embeddings.weight.zero_()
    if hasattr(source, "token_type_embeddings"):
        target.token_type_embeddings.weight.copy_(source.token_type_embeddings.weight[:, hidden])
    encoder_cut.copy_norm(source.LayerNorm, target.LayerNorm, hidden)


def _same_sizes(source: nn.Module, target: nn.Module) -> bool:
    sizes = [{name: value.shape for name, value in module.state_dict().items()} for module in (source, target)]
    return sizes[0] == sizes[1]


def _counts(teacher: PreTrainedModel, batches: list[Any], known: np.ndarray | None) -> np.ndarray:
    """Token counts, of the batches where they are not known; all ones where there are none."""
    if known is not None:
        return known
    size = int(getattr(teacher.config, "vocab_size", 0) or 0)
    if not batches or not size:
        return np.ones(size)
    inputs = (teacher_inputs(teacher, batch) for batch in batches)
    return count_tokens((values["input_ids"][values["attention_mask"].bool()].cpu().numpy() for values in inputs), size)


@torch.no_grad()
def _copy_image_embeddings(teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor) -> None:
    source: Any = teacher.base_model
    target: Any = student.base_model
    for name in ("cls_token", "position_embeddings", "distillation_token"):
        if hasattr(source.embeddings, name):
            getattr(target.embeddings, name).copy_(getattr(source.embeddings, name)[..., hidden])
    old, new = source.embeddings.patch_embeddings.projection, target.embeddings.patch_embeddings.projection
    new.weight.copy_(old.weight[hidden])
    new.bias.copy_(old.bias[hidden])
    encoder_cut.copy_norm(source.layernorm, target.layernorm, hidden)


@torch.no_grad()
def _copy_head(teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor, batches: list[Any]) -> None:
    old, new = family_of(teacher), family_of(student)
    source, target = old.pooler(teacher), new.pooler(student)
    if source is not None and target is not None:
        encoder_cut.copy_linear(source, target, hidden, hidden)
    old_head, new_head = old.head(teacher), new.head(student)
    if _reads_other_features(teacher, student):
        _fit_head(teacher, student, hidden, batches)
    elif old_head.out_features == new_head.out_features:
        encoder_cut.copy_linear(old_head, new_head, torch.arange(old_head.out_features), hidden)


def _reads_other_features(teacher: PreTrainedModel, student: PreTrainedModel) -> bool:
    """Whether the student's final layer reads the encoder and the teacher's a pooler, so that its weights mean nothing."""
    return family_of(teacher).pooler(teacher) is not None and family_of(student).pooler(student) is None


@torch.no_grad()
def _refit_head(teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], cut: VocabularyCut | None) -> None:
    """Least squares from the student's last features to the teacher's logits, drawn towards the weights so far."""
    head = family_of(student).head(student)
    if not batches or head.out_features != family_of(teacher).head(teacher).out_features:
        return
    regress(head, *_features_and_logits(teacher, student, batches, cut), HEAD_RIDGE)


@torch.no_grad()
def _fit_head(teacher: PreTrainedModel, student: PreTrainedModel, hidden: Tensor, batches: list[Any]) -> None:
    """The final layer that reads the teacher's logits from what goes into the teacher's pooler, as nearly as one layer can.

    The student's own features are far from the teacher's at first, so a layer fitted to them alone would learn their noise.
    """
    head = family_of(student).head(student)
    head.weight.zero_()
    head.bias.zero_()
    if not batches or head.out_features != family_of(teacher).head(teacher).out_features:
        return
    features: list[Tensor] = []
    pooler = family_of(teacher).pooler(teacher)
    assert pooler is not None
    handle = pooler.register_forward_pre_hook(lambda m, args: features.append(args[0].double().cpu()[..., hidden]))
    try:
        with placed(teacher), frozen(teacher):
            logits = [head_output(teacher(**teacher_inputs(teacher, batch))).double().cpu() for batch in batches]
    finally:
        handle.remove()
    regress(head, torch.cat(features), torch.cat(logits), NEW_HEAD_RIDGE)


@torch.no_grad()
def regress(head: nn.Linear, features: Tensor, logits: Tensor, ridge: float) -> None:
    """Fit a linear layer by least squares from features to logits, drawn towards the weights that it has, in place.

    Args:
        head: D → C, with a bias.
        features: [N, D] float64.
        logits: [N, C] float64.
        ridge: How strongly it is drawn, as a share of the mean squared feature.
    """
    features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    prior = torch.cat([head.weight, head.bias[:, None]], dim=1).double()
    damping = ridge * features[:, :-1].square().mean() * len(features)
    square = features.T @ features + damping * torch.eye(features.shape[1], dtype=features.dtype)
    solution = prior + torch.linalg.solve(square, features.T @ (logits - features @ prior.T)).T
    head.weight.copy_(solution[:, :-1])
    head.bias.copy_(solution[:, -1])


def _features_and_logits(
    teacher: PreTrainedModel, student: PreTrainedModel, batches: list[Any], cut: VocabularyCut | None
) -> tuple[Tensor, Tensor]:
    """The input of the student's final layer [N, D] and the teacher's logits [N, C], in double precision."""
    features: list[Tensor] = []
    logits: list[Tensor] = []
    handle = family_of(student).head(student).register_forward_pre_hook(lambda m, args: features.append(args[0].double().cpu()))
    try:
        with placed(teacher), placed(student), frozen(teacher):
            for batch in batches:
                inputs = teacher_inputs(teacher, batch)
                logits.append(_units_of(head_output(teacher(**inputs)).double().cpu(), batch, inputs))
                student(**student_inputs(student, _in_student_tokens(student, batch, inputs, cut)))
                features[-1] = _units_of(features[-1], batch, inputs)
    finally:
        handle.remove()
    return torch.cat(features), torch.cat(logits)


def _units_of(values: Tensor, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """[B, D] as they are; of [B, T, D] those of the units (of all real tokens, where a batch has none), one below the other."""
    if values.dim() == 2:
        return values
    if not has_units(batch):
        return values[inputs["attention_mask"].bool().cpu()]
    positions = {"unit_positions": batch["unit_positions"]}
    return read_units(values, positions)[batch["unit_positions"] >= 0]


def _in_student_tokens(
    student: PreTrainedModel, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor], cut: VocabularyCut | None
) -> Mapping[str, Tensor]:
    """The batch as the student reads it: its own inputs where the batch has both, else the teacher's ids renumbered."""
    if cut is None or "teacher_input_ids" in batch:
        return batch
    read = inputs["input_ids"].cpu()
    table = torch.as_tensor(cut.new_ids(int(max(cut.kept_ids.max(), read.max())) + 1))
    unknown = cut.tokenizer.unk_token_id or 0
    ids = table[read]
    return {**inputs, "input_ids": torch.where(ids < 0, torch.full_like(ids, unknown), ids)}
