"""The Recipe: every setting of a run, typed, strict, with one home per default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from potstill.contracts.options import Fraction, NameIn, Options, Percent, PositiveFloat, PositiveInt
from potstill.contracts.target import TARGETS
from potstill.contracts.task import TASKS, TOKEN_TASKS
from potstill.contracts.way import AUTO, modes
from potstill.ground.counted import counted
from potstill.recipe.adapter import LoraRecipe

if TYPE_CHECKING:
    QuantizeMode = str
    TaskName = str
    TargetName = str
else:  # names of the tables
    QuantizeMode, TargetName, TaskName = Literal[modes()], Literal[tuple(TARGETS)], Literal["auto", *TASKS, *TOKEN_TASKS]

Scalar = float | dict[str, Any]
IN_MEMORY = "<in memory>"  # stands where a value has no name
ARCHITECTURES = NameIn("potstill.models.architectures.registration:ARCHITECTURES")
Architecture = Annotated[str, ARCHITECTURES]


class OneTeacherRecipe(Options):
    """A model that knows, and how its head is trained where it is new."""

    model: str = Field(description="Folder or hub id of the teacher, or package.module:function that makes a torch.nn.Module.")
    finetune: Literal["auto", "never", "always"] = Field(
        "auto",
        description="auto: train the teacher on the data where its head is new; never: a new head is an error; always: train it.",
    )
    epochs: PositiveFloat = Field(4.0, description="Epochs of the `teach` stage.")
    learning_rate: PositiveFloat | None = Field(
        None,
        description="Peak learning rate of the `teach` stage; none: 5e-5, or 1e-3 from random weights.",
    )
    batch_size: PositiveInt = Field(32, description="Rows per step of the `teach` stage.")
    from_scratch: bool = Field(False, description="The folder holds a config only: start from random weights.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")
    processor: str | None = Field(
        None,
        description="Folder or hub id of the image processor, for a teacher made by a function; none: the function gives it.",
    )


class TeacherRecipe(OneTeacherRecipe):
    """The model that knows, or several; `teacher: {models: [a, b]}` and `teachers: [a, b]` fill `model` and `others`."""

    others: list[OneTeacherRecipe] = Field(
        default_factory=list,
        description="Further teachers, combined with the first; each may have its own settings and, for text, tokenizer.",
    )
    combine: Literal["mean", "fixed", "confidence", "max_probability", "agreement", "learned"] = Field(
        "mean",
        description="How several teachers become one: mean of probabilities; fixed weights; weights of each row by the teacher's "
        "entropy, its largest probability or its agreement with the label; or weights learned with the student.",
    )
    weights: list[float] | None = Field(
        None, description="One per teacher: the weights of `fixed`, and where the other ways start; none: equal."
    )
    anchors: PositiveInt | None = Field(
        None, description="States during its training that the `teach` stage keeps, for method rco; none: 4 with rco, else none."
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> TeacherRecipe:
        count = 1 + len(self.others)
        if self.weights is not None and len(self.weights) != count:
            raise ValueError(
                f"weights has {counted(len(self.weights), 'entry', 'entries')} for {counted(count, 'teacher')}"
                f": give one weight per teacher"
            )
        if self.weights is not None and (min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf")):
            raise ValueError("weights must be finite, 0 or more, and not all 0")
        if self.combine == "fixed" and self.weights is None:
            raise ValueError("combine: fixed needs weights, one per teacher; or combine: mean")
        if self.combine == "mean" and self.weights is not None:
            raise ValueError("combine: mean takes no weights; set combine: fixed to use them")
        if self.combine != "mean" and not self.others:
            raise ValueError(f"combine: {self.combine} needs several teachers; list them under teacher.models")
        return self

    @property
    def all(self) -> tuple[OneTeacherRecipe, ...]:
        """Every teacher, the first one first."""
        return (self, *self.others)


def _as_label(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class OneDataRecipe(Options):
    """Rows of one task."""

    source: str = Field(description="File, folder or hub id of the labelled data.")
    columns: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Role → column name where the names are not clear: text, text_pair, image, label. "
        "For several labels or numbers label may be a list of columns.",
    )
    validation: str | None = Field(None, description="Where the validation split is, if not in the source.")
    test: str | None = Field(None, description="Where the test split is, if not in the source.")
    unlabelled: str | None = Field(None, description="Rows without labels; the teacher labels them softly.")
    max_rows: PositiveInt | None = Field(None, description="Use only this many training rows, drawn by the seed.")
    skip_corrupt: bool = Field(False, description="Leave out images that cannot be read instead of stopping.")
    label_map: dict[str, str] = Field(
        default_factory=dict,
        description="Label of the data → the teacher's label, where the two have other names: {bad: negative, good: positive}.",
    )
    unlabeled_rows: Literal["refuse", "use"] = Field(
        "refuse",
        description="Training rows without a label: refuse them, or use them as rows that the teacher labels, like `unlabelled`.",
    )

    @field_validator("label_map", mode="before")
    @classmethod
    def _as_names(cls, given: Any) -> Any:
        """Numbers and truth values of YAML as the names of labels."""
        if not isinstance(given, dict):
            return given
        return {_as_label(label): _as_label(name) for label, name in given.items()}


class DataRecipe(OneDataRecipe):
    """The user's rows."""

    augment: Literal["auto", "none"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="Rows made from training rows and labelled by the teacher: auto, none, or how many for each row.",
    )
    max_tokens: PositiveInt | None = Field(
        None, description="Longest input in tokens; none: what the teacher can read, at most 512."
    )
    long_texts: Literal["auto", "segment", "truncate"] = Field(
        "auto",
        description="Texts longer than the window: segment: read in overlapping segments, whose answers are averaged;"
        " truncate: cut; auto: segment for single texts to classify, unless max_tokens is set.",
    )


