"""All figures of a run as one strict document: `report/metrics.json`.

The page, the model card, the table and TensorBoard are all drawn from this document alone.
Units are in the names: `_ms`, `_seconds`, `_bytes`, `_nats`; shares are 0 to 1. A figure that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from potstill.errors import OutputError

SCHEMA_VERSION = 1
ATTENTION_WARNING = 0.15


def _finite(value: Any) -> Any:
    """NaN and infinities become None; numpy scalars become Python numbers."""
    if isinstance(value, Real) and not isinstance(value, (bool, int, float)):
        value = float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(value: Any) -> Any:
    """Whole numbers of any kind (numpy, 3.0) become int; not finite becomes None."""
    value = _finite(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Figure = Annotated[float | None, BeforeValidator(_finite)]
Count = Annotated[int | None, BeforeValidator(_whole)]
Key = Annotated[str, BeforeValidator(str)]


class Part(BaseModel):
    """Base of every part: unknown keys are errors, values are checked on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class Ratio(Part):
    """Share of the teacher's parameters that was removed."""

    asked: Figure = Field(None, description="Ratio asked for, 0 to 0.95; null where a student was named instead.")
    achieved: Figure = Field(None, description="1 - student parameters / teacher parameters.")


class Latency(Part):
    """Time of one call in milliseconds, after warm-up."""

    p50: Figure = Field(None, description="Median, milliseconds.")
    p95: Figure = Field(None, description="95th percentile, milliseconds.")
    p99: Figure = Field(None, description="99th percentile, milliseconds.")
    threads: Count = Field(None, description="Threads that the runtime used.")
    cpu_share: Figure = Field(
        None, description="Median CPU time / (wall time x threads): near 1 for one thread that had a core to itself."
    )


class ModelFigures(Part):
    """What was measured of one model on the test split and on this machine."""

    quality: dict[str, Figure] = Field(default_factory=dict, description="Metric name to value on the test split.")
    parameters: Count = Field(None, description="Number of parameters.")
    bytes: Count = Field(None, description="Bytes on disk of the file or files that are served.")
    formats: dict[str, Count] = Field(default_factory=dict, description="Format (safetensors, onnx-fp32 …) to bytes on disk.")
    flops: Count = Field(None, description="Floating point operations of one row at the data's median length.")
    ece: Figure = Field(None, description="Expected calibration error, 15 equal-width bins.")
    retention: Figure = Field(None, description="This model's metric / the teacher's metric.")
    agreement: Figure = Field(None, description="Share of test rows on which this model and the teacher choose the same class.")
    wdsr: Figure = Field(None, description="Agreement with each row weighted by the teacher's probability of the true label.")
    mean_kl_nats: Figure = Field(None, description="Mean KL(teacher || this model) over test rows, in nats.")
    closeness: dict[str, Figure] = Field(
        default_factory=dict, description="Further figures against the teacher's answers, where answers are no classes."
    )
    latency_ms: dict[str, dict[Key, Latency]] = Field(
        default_factory=dict, description="Runtime-precision (onnxruntime-int8 …) to batch size to percentiles, milliseconds."
    )
    throughput: dict[str, dict[Key, Figure]] = Field(
        default_factory=dict, description="Runtime-precision to batch size to rows per second."
    )


class Machine(Part):
    """The machine on which every speed in this document was measured."""

    name: str | None = Field(None, description="Host name or a name given by the user.")
    system: str | None = Field(None, description="Operating system and architecture.")
    cpu: str | None = Field(None, description="Processor model and the instruction sets that matter.")
    cores: Count = Field(None, description="Cores that this process may use.")
    all_cores: Count = Field(None, description="Cores of the whole machine, hyper-threads counted once where that is known.")
    threads: Count = Field(None, description="Threads that the measurements used.")
    memory_bytes: Count = Field(None, description="Main memory, bytes.")
    other_work: Count = Field(
        None, description="Processes of others that wanted a core when timing began or ended; null where the system does not say."
    )
    load_average: Figure = Field(
        None, description="Processes that ran or waited, mean of the minute before timing, this one included."
    )
    cpu_share: Figure = Field(
        None, description="Lowest CPU time / wall time of a timed runner with one thread; near 1 on an idle machine."
    )
    throttled_share: Figure = Field(
        None, description="Time for which a limit on the container's cores held it back / time that timing took."
    )
    heat_events: Count = Field(None, description="How often heat lowered the clock of a core meanwhile.")
    accelerator: str | None = Field(None, description="GPU or other accelerator; null where there is none.")
    notes: list[str] = Field(default_factory=list, description="Anything that may have disturbed the measurements.")


