"""Laws of students cut out of decoders, over every type; what is refused; and a run from a text to a cut student."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_builders import TEMPLATE, TEXT, TYPES, save_decoder, tiny_decoder, tiny_tokenizer, write_chats
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from potstill import DistillationPipeline
from potstill.cli.application import app
from potstill.errors import ModelError, RecipeError
from potstill.modalities.language.rows import RowsOptions, encode_splits
from potstill.models.decoder import Decoder
from potstill.models.families.decoders import DECODERS, decoder_family_of
from potstill.models.families.decoders.base import DecoderShape, Layout
from potstill.models.language_model import LanguageModel
from potstill.recipe.model import DataRecipe, StudentRecipe
from potstill.students.decoders.cut import Kept, choose, cut_decoder, everything
from potstill.students.decoders.importance import DecoderImportance, measure_decoder
from potstill.students.decoders.make import cut_student, plan_cut, template_ids
from potstill.students.vocabulary import cut_vocabulary

MORE = {
    "gemma": TYPES["llama"],
    "smollm3": TYPES["llama"] | {"pad_token_id": 1, "no_rope_layer_interval": 2},
}
ALL = {**TYPES, **MORE}
SQUARE = ("gpt2", "gpt_neox")
LAYERS = {name: "n_layer" if name == "gpt2" else "num_hidden_layers" for name in ALL}
LARGER = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 160, "num_key_value_heads": 4}
LARGER_GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 8, "n_positions": 64}
TOKENS = torch.randint(2, 290, (2, 20), generator=torch.Generator().manual_seed(0))


def model_of(model_type: str, **changes: Any) -> Any:
    """A decoder of this type whose norms and biases are no longer those of a fresh one."""
    if model_type in MORE:
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, **MORE[model_type] | {"bos_token_id": 0, "eos_token_id": 0} | changes)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = tiny_decoder(model_type, **changes)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def layout_of(model: Any) -> Layout:
    return decoder_family_of(model).layout(model)


def scores_of(model: Any) -> DecoderImportance:
    positions, samples = torch.arange(20).expand(2, 20), torch.zeros(2, 20, dtype=torch.long)
    batch = {"input_ids": TOKENS, "position_ids": positions, "sample_ids": samples}
    return measure_decoder(Decoder(model), layout_of(model), [batch])


def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ALL)
def test_a_cut_of_nothing_is_the_teacher(model_type: str) -> None:
    model = model_of(model_type)
    student = cut_decoder(layout_of(model), everything(layout_of(model).shape))
    assert torch.equal(logits(student), logits(model))
    assert student.config.to_dict() | {"dtype": None} == model.config.to_dict() | {"dtype": None}


def test_every_type_of_the_table_is_tested() -> None:
    assert set(DECODERS) == set(ALL)


@pytest.mark.parametrize("model_type", ALL)
def test_counts_are_those_of_the_built_models(model_type: str) -> None:
    layout = layout_of(model_of(model_type, **{LAYERS[model_type]: 3}))
    whole = layout.shape
    narrow = {"hidden": 16, "groups": whole.groups // 2}
    shape = DecoderShape(2, **narrow, ffn=20, vocabulary=300)
    random = np.random.default_rng(0)

    def draw(count: int, of: int) -> Tensor:
        return torch.as_tensor(np.sort(random.permutation(of)[:count]))

    groups = tuple(draw(shape.groups, whole.groups) for _ in range(2))
    neurons = tuple(draw(20, whole.ffn) for _ in range(2))
    kept = Kept((1, 3), draw(16, whole.hidden), groups, neurons, draw(300, whole.vocabulary), {})
    student = cut_decoder(layout, kept)
    assert sum(parameter.numel() for parameter in student.parameters()) == layout.parameters(shape)
    assert layout_of(student).shape == shape
    assert torch.isfinite(logits(student)).all()


def masked(model: Any, part: str, kept: tuple[Tensor, ...], size: int) -> Tensor:
    """Logits with all but the kept runs of `size` inputs of a part set to zero."""
    family, handles = decoder_family_of(model), []
    for k, numbers in enumerate(kept):
        module = model.get_submodule(f"{family.blocks}.{k}.{part}")

        def hook(module: Any, args: tuple[Tensor, ...], numbers: Tensor = numbers) -> tuple[Tensor]:
            mask = torch.zeros(args[0].shape[-1] // size)
            mask[numbers] = 1
            return (args[0] * mask.repeat_interleave(size),)

        handles.append(module.register_forward_pre_hook(hook))
    found = logits(model)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("model_type", ALL)
def test_neurons_that_are_cut_are_neurons_that_are_masked(model_type: str) -> None:
    model = model_of(model_type)
    layout = layout_of(model)
    shape = DecoderShape(**{**vars(layout.shape), "ffn": 13})
    kept = choose(layout, shape, scores_of(model))
    same(logits(cut_decoder(layout, kept)), masked(model, layout.family.part_over("ffn"), kept.neurons, 1))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("model_type", [name for name in ALL if name not in (*SQUARE, "olmo2")])
def test_groups_of_heads_that_are_cut_are_groups_that_are_masked(model_type: str, groups: int) -> None:
    model = model_of(model_type, num_key_value_heads=groups)
    layout = layout_of(model)
    kept = choose(layout, DecoderShape(**{**vars(layout.shape), "groups": max(1, groups // 2)}), scores_of(model))
    size = layout.heads.per_group * layout.heads.size
    student = cut_decoder(layout, kept)
    assert student.config.num_attention_heads == max(1, groups // 2) * (4 // groups)
    same(logits(student), masked(model, layout.family.part_over("query"), kept.groups, size))


@pytest.mark.parametrize("model_type", ALL)
def test_layers_that_are_cut_are_layers_that_are_skipped(model_type: str) -> None:
    model = model_of(model_type, **{LAYERS[model_type]: 5})
    layout = layout_of(model)
    kept = everything(layout.shape)
    few = Kept((1, 3, 4), kept.hidden, kept.groups[:3], kept.neurons[:3], kept.tokens, {})
    student = cut_decoder(layout, few)

    def skip(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        return (before, *output[1:]) if isinstance(output, tuple) else before

    for k in (2, 5):
        model.get_submodule(f"{layout.family.blocks}.{k - 1}").register_forward_hook(skip, with_kwargs=True)
    same(logits(student), logits(model))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("model_type", [name for name in ALL if name not in (*SQUARE, "cohere")])
def test_units_that_carry_nothing_can_be_cut(model_type: str, is_tied: bool) -> None:
    """The gains of norms, and of embeddings scaled by the width, make up for a smaller width exactly."""
    model = model_of(model_type, rms_norm_eps=1e-12, tie_word_embeddings=is_tied)
    layout, empty = layout_of(model), torch.arange(1, 32, 4)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, empty] = 0
        for k in range(layout.shape.layers):
            for part in ("self_attn.o_proj", "mlp.down_proj"):
                model.get_submodule(f"{layout.family.blocks}.{k}.{part}").weight[empty] = 0
    scores = scores_of(model)
    scores.hidden[empty] = -1.0
    student = cut_decoder(layout, choose(layout, DecoderShape(**{**vars(layout.shape), "hidden": 24}), scores))
    torch.testing.assert_close(logits(student), logits(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ALL)
def test_a_cut_vocabulary_keeps_the_logits_of_its_tokens(model_type: str) -> None:
    model = model_of(model_type)
    layout, whole, ids = layout_of(model), everything(layout_of(model).shape), torch.arange(0, 400, 3)
    student = cut_decoder(layout, Kept(whole.layers, whole.hidden, whole.groups, whole.neurons, ids, {}))
    new = torch.randint(0, len(ids), (2, 9), generator=torch.Generator().manual_seed(1))
    same(logits(student, new), logits(model, ids[new])[..., ids])
    decoder = Decoder(model).renumbered(ids)
    batch = {"input_ids": new, "position_ids": torch.arange(9).expand(2, 9)}
    with torch.no_grad():
        same(decoder.head.logits(decoder.hidden(batch).flatten(0, 1)), logits(student, new).flatten(0, 1))


@pytest.mark.parametrize("model_type", ALL)
def test_a_cut_student_is_a_plain_folder_and_its_teacher_is_unchanged(model_type: str, tmp_path: Path) -> None:
    model = model_of(model_type, **{LAYERS[model_type]: 3})
    before, config = {name: value.clone() for name, value in model.state_dict().items()}, copy.deepcopy(model.config.to_dict())
    layout, scores = layout_of(model), scores_of(model)
    shape = DecoderShape(2, 16, layout.shape.groups // 2, 20, 300)
    student = cut_decoder(layout, choose(layout, shape, scores, torch.arange(50, 350)))
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded), logits(student))
    is_tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert is_tied == bool(model.config.tie_word_embeddings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert not model.training


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "qwen2", "smollm3"])
def test_what_is_said_of_each_layer_follows_the_layers_that_stay(model_type: str) -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    model = model_of(model_type, **{LAYERS[model_type]: 4, "layer_types": kinds, "sliding_window": 4})
    layout, whole = layout_of(model), everything(layout_of(model).shape)
    few = Kept((1, 3, 4), whole.hidden, whole.groups[:3], whole.neurons[:3], whole.tokens, {})
    assert cut_decoder(layout, few).config.layer_types == [kinds[0], kinds[2], kinds[3]]


def test_importance_sees_what_matters() -> None:
    model = model_of("llama", num_hidden_layers=3)
    with torch.no_grad():
        block = model.model.layers[1]
        block.self_attn.o_proj.weight[:] = 0
        block.mlp.down_proj.weight[:] = 0
        model.model.layers[0].mlp.down_proj.weight[:, :5] = 0
        model.model.layers[2].self_attn.o_proj.weight[:, :16] = 0
    scores = scores_of(model)
    assert scores.layers.argmin() == 1
    assert scores.layers[1].abs() < 1e-6
    assert (scores.neurons[0][:5] == 0).all()
    assert scores.groups[2][0] == 0 < scores.groups[2][1]
    assert scores.tokens == TOKENS.numel()


def test_padding_has_no_say_in_importance() -> None:
    model = model_of("llama")
    scores, padding = scores_of(model), torch.full((2, 5), 1)
    positions = torch.cat([torch.arange(20).expand(2, 20), torch.arange(5).expand(2, 5)], 1)
    samples = torch.cat([torch.zeros(2, 20, dtype=torch.long), torch.full((2, 5), -1)], 1)
    batch = {"input_ids": torch.cat([TOKENS, padding], 1), "position_ids": positions, "sample_ids": samples}
    found = measure_decoder(Decoder(model), layout_of(model), [batch])
    for name in ("layers", "groups", "neurons", "hidden"):
        torch.testing.assert_close(getattr(found, name), getattr(scores, name), rtol=1e-4, atol=1e-6)
    assert found.tokens == scores.tokens


# --- the planner


def rows_of(tmp_path: Path, tokenizer: Any, text: str = TEXT) -> Any:
    (tmp_path / "text.txt").write_text((text + "\n\n") * 60, "utf-8")
    options = RowsOptions(DataRecipe(source=str(tmp_path / "text.txt")), 64, True, "assistant", None, 0)
    return encode_splits(options.data.source, options, tokenizer, tmp_path / "rows")


def party(model: Any, tokenizer: Any = None) -> LanguageModel:
    return LanguageModel("teacher", "", lambda: model, lambda: tokenizer or tiny_tokenizer())


@pytest.mark.parametrize("ratio", [0.10, 0.25, 0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("model_type", ALL)
def test_every_ratio_is_met_within_a_point(model_type: str, ratio: float, tmp_path: Path) -> None:
    model = model_of(model_type, **(LARGER_GPT2 if model_type == "gpt2" else LARGER))
    made = cut_student(StudentRecipe(ratio=ratio), party(model), rows_of(tmp_path, tiny_tokenizer()))
    whole, size = (sum(parameter.numel() for parameter in each.parameters()) for each in (model, made.model))
    assert abs(1 - size / whole - ratio) <= 0.01
    assert (made.plan.parameters, made.plan.teacher_parameters) == (size, whole)
    assert len(made.plan.layers) == layout_of(made.model).shape.layers
    assert torch.isfinite(logits(made.model, TOKENS.clamp(max=made.model.config.vocab_size - 1))).all()


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen2"])
def test_a_kept_vocabulary_is_kept(model_type: str, tmp_path: Path) -> None:
    model = model_of(model_type, **LARGER)
    made = cut_student(StudentRecipe(ratio=0.7, vocabulary="keep"), party(model), rows_of(tmp_path, tiny_tokenizer()))
    assert (made.model.config.vocab_size, made.vocabulary) == (400, None)
    assert abs(made.plan.ratio - 0.7) <= 0.01


@pytest.mark.parametrize("budget", [{"params": 50_000}, {"bytes": 200_000}, {"ratio": 0}])
def test_budgets_of_every_kind(budget: dict[str, Any], tmp_path: Path) -> None:
    model = model_of("llama", **LARGER)
    plan = plan_cut(StudentRecipe(**budget), party(model), rows_of(tmp_path, tiny_tokenizer()))[0]
    expected = plan.teacher_parameters if "ratio" in budget else 50_000
    assert abs(plan.parameters - expected) <= 0.01 * plan.teacher_parameters


def test_the_planner_finds_large_models_in_an_instant() -> None:
    from potstill.students.decoders.plan import DecoderSpace, plan_decoder

    sizes = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
    config = AutoConfig.for_model("llama", **sizes, intermediate_size=28672, vocab_size=128256, tie_word_embeddings=False)
    with torch.device("meta"):
        layout = layout_of(AutoModelForCausalLM.from_config(config))
    for ratio in (0.1, 0.5, 0.95):
        assert abs(plan_decoder(DecoderSpace(layout), {"ratio": ratio}).ratio - ratio) <= 0.01


def test_a_ratio_that_cannot_be_reached_names_the_nearest(tmp_path: Path) -> None:
    teacher, rows = party(model_of("gpt2")), rows_of(tmp_path, tiny_tokenizer())
    with pytest.raises(RecipeError, match=r"smallest student of this teacher has [\d,]+ parameters, a ratio of 0\.8.*--student"):
        plan_cut(StudentRecipe(ratio=0.95), teacher, rows)
    with pytest.raises(RecipeError, match=r"student\.vocabulary: auto"):
        plan_cut(StudentRecipe(ratio=0.95, vocabulary="keep"), teacher, rows)


def test_a_vocabulary_below_what_must_stay_is_refused(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, tiny_tokenizer())
    with pytest.raises(ModelError, match="a vocabulary of 100 tokens is asked"):
        plan_cut(StudentRecipe(ratio=0.6, vocabulary=100), party(model_of("llama")), rows)
    plan = plan_cut(StudentRecipe(ratio=0.6, vocabulary=285), party(model_of("llama")), rows)[0]
    assert plan.vocabulary == 285


def test_a_tokenizer_with_more_tokens_than_the_model_keeps_them(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, tiny_tokenizer())
    with pytest.raises(ModelError, match=r"student\.vocabulary=keep"):
        plan_cut(StudentRecipe(ratio=0.6), party(model_of("llama", vocab_size=288)), rows)


def test_other_types_are_refused_with_the_remedy() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("opt", hidden_size=32, num_hidden_layers=1, ffn_dim=32,
        num_attention_heads=2, vocab_size=90, word_embed_proj_dim=32))  # fmt: skip
    with pytest.raises(ModelError, match=r"type 'opt'.*llama, mistral.*--student"):
        decoder_family_of(model)


def test_weights_that_are_not_known_are_refused_with_the_remedy() -> None:
    model = tiny_decoder("llama")
    model.model.layers[0].mlp.extra = torch.nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"mlp\.extra.*--student"):
        layout_of(model)
    other = tiny_decoder("llama")
    other.model.layers[1].mlp.down_proj = torch.nn.Linear(40, 32, bias=False)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj.*--student"):
        layout_of(other)


# --- the vocabulary


def test_chat_templates_keep_their_tokens_and_every_text_still_encodes() -> None:
    tokenizer = tiny_tokenizer()
    counts = np.zeros(400, np.int64)
    counts[tokenizer("the cat sat on the mat")["input_ids"]] = 5
    also = template_ids(tokenizer)
    assert also
    cut = cut_vocabulary(tokenizer, counts, also=also)
    assert also <= set(cut.kept_ids.tolist())
    for text in ("the cat sat on the mat", "völlig anderes, 猫 \U0001f431", TEXT):
        assert cut.tokenizer.decode(cut.tokenizer(text)["input_ids"]) == text
    turns = [{"role": "user", "content": "x"}]
    assert cut.tokenizer.chat_template == TEMPLATE
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    assert cut.kept_ids[cut.tokenizer(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]


def test_texts_that_only_lose_unused_tokens_are_encoded_as_before() -> None:
    tokenizer, text = tiny_tokenizer(), "the log and the mat. the cat"
    counts = np.bincount(tokenizer(text)["input_ids"], minlength=400)
    cut = cut_vocabulary(tokenizer, counts)
    assert len(cut.kept_ids) < len(tokenizer)
    assert cut.kept_ids[cut.tokenizer(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]


def test_special_ids_of_a_cut_student_are_those_of_its_tokenizer(tmp_path: Path) -> None:
    model = model_of("llama", **LARGER, pad_token_id=1)
    model.generation_config.eos_token_id = [0, 4]
    made = cut_student(StudentRecipe(ratio=0.9), party(model), rows_of(tmp_path, tiny_tokenizer()))
    assert made.vocabulary is not None
    table = made.vocabulary.new_ids(400)
    assert made.model.config.pad_token_id == made.tokenizer.pad_token_id
    assert made.model.generation_config.eos_token_id == [table[0], table[4]]


# --- runs


def test_from_a_text_to_a_cut_student(tmp_path: Path) -> None:
    teacher = save_decoder(tmp_path / "teacher", **LARGER)
    (tmp_path / "corpus.txt").write_text((TEXT * 2 + "\n\n") * 60, "utf-8")
    metrics = DistillationPipeline(
        str(teacher),
        str(tmp_path / "corpus.txt"),
        {
            "student": {"ratio": 0.8},
            "distill": {"epochs": 4, "learning_rate": 1e-2},
            "language": {"window": 64},
        },
        output_dir=tmp_path / "out",
    ).run()
    assert metrics.ratio is not None
    assert metrics.ratio.asked == 0.8
    assert abs(metrics.ratio.achieved - 0.8) <= 0.01
    assert metrics.plan is not None
    assert len(metrics.plan.layers_kept) == metrics.plan.student["num_hidden_layers"]
    assert metrics.plan.notes
    assert (metrics.models["student"].mean_kl_nats or 9) < 0.5
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "student")
    assert sum(parameter.numel() for parameter in student.parameters()) == metrics.models["student"].parameters
    text = "etwas völlig anderes 猫"
    ids = tokenizer(text)["input_ids"]
    assert max(ids) < student.config.vocab_size
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("cache", ["always", "never"])
def test_chats_and_other_budgets_with_kept_and_live_answers(cache: str, tmp_path: Path) -> None:
    teacher = save_decoder(tmp_path / "teacher", "gemma3_text", **LARGER)
    settings = {"student": {"params": 40_000}, "distill": {"epochs": 1, "cache": cache}, "language": {"window": 64}}
    metrics = DistillationPipeline(
        str(teacher), str(write_chats(tmp_path / "chats.jsonl")), settings, output_dir=tmp_path / "out"
    ).run()
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "student")
    assert abs(metrics.models["student"].parameters - 40_000) <= 0.01 * metrics.models["teacher"].parameters
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_ratio_zero_starts_as_the_teacher(tmp_path: Path) -> None:
    teacher = save_decoder(tmp_path / "teacher")
    settings = {"student": {"ratio": 0}, "distill": {"epochs": 1, "learning_rate": 1e-9}, "language": {"window": 64}}
    metrics = DistillationPipeline(
        str(teacher), str(write_chats(tmp_path / "chats.jsonl")), settings, output_dir=tmp_path / "out"
    ).run()
    assert metrics.models["student"].mean_kl_nats == pytest.approx(0, abs=1e-6)
    assert metrics.models["student"].agreement == 1.0


@pytest.mark.parametrize("command", [["plan"], ["distill", "--dry-run"]])
def test_a_plan_says_what_would_be_built(command: list[str], tmp_path: Path) -> None:
    teacher = save_decoder(tmp_path / "teacher", **LARGER)
    data = write_chats(tmp_path / "chats.jsonl")
    given = ["--teacher", str(teacher), "--data", str(data), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*command, *given, "--ratio", "0.5", "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert abs(said["ratio"] - 0.5) <= 0.01
    assert said["bytes_fp32"] == 4 * said["parameters"] == 2 * said["bytes_bf16"]
    shape = said["architecture"]
    assert shape.keys() >= {"layers", "heads", "kv_heads", "width", "ffn", "vocabulary"}
    assert said["kv_bytes_per_token"] == 4 * shape["layers"] * shape["kv_heads"] * shape["head_size"]
    assert said["cache_bytes"] > 0
    assert not (tmp_path / "out").exists()
    named = CliRunner().invoke(app, [*command, *given, "--student", str(teacher), "--json"])
    assert json.loads(named.stdout)["ratio"] == 0
    shown = CliRunner().invoke(app, [*command, *given, "--ratio", "0.5"])
    assert "kv_heads" in shown.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latency_ms": 5.0}, "student.latency_ms is given for a language model"),
        ({"architecture": "bilstm"}, "student.architecture: bilstm is no network that predicts tokens"),
    ],
)
def test_budgets_and_networks_of_other_tasks_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    teacher = save_decoder(tmp_path / "teacher")
    data = write_chats(tmp_path / "chats.jsonl")
    with pytest.raises(RecipeError, match=said):
        DistillationPipeline(str(teacher), str(data), {"student": settings}, output_dir=tmp_path / "out").run()