class TaskRecipe(Options):
    """One of several tasks: its teacher and its rows."""

    teacher: OneTeacherRecipe = Field(description="Who knows this task: a folder or hub id, or a mapping with a model.")
    data: OneDataRecipe = Field(description="Rows of this task: a file, folder or hub id, or a mapping with a source.")


class StudentRecipe(Options):
    """How small, and of which shape."""

    ratio: Annotated[float | None, Percent] = Field(
        None, description="Share of the teacher's parameters to remove: 0 (same architecture) or 0.10 to 0.95. Default 0.9."
    )
    params: PositiveInt | None = Field(None, description="Parameters of the student, instead of a ratio.")
    bytes: PositiveInt | None = Field(None, description="Size of the student in fp32 bytes, instead of a ratio.")
    latency_ms: PositiveFloat | None = Field(None, description="Predicted milliseconds per row at batch 1, instead of a ratio.")
    model: str | None = Field(
        None,
        description="Hub id or folder of a ready student model or config, or package.module:function that makes a"
        " torch.nn.Module; instead of a plan.",
    )
    trust_remote_code: bool = Field(False, description="Run the function that student.model names.")
    architecture: Architecture | None = Field(
        None, description="Another kind of network than the teacher's, planned for the same budget; reaches ratio 0.99."
    )
    vocabulary: Literal["auto", "keep"] | PositiveInt = Field(
        "auto", description="auto: cut to what the data uses; keep: the teacher's; or a size."
    )

    embeddings: Literal["auto", "table"] = Field(
        "auto",
        description="auto: put together from codes where that keeps more of the teacher (Potstill's own encoder type); "
        "table: a row for each token, so that the student is of a type that transformers has.",
    )

    plain: bool = Field(
        False, description="A student of a type that transformers has: attention and embeddings are cut to uniform shapes."
    )

    adapter: Literal["none", "lora"] = Field(
        "none", description="Language models: lora trains a small adapter instead of all weights, and merges it at the end."
    )
    lora: LoraRecipe = Field(default_factory=LoraRecipe, description="Shape of the LoRA adapter.")

    @field_validator("ratio")
    @classmethod
    def _in_range(cls, ratio: float | None) -> float | None:
        if ratio is not None and ratio != 0 and not 0.10 <= ratio <= 0.99:
            guess = f"; did you mean {ratio / 100:g}?" if 10 <= ratio <= 99 else ""
            raise ValueError(f"0 (same architecture) or 0.10 to 0.95; up to 0.99 with student.architecture{guess}")
        return ratio

    @model_validator(mode="after")
    def _one_budget(self) -> StudentRecipe:
        given = [name for name in ("ratio", "params", "bytes", "latency_ms", "model") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"only one of ratio, params, bytes, latency_ms and model can be given, found {' and '.join(given)}")
        if self.ratio is not None and self.ratio > 0.95 and self.architecture is None:
            raise ValueError("ratio must be at most 0.95; above that, set student.architecture: static, textcnn or bilstm")
        if self.plain and self.architecture is not None:
            raise ValueError(
                f"plain asks for a type of transformers' own, and {self.architecture} is one of Potstill's; leave one of them out"
            )
        if self.architecture is not None and self.model is not None:
            raise ValueError("only one of architecture and model can be given")
        return self

    @property
    def budget(self) -> dict[str, float]:
        """The one budget that was asked for, as keyword arguments of `plan`; an adapter alone keeps the shape."""
        for name in ("ratio", "params", "bytes", "latency_ms"):
            value = getattr(self, name)
            if value is not None:
                return {name: value}
        return {"ratio": 0.9 if self.adapter == "none" else 0.0}