class TeacherAsServed(Part):
    """The teacher in the runtime and precision of the student that is served: its times; its answers there were not measured."""

    runtime: str | None = Field(None, description="Runtime-precision, onnxruntime-int8 …; null where nothing was timed.")
    latency_ms: dict[Key, Latency] = Field(default_factory=dict, description="Batch size to percentiles, milliseconds.")
    reason: str | None = Field(None, description="Why nothing was timed, in words.")


class TargetSummary(Part):
    """The hardware that the student is for, and who measured it."""

    name: str = Field(description="As the recipe's `target` names it.")
    title: str = Field(description="As a person reads it.")
    verdict: Literal["measured here", "converted"] = Field(
        description="converted: files were made for it and their answers checked on the CPU; speeds were not measured."
    )
    hardware: str | None = Field(None, description="What was measured; null where nothing was.")
    note: str | None = Field(None, description="Why nothing was measured, in words.")


class DataSummary(Part):
    """What the models were trained and measured on."""

    source: str | None = Field(None, description="Where the data came from, as the user gave it.")
    rows: dict[str, Count] = Field(default_factory=dict, description="Split name to number of rows.")
    label_names: list[str] = Field(default_factory=list, description="Class names in the order of the logits.")
    tokens: dict[str, Figure] = Field(default_factory=dict, description="Row length in tokens: p50, p95, max; empty for images.")
    documents: dict[str, dict[str, Count]] = Field(
        default_factory=dict,
        description="Of language models, split name to counts: rows, documents, windows that they were packed into, tokens, "
        "learned ones (the others are masked), truncated and left_out rows.",
    )
    notes: list[str] = Field(default_factory=list, description="What was found, carved out or skipped, in words.")


class TokenCacheFigures(Part):
    """What was kept of a language model's distributions over the next token."""

    scheme: str = Field(description="sampled, top_k or dense.")
    bytes_per_token: Figure = Field(None, description="Bytes on disk for each learned token.")
    tokens: Count = Field(None, description="Learned tokens that were kept.")
    seconds: Figure = Field(None, description="Time of the passes that wrote it, seconds.")


class QuantizationTry(Part):
    """One candidate of `quantize: auto`, built and measured on this machine."""

    name: str = Field(description="Candidate, for example onnxruntime-int8-dynamic.")
    runtime: str | None = Field(None, description="Runtime that runs it.")
    precision: str | None = Field(None, description="Precision of its weights and arithmetic.")
    path: str | None = Field(None, description="File or folder, relative to the output folder.")
    bytes: Count = Field(None, description="Bytes on disk.")
    metric: Figure = Field(None, description="The run's metric on the validation split.")
    drop: Figure = Field(None, description="Unquantized metric - this metric.")
    p50_ms: Figure = Field(None, description="Median latency at batch 1, milliseconds.")
    accepted: bool = Field(default=False, description="Whether the drop is within max_drop.")
    reason: str = Field(default="", description="Why it was kept or not, in words; the error where it could not be built.")


class Quantization(Part):
    """Which quantized model was kept, and why."""

    chosen: str | None = Field(None, description="Name of the candidate kept; null where none was.")
    reason: str = Field(default="", description="Why, in words.")
    max_drop: Figure = Field(None, description="Largest drop of the metric that was allowed.")
    candidates: list[QuantizationTry] = Field(default_factory=list, description="Everything that was tried.")


class PlanSummary(Part):
    """Architecture of teacher and student, and what was cut."""

    teacher: dict[str, Any] = Field(default_factory=dict, description="Teacher's shape: model_type, layers, hidden_size, heads …")
    student: dict[str, Any] = Field(default_factory=dict, description="Student's shape, same keys.")
    layers_kept: list[int] = Field(default_factory=list, description="Teacher layers that the student starts from, 1-based.")
    notes: list[str] = Field(default_factory=list, description="What the planner decided, in words.")


