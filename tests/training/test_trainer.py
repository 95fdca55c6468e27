"""The trainer's behaviour on small models."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import Explodes, HiddenBridge, Remembered, Rows, arguments, collate, encoder, opinionated
from transformers import AutoModelForSequenceClassification

from potstill.errors import CacheError, Faults, NeedsError, TrainingError
from potstill.knowledge.live import LiveTeacher
from potstill.losses.contract import Loss, LossValue
from potstill.models.taps import TapReader
from potstill.tasks import answers_of
from potstill.training.schedules import Constant, Linear
from potstill.training.terms import Term
from potstill.training.trainer import DistillationTrainer
from potstill.training.trainer_arguments import default_losses

KL_CE = [{"name": "kl", "weight": 0.7, "temperature": 2.0}, {"name": "ce", "weight": 0.3}]


def trainer_for(folder, *, losses=KL_CE, teacher=None, student=None, rows=None, **options):
    settings = {
        key: options.pop(key)
        for key in ("average_decay", "learning_rate_multiples", "compute_metrics", "callbacks")
        if key in options
    }
    rows = rows or Rows()
    return DistillationTrainer(
        student or encoder(seed=1),
        arguments(folder, **options),
        teacher=teacher or opinionated(),
        losses=losses,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        **settings,
    )


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_lowers_the_losses_and_logs_every_term(tmp_path):
    trainer = trainer_for(tmp_path, num_train_epochs=12, learning_rate=5e-3)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss/kl" in entry]
    assert {"loss", "loss/kl", "loss/ce"} <= logs[0].keys()
    assert logs[-1]["loss"] < logs[0]["loss"]
    assert logs[0]["loss"] == pytest.approx(0.7 * logs[0]["loss/kl"] + 0.3 * logs[0]["loss/ce"], rel=1e-4)


def test_evaluation_tells_loss_agreement_and_divergence(tmp_path):
    def accuracy(prediction):
        known = prediction.label_ids != -100
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[known].mean())}

    rows = Rows(10)
    teacher = opinionated()
    trainer = trainer_for(tmp_path, teacher=teacher, rows=rows, compute_metrics=accuracy)
    metrics = trainer.evaluate()
    batch = collate(rows.rows)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours, theirs = trainer.model.eval()(**inputs).logits, teacher(**inputs).logits
    agreement = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    divergence = torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")
    assert metrics["eval_agreement"] == pytest.approx(agreement)
    assert metrics["eval_teacher_kl"] == pytest.approx(divergence.item(), abs=1e-5)
    predictions = trainer.predict(rows)
    assert np.allclose(predictions.predictions, ours.numpy(), atol=1e-5)
    assert predictions.label_ids.tolist() == batch["labels"].tolist()
    assert metrics["eval_loss"] == pytest.approx(0.7 * metrics["eval_loss_kl"] + 0.3 * metrics["eval_loss_ce"])
    assert 0 <= metrics["eval_accuracy"] <= 1


def test_bridges_train_and_stay_out_of_the_saved_student(tmp_path):
    loss = HiddenBridge()
    trainer = trainer_for(tmp_path, losses=[Term("hint", loss)], learning_rate_multiples={"_distill.*": 3.0}, weight_decay=0.1)
    trainer.prepare()
    before = weights(loss)
    trainer.train()
    assert not same(before, weights(loss))
    group = next(g for g in trainer.optimizer.param_groups if any(p is loss.bridge.weight for p in g["params"]))
    assert group["weight_decay"] == 0.0
    assert group["lr"] == pytest.approx(3e-3)
    assert not hasattr(trainer.model, "_distill")
    trainer.save_model(str(tmp_path / "saved"))
    loaded, told = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert same(weights(loaded), weights(trainer.model))


def test_checkpoint_holds_bridges_beside_the_student(tmp_path):
    trainer = trainer_for(tmp_path, losses=[Term("hint", HiddenBridge())], save_strategy="epoch")
    trainer.train()
    folder = tmp_path / "checkpoint-6"
    assert "loss.hint.bridge.weight" in load_file(folder / "distill_state.safetensors")
    assert not [name for name in load_file(folder / "model.safetensors") if "_distill" in name]


@pytest.mark.parametrize("average_decay", [None, 0.9])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, average_decay):
    losses = [{"name": "kl", "temperature": {"linear": [4.0, 1.0]}}, Term("hint", HiddenBridge(), Linear(1.0, 0.1))]

    def run(folder, resume=None, **options):
        fresh = [losses[0], Term("hint", HiddenBridge(), Linear(1.0, 0.1))]
        trainer = trainer_for(
            folder,
            losses=fresh,
            student=encoder(seed=1, dropout=0.1),
            average_decay=average_decay,
            num_train_epochs=3,
            save_strategy="steps",
            save_steps=4,
            gradient_accumulation_steps=2,
            eval_strategy="epoch",
            lr_scheduler_type="linear",
            **options,
        )
        trainer.train(resume_from_checkpoint=resume)
        return weights(trainer.model), weights(trainer.objective.modules)

    whole = run(tmp_path / "whole")
    again = run(tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-4"))
    assert same(whole[0], again[0])
    assert same(whole[1], again[1])


def test_average_is_what_is_evaluated_and_saved(tmp_path):
    trainer = trainer_for(tmp_path, average_decay=0.99, learning_rate=5e-2, save_strategy="epoch", eval_strategy="epoch")
    trainer.train()
    told = trainer.state.log_history[-2]["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(told)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint-6")
    assert same(weights(loaded), weights(trainer.model))


def test_cached_knowledge_trains_as_the_live_teacher_does(tmp_path):
    teacher, rows = opinionated(), Rows()
    live = trainer_for(tmp_path / "live", teacher=teacher, rows=rows)
    live.train()
    cached = trainer_for(tmp_path / "cached", teacher=Remembered(teacher, rows), rows=rows)
    cached.train()
    for name, value in weights(live.model).items():
        assert torch.allclose(value, weights(cached.model)[name], atol=1e-5), name


def test_caller_keeps_arguments_config_and_rows(tmp_path):
    args, student = arguments(tmp_path), encoder(seed=1)
    before_args, before_config = copy.deepcopy(args.to_dict()), copy.deepcopy(student.config.to_dict())
    rows = Rows()
    DistillationTrainer(student, args, teacher=encoder(seed=2), train_dataset=rows, data_collator=collate).train()
    assert args.to_dict() == before_args
    assert student.config.to_dict() == before_config


def test_loss_that_is_not_finite_stops_with_term_rows_and_state(tmp_path):
    rows = Rows()
    trainer = trainer_for(tmp_path, losses=["kl", Term("boom", Explodes(calls=2))], rows=rows)
    with pytest.raises(TrainingError, match="'boom' is not finite on the batch with the row ids") as caught:
        trainer.train()
    stopped = json.loads((tmp_path / "stopped-at-step-2" / "stopped.json").read_text())
    assert stopped["terms"] == ["boom"]
    assert tuple(stopped["row_ids"]) == caught.value.row_ids
    assert len(stopped["row_ids"]) == 4
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "stopped-at-step-2")
    assert not hasattr(trainer.model, "_distill")


def test_needs_are_refused_before_the_first_step(tmp_path):
    rows = Rows()
    trainer = trainer_for(tmp_path, losses=[Term("hint", HiddenBridge())], teacher=Remembered(encoder(seed=2), rows), rows=rows)
    with pytest.raises(NeedsError, match=r"loss 'hint' needs 'hidden:-1' of the teacher, Remembered does not provide it.*logits"):
        trainer.train()
    alone = DistillationTrainer(
        encoder(), arguments(tmp_path), losses=["kl", "logit_mse"], train_dataset=rows, data_collator=collate
    )
    with pytest.raises(Faults, match="no teacher was given"):
        alone.train()


def test_weight_of_zero_leaves_the_term_out(tmp_path):
    trainer = trainer_for(tmp_path, losses=["kl", Term("boom", Explodes(calls=0), Constant(0.0))])
    trainer.train()
    assert not [key for entry in trainer.state.log_history for key in entry if "boom" in key]


def test_two_trainers_in_one_process_do_not_meet(tmp_path):
    alone = trainer_for(tmp_path / "alone", losses=[Term("hint", HiddenBridge())])
    alone.train()
    one = trainer_for(tmp_path / "one", losses=[Term("hint", HiddenBridge())])
    two = trainer_for(tmp_path / "two", losses=[Term("hint", HiddenBridge())], student=encoder(seed=5))
    two.prepare()
    two.evaluate()
    one.train()
    assert same(weights(alone.model), weights(one.model))


def test_plain_module_can_be_a_student(tmp_path):
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(50, 8)
            self.output = torch.nn.Linear(8, 3)

        def forward(self, input_ids):
            return self.output(self.embedding(input_ids))

    trainer = trainer_for(tmp_path, student=Bag(), losses=["kl"])
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_evaluation_outside_of_training_leaves_what_losses_remember(tmp_path):
    trainer = trainer_for(
        tmp_path, losses=["ctkd", {"name": "routed", "student_layers": [1], "teacher_layers": [1, 2]}], max_steps=2
    )
    trainer.train()
    before = weights(trainer.objective.modules)
    trainer.evaluate()
    assert same(before, weights(trainer.objective.modules))


def test_evaluation_draws_nothing_that_training_would(tmp_path):
    found = []
    for interval in (1, 100):
        trainer = trainer_for(
            tmp_path / str(interval),
            losses=["kl", {"name": "crd", "negatives": 5, "width": 4}],
            eval_strategy="steps",
            eval_steps=interval,
            max_steps=6,
        )
        trainer.train()
        found.append(trainer.model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_teacher_is_not_compared_where_it_knows_some_rows_alone(tmp_path):
    class Some(LiveTeacher):
        def signal(self, batch, needs=("logits",)):
            if int(batch["row_id"].max()) > 108:
                raise CacheError("rows that the cache does not hold")
            return super().signal(batch, needs)

    trainer = trainer_for(tmp_path, teacher=Some(opinionated(), TapReader()), losses=["ce"])
    found = trainer.evaluate(Rows(24))
    assert "eval_loss" in found
    assert "eval_teacher_kl" not in found


def test_the_gradient_of_outputs_is_no_part_of_evaluation(tmp_path):
    trainer = trainer_for(tmp_path, losses=["kl", "jacobian"], max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.train()
    found = trainer.evaluate()
    assert "eval_loss_kl" in found
    assert "eval_loss_jacobian" not in found


@pytest.mark.parametrize("tap", ["embedding", "hidden:1"])
def test_the_sensitivity_of_the_output_is_learned(tmp_path, tap):
    trainer = trainer_for(tmp_path, losses=[{"name": "jacobian", "tap": tap}], num_train_epochs=15, learning_rate=5e-3)
    trainer.train()
    told = [entry["loss/jacobian"] for entry in trainer.state.log_history if "loss/jacobian" in entry]
    assert told[-1] < 0.8 * told[0]


class Plain(torch.nn.Module):
    """A module whose forward gives its logits in one of several forms."""

    def __init__(self, form="tensor"):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.output, self.form = torch.nn.EmbeddingBag(50, 8), torch.nn.Linear(8, 3), form

    def forward(self, input_ids):
        logits = self.output(self.embedding(input_ids))
        return {"tensor": logits, "tuple": (logits, None), "dict": {"logits": logits}}[self.form]


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
def test_a_teacher_may_give_its_logits_in_any_form(tmp_path, form):
    trainer = trainer_for(tmp_path, student=Plain(), teacher=Plain(form), losses=["kl"], max_steps=1)
    trainer.train()
    assert trainer.evaluate()["eval_teacher_kl"] >= 0


def test_rows_without_labels_are_predicted(tmp_path):
    trainer = trainer_for(tmp_path, max_steps=1)
    trainer.train()
    trainer.data_collator = lambda rows: {name: value for name, value in collate(rows).items() if name != "labels"}
    found = trainer.predict(Rows(8))
    assert found.predictions.shape == (8, 3)
    assert "test_loss_kl" in found.metrics
    assert "test_loss_ce" not in found.metrics


def test_several_models_teach_by_the_mean_of_their_probabilities(tmp_path):
    trainer = trainer_for(tmp_path, teacher=[opinionated(), opinionated(seed=5)], losses=["kl"], max_steps=1)
    trainer.train()
    assert len(trainer.source.sources) == 2


@pytest.mark.parametrize(
    ("problem", "names"),
    [
        ("regression", {"eval_teacher_rmse", "eval_teacher_pearson"}),
        ("multi_label_classification", {"eval_agreement", "eval_teacher_kl"}),
    ],
)
def test_closeness_is_that_of_the_answers(tmp_path, problem, names):
    student, teacher = encoder(seed=1), opinionated()
    student.config.problem_type = problem
    trainer = trainer_for(tmp_path, student=student, teacher=teacher, losses=[{"name": "logit_mse"}])
    found = trainer.evaluate()
    assert {name for name in found if "teacher" in name or "agreement" in name} == names
    with torch.no_grad():
        batch = collate(Rows(24).rows)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        own, other = student.eval()(**inputs).logits, teacher(**inputs).logits
    if problem == "regression":
        assert found["eval_teacher_rmse"] == pytest.approx(float((own - other).square().mean().sqrt()), rel=1e-4)
    else:
        assert found["eval_agreement"] == pytest.approx(float(((own > 0) == (other > 0)).float().mean()))


def test_what_would_be_ignored_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"pattern 'clasifier.\*', which no parameter has.*did you mean 'classifier"):
        trainer_for(tmp_path, learning_rate_multiples={"clasifier.*": 10.0}).train()
    with pytest.raises(TrainingError, match=r"label_smoothing_factor is 0\.3"):
        trainer_for(tmp_path, label_smoothing_factor=0.3)
    with pytest.raises(TrainingError, match="there are no rows"):
        DistillationTrainer(encoder(), arguments(tmp_path), losses=["ce"], train_dataset=Rows(0), data_collator=collate).train()
    assert Term("half", HiddenBridge(), 0.5).weight(0.0) == 0.5


def test_labels_of_another_kind_are_refused(tmp_path):
    class Floats(Rows):
        def __getitem__(self, index):
            return self.rows[index] | {"labels": 0.5}

    def floats(rows):
        return collate([{**row, "labels": 0} for row in rows]) | {"labels": torch.tensor([row["labels"] for row in rows])}

    trainer = DistillationTrainer(encoder(), arguments(tmp_path), losses=["ce"], train_dataset=Floats(8), data_collator=floats)
    with pytest.raises(NeedsError, match=r"'ce' reads the number of a class, labels are torch\.float32"):
        trainer.train()
    model = encoder()
    model.config.num_labels = 1
    assert default_losses(answers_of(model), has_teacher=True)[0]["name"] == "regression"


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_classes_is_named_with_its_row(tmp_path, label):
    rows = Rows(24)
    rows.rows[20]["labels"] = label
    trainer = trainer_for(tmp_path, rows=rows)
    told = rf"labels holds {label} in the rows with row_id 120, and the student's classes are 3"
    with pytest.raises(NeedsError, match=told):
        trainer.train()
    with pytest.raises(NeedsError, match=told):  # as a worker of a data loader gets it
        pickle.loads(pickle.dumps(trainer.training_collator))(rows.rows)


def test_a_token_outside_a_vocabulary_is_named_with_its_row(tmp_path):
    rows = Rows(24)
    rows.rows[20]["input_ids"][1] = 50
    with pytest.raises(NeedsError, match=r"input_ids holds 50 in the rows with row_id 120, and the student's vocabulary has 50"):
        trainer_for(tmp_path, rows=rows).train()
    wide = encoder(seed=1)
    wide.resize_token_embeddings(60)
    message = r"input_ids holds 50 in the rows with row_id 120, and the teacher's vocabulary has 50.*teacher_input_ids"
    with pytest.raises(NeedsError, match=message):
        trainer_for(tmp_path, rows=rows, student=wide).train()
    with pytest.raises(NeedsError, match=message):
        trainer_for(tmp_path, rows=rows, student=wide, teacher=[opinionated(), opinionated(seed=3)]).train()


class Jumps(Loss):
    """Finite, with a gradient too long for float32."""

    def needs_teacher(self):
        return ()

    def forward(self, student, teacher, batch):
        total = (student.logits - student.logits.detach()).sum() * 1e30
        return LossValue(sum=total, count=float(len(student.logits)))


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_step(tmp_path, max_grad_norm):
    trainer = trainer_for(tmp_path, losses=[Term("jumps", Jumps()), "ce"], max_grad_norm=max_grad_norm)
    before = weights(trainer.model)
    with pytest.raises(TrainingError, match="the gradient of 'jumps' and 'ce' is not finite on the batch with the row ids"):
        trainer.train()
    assert same(before, weights(trainer.model))
    stopped = json.loads((tmp_path / "stopped-at-step-0" / "stopped.json").read_text(encoding="utf-8"))
    assert stopped["terms"] == ["jumps", "ce"]
    assert set(stopped["row_ids"]) <= set(range(100, 124))
    assert stopped["row_ids"]


def test_a_head_of_zeros_learns_beside_jacobian(tmp_path):
    student = encoder(seed=1)
    with torch.no_grad():
        student.classifier.weight.zero_()
    before = weights(student)
    trainer = trainer_for(tmp_path, student=student, losses=["ce", "jacobian"], max_steps=4)
    trainer.train()
    assert not torch.equal(before["classifier.weight"], student.classifier.weight)
    assert all(np.isfinite(entry["grad_norm"]) for entry in trainer.state.log_history if "grad_norm" in entry)


def test_a_stage_of_inner_values_runs_the_lower_parts_alone_and_learns_the_same(tmp_path):
    hint = {"name": "fitnet", "layers": [[1, 2]]}

    def trained(folder, *, is_whole):
        student, teacher = encoder(seed=1, layers=3), opinionated()
        losses = [hint, {"name": "kl", "weight": 1e-30}] if is_whole else [hint]
        trainer = trainer_for(folder, student=student, teacher=teacher, losses=losses, max_steps=3, weight_decay=0.0)
        trainer.prepare()
        came_by = {"student": 0, "teacher": 0}

        def count(side):
            def hook(*_):
                came_by[side] += 1

            return hook

        student.bert.encoder.layer[1].register_forward_hook(count("student"))
        teacher.classifier.register_forward_hook(count("teacher"))
        trainer.train()
        return trainer, came_by

    (lower, in_lower), (whole, in_whole) = trained(tmp_path / "a", is_whole=False), trained(tmp_path / "b", is_whole=True)
    assert in_lower == {"student": 0, "teacher": 0}
    assert in_whole == {"student": 3, "teacher": 3}
    names = [name for name in weights(lower.model) if "embeddings" in name or "layer.0" in name]
    for name in names:
        torch.testing.assert_close(lower.model.state_dict()[name], whole.model.state_dict()[name], rtol=1e-5, atol=1e-7)
    assert np.isfinite(lower.evaluate()["eval_loss"])


def test_a_loss_that_returns_a_number_is_told_what_to_return(tmp_path):
    class Bare(Jumps):
        def forward(self, student, teacher, batch):
            return student.logits.mean()

    with pytest.raises(TrainingError, match=r"loss 'bare' returned Tensor.*LossValue"):
        trainer_for(tmp_path, losses=[Term("bare", Bare())]).train()
