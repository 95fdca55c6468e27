"""Laws of students of other architectures, and the messages around them."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel, BertConfig, ViTConfig

from potstill import tasks
from potstill.errors import ModelError, PotstillError, RecipeError
from potstill.exports.onnx import OnnxRunner, export_onnx
from potstill.models.architectures import ARCHITECTURES
from potstill.models.architectures.texts import reading_places
from potstill.models.taps import Taps, can_give
from potstill.students.architectures.plan import plan_architecture
from potstill.students.architectures.start import init_architecture, principal_components
from potstill.students.vocabulary import count_tokens, cut_vocabulary, required_size
from potstill.tasks.loading import load
from potstill.training.trainer import DistillationTrainer
from students.builders import tiny_batches, tiny_model
from students.tokenizers_for_tests import sentences, trained

TEXT = ("bilstm", "textcnn", "static")
ALL = tuple(ARCHITECTURES)
SMALL = {
    "bilstm": {"vocab_size": 120, "embedding_size": 8, "num_units": 6, "num_hidden_layers": 2, "classifier_size": 10},
    "textcnn": {"vocab_size": 120, "embedding_size": 8, "num_filters": 6},
    "static": {"vocab_size": 120, "embedding_size": 8, "classifier_size": 10},
    "cnn": {"image_size": 16, "stem_stride": 2, "hidden_sizes": [8, 16], "depths": [1, 2]},
}
AUTO = {"text": transformers.AutoModelForSequenceClassification, "image": transformers.AutoModelForImageClassification}


def small(name: str, **changes):
    """A random student in eval mode whose biases and statistics are not at their trivial defaults."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(f"potstill-{name}", num_labels=3, **(SMALL[name] | changes))
    model = AUTO[ARCHITECTURES[name].modality].from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for key, buffer in model.named_buffers():
            if key.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return model.eval()


def batch(name: str, rows: int = 5) -> dict[str, torch.Tensor]:
    """Ragged text padded on the right, or images."""
    values = tiny_batches("vit" if name == "cnn" else "bert", 1, rows)[0]
    return {key: value for key, value in values.items() if key not in ("labels", "row_id")}


# --- the models


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name, side):
    model, inputs = small(name), batch(name)
    whole = model(**inputs, output_hidden_states=True)
    longest = inputs["input_ids"].shape[1]
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        ids = inputs["input_ids"][row : row + 1, :length]
        alone = model(ids, output_hidden_states=True)
        pads = torch.full((1, longest + 3 - length), 7)
        padded = torch.cat([pads, ids] if side == "left" else [ids, pads], dim=1)
        mask = torch.cat([torch.zeros_like(pads), torch.ones_like(ids)][:: 1 if side == "left" else -1], dim=1)
        other = model(padded, attention_mask=mask)
        torch.testing.assert_close(other.logits, alone.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole.logits[row : row + 1], alone.logits, atol=1e-5, rtol=1e-5)
        for padded_state, state in zip(whole.hidden_states, alone.hidden_states):
            torch.testing.assert_close(padded_state[row : row + 1, :length], state, atol=1e-5, rtol=1e-5)
            assert not padded_state[row, length:].any()


@pytest.mark.parametrize("name", TEXT)
def test_an_all_ones_mask_equals_none_and_an_empty_row_stays_finite(name):
    model, ids = small(name), batch(name)["input_ids"]
    assert torch.equal(model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)
    assert model(ids, attention_mask=torch.zeros_like(ids)).logits.isfinite().all()
    assert model(ids[:, :1]).logits.isfinite().all()


def test_bilstm_equals_packed_sequences():
    model, inputs = small("bilstm", num_hidden_layers=1), batch("bilstm")
    layer = model.encoder.layers[0]
    reference = torch.nn.LSTM(8, 6, batch_first=True, bidirectional=True)
    for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(reference, key).data.copy_(getattr(layer.forward_lstm, key))
        getattr(reference, f"{key}_reverse").data.copy_(getattr(layer.backward_lstm, key))
    lengths = inputs["attention_mask"].sum(1)
    embedded = model.encoder.word_embeddings(inputs["input_ids"])
    packed = torch.nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    got = model(**inputs, output_hidden_states=True).hidden_states[1][:, : expected.shape[1]]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_reading_places_are_permutations_for_any_mask():
    mask = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.6
    for places in reading_places(mask):
        assert torch.equal(places.sort(dim=1).values, torch.arange(9).expand(20, 9))


