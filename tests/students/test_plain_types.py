"""One switch gives a student of a type that transformers has, close to the ratio, or says why it cannot."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import tiny_model

from potstill.errors import ModelError, RecipeError
from potstill.recipe import make_recipe
from potstill.recipe.model import StudentRecipe
from potstill.students.make import plan_student


def teacher(model_type: str, **changes: Any) -> Any:
    model = tiny_model(model_type, **changes)
    return SimpleNamespace(model=model, num_answers=3, rows=SimpleNamespace(label_names=("a", "b", "c")))


def test_a_large_vocabulary_gives_a_table_where_plain_is_asked() -> None:
    large = teacher("bert", vocab_size=4096)
    types = {plain: plan_student(StudentRecipe(ratio=0.7, plain=plain), large, None) for plain in (False, True)}
    assert types[False].model_type == "potstill-encoder"
    assert type(types[True].build_config()).__module__.startswith("transformers.")
    assert types[True].ratio == pytest.approx(0.7, abs=0.05) or any("nearest" in note for note in types[True].notes)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra", "vit", "resnet"])
def test_every_teacher_of_transformers_has_a_plain_student(model_type: str) -> None:
    planned = plan_student(StudentRecipe(ratio=0.5, plain=True), teacher(model_type), None)
    assert type(planned.build_config()).__module__.startswith("transformers.")


def test_a_teacher_of_an_own_type_has_none() -> None:
    message = (
        r"student\.plain is true, and a student of this teacher is of the type potstill-encoder, which transformers does not"
    )
    with pytest.raises(ModelError, match=message + r".*Accepted:.*What to do: set student\.plain: false"):
        plan_student(StudentRecipe(ratio=0.5, plain=True), teacher("potstill-encoder"), None)


def test_a_network_of_ones_own_is_none() -> None:
    with pytest.raises(
        ModelError, match=r"the student package:net is a network of your own code, which transformers does not have"
    ):
        plan_student(StudentRecipe(model="package:net", plain=True), teacher("resnet"), None)


def test_a_named_student_of_an_own_type_is_none(tmp_path: Any) -> None:
    tiny_model("potstill-encoder").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="of the type potstill-encoder"):
        plan_student(StudentRecipe(model=str(tmp_path), plain=True), teacher("bert"), None)


def test_architectures_of_potstill_are_refused_with_plain() -> None:
    given = {"teacher_model": "x", "data": {"source": "y"}}
    with pytest.raises(RecipeError, match="plain asks for a type of transformers' own, and bilstm is one of Potstill's"):
        make_recipe({**given, "student": {"architecture": "bilstm", "plain": True}})
    assert make_recipe({**given, "plain": True}).student.plain
    assert not make_recipe(given).student.plain
    assert np.isclose(make_recipe({**given, "plain": True}).student.budget["ratio"], 0.9)
