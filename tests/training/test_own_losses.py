"""Losses and methods of users: functions, classes, names in recipes with consent, and entry points."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from small_models import Rows, arguments, collate, encoder
from torch import Tensor

from potstill import DistillationPipeline, DistillationTrainer
from potstill.errors import NeedsError, RecipeError
from potstill.flows.pipeline import named_code
from potstill.ground import code
from potstill.losses import Loss, LossValue, Term, build
from potstill.losses.catalogue import overview
from potstill.losses.own import FunctionLoss
from potstill.methods import catalogue as methods
from potstill.methods.contract import OwnOptions, Phase, TermSpec, takes
from potstill.planning.check import check_recipe, code_of, fingerprints_of_code
from potstill.recipe import make_recipe
from potstill.training.terms import read_terms

OWN = """
from potstill.losses import Loss, LossValue
from potstill.methods.contract import Phase, TermSpec


def per_row(student_logits, teacher_logits, power=2.0):
    return (student_logits - teacher_logits).abs().pow(power).mean(-1)


def labels_alone(student_logits, labels):
    return -student_logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


class Pull(Loss):
    def __init__(self, *, strength=1.0):
        super().__init__()
        self.strength = strength

    def forward(self, student, teacher, batch):
        gap = self.strength * (student.logits - teacher.logits).square().mean(-1)
        return LossValue(sum=gap.sum(), count=self.count(batch))


def two_steps(student, teacher, options):
    return (Phase("own", (TermSpec("own_code:per_row"), TermSpec("ce", 0.1)), 2.0, 1e-3),)


NUMBER = 5
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_code.py").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_code", raising=False)
    yield tmp_path / "own_code.py"
    sys.modules.pop("own_code", None)


def squared(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return (student_logits - teacher_logits).square().mean(-1)


def step(losses: Any, folder: Path, *, accumulation: int = 1) -> Tensor:
    student = encoder(seed=1)
    trainer = DistillationTrainer(
        student,
        arguments(folder, max_steps=1, gradient_accumulation_steps=accumulation, per_device_train_batch_size=8 // accumulation),
        teacher=encoder(seed=2),
        losses=losses,
        train_dataset=Rows(8),
        data_collator=collate,
    )
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])


def test_a_plain_function_learns_as_the_catalogue_does(tmp_path: Path) -> None:
    own = step([squared], tmp_path / "own")
    assert torch.allclose(own, step(["logit_mse"], tmp_path / "catalogue"), atol=1e-7)
    assert torch.allclose(own, step([squared], tmp_path / "cut", accumulation=4), atol=1e-6)


def test_functions_are_read_by_the_names_of_their_parameters() -> None:
    def one(zs: Tensor, zt: Tensor) -> Tensor:
        return TF.mse_loss(zs, zt)

    def two(student: Tensor, labels: Tensor, *, smooth: float = 0.1) -> Tensor:
        return TF.cross_entropy(student, labels, label_smoothing=smooth, reduction="none")

    assert FunctionLoss(one).needs_teacher() == ("logits",)
    assert FunctionLoss(two).needs_teacher() == ()
    assert FunctionLoss(two).reads_labels
    terms = read_terms([one, {"name": two, "weight": 0.5, "smooth": 0.2, "as": "labels"}])
    assert [term.name for term in terms] == ["one", "labels"]
    assert terms[1].loss.options == {"smooth": 0.2}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: 0, "'nothing'"),
        (lambda student, teacher, images: 0, "'images'"),
        (lambda *, student: 0, "student"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(function: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_terms([function])


def test_a_function_that_returns_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match="one value per row"):
        step([lambda student, teacher: (student - teacher).square()], tmp_path)


@pytest.mark.parametrize("function", [TF.cross_entropy, TF.mse_loss, torch.nn.CrossEntropyLoss(), torch.nn.KLDivLoss()])
def test_a_target_may_be_the_teacher_or_the_labels(function: Any) -> None:
    with pytest.raises(RecipeError, match="'target': the teacher's logits, or the labels"):
        read_terms([function])


def test_a_function_written_in_c_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"parameters .* cannot be read"):
        read_terms([torch.dist])


