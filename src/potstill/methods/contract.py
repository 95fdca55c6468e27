"""What a method is: facts about two models and a user's wishes in, stages of training out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from potstill.answers import build as build_answers
from potstill.contracts.answers import Answers
from potstill.errors import NeedsError
from potstill.training.companions.catalogue import kinds

LayerChoice = str | Sequence[Sequence[int]]


@dataclass(frozen=True)
class ModelFacts:
    """What a method has to know about a model.

    Args:
        layers: Blocks (stages of a convolutional net).
        width: Width of the hidden states.
        heads: Attention heads of a block; None without attention.
        modality: "text" or "image".
        kept_layers: For a student cut from the teacher: the teacher's blocks that it keeps, 1-based; else empty.
        num_classes: Outputs of the head; None where unknown.
        strides: Pixels of the image per step of each block's grid (of its patches); empty for texts and where unknown.
        parameters: Numbers in it; None where unknown.
        matched: For a student: pairs (student block, teacher block) that were measured to be alike; empty where nothing was.
        start_error: For a student: the share of what the teacher's answers say that it misses before training, 0 to about 1;
            None where it was not measured.
        states: For a teacher: values of whole rows that its source of knowledge holds at no cost, and their variance over rows:
            ("mean:6", 0.04) is the mean over tokens of the state of block 6.
        head_inputs: Numbers that the final layer reads; None where nobody looked.
    """

    layers: int
    width: int
    heads: int | None
    modality: str
    kept_layers: tuple[int, ...] = ()
    num_classes: int | None = None
    strides: tuple[int, ...] = ()
    parameters: int | None = None
    matched: tuple[tuple[int, int], ...] = ()
    start_error: float | None = None
    states: tuple[tuple[str, float], ...] = ()
    head_inputs: int | None = None

    @property
    def reads_last_block(self) -> bool:
        """Whether the final layer reads what the last block gives (MobileNetV2 has a wider convolution between)."""
        return self.head_inputs in (None, self.width)

    @property
    def has_maps(self) -> bool:
        """Whether blocks give maps [B, C, H, W] (a convolutional net) and not tokens [B, T, D]."""
        return self.modality == "image" and self.heads is None


@dataclass(frozen=True)
class OnlineOptions:
    """What the user asks of methods whose teacher is no fixed model; see the recipe's `distill.online`.

    Args:
        peers: Networks of `dml`, with the student.
        start: What the other peers begin with: "student", "random", or what suits the student ("auto").
        decay: Of the average in `mean_teacher`.
        consistency: Weight of its consistency after the ramp.
        ramp_up: Share of training over which that rises; None for the paper's.
        noise: σ of `noisy_teacher`.
        noise_share: Share of the rows with noise.
        turned_share: Share of the rows kept of those that the teacher gets wrong, in `sskd`.
        itself: What `self` stands for: "tf_kd", "cs_kd" or "label_smoothing".
    """

    peers: int = 2
    start: Literal["auto", "student", "random"] = "auto"
    decay: float = 0.999
    consistency: float = 100.0
    ramp_up: float | None = None
    noise: float = 0.5
    noise_share: float = 0.5
    turned_share: float = 0.75
    itself: str = "tf_kd"


@dataclass(frozen=True)
class MethodOptions:
    """What the user and the run ask of a method; None means the method's default.

    Args:
        epochs: Passes over the rows, over all stages; shared out in the method's proportions.
        learning_rate: Peak of every stage.
        temperature: τ of the response term, a number or a schedule.
        alpha: Weight of the teacher's response, a number or a schedule; the labels get the rest.
        layers: auto, uniform, last, first, skip, dynamic, or pairs (student, teacher).
        has_taps: The source of knowledge gives more than logits.
        has_same_tokens: Student and teacher see the same tokens, so that token values can be compared.
        answers: What the task's answers are, and which losses teach them.
        online: For methods with peers, averages and noise.
        assistants: Models between teacher and student.
        generations: Students of one shape, one after the other.
        anchors: Earlier states of the teacher.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    temperature: Any = None
    alpha: Any = None
    layers: LayerChoice = "auto"
    has_taps: bool = True
    has_same_tokens: bool = True
    answers: Answers = field(default_factory=lambda: build_answers("class"))
    online: OnlineOptions = OnlineOptions()
    assistants: int | None = None
    generations: int | None = None
    anchors: int | None = None


@dataclass(frozen=True)
class TermSpec:
    """A term as data: it becomes a loss when the stage starts.

    Args:
        name: In the catalogue of losses.
        weight: A number or a schedule as a recipe writes it.
        temperature: Likewise; None leaves the loss's own.
        options: Of the loss.
    """

    name: str
    weight: Any = 1.0
    temperature: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def pairs_blocks(self) -> bool:
        """Whether it compares blocks by number, which `layers` may choose, and not values that it names itself."""
        return any(not isinstance(end, str) for pair in self.options.get("layers", ()) for end in pair)

    def as_loss(self) -> dict[str, Any]:
        """The mapping that `DistillationTrainer` and a recipe take."""
        heat = {} if self.temperature is None else {"temperature": self.temperature}
        return {"name": self.name, "weight": self.weight, **heat, **self.options}


