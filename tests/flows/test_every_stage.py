"""Laws of the stages of every flow, as they are: what they declare, what they write, what a kill leaves, what they depend on."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from language.language_builders import save_decoder, write_chats
from potstill.contracts.slot import Given, UndeclaredSlotError
from potstill.contracts.stage import Observer, Stage, StageResult
from potstill.flows.choice import flow_for
from potstill.flows.observer import LoggingObserver, silent_observer
from potstill.flows.run import Run
from potstill.planning.inputs import NOTHING, InMemory
from potstill.recipe import make_recipe

QUICK: dict[str, Any] = {
    "compression_ratio": 0.5,
    "distill": {"method": "kd", "epochs": 1, "cache": "always"},
    "quantize": "none",
    "precision": "fp32",
    "evaluate": {"batch_sizes": [1], "repeats": 2, "similarity_rows": 16},
}
TEACHER = {"epochs": 1, "learning_rate": 3e-3}
FLOWS: dict[str, dict[str, Any]] = {
    "one teacher": QUICK
    | {"teacher": {"model": "bert", **TEACHER}, "baseline": True}
    | {"data": {"source": "reviews", "augment": 1, "max_rows": 60}},
    "several teachers": QUICK
    | {"teachers": ["bert", "distilbert"], "data": {"source": "reviews", "max_rows": 60, "augment": "none"}},
    "a chain": QUICK
    | {"teacher": {"model": "bert", **TEACHER}, "data": {"source": "reviews", "max_rows": 60, "augment": "none"}}
    | {"distill": {"method": "takd", "epochs": 1, "cache": "always"}},
    "several tasks": QUICK
    | {"data": {"max_rows": 60, "augment": "none"}}
    | {
        "tasks": {
            "mood": {"teacher": "bert", "data": "reviews"},
            "topic": {"teacher": "distilbert", "data": {"source": "topics", "columns": {"text": "sentence", "label": "thing"}}},
        }
    },
    "a named student": {key: value for key, value in QUICK.items() if key != "compression_ratio"}
    | {"teacher": {"model": "bert", **TEACHER}, "data": {"source": "reviews", "max_rows": 60, "augment": "none"}}
    | {"student": {"model": "distilbert"}},
    "tokens": {"teacher": "decoder", "data": "chats", "task": "causal-lm", "student": {"model": "small decoder"}}
    | {"distill": {"epochs": 1, "cache": "always"}},
}
ALWAYS = {"data", "student", "distill", "evaluate", "report"}
STAGES = {
    "one teacher": ALWAYS | {"teach", "augment", "cache", "score", "baseline", "export"},
    "several teachers": ALWAYS | {"teach", "teach-2", "cache", "cache-2", "score", "export"},
    "a chain": ALWAYS | {"teach", "cache", "score", "chain", "export"},
    "several tasks": ALWAYS | {"teach", "teach-topic", "cache", "cache-topic", "export"},
    "a named student": ALWAYS | {"teach", "cache", "export"},
    "tokens": ALWAYS | {"cache"},
}
NOT_OF_STAGES = ("README.md", "store.json")  # the card, which the report writes, and where a run finds what it shares


@pytest.fixture(scope="module")
def sources(
    small_bert: Path, words_distilbert: Path, reviews: Path, topics: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Where the models and data are that `FLOWS` names."""
    folder = tmp_path_factory.mktemp("decoders")
    decoders = {"decoder": save_decoder(folder / "teacher"), "chats": write_chats(folder / "chats.jsonl", 16)}
    decoders |= {"small decoder": save_decoder(folder / "student", seed=1, num_hidden_layers=1)}
    return {"bert": small_bert, "distilbert": words_distilbert, "reviews": reviews, "topics": topics} | decoders


def flow_of(name: str, sources: Mapping[str, Path], memory: InMemory = NOTHING) -> Any:
    return flow_for(make_recipe(located(FLOWS[name], sources)), memory, {})


def located(recipe: Any, sources: Mapping[str, Path]) -> Any:
    """A recipe with the places of the models and data that it names."""
    if isinstance(recipe, Mapping):
        return {key: located(value, sources) for key, value in recipe.items()}
    if isinstance(recipe, list):
        return [located(one, sources) for one in recipe]
    return str(sources[recipe]) if isinstance(recipe, str) and recipe in sources else recipe


def options_of(stage: Stage) -> Any:
    return stage.options() if callable(stage.options) else stage.options


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