def test_a_result_without_a_gradient_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NeedsError, match="has no gradient"):
        step([lambda student, teacher: (student.argmax(-1) != teacher.argmax(-1)).float()], tmp_path)


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return self.factor.square() * squared(student_logits, teacher_logits)


def test_a_module_of_logits_learns_too(tmp_path: Path) -> None:
    module = Scaled()
    step([module], tmp_path)
    assert module.factor != 1.0


def of_strength(strength: float) -> Any:
    def pulled(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return strength * squared(student_logits, teacher_logits)

    return pulled


class Pulled:
    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return of_strength(self.strength)(student_logits, teacher_logits)

    def through(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return self(student_logits, teacher_logits)


LIKE_NAMED = [
    of_strength,
    Pulled,
    lambda strength: Pulled(strength).through,
    lambda strength: functools.partial(squared_by, strength=strength),
    lambda strength: lambda student, teacher: strength * squared(student, teacher),
]


def squared_by(student_logits: Tensor, teacher_logits: Tensor, strength: float = 1.0) -> Tensor:
    return strength * squared(student_logits, teacher_logits)


@pytest.mark.parametrize("make", LIKE_NAMED)
def test_functions_of_one_name_stay_apart(make: Any) -> None:
    config = named_code({"losses": [make(1.0), {"name": make(5.0), "weight": 0.5}]})
    small, large = read_terms(config["losses"])
    assert large.name == f"{small.name}-2"
    logits = torch.randn(4, 3), torch.randn(4, 3)
    assert torch.allclose(5 * small.loss.function(*logits), large.loss.function(*logits))
    names = [entry["name"] for entry in config["losses"]]
    assert names[0] != names[1]
    assert all(code.is_in_memory(name) and code.is_code(name) for name in names)
    assert code.fingerprint_of_code(names[0]) != code.fingerprint_of_code(names[1])
    assert named_code({"losses": [make(1.0), make(5.0)]})["losses"][1]["name"] == names[1]  # made again, it is found again


def test_what_can_be_imported_has_the_name_that_imports_it() -> None:
    (entry,) = named_code({"distill": {"losses": squared}})["distill"]["losses"]
    assert entry["name"] == f"{__name__}:squared"
    assert not code.is_in_memory(entry["name"])


def test_a_loss_in_memory_is_copied_for_each_phase() -> None:
    config = named_code({"losses": [build("kl", temperature=4.0), Scaled()]})
    first, second = read_terms(config["losses"]), read_terms(config["losses"])
    assert first[0].loss.temperature == 4.0
    assert first[0].loss is not second[0].loss
    assert first[1].loss.function.factor is not second[1].loss.function.factor


def test_a_method_in_memory(tmp_path: Path) -> None:
    def mine(student: Any, teacher: Any, options: Any) -> tuple[Phase, ...]:
        return (Phase("own", (TermSpec("kl"),), options.own.length, 1e-3),)

    for config in ({"method": takes(Length)(mine)}, {"distill": {"method": takes(Length)(mine)}}):
        recipe = DistillationPipeline("teacher", "data.csv", config).recipe
        assert recipe.distill.options == {"length": 3.0}
        check_recipe(recipe)
        assert methods.example_phases(recipe.distill.method)[0].name == "own"


class Length(OwnOptions):
    length: float = 3.0


def test_code_in_a_recipe_runs_where_the_user_consents(own_code: Path) -> None:
    given = {"teacher": {"model": "t"}, "data": {"source": "d"}, "distill": {"losses": ["own_code:per_row", "ce"]}}
    with pytest.raises(RecipeError, match=r"own_code would be imported.*trust_code: true"):
        check_recipe(make_recipe(given))
    assert "own_code" not in sys.modules
    recipe = make_recipe(given, {"trust_code": True})
    check_recipe(recipe)
    assert code_of(recipe) == ("own_code:per_row",)
    assert build("own_code:per_row", power=3.0).options == {"power": 3.0}
    assert build("own_code:Pull", strength=2.0).strength == 2.0
    with pytest.raises(RecipeError, match="no option 'powr'"):
        build("own_code:per_row", powr=3.0)
    with pytest.raises(RecipeError, match=r"per_row"):
        build("own_code:per_rwo")
    with pytest.raises(RecipeError, match="not_there"):
        build("not_there:loss")
    with pytest.raises(RecipeError, match="per_row"):
        build("own_code:NUMBER")


def test_a_change_of_the_code_is_a_change_of_the_run(own_code: Path) -> None:
    before = code.fingerprint_of_code("own_code:per_row")
    own_code.write_text(OWN.replace("2.0", "3.0"), "utf-8")
    assert code.fingerprint_of_code("own_code:per_row") != before


def test_a_method_of_ones_own(own_code: Path) -> None:
    given = {"teacher": {"model": "t"}, "data": {"source": "d"}, "distill": {"method": "own_code:two_steps"}}
    with pytest.raises(RecipeError, match="trust_code"):
        check_recipe(make_recipe(given))
    check_recipe(make_recipe(given, {"trust_code": True}))
    phases = methods.example_phases("own_code:two_steps")
    assert [term.name for term in phases[0].terms] == ["own_code:per_row", "ce"]


def test_packages_bring_losses(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_code.parent / "own_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n", "utf-8")
    (folder / "entry_points.txt").write_text("[potstill.losses]\npulled = own_code:Pull\n", "utf-8")
    monkeypatch.syspath_prepend(str(own_code.parent))
    code.brought.cache_clear()
    given = {"teacher": {"model": "t"}, "data": {"source": "d"}, "distill": {"losses": [{"name": "pulled", "strength": 2.0}]}}
    try:
        assert build("pulled", strength=3.0).strength == 3.0
        check_recipe(make_recipe(given))  # installing it was the consent
        before = fingerprints_of_code(make_recipe(given))
        own_code.write_text(OWN.replace("square", "abs"), "utf-8")
        assert fingerprints_of_code(make_recipe(given)) != before
        assert {"group": "of installed packages", "name": "pulled", "about": "own_code:Pull"} in overview()
        with pytest.raises(RecipeError, match="did you mean 'pulled'"):
            build("puled")
        (folder / "entry_points.txt").write_text("[potstill.losses]\nkl = own_code:Pull\n", "utf-8")
        code.brought.cache_clear()
        with pytest.raises(RecipeError, match="own-package brings 'kl'"):
            build("klx")
    finally:
        code.brought.cache_clear()


def test_packages_bring_methods(own_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_code.parent / "own_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n", "utf-8")
    (folder / "entry_points.txt").write_text("[potstill.methods]\nslow = own_code:two_steps\n", "utf-8")
    monkeypatch.syspath_prepend(str(own_code.parent))
    code.brought.cache_clear()
    recipe = make_recipe({"teacher": {"model": "t"}, "data": {"source": "d"}, "distill": {"method": "slow"}})
    try:
        check_recipe(recipe)
        assert methods.example_phases("slow")[0].name == "own"
        assert len(fingerprints_of_code(recipe)) == 2  # of the method, and of the loss that it names
        assert "slow" in {row["name"] for row in methods.overview()}
        (folder / "entry_points.txt").write_text("[potstill.methods]\nkd = own_code:two_steps\n", "utf-8")
        code.brought.cache_clear()
        with pytest.raises(RecipeError, match="own-package brings 'kd'"):
            methods.find("slow")
    finally:
        code.brought.cache_clear()


def test_the_names_that_a_loss_is_written_with() -> None:
    class Half(Loss):
        def forward(self, student: Any, teacher: Any, batch: Any) -> LossValue:
            return LossValue(sum=0.5 * student.logits.sum(), count=self.count(batch))

    assert Term("half", Half()).weight(0.0) == 1.0
    assert read_terms([Half])[0].loss.__class__ is Half