class AttentionDifference(Part):
    """Attention of one mapped pair of layers."""

    teacher_layer: int = Field(description="Teacher layer, 1-based.")
    student_layer: int = Field(description="Student layer, 1-based.")
    jsd: Figure = Field(None, description="Mean Jensen-Shannon divergence, nats, 0 to ln 2.")
    tokens: list[str] = Field(default_factory=list, description="Tokens of the example whose maps follow.")
    teacher_map: list[list[Figure]] = Field(
        default_factory=list, description="Teacher's attention [T, T] of one example, heads averaged."
    )
    student_map: list[list[Figure]] = Field(default_factory=list, description="Student's attention [T, T] of the same example.")


class LayerSimilarity(Part):
    """How alike the inner layers are."""

    teacher_layers: list[str] = Field(default_factory=list, description="Names of the rows of `cka`.")
    student_layers: list[str] = Field(default_factory=list, description="Names of the columns of `cka`.")
    cka: list[list[Figure]] = Field(default_factory=list, description="Linear CKA [teacher layers, student layers], 0 to 1.")
    attention: list[AttentionDifference] = Field(default_factory=list, description="One entry per mapped pair of layers.")
    warnings: list[str] = Field(
        default_factory=list, description=f"Pairs whose attention differs by more than {ATTENTION_WARNING}."
    )


class ClassResult(Part):
    """Results of one class on the test split."""

    label: str = Field(description="Class name.")
    rows: Count = Field(None, description="Test rows of this class.")
    recall: dict[str, Figure] = Field(default_factory=dict, description="Model name to the share of these rows it gets right.")
    f1: dict[str, Figure] = Field(default_factory=dict, description="Model name to F1 of this class.")


class WorstExample(Part):
    """A test row on which the student does much worse than the teacher."""

    row_id: Count = Field(None, description="The row's id in this run.")
    text: str | None = Field(None, description="The row as a person reads it; null for images.")
    image_png_base64: str | None = Field(None, description="Thumbnail, PNG, base64; null for text.")
    label: str = Field(description="True label.")
    teacher_label: str | None = Field(None, description="What the teacher says.")
    student_label: str | None = Field(None, description="What the student says.")
    teacher_probability: Figure = Field(None, description="Teacher's probability of the true label.")
    student_probability: Figure = Field(None, description="Student's probability of the true label.")


class HistoryPoint(Part):
    """What the trainer logged at one step."""

    step: int = Field(description="Optimizer steps done.")
    epoch: Figure = Field(None, description="Epochs done.")
    values: dict[str, Figure] = Field(default_factory=dict, description="Name (loss, eval_accuracy, learning_rate …) to value.")


class ReliabilityBin(Part):
    """One bin of the calibration curve."""

    lower: Figure = Field(None, description="Lower edge of the confidence.")
    upper: Figure = Field(None, description="Upper edge of the confidence.")
    confidence: Figure = Field(None, description="Mean confidence of the rows in the bin; null where it is empty.")
    accuracy: Figure = Field(None, description="Share of them that is right.")
    rows: Count = Field(None, description="Rows in the bin.")


class Energy(Part):
    """Energy per row, or why it could not be read."""

    joules_per_row: dict[str, Figure] = Field(default_factory=dict, description="Model name to joules per row at batch 1.")
    reason: str | None = Field(None, description="Why there is no figure, in words.")


class TrainingPrecision(Part):
    """What a phase of training computed in, and what bfloat16 costs: the trained model's answers in both are compared."""

    computed_in: str = Field(description="fp32 or bf16.")
    step_fp32_ms: Figure = Field(None, description="Median of a step in float32, milliseconds; null where not timed.")
    step_bf16_ms: Figure = Field(None, description="The same in bfloat16.")
    rows: Count = Field(None, description="Rows whose answers were compared; null where it computed in float32.")
    largest_difference: Figure = Field(None, description="Largest difference of a logit, or of a number of the answer.")
    mean_difference: Figure = Field(None, description="Mean difference.")
    mean_kl_nats: Figure = Field(None, description="Mean KL(float32 || bfloat16), in nats, where answers are classes.")
    same_decisions: Figure = Field(None, description="Share of answers with the same class, where answers are classes.")


