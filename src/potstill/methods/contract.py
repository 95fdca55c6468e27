"""A method of distillation: facts about two models and a user's wishes in, phases of training out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

from potstill import modalities
from potstill.answers import build as build_answers
from potstill.contracts.answers import Answers
from potstill.contracts.options import Options
from potstill.errors import NeedsError, PotstillError, raise_faults
from potstill.recipe.faults import read_options
from potstill.training.companions.catalogue import kinds

if TYPE_CHECKING:
    from potstill.recipe import Recipe
    from potstill.training.companions.contract import Companion

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
        head_inputs: Numbers that the final layer reads; None where unknown.
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
        return self.heads is None and modalities.build(self.modality).can_turn


@dataclass(frozen=True)
class MethodOptions:
    """What the user and the run ask of a method; None means the method's default.

    Args:
        epochs: Passes over the rows, over all phases; shared out in the method's proportions.
        learning_rate: Peak of every phase.
        temperature: τ of the response term, a number or a schedule.
        alpha: Weight of the teacher's response, a number or a schedule; the labels get the rest.
        layers: auto, uniform, last, first, skip, dynamic, or pairs (student, teacher).
        has_taps: The source of knowledge gives more than logits.
        has_same_tokens: Student and teacher see the same tokens, so that token values can be compared.
        answers: What the task's answers are, and which losses teach them.
        own: Options of the method itself, as a mapping or as an instance of the method's option class.
        anchors: Earlier states of the teacher that are there to follow; None where they are still to be made.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    temperature: Any = None
    alpha: Any = None
    layers: LayerChoice = "auto"
    has_taps: bool = True
    has_same_tokens: bool = True
    answers: Answers = field(default_factory=lambda: build_answers("class"))
    own: Any = field(default_factory=dict)
    anchors: int | None = None


@dataclass(frozen=True)
class TermSpec:
    """A term as data: it becomes a loss when the phase starts.

    Args:
        weight: A number or a schedule as a recipe writes it.
        temperature: Likewise; None leaves the loss's own.
        label: What it is logged as; None for its name.
    """

    name: str
    weight: Any = 1.0
    temperature: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None

    def pairs_blocks(self) -> bool:
        """Whether it compares blocks by number, which `layers` may choose, and not values that it names itself."""
        return any(not isinstance(end, str) for pair in self.options.get("layers", ()) for end in pair)

    def as_loss(self) -> dict[str, Any]:
        """The mapping that `DistillationTrainer` and a recipe take."""
        others = {"temperature": self.temperature, "as": self.label}
        given = {key: value for key, value in others.items() if value is not None}
        return {"name": self.name, "weight": self.weight, **given, **self.options}


@dataclass(frozen=True)
class Phase:
    """One phase of training.

    Args:
        rows: "all" rows, or the "labelled" ones alone.
        select: Which weights are kept: "metric", "fidelity" or "last".
        settings: Further settings of `PhaseSettings`.
        learner: Who is trained: "student", or a model of a chain under this name.
        teacher: Whose answers it learns: "teacher", a model of the chain, or "anchor-2", an earlier state of the teacher.
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

    def companions(self) -> list[type[Companion]]:
        """The kinds of companions that train together with the student."""
        return kinds(self.settings.get("companions", {}))

    def asks_teacher(self) -> bool:
        """Whether a term reads the logits of a teacher that is neither the student's peers nor its own average."""
        return not any(kind.replaces_teacher for kind in self.companions()) and "logits" in self.needs_teacher()

    def needs_teacher(self) -> set[str]:
        """Need names of all values of the teacher that the terms read."""
        from potstill.losses import catalogue

        return {need for term in self.terms for need in catalogue.build(term.name, **term.options).needs_teacher()}


class OwnOptions(Options):
    """Options of one method; a method without any has this class."""

    def implied(self) -> Mapping[str, Any]:
        """What follows elsewhere in the recipe where the user leaves it open: dotted key → value."""
        return {}

    def check(self, recipe: Recipe) -> None:
        """Refuse what cannot work with the rest of the recipe, before anything is read.

        Raises:
            RecipeError: It cannot.
        """


Plan = Callable[[ModelFacts, ModelFacts, MethodOptions], tuple[Phase, ...]]


class Method:
    """A named combination of losses: the function that plans its phases, and the class of its own options."""

    def __init__(self, plan: Plan, options: type[OwnOptions] = OwnOptions) -> None:
        update_wrapper(self, plan)
        self.plan, self.options = plan, options

    def __call__(self, student: ModelFacts, teacher: ModelFacts, options: MethodOptions) -> tuple[Phase, ...]:
        """The phases, in order."""
        return self.plan(student, teacher, replace(options, own=self.read_options(options.own)))

    def read_options(self, own: Any) -> OwnOptions:
        """The method's own options from a mapping; an instance of their class stays as it is.

        Raises:
            RecipeError: An option that the method does not have, or a value out of range.
        """
        if isinstance(own, self.options):
            return own
        faults: list[PotstillError] = []
        read = read_options(self.options, own, faults, path="distill.options")
        raise_faults(faults)
        assert read is not None
        return read


def takes(options: type[OwnOptions]) -> Callable[[Plan], Method]:
    """Decorator of a method that has options of its own.

    Example:
        >>> class Early(OwnOptions):
        ...     until: float = 0.5
        >>> @takes(Early)
        ... def early(student, teacher, options):
        ...     return (Phase(f"until {options.own.until}", (), 1.0, 1e-3),)
        >>> early(ModelFacts(2, 8, 2, "text"), ModelFacts(4, 8, 2, "text"), MethodOptions(own={"until": 0.25}))[0].name
        'until 0.25'
    """
    return lambda plan: Method(plan, options)


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


def with_wishes(phases: Sequence[Phase], options: MethodOptions) -> tuple[Phase, ...]:
    """The phases with the user's epochs, shared out in the method's proportions, and learning rate."""
    whole = sum(phase.epochs for phase in phases)
    wanted = whole if options.epochs is None else options.epochs
    rate = options.learning_rate
    return tuple(
        replace(phase, epochs=wanted * (phase.epochs / whole), learning_rate=phase.learning_rate if rate is None else rate)
        for phase in phases
    )


def require_taps(name: str, options: MethodOptions, *, compares_tokens: bool = True) -> None:
    """Refuse a method whose knowledge is not there."""
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