class RowsRecipe(Options):
    """Which rows are learnt from, when, and how much."""

    order: Literal["random", "curriculum"] = Field(
        "random", description="curriculum: the easiest rows first, more of them from step to step."
    )
    difficulty: Literal["teacher", "length"] = Field(
        "teacher", description="What is hard in a curriculum: rows that the teacher is unsure of, or long ones."
    )
    start: Annotated[float, Field(gt=0.0, le=1.0), Percent] = Field(
        0.3, description="Share of the rows that a curriculum begins with."
    )
    pace: Annotated[float, Field(gt=0.0, le=1.0), Percent] = Field(
        0.5, description="Share of training after which a curriculum has reached all rows."
    )
    focus: Literal["none", "teacher_uncertainty", "student_loss"] = Field(
        "none", description="Which rows count more: those the teacher is unsure of, or those the student still answers otherwise."
    )
    by: Literal["weight", "sampling"] = Field(
        "weight", description="Whether a row's focus weighs its gradient or how often it is drawn."
    )
    strength: Fraction = Field(
        1.0, description="λ of the focus: a row's weight is 1 − λ + λ · value / mean value; 0 leaves all rows alike."
    )


class DistillRecipe(Options):
    """How the student learns."""

    method: str = Field(
        "auto", description="Name of a method (`potstill methods`); auto: what the evidence favours for this task."
    )
    epochs: PositiveFloat | None = Field(
        None,
        description="Passes over the training rows, augmented ones included; none: the method's default.",
    )
    learning_rate: PositiveFloat | None = Field(None, description="Peak learning rate; none: the method's default.")
    batch_size: PositiveInt = Field(32, description="Rows per step and rank.")
    accumulation: PositiveInt = Field(1, description="Micro-batches per optimizer step.")
    temperature: Scalar | None = Field(
        None,
        description="τ of the response loss: a number, a schedule, or {per_sample: [low, high]}; none: the method's default.",
    )
    alpha: Annotated[Scalar | None, Percent] = Field(
        None, description="Weight of the teacher's soft targets; the labels get 1 − alpha. None: the method's default."
    )
    losses: list[Any] | dict[str, Any] | None = Field(
        None,
        description="Own terms instead of a method's: names, mappings {name, weight, …},"
        " or a table {backbone: {type, weight}, neck, head}.",
    )
    layers: str | list[tuple[int, int]] = Field(
        "auto",
        description="Matched blocks: auto (measured), uniform, last, first, skip, dynamic, or pairs [student, teacher].",
    )
    rows: RowsRecipe = Field(default_factory=RowsRecipe, description="Easy rows first, or more of those that teach most.")
    balance: Literal["none", "phases", "gradient_norm", "uncertainty"] = Field(
        "none",
        description="How terms are weighed against each other: as given, by phase, by gradient norm, or by learned variances.",
    )
    cache: Literal["auto", "always", "never"] = Field(
        "auto", description="Teacher outputs from disk (always), live (never), or what pays (auto)."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the method itself; those of each method are listed by name."
    )
    online: dict[str, Any] = Field(
        default_factory=dict,
        description="Earlier place of the options of dml, mean_teacher, noisy_teacher, sskd and self; now distill.options.",
    )
    chain: dict[str, Any] = Field(
        default_factory=dict, description="Earlier place of the options of takd, rco and ban; now distill.options."
    )
    select: Literal["auto", "metric", "fidelity", "last"] = Field("auto", description="Which checkpoint is kept.")
    patience: PositiveInt | None = Field(None, description="Stop after this many evaluations without gain; none: never early.")