class Interval(Part):
    """A confidence interval."""

    low: Figure = Field(None, description="Lower end.")
    high: Figure = Field(None, description="Upper end.")
    level: Figure = Field(default=0.95, description="Share of intervals that hold the true value.")


class Pixels(Part):
    """How an image becomes the numbers that the student reads."""

    mode: str = Field(description="Pillow's mode: RGB or L.")
    size: list[int] | None = Field(None, description="Height and width that an image is resized to; as it is where null.")
    resample: int = Field(default=2, description="Pillow's number of the filter of resizing.")
    crop: list[int] | None = Field(None, description="Height and width of the centre that is kept; all where null.")
    scale: float = Field(default=1.0, description="Factor of the values 0 to 255.")
    mean: list[float] = Field(default_factory=list, description="Subtracted from each channel; nothing where empty.")
    std: list[float] = Field(default_factory=list, description="Each channel is divided by; nothing where empty.")


class Loading(Part):
    """Of which type the student is, and what loads it and reads for it."""

    model_type: str = Field(description="The model type that its configuration names.")
    model_class: str = Field(description="Its class.")
    needs: Literal["transformers", "trust_remote_code", "potstill"] = Field(
        description="transformers: loads with it alone; trust_remote_code: too, by the code that lies in its folder;"
        " potstill: only with Potstill and the code that makes it."
    )
    inputs: list[str] = Field(default_factory=list, description="What a row has, in order: text, text_pair, tokens, image …")
    max_tokens: int | None = Field(None, description="The longest row in tokens; longer ones are cut.")
    pad_token_id: int | None = Field(None, description="The token that fills rows.")
    pads_left: bool = Field(default=False, description="Whether rows are filled at their start.")
    has_tokenizer_file: bool = Field(default=False, description="Whether a tokenizer.json lies in its folder.")
    pixels: Pixels | None = Field(None, description="How images are read; null for texts and for other image processors.")


