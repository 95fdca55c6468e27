"""Flags, YAML and Python mappings resolve to equal recipes; faults are told together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import Field

from potstill.contracts.options import Options
from potstill.errors import Faults, RecipeError
from potstill.recipe import make_recipe, merge, parse_settings, plugins, read_file, recipe_schema
from potstill.recipe.model import Recipe

MINIMAL = {"teacher": "./bert", "data": "reviews.csv"}


def test_shorthand_alias_and_nested_forms_are_one_recipe(tmp_path: Path) -> None:
    nested = {
        "teacher": {"model": "./bert"},
        "data": {"source": "reviews.csv"},
        "student": {"ratio": 0.8},
        "distill": {"temperature": 4},
    }
    known = {**MINIMAL, "compression_ratio": 0.8, "temperature": 4}
    flags = parse_settings(["teacher=./bert", "data=reviews.csv", "student.ratio=0.8", "distill.temperature=4"])
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(nested), "utf-8")
    assert make_recipe(nested) == make_recipe(known) == make_recipe(flags) == make_recipe(read_file(file))


def test_all_well_known_keys_are_accepted() -> None:
    recipe = make_recipe(
        {
            "teacher_model": "t",
            "data": "d",
            "student_arch": "./small",
            "task_type": "text-classification",
            "quantization": "int8",
            "hardware_target": "cpu",
            "temperature": 3.0,
            "alpha": 0.6,
        }
    )
    assert (recipe.student.model, recipe.task, recipe.quantize.mode, recipe.target) == (
        "./small",
        "text-classification",
        "int8",
        "cpu",
    )
    assert (recipe.distill.temperature, recipe.distill.alpha) == (3.0, 0.6)


def test_the_resolved_recipe_reproduces_itself(tmp_path: Path) -> None:
    recipe = make_recipe(MINIMAL, {"ratio": 0.5})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), "utf-8")
    assert make_recipe(read_file(file)) == recipe


def test_later_parts_win_and_inputs_are_not_changed() -> None:
    base = {"distill": {"epochs": 3, "alpha": 0.5}}
    assert merge(base, {"distill": {"epochs": 5}}) == {"distill": {"epochs": 5, "alpha": 0.5}}
    assert base == {"distill": {"epochs": 3, "alpha": 0.5}}
    assert make_recipe(MINIMAL, base, parse_settings(["distill.epochs=7"])).distill.epochs == 7


def test_settings_read_numbers_as_yaml_and_as_people_write_them() -> None:
    parsed = parse_settings(
        ["distill.learning_rate=1e-4", "baseline=true", "data.columns={text: body}", "student.vocabulary=keep"]
    )
    assert parsed["distill"]["learning_rate"] == 1e-4
    assert parsed["baseline"] is True
    assert parsed["data"]["columns"] == {"text": "body"}
    assert parsed["student"]["vocabulary"] == "keep"


def test_the_default_budget_is_nine_tenths() -> None:
    assert make_recipe(MINIMAL).student.budget == {"ratio": 0.9}
    assert make_recipe(MINIMAL, {"student": {"params": 1000}}).student.budget == {"params": 1000}


BAD = [
    ({"sudent": {"ratio": 0.5}}, ["'sudent'", "did you mean student?"]),
    ({"distill": {"epoch": 3}}, ["'distill.epoch'", "did you mean distill.epochs?"]),
    ({"distill": {"epochs": "many"}}, ["'distill.epochs'", "'many'", "number"]),
    ({"student": {"ratio": 1.2}}, ["'student.ratio'", "1.2", "0.95"]),
    ({"student": {"ratio": 0.05}}, ["0.05", "0.10 to 0.95"]),
    ({"student": {"ratio": 0.5, "params": 10}}, ["only one of", "ratio and params"]),
    ({"quantize": "int9"}, ["'int9'", "'dynamic'"]),
    ({"target": "toaster"}, ["'toaster'", "'cpu'"]),
    ({"ratio": 0.5, "compression_ratio": 0.6}, ["compression_ratio", "student.ratio"]),
]


@pytest.mark.parametrize(("change", "words"), BAD)
def test_bad_recipes_are_told_in_three_beats(change: dict, words: list[str]) -> None:
    with pytest.raises((RecipeError, Faults)) as caught:
        make_recipe(MINIMAL, change)
    for word in words:
        assert word in str(caught.value)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(Faults) as caught:
        make_recipe({"teacher": "t", "distill": {"epoch": 3}, "student": {"ratio": 2}})
    assert len(caught.value.faults) == 3
    assert isinstance(caught.value, ValueError)


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no key=value"):
        parse_settings(["distill.epochs"])


TWO = {"mood": {"teacher": "a", "data": "m.csv"}, "topic": {"teacher": {"model": "b", "epochs": 9}, "data": {"source": "t.csv"}}}


def test_tasks_share_what_teacher_and_data_set_for_all() -> None:
    recipe = make_recipe({"tasks": TWO, "teacher": {"epochs": 2, "batch_size": 8}, "data": {"max_rows": 5, "augment": "none"}})
    assert [one.teacher.epochs for one in recipe.tasks.values()] == [2, 9]
    assert [one.teacher.batch_size for one in recipe.tasks.values()] == [8, 8]
    assert [one.data.max_rows for one in recipe.tasks.values()] == [5, 5]
    assert (recipe.teacher.model, recipe.data.source, recipe.data.augment) == ("a", "m.csv", "none")
    assert make_recipe(recipe.model_dump(mode="json")) == recipe
    changed = make_recipe({"tasks": TWO}, parse_settings(["tasks.mood.data.columns={label: x}"]))
    assert changed.tasks["mood"].data.source == "m.csv"
    assert changed.data.columns == {"label": "x"}


BAD_TASKS = [
    ({"tasks": {"mood": TWO["mood"]}}, ["tasks has one task, 'mood'", "two tasks or more", "without tasks"]),
    ({"tasks": {**TWO, "a/b": TWO["mood"]}}, ["a task is named 'a/b'", "letters, digits, - and _", "rename the task"]),
    ({"tasks": {**TWO, "": TWO["mood"]}}, ["a task is named ''", "rename"]),
    ({"tasks": {**TWO, "Mood": TWO["mood"]}}, ["tasks are named 'mood' and 'Mood'", "rename one"]),
    ({"tasks": "mood.yaml"}, ["tasks is 'mood.yaml'", "a mapping from the name of each task"]),
    ({"tasks": {**TWO, "x": "x.csv"}}, ["a mapping from the name of each task"]),
    ({"tasks": {**TWO, "x": {"techer": "a", "data": "x.csv"}}}, ["'tasks.x.techer'", "did you mean tasks.x.teacher?"]),
    ({"tasks": {**TWO, "x": {"teacher": {"model": "a", "epoch": 1}, "data": "x.csv"}}}, ["did you mean tasks.x.teacher.epochs?"]),
    ({"tasks": {**TWO, "x": {"teacher": "a"}}}, ["'tasks.x.data.source' is missing"]),
    ({"tasks": TWO, "teacher": "c"}, ["teacher.model is given with tasks", "each task has its own"]),
    ({"tasks": TWO, "teachers": ["c", "d"]}, ["teacher.others is given with tasks"]),
    ({"tasks": TWO, "data": {"validation": "v.csv"}}, ["data.validation is given with tasks"]),
    (
        {"tasks": {name: {**one, "teacher": {"model": "a", "epochs": 3}} for name, one in TWO.items()}, "teacher": {"epochs": 2}},
        ["teacher.epochs has no effect", "every task of this recipe sets"],
    ),
]


@pytest.mark.parametrize(("recipe", "words"), BAD_TASKS)
def test_bad_tasks_are_told_in_three_beats(recipe: dict, words: list[str]) -> None:
    with pytest.raises((RecipeError, Faults)) as caught:
        make_recipe(recipe)
    for word in words:
        assert word in str(caught.value)


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("tasks:\n  mood: {teacher: a, data: m.csv}\n  mood: {teacher: b, data: t.csv}\n", "utf-8")
    with pytest.raises(RecipeError, match=r"the key 'mood' is given twice in one mapping.*each key once"):
        read_file(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "holds list"),
        ("", "is empty"),
        ("teacher: [./bert\ndata: rows.csv\n", r"line 2, is no valid YAML: expected ',' or '\]'"),
    ],
)
def test_a_recipe_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(content, "utf-8")
    with pytest.raises(RecipeError, match=rf"{words}.*What to do"):
        read_file(file)


def test_the_schema_describes_every_key() -> None:
    schema = recipe_schema()
    json.dumps(schema)
    for name, part in schema["$defs"].items():
        for key, value in part["properties"].items():
            assert value.get("description"), f"{name}.{key} has no description"
    assert set(schema["properties"]) == {*Recipe.model_fields, *plugins.SECTIONS}


def test_help_import_and_reading_a_recipe_are_light() -> None:
    heavy = ("torch", "transformers", "datasets", "onnx")
    reading = "potstill.recipe.make_recipe({'teacher': 't', 'data': 'd', 'method': 'dml'}); potstill.recipe.recipe_schema()"
    code = f"import sys, potstill, potstill.cli, potstill.recipe; {reading}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_student_arch_names_a_kind_of_network_or_a_model() -> None:
    assert make_recipe(MINIMAL, {"student_arch": "bilstm", "ratio": 0.97}).student.architecture == "bilstm"
    assert make_recipe(MINIMAL, {"student_arch": "./small"}).student.model == "./small"
    with pytest.raises(RecipeError, match=r"above that, set student\.architecture"):
        make_recipe(MINIMAL, {"ratio": 0.97})


def test_several_teachers_share_the_settings_of_the_section() -> None:
    given = {"teacher": {"models": ["a", {"model": "b", "epochs": 2}], "epochs": 7, "combine": "agreement"}, "data": "x.csv"}
    recipe = make_recipe(given)
    assert [(one.model, one.epochs) for one in recipe.teacher.all] == [("a", 7), ("b", 2)]
    assert recipe == make_recipe(recipe.model_dump(mode="json"))
    assert make_recipe({"teachers": ["a", "b"], "data": "x.csv"}).teacher.others[0].model == "b"


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({"models": ["a", "b"], "combine": "fixed"}, "needs weights"),
        ({"models": ["a", "b"], "weights": [1, 2]}, "set combine: fixed"),
        ({"models": ["a", "b"], "combine": "agreement", "weights": [1]}, "one weight per teacher"),
        ({"models": ["a", "b"], "combine": "learned", "weights": [0, 0]}, "not all 0"),
        ({"model": "a", "combine": "learned"}, "list them under teacher.models"),
        ({"models": "a"}, "a list of folders"),
        ({"model": "a", "models": ["b"]}, "both given"),
        ({"models": ["a", {"model": "b", "epoch": 2}]}, r"did you mean teacher\.others\.0\.epochs"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(teacher: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        make_recipe({"teacher": teacher, "data": "x.csv"})


def test_a_route_is_kept_for_the_method_that_reads_it() -> None:
    assert make_recipe({"teacher": "a", "data": "x.csv", "method": "rco"}).teacher.anchors == 4
    assert make_recipe({"teacher": "a", "data": "x.csv"}).teacher.anchors is None
    assert (
        make_recipe({"teacher": "a", "data": "x.csv", "distill": {"method": "rco", "chain": {"route": ["c"]}}}).teacher.anchors
        is None
    )


def test_options_of_the_method_are_read_by_its_own_class_and_written_in_full():
    recipe = make_recipe(MINIMAL, {"distill": {"method": "ban", "options": {"ensemble": True}}})
    assert recipe.distill.options == {"generations": 3, "ensemble": True}
    assert make_recipe(MINIMAL, {"distill": {"method": "kd"}}).distill.options == {}
    assert make_recipe(recipe.model_dump(mode="json")) == recipe


def test_the_earlier_places_of_options_still_work():
    for method, section, options in (
        ("dml", "online", {"peers": 4}),
        ("self", "online", {"itself": "cs_kd"}),
        ("takd", "chain", {"assistants": 2}),
        ("rco", "chain", {"route": ["a", "b"]}),
    ):
        earlier = make_recipe(MINIMAL, {"distill": {"method": method, section: options}})
        assert earlier == make_recipe(MINIMAL, {"distill": {"method": method, "options": options}})
        assert options.items() <= earlier.distill.options.items()
    defaults = {"online": {"peers": 2, "noise": 0.5, "ramp_up": None}, "chain": {"generations": 3, "assistants": "auto"}}
    assert make_recipe(MINIMAL, {"distill": defaults}) == make_recipe(MINIMAL)


@pytest.mark.parametrize(
    ("distill", "words"),
    [
        (
            {"method": "dml", "options": {"peer": 3}},
            ["'dml' has no option 'peer'", "peers, start", "distill.options.peers?"],
        ),
        ({"method": "kd", "options": {"peers": 3}}, ["no option 'peers'", "no options", "set distill.method: dml"]),
        ({"method": "ban", "options": {"generations": 1}}, ["'distill.options.generations' is 1", "greater than or equal to 2"]),
        ({"method": "ban", "options": 3}, ["'distill.options' is 3"]),
        ({"method": "ban", "chain": {"generations": 4}, "options": {"generations": 5}}, ["differ", "leave out distill.chain"]),
        ({"online": {"peer": 3}}, ["'distill.online.peer'", "did you mean distill.online.peers?"]),
        ({"online": {"peers": 1}}, ["'distill.online.peers' is 1"]),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(distill, words):
    with pytest.raises((RecipeError, Faults)) as caught:
        make_recipe(MINIMAL, {"distill": distill})
    assert isinstance(caught.value, RecipeError)
    for word in words:
        assert word in str(caught.value)


class Prune(Options):
    """A section that a plug-in brings."""

    schedule: Literal["once", "iterative"] = Field("once", description="How often.")


def test_a_plug_in_brings_a_section(monkeypatch):
    monkeypatch.setitem(plugins.SECTIONS, "prune", f"{__name__}:Prune")
    recipe = make_recipe(MINIMAL, {"prune": {"schedule": "iterative"}})
    assert recipe.prune == Prune(schedule="iterative")
    assert make_recipe(recipe.model_dump(mode="json")) == recipe
    assert make_recipe(MINIMAL).model_dump()["prune"] == {"schedule": "once"}
    assert recipe_schema()["properties"]["prune"] == {"$ref": "#/$defs/Prune"}
    with pytest.raises(RecipeError, match=r"'prune.shedule'.*did you mean prune\.schedule"):
        make_recipe(MINIMAL, {"prune": {"shedule": 1}})


def test_names_out_of_tables_are_checked():
    with pytest.raises(RecipeError, match=r"'student\.architecture' is 'bilstn'.*bilstm, .*did you mean 'bilstm'"):
        make_recipe(MINIMAL, {"student": {"architecture": "bilstn"}})


@pytest.mark.parametrize(
    ("distill", "told"),
    [
        ({"method": "dkd", "layers": "last"}, ["distill.layers has no effect: method 'dkd' compares no blocks"]),
        ({"method": "tinybert", "layers": "last"}, []),
        ({"method": "kd", "online": {"peers": 4}}, ["distill.online.peers has no effect: method 'kd' does not read it"]),
        ({"method": "dml", "online": {"peers": 4}}, []),
        ({"rows": {"start": 0.5}}, ["distill.rows.start has no effect: distill.rows.order is random"]),
        ({"rows": {"strength": 0.5}}, ["distill.rows.strength has no effect: distill.rows.focus is none"]),
        (
            {"losses": ["kl", {"name": "hidden_mse", "layers": [[1, 2]]}], "layers": "last"},
            ["distill.layers has no effect: distill.losses is given, and its terms say it themselves"],
        ),
        ({"losses": ["kl", "hidden_mse"], "layers": "last"}, []),
        (
            {"losses": ["kl"], "alpha": 0.5},
            ["distill.alpha has no effect: distill.losses is given, and its terms say it themselves"],
        ),
    ],
)
def test_settings_that_nothing_reads_are_told(distill, told):
    from potstill.planning.check import unused_settings

    given = {"teacher": {"model": "t"}, "data": {"source": "d"}, "output": "o", "distill": distill}
    assert unused_settings(make_recipe(given)) == told


def test_another_method_laid_over_a_resolved_recipe_leaves_its_options_behind():
    resolved = make_recipe({"teacher": "a", "data": "b", "distill": {"method": "dml", "options": {"peers": 3}}}).model_dump()
    assert make_recipe(resolved, {"distill": {"batch_size": 8}}).distill.options["peers"] == 3
    assert "peers" not in make_recipe(resolved, {"distill": {"method": "kd"}}).distill.options
    assert (
        make_recipe(resolved, {"distill": {"method": "ban", "options": {"generations": 4}}}).distill.options["generations"] == 4
    )