class Killing(LoggingObserver):
    """Stops the running stage at its next event, where that is wanted."""

    is_wanted = False

    def stage_advanced(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        self._stop()

    def stage_step(self, text: str) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", FLOWS)
def test_every_stage_of_every_flow(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    observer, done = Killing(), {}
    flow = flow_of(name, sources)
    run = flow.start(tmp_path / "out", observer, tmp_path / "store")
    for stage in flow.stages:
        check_identity(run, stage)
        if stage.is_needed(run._given(stage), options_of(stage)):
            check_undeclared(run, stage, tmp_path)
            check_killed(run, stage, observer, tmp_path)
            done[stage.name] = check_result(run, stage, tmp_path)
        else:
            assert not run.perform(stage).is_needed
    assert done.keys() == STAGES[name]
    check_resumed(flow_of(name, sources), done, tmp_path)


def check_identity(run: Run, stage: Stage) -> None:
    """A stage's fingerprint is that of its options that count, its version and what it reads."""
    mark, options = run.fingerprint_of(stage), options_of(stage)
    assert run.fingerprint_of(stage) == mark
    assert run.fingerprint_of(replace(stage, version=stage.version + 1)) != mark
    for one in fields(options):
        other = replace(stage, options=replace(options, **{one.name: "another value"}))
        assert (run.fingerprint_of(other) != mark) is one.compare, f"{stage.name}: {one.name}"
    for role in stage.reads:
        fewer = {name: slots for name, slots in stage.reads.items() if name != role}
        assert run.fingerprint_of(replace(stage, reads=fewer)) != mark, f"{stage.name}: {role}"


def check_undeclared(run: Run, stage: Stage, folder: Path) -> None:
    """A stage that declares nothing can open nothing, and leaves no result."""
    undeclared = replace(stage, reads={}, is_needed=lambda given, options: True)
    before = results_in(folder)
    with pytest.raises(UndeclaredSlotError, match=rf"{stage.name} opens '\w+', which it does not declare"):
        run.perform(undeclared)
    assert results_in(folder) == before


def check_killed(run: Run, stage: Stage, observer: Killing, folder: Path) -> None:
    """Stopped at its first event, or after its work where it has none, a stage leaves no result."""

    def work(given: Given, options: Any, folder: Path, observer: Observer) -> Sequence[str]:
        stage.work(given, options, folder, observer)
        raise KeyboardInterrupt

    before, observer.is_wanted = results_in(folder), True
    with pytest.raises(KeyboardInterrupt):
        run.perform(replace(stage, work=work))
    observer.is_wanted = False
    assert results_in(folder) == before, f"{stage.name} left something half"


def results_in(folder: Path) -> set[Path]:
    """Folders that stand for a whole result."""
    return {path.parent for path in folder.rglob("stage.json") if ".partial" not in str(path)}


def check_result(run: Run, stage: Stage, folder: Path) -> StageResult:
    """What a stage makes lies in its place alone, and it is made once."""
    before = files_of(folder)
    result = run.perform(stage)
    assert not result.skipped
    assert not result.place.with_name(f"{result.place.name}.partial").exists()
    new = {path for path in files_of(folder) - before if path.name not in NOT_OF_STAGES}
    assert new, stage.name
    assert all(path.is_relative_to(result.place) for path in new), f"{stage.name} writes outside of its folder"
    assert run.perform(stage).skipped
    return result


def check_resumed(flow: Any, done: Mapping[str, StageResult], folder: Path) -> None:
    """Read again, the same recipe finds every result, under the same identity and in the same place."""
    again = flow.start(folder / "out", silent_observer(), folder / "store")
    for stage in flow.stages:
        found = again.perform(stage)
        if stage.name in done:
            assert found.skipped, f"{stage.name} is done a second time"
            assert (found.fingerprint, found.place) == (done[stage.name].fingerprint, done[stage.name].place), stage.name


# -- what the user gave


def marks_of(flow: Any, folder: Path) -> dict[str, str]:
    """Fingerprints of the stages that can be had before anything is made."""
    run, found = flow.start(folder / "nowhere", silent_observer()), {}
    for stage in flow.stages:
        if stage.name in ("data", "teach", "teach-topic", "augment", "score", "student"):
            found[stage.name] = run._marks[stage.writes.name] = run.fingerprint_of(stage)
    return found


@pytest.mark.parametrize(
    ("name", "changed", "counts"),
    [
        ("one teacher", "reviews", {"data", "teach", "augment", "score", "student"}),
        ("one teacher", "bert", {"data", "teach", "augment", "score", "student"}),
        ("several tasks", "topics", {"data", "teach", "teach-topic", "augment", "score", "student"}),
        ("a named student", "distilbert", {"student"}),
        ("tokens", "chats", {"data", "student"}),
        ("tokens", "decoder", {"data", "student"}),
        ("tokens", "small decoder", {"student"}),
    ],
)
def test_what_was_given_counts_by_its_content(
    name: str, changed: str, counts: set[str], sources: dict[str, Path], tmp_path: Path
) -> None:
    """Another file under the same name is another input of the stages that depend on it, and of no other."""
    place = tmp_path / sources[changed].name
    (shutil.copytree if sources[changed].is_dir() else shutil.copy)(sources[changed], place)
    own = sources | {changed: place}
    before = marks_of(flow_of(name, own), tmp_path)
    assert marks_of(flow_of(name, own), tmp_path) == before
    file = place / "model.safetensors" if place.is_dir() else place
    file.write_bytes(file.read_bytes().replace(b"the", b"The") if place.is_file() else file.read_bytes()[:-4] + b"\1\2\3\4")
    after = marks_of(flow_of(name, own), tmp_path)
    assert {stage for stage in before if before[stage] != after[stage]} == counts


def test_tokens_in_memory_count_by_their_content(sources: dict[str, Path], tmp_path: Path) -> None:
    rows = [Dataset.from_dict({"text": [f"{word} {number}" for number in range(9)]}) for word in ("the cat", "a dog")]
    marks = [marks_of(flow_of("tokens", sources, InMemory(data=one)), tmp_path)["data"] for one in (*rows, rows[0])]
    assert marks[0] == marks[2] != marks[1]


def test_a_chat_template_counts_by_its_text(sources: dict[str, Path], tmp_path: Path) -> None:
    file, marks = tmp_path / "template.jinja", []
    for text in ("{{ messages }}", "{{ messages[0] }}"):
        file.write_text(text, "utf-8")
        recipe = {**located(FLOWS["tokens"], sources), "language": {"template": str(file)}}
        marks.append(marks_of(flow_for(make_recipe(recipe), NOTHING, {}), tmp_path)["data"])
    assert marks[0] != marks[1]