class Metrics(Part):
    """Every figure of one run; see `metrics_schema` for the JSON schema."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    created: str | None = Field(None, description="When the report was made, ISO 8601.")
    title: str | None = Field(None, description="Title of the report; the task and the teacher where null.")
    task: str = Field(description="Task name: text-classification, image-classification.")
    metric: str = Field(description="The metric that retention and gap_closed compare.")
    answers: str = Field(default="class", description="Kind of answer: class, tasks, labels, numbers or embedding.")
    tasks: dict[str, list[str]] = Field(
        default_factory=dict, description="Of several tasks: name to its classes, in the order of the logits; empty for one task."
    )
    teacher: str | None = Field(None, description="Teacher as the user named it.")
    command: str | None = Field(None, description="Command or call that repeats this run.")
    unrepeatable: list[str] = Field(
        default_factory=list, description="What of the run was in memory, so that `command` cannot repeat it, in words."
    )
    base_models: list[str] = Field(default_factory=list, description="Hub ids of the teachers; empty where they are local.")
    datasets: list[str] = Field(default_factory=list, description="Hub ids of the data; empty where they are local.")
    languages: list[str] = Field(default_factory=list, description="Languages of the student, as the teacher's card names them.")
    license: str | None = Field(None, description="Licence of the student; unknown where null.")
    ratio: Ratio = Field(default_factory=Ratio, description="Ratio asked for and achieved.")
    retention: Figure = Field(None, description="Student's metric / teacher's metric.")
    gap_closed: Figure = Field(None, description="(student - baseline) / (teacher - baseline); null without a baseline or gap.")
    agreement: Figure = Field(None, description="Share of test rows on which student and teacher choose the same class.")
    wdsr: Figure = Field(
        None, description="Weighted distillation success rate: agreement weighted by the teacher's p(true label)."
    )
    mean_kl_nats: Figure = Field(None, description="Mean KL(teacher || student), nats.")
    models: dict[str, ModelFigures] = Field(default_factory=dict, description="teacher, baseline, student, student-int8 …")
    served: str | None = Field(None, description="Which of `models` is the one to serve; student-int8 or student where null.")
    teacher_as_served: TeacherAsServed | None = Field(
        None, description="The teacher timed in the served student's form; null where `models` has that, or none is served."
    )
    confidence: dict[str, Interval] = Field(
        default_factory=dict,
        description="Paired bootstrap intervals of retention, <model>.<metric>, <model> - teacher and <model> - baseline.",
    )
    quantization: Quantization | None = Field(None, description="What `quantize` tried and kept.")
    plan: PlanSummary | None = Field(None, description="What was cut.")
    layers: LayerSimilarity | None = Field(None, description="CKA and attention difference.")
    per_class: list[ClassResult] = Field(default_factory=list, description="Results per class.")
    worst_examples: list[WorstExample] = Field(default_factory=list, description="Worst first.")
    history: dict[str, list[HistoryPoint]] = Field(default_factory=dict, description="Stage to what the trainer logged.")
    kept_steps: dict[str, int] = Field(
        default_factory=dict, description="Stage to the optimizer step whose weights were kept, where evaluations chose one."
    )
    precision: dict[str, TrainingPrecision] = Field(
        default_factory=dict, description="Phase of training to what it computed in and what that cost."
    )
    calibration: dict[str, list[ReliabilityBin]] = Field(default_factory=dict, description="Model to reliability bins.")
    cache: TokenCacheFigures | None = Field(
        None, description="What was kept of a language model teacher; null where nothing was."
    )
    energy: Energy | None = Field(None, description="Energy per row, or why not.")
    data: DataSummary = Field(default_factory=DataSummary, description="The data.")
    machine: Machine = Field(default_factory=Machine, description="The machine.")
    target: TargetSummary | None = Field(None, description="The hardware that the student is for.")
    versions: dict[str, str] = Field(default_factory=dict, description="Package to version.")
    seeds: dict[str, int] = Field(default_factory=dict, description="What was seeded, with what.")
    stages: dict[str, Figure] = Field(default_factory=dict, description="Stage to wall seconds, in order.")
    store: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="Kind of result to how many were made and how many were found in a store."
    )
    loading: Loading | None = Field(None, description="The student's type and how it loads; null in older documents.")
    files: dict[str, str] = Field(
        default_factory=dict, description="What (student, onnx, onnx-int8, openvino-int8) to its path in the output folder."
    )
    warnings: list[str] = Field(default_factory=list, description="What the reader must know before using a figure.")
    notes: list[str] = Field(default_factory=list, description="Anything else worth saying.")

    @property
    def timed_hardware(self) -> str | None:
        """What every speed in this document was measured on; None where none was."""
        return self.machine.cpu if self.target is None else self.target.hardware

    def write(self, path: str | Path) -> Path:
        """Write as JSON without NaN, whole or not at all; returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(
            json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
        )
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: str | Path) -> Metrics:
        """Read and check `metrics.json`.

        Raises:
            OutputError: The file is missing, is no JSON, or does not fit the schema.
        """
        try:
            return cls.model_validate_json(Path(path).read_text("utf-8"))
        except FileNotFoundError as err:
            raise OutputError(
                f"{path} does not exist", "the metrics.json of a finished run", "run potstill evaluate first"
            ) from err
        except ValidationError as err:
            raise OutputError(f"{path} does not fit the schema: {_faults(err)}", todo="run potstill evaluate again") from err


def metrics_schema() -> dict[str, Any]:
    """JSON schema of metrics.json; every field has a description."""
    return Metrics.model_json_schema()


def history_points(log_history: Sequence[Mapping[str, Any]]) -> list[HistoryPoint]:
    """Turn `Trainer.state.log_history` into history points; entries without a step and values that are no number drop."""
    points = []
    for entry in log_history:
        values = {key: value for key, value in entry.items() if key not in ("step", "epoch") and _is_number(value)}
        if "step" in entry and values:
            points.append(HistoryPoint(step=int(entry["step"]), epoch=entry.get("epoch"), values=values))
    return points


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _faults(err: ValidationError) -> str:
    return "; ".join(f"{'.'.join(str(at) for at in fault['loc']) or 'file'}: {fault['msg']}" for fault in err.errors()[:5])