class QuantizeRecipe(Options):
    """Smaller numbers, chosen by measurement."""

    mode: QuantizeMode = Field(AUTO, description="auto measures every candidate on this machine; or a group, or one of them.")
    max_drop: Fraction = Field(0.01, description="Largest drop of the metric on validation that is accepted.")
    calibration_rows: PositiveInt = Field(256, description="Training rows used to calibrate static quantization.")


class EvaluateRecipe(Options):
    """What is measured."""

    batch_sizes: list[PositiveInt] = Field(default_factory=lambda: [1, 8, 32], description="Batch sizes of the latency table.")
    repeats: PositiveInt = Field(50, description="Timed calls per runtime and batch size, interleaved between runtimes.")
    worst_examples: Annotated[int, Field(ge=0)] = Field(12, description="Rows shown where the student errs most.")
    similarity_rows: PositiveInt = Field(256, description="Rows on which layers and attention are compared.")


class Recipe(Options):
    """The whole run, with the sections of plug-ins as extra values. `potstill schema` prints this as a JSON schema."""

    model_config = ConfigDict(extra="allow")

    teacher: TeacherRecipe
    data: DataRecipe
    tasks: dict[str, TaskRecipe] = Field(
        default_factory=dict,
        description="Several tasks for one student, instead of teacher and data: name → {teacher, data}. The student is cut out "
        "of the first one's teacher; what teacher and data set outside of tasks holds for every task.",
    )
    task: TaskName = Field("auto", description="What a row means; auto: what teacher and columns say.")
    student: StudentRecipe = Field(default_factory=lambda: StudentRecipe())
    distill: DistillRecipe = Field(default_factory=lambda: DistillRecipe())
    quantize: QuantizeRecipe = Field(default_factory=lambda: QuantizeRecipe())
    evaluate: EvaluateRecipe = Field(default_factory=lambda: EvaluateRecipe())
    target: TargetName = Field("cpu", description="Hardware that will serve the student.")
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list, description="Trackers that follow training live; TensorBoard's files go to the folder tensorboard."
    )
    callbacks: list[str] = Field(
        default_factory=list,
        description="Callbacks of one's own, package.module:Class on transformers.TrainerCallback; needs trust_code.",
    )
    trust_code: bool = Field(
        False, description="Run code that the recipe names as package.module:name: a method, losses, callbacks of one's own."
    )
    baseline: bool = Field(
        False, description="Also train the same student without distillation, on the same budget, for comparison."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Training precision; auto is fp32 on a CPU, on a GPU bf16 where the measured step gains.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of splits, initialisation and batch order.")
    output: str = Field("out", description="Folder that receives everything.")
    store: str | None = Field(
        None, description="Folder where runs share rows, teachers, answers and scores; none: all lies in the output folder."
    )