@pytest.mark.parametrize("name", ALL)
def test_every_weight_learns(name):
    model, inputs = small(name).train(), batch(name)
    model(**inputs, labels=torch.tensor([0, 1, 2, 0, 1])).loss.backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("name", ALL)
def test_saved_and_loaded_logits_are_equal(name, tmp_path):
    model, inputs = small(name), batch(name)
    model.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors", ".py"}
    again, found = AUTO[ARCHITECTURES[name].modality].from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(encoder(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)


@pytest.mark.parametrize("name", ALL)
def test_onnx_equals_pytorch_at_other_shapes(name, tmp_path):
    model = small(name)
    task = tasks.build("image-classification" if name == "cnn" else "text-classification")
    sizes = {} if name == "cnn" else {"tokens": 7}
    exported = export_onnx(
        model,
        tmp_path / "model.onnx",
        example_inputs=task.example_inputs(model, batch=2, **sizes),
        dynamic_axes=task.dynamic_axes(model),
    )
    inputs = batch(name)
    got = OnnxRunner(exported.path, threads=1).run({key: value.numpy() for key, value in inputs.items()})["logits"]
    np.testing.assert_allclose(got, model(**inputs).logits.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_taps_give_hidden_states_and_the_input_of_the_head(name):
    model, inputs = small(name), batch(name)
    logits, values = Taps(model, ["embedding", "hidden:1", "hidden:-1", "head.in"]).run(inputs)
    torch.testing.assert_close(model.classifier(values["head.in"]), logits)
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert torch.equal(values["embedding"], states[0])
    assert torch.equal(values["hidden:1"], states[1])
    assert torch.equal(values["hidden:-1"], states[-1])
    assert not can_give(model, "attention:1")


@pytest.mark.parametrize("name", ALL)
def test_other_inputs_are_ignored_and_tuples_are_given_on_request(name):
    model, inputs = small(name), batch(name)
    logits = model(**inputs, token_type_ids=torch.zeros(5, 10)).logits
    assert torch.equal(model(**inputs, return_dict=False)[0], logits)


# --- plans


def teacher_config(name: str):
    """A configuration of the size that people have, of which no weight is made."""
    if name == "cnn":
        return ViTConfig(num_labels=10)
    return BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_attention_heads=12, num_labels=3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("ratio", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_plans_land_within_a_point_and_count_what_is_built(name, ratio):
    teacher = teacher_config(name)
    counts = None if name == "cnn" else (3e6 / np.arange(1, 30523) ** 1.1).astype(int)
    planned = plan_architecture(name, teacher, ratio=ratio, token_counts=counts, min_vocabulary=1500)
    assert abs(planned.ratio - ratio) <= 0.01
    config = planned.build_config()
    assert config.num_labels == teacher.num_labels
    with torch.device("meta"):
        built = AUTO[ARCHITECTURES[name].modality].from_config(config)
    assert planned.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert planned.layers == ()
    if planned.vocabulary is not None:
        assert planned.vocabulary == config.vocab_size >= 1500


@pytest.mark.parametrize("name", ALL)
def test_counted_flops_are_those_that_run(name):
    from potstill.evaluate.cost import flops

    model, inputs = small(name), batch(name)
    counted = model.config.flops(10)
    measured = flops(model, inputs)
    if name == "bilstm":  # the counter does not see inside an LSTM
        measured = counted - 2 * 10 * 8 * 6 * (8 + 6 + 12 + 6)
        assert measured == 2 * (4 * 6 * 10 + 10 * 3)
    elif name == "static":  # the weighted sum is element-wise to the counter
        assert counted - measured == 2 * 10 * 8
    else:
        assert counted == measured


def test_params_and_bytes_are_budgets_too():
    teacher = teacher_config("bilstm")
    by_params = plan_architecture("bilstm", teacher, params=2_000_000)
    assert 1_900_000 <= by_params.parameters <= 2_000_000
    assert plan_architecture("bilstm", teacher, bytes=8_000_000).config == by_params.config
    assert plan_architecture("bilstm", teacher, ratio=0.9, vocabulary_size=5000).vocabulary == 5000


def test_latency_is_a_budget_too():
    teacher = teacher_config("textcnn")
    planned = plan_architecture("textcnn", teacher, latency_ms=1.0, latency_of=lambda config: config.flops() / 1e8)
    assert 0.8e8 <= planned.flops <= 1e8


def test_a_plan_that_cannot_land_says_so():
    planned = plan_architecture("static", BertConfig(), ratio=0.3)
    assert "ratio 0.300 was asked; the nearest static gives" in " ".join(planned.notes)


@pytest.mark.parametrize(
    ("name", "teacher", "budget", "message"),
    [
        ("bilstn", "bert", {"ratio": 0.9}, "student architecture 'bilstn' does not exist.*did you mean 'bilstm'"),
        ("cnn", "bert", {"ratio": 0.9}, "a cnn reads images, and the teacher is a bert.*choose one that reads"),
        ("static", "vit", {"ratio": 0.9}, "a static reads texts, and the teacher is a vit"),
        ("static", "bert", {}, "0 budgets are given.*exactly one of ratio"),
        ("static", "bert", {"ratio": 0.9, "params": 3}, r"2 budgets are given \(ratio, params\)"),
        ("static", "bert", {"ratio": 1.2}, "ratio=1.2 means a ratio of 1.2000.*above 0 and up to 0.999"),
        ("static", "bert", {"params": 10**9}, "params=1000000000 means"),
        ("static", "bert", {"latency_ms": 2}, "without a way to measure the latency.*pass latency_of="),
    ],
)
def test_impossible_plans_are_refused(name, teacher, budget, message):
    config = BertConfig() if teacher == "bert" else ViTConfig()
    with pytest.raises((RecipeError, ModelError), match=f"(?s){message}"):
        plan_architecture(name, config, **budget)


# --- first weights


def test_full_width_principal_components_are_a_rotation():
    rows, weights = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.rand(50) + 0.1
    components = principal_components(rows, weights, 6)
    share = (weights / weights.sum())[:, None]
    centred = rows - (share * rows).sum(0)
    scale = components.norm() / centred.norm()
    torch.testing.assert_close(components @ components.T, scale**2 * centred @ centred.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close((share * components.square()).sum(), torch.tensor(6.0), atol=1e-4, rtol=1e-4)
    narrow = principal_components(rows, weights, 3)
    torch.testing.assert_close(narrow / narrow.norm(), components[:, :3] / components[:, :3].norm(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_the_student_starts_from_the_teacher_and_its_cut_vocabulary(name):
    tokenizer = trained("WordPiece")
    counts = count_tokens(tokenizer(sentences(60, seed=3))["input_ids"], len(tokenizer))
    teacher = tiny_model("bert", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    smallest = required_size(tokenizer, counts)
    planned = plan_architecture(name, teacher, ratio=0.7, token_counts=counts, min_vocabulary=smallest)
    cut = cut_vocabulary(tokenizer, counts, planned.config["vocab_size"])
    config = planned.build_config()
    student = init_architecture(teacher, config, cut, seed=4)
    assert student.config.vocab_size == len(cut.kept_ids)
    assert student.config.pad_token_id == cut.tokenizer.pad_token_id
    assert sum(value.numel() for value in student.parameters()) == planned.parameters
    again = init_architecture(teacher, config, cut, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters()))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    rows = cut.tokenizer(sentences(4, seed=5), padding=True, return_tensors="pt")
    assert student(rows["input_ids"], rows["attention_mask"]).logits.isfinite().all()
    if name == "static":
        scores = student.encoder.token_scores.weight[:, 0]
        assert scores.argmin() == int(np.argmax(cut.kept_counts))


def test_a_cnn_starts_from_its_seed():
    teacher = tiny_model("vit")
    config = plan_architecture("cnn", teacher, ratio=0.5).build_config()
    first, second, third = (init_architecture(teacher, config, seed=seed) for seed in (1, 1, 2))
    inputs = batch("cnn")
    assert torch.equal(first(**inputs).logits, second(**inputs).logits)
    assert not torch.equal(first(**inputs).logits, third(**inputs).logits)


def test_configurations_that_do_not_fit_the_teacher_are_refused():
    teacher = tiny_model("bert")
    config = plan_architecture("static", teacher, ratio=0.5).build_config()
    with pytest.raises(ModelError, match=r"a bert configuration is not one of these.*call cut_student"):
        init_architecture(teacher, teacher.config)
    config.vocab_size = 60
    with pytest.raises(ModelError, match=r"the student has 60 tokens, the teacher 120.*call cut_vocabulary"):
        init_architecture(teacher, config)
    config.vocab_size, config.embedding_size = 120, 64
    with pytest.raises(ModelError, match=r"embeddings are 64 wide, the teacher's 32.*lower embedding_size"):
        init_architecture(teacher, config)


def distil(student, teacher, inputs, losses, folder) -> list[float]:
    """The logged losses of a short training."""
    rows = [{key: value[row] for key, value in inputs.items()} | {"row_id": row, "labels": row % 3} for row in range(16)]
    trainer = DistillationTrainer(
        student,
        transformers.TrainingArguments(
            folder, num_train_epochs=12, learning_rate=5e-3, per_device_train_batch_size=8, logging_strategy="epoch",
            save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        ),
        teacher=teacher,
        losses=losses,
        train_dataset=rows,
        data_collator=torch.utils.data.default_collate,
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", ALL)
def test_knowledge_flows_between_architectures(name, tmp_path):
    """Logits, relations between rows, and, where both read tokens, hidden states through a bridge."""
    teacher, student = tiny_model("vit" if name == "cnn" else "bert"), small(name)
    losses = [{"name": "kl", "temperature": 2.0}, {"name": "rkd_distance", "weight": 0.5}]
    if name != "cnn":
        losses.append({"name": "hidden_mse", "weight": 0.1, "layers": [[-1, -1]]})
    logged = distil(student, teacher, batch(name, rows=16), losses, tmp_path)
    assert logged[-1] < 0.9 * logged[0]


# --- loading


def save_text_student(folder, name: str = "bilstm"):
    """A student and its tokenizer, as a run leaves them."""
    tokenizer = trained("WordPiece")
    model = small(name, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.mark.parametrize("name", TEXT)
def test_load_gives_the_student_and_its_tokenizer(name, tmp_path):
    model, tokenizer = save_text_student(tmp_path / "student", name)
    for folder in (tmp_path / "student", str(tmp_path)):
        loaded, processor = load(folder)
        rows = processor(["kalo mi teringest", "un"], padding=True, return_tensors="pt")
        assert rows["input_ids"].tolist() == tokenizer(["kalo mi teringest", "un"], padding=True)["input_ids"]
        assert not loaded.training
        values = {key: rows[key] for key in ("input_ids", "attention_mask")}
        assert torch.equal(loaded(**values).logits, model(**values).logits)


def test_load_gives_image_students_and_the_usual_ones(tmp_path):
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    for name, model in (("cnn", small("cnn")), ("vit", tiny_model("vit"))):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        loaded, again = load(tmp_path / name)
        assert torch.equal(loaded(**batch("cnn")).logits, model(**batch("cnn")).logits)
        assert again.size == {"height": 16, "width": 16}


def spoil(folder, how: str) -> None:
    """Make a saved student unusable in one way."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "no config":
        config.unlink()
    elif how == "broken config":
        config.write_text("{", encoding="utf-8")
    elif how == "unknown type":
        config.write_text('{"model_type": "potstill-tree"}', encoding="utf-8")
    elif how == "no head":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["BiLSTMModel"]}), encoding="utf-8")
    elif how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:500])
    elif how == "other sizes":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_units": 9}), encoding="utf-8")
    elif how == "more layers":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}), encoding="utf-8")
    else:
        for file in folder.glob("tokenizer*"):
            file.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "has no config.json; it holds .*model.safetensors.*give the folder student/"),
        ("broken config", "cannot be read as a model.*copy the student again"),
        ("unknown type", "cannot be read as a model.*potstill-tree.*update potstill"),
        ("no head", "holds a potstill-bilstm model without a head.*AutoModel"),
        ("no weights", "no weights.*model.safetensors"),
        ("cut weights", "the weights of .* cannot be read.*copy the student again"),
        ("other sizes", "the weights of .* cannot be read"),
        ("more layers", "lacks 8 weights of its potstill-bilstm model, for example encoder.layers.2"),
        ("no tokenizer", "tokenizer"),
    ],
)
def test_load_refuses_what_is_not_whole(how, message, tmp_path):
    save_text_student(tmp_path)
    spoil(tmp_path, how)
    with pytest.raises(PotstillError, match=f"(?s){message}") as caught:
        load(tmp_path)
    assert caught.value.accepted
    assert caught.value.todo


def test_load_refuses_files_and_folders_that_are_not_there(tmp_path):
    with pytest.raises(ModelError, match=r"does not exist.*check the path"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"is a file.*give its folder"):
        load(tmp_path / "file")


def test_importing_potstill_registers_nothing():
    code = "import potstill, sys; assert 'transformers' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