@dataclass(frozen=True)
class Phase:
    """One stage of training.

    Args:
        name: Of the stage: "intermediate", "prediction".
        terms: Its objective.
        epochs: Passes over the rows.
        learning_rate: Peak.
        rows: "all" rows, or the "labelled" ones alone.
        select: Which weights are kept: "metric", "fidelity" or "last".
        settings: Further settings of `PhaseSettings`.
        learner: Who is trained: "student", or a model of a chain under this name.
        teacher: Who is listened to: "teacher", a model of the chain, or "anchor-2", an earlier state of the teacher.
        parameters: Size of a learner of a chain; None for the student's own shape.
        by_start: Whether rate and passes follow from how far the student starts from the teacher (`ModelFacts.start_error`).
    """

    name: str
    terms: tuple[TermSpec, ...]
    epochs: float
    learning_rate: float
    rows: str = "all"
    select: str = "metric"
    settings: Mapping[str, Any] = field(default_factory=dict)
    learner: str = "student"
    teacher: str = "teacher"
    parameters: int | None = None
    by_start: bool = False

    def losses(self) -> list[dict[str, Any]]:
        """The terms as `DistillationTrainer` takes them."""
        return [term.as_loss() for term in self.terms]

    def needs_taps(self) -> bool:
        """Whether a term reads more of the teacher than its logits."""
        return any(need != "logits" for need in self._needs_teacher())

    def asks_teacher(self) -> bool:
        """Whether a term reads the logits of a teacher that is neither the student's peers nor its own average."""
        companions = kinds(self.settings.get("companions", {}))
        return not any(kind.replaces_teacher for kind in companions) and "logits" in self._needs_teacher()

    def _needs_teacher(self) -> set[str]:
        from potstill.losses import catalogue

        return {need for term in self.terms for need in catalogue.build(term.name, **term.options).needs_teacher()}


class Method(Protocol):
    """A named combination."""

    def __call__(self, student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
        """The stages, in order."""
        ...


def facts_of(model: Any, *, kept_layers: Sequence[int] = ()) -> ModelFacts:
    """The facts of a model or its configuration: of a supported family, or else what the configuration says.

    Args:
        model: A transformers model or configuration.
        kept_layers: The teacher's blocks that it was cut from; they count only where its blocks are layers of one width.
    """
    from potstill.models.families import family_or_none
    from potstill.models.size import parameters_of

    family, config = family_or_none(model), getattr(model, "config", model)
    size = parameters_of(model) if hasattr(model, "named_buffers") else None
    classes = getattr(config, "num_labels", None)
    if family is None:
        depth = getattr(config, "num_hidden_layers", None) or len(getattr(config, "depths", getattr(config, "stages", (1,))))
        width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [0])[-1]
        modality = "image" if hasattr(config, "image_size") or hasattr(config, "num_channels") else "text"
        heads, strides = getattr(config, "num_attention_heads", None), tuple(getattr(config, "strides", ()))
        return ModelFacts(int(depth), int(width), heads, modality, num_classes=classes, strides=strides, parameters=size)
    depth, width = family.size(config, "layers"), family.size(config, "hidden")
    heads = family.size(config, "heads") if family.roles else None
    layers = len(depth) if isinstance(depth, (list, tuple)) else int(depth)
    last_width = width[-1] if isinstance(width, (list, tuple)) else width
    # the stages of a convolutional net are not the blocks that a plan counts
    kept = tuple(kept_layers) if heads is not None and len(kept_layers) == layers else ()
    inputs, strides = _head_inputs(family, model), family.strides(config)
    return ModelFacts(layers, int(last_width), heads, family.modality, kept, classes, strides, size, head_inputs=inputs)


def _head_inputs(family: Any, model: Any) -> int | None:
    """Numbers that a model's final layer reads; None for a configuration, and where the layer does not say."""
    if not hasattr(model, "named_modules"):
        return None
    try:
        return getattr(family.head(model), "in_features", None)
    except NeedsError:
        return None


def with_wishes(stages: Sequence[Phase], options: MethodOptions) -> tuple[Phase, ...]:
    """The stages with the user's epochs, shared out in the method's proportions, and learning rate."""
    whole = sum(stage.epochs for stage in stages)
    share = 1.0 if options.epochs is None else options.epochs / whole
    rate = options.learning_rate
    return tuple(
        replace(stage, epochs=stage.epochs * share, learning_rate=stage.learning_rate if rate is None else rate)
        for stage in stages
    )


def require_taps(name: str, options: MethodOptions, *, compares_tokens: bool = True) -> None:
    """Refuse a method whose knowledge is not there.

    Raises:
        NeedsError: The source gives logits alone, or the tokens differ.
    """
    if not options.has_taps:
        raise NeedsError(
            f"method {name!r} needs hidden states or attention of the teacher, the source of knowledge holds logits alone",
            "a live teacher (cache: never), or a method on logits such as 'kd'",
            "set distill.cache: never, or distill.method: kd",
        )
    if compares_tokens and not options.has_same_tokens:
        raise NeedsError(
            f"method {name!r} compares student and teacher token by token, and they cut texts into different tokens",
            "a student with the teacher's vocabulary, or a method on logits such as 'kd'",
            "set student.vocabulary: keep, or distill.method: kd",
        )
