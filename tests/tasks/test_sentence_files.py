"""Files of sentence-transformers in all their forms; what has no counterpart is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast

from potstill import tasks
from potstill.errors import ModelError
from potstill.modalities.text.tokenising import token_limit
from potstill.models.load import load_teacher
from potstill.models.sentence_files import read

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "good"]
NEW = "sentence_transformers.sentence_transformer.modules"
OLD = "sentence_transformers.models"


def tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names, **settings)


def encoder(
    folder: Path,
    pooling: dict[str, Any],
    *,
    limits: dict[str, Any] | None = None,
    more: tuple[str, ...] = (),
    room: str = NEW,
    file: str = "sentence_bert_config.json",
) -> Path:
    """A saved sentence encoder with these settings of pooling and encoder, and further layers."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    tokenizer(model_max_length=24).save_pretrained(folder)
    layers = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"{2 + at}_{kind}", kind) for at, kind in enumerate(more))]
    modules = [{"idx": at, "name": str(at), "path": path, "type": f"{room}.{kind}"} for at, (path, kind) in enumerate(layers)]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), "utf-8")
    if limits is not None:
        (folder / file).write_text(json.dumps(limits), "utf-8")
    return folder


def load(folder: Path) -> Any:
    return load_teacher(str(folder), tasks.build("sentence-embeddings"))


FORMS = {
    "one mode": ({"embedding_dimension": 16, "pooling_mode": "{}", "include_prompt": True}, NEW),
    "a list of one": ({"embedding_dimension": 16, "pooling_mode": ["{}"]}, NEW),
    "switches": (
        {"word_embedding_dimension": 16, "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
        | {"pooling_mode_max_tokens": "max", "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens"}
        | {"pooling_mode_weightedmean_tokens": "weightedmean", "pooling_mode_lasttoken": "lasttoken"},
        OLD,
    ),
}


def settings(form: str, mode: str) -> dict[str, Any]:
    values = FORMS[form][0]
    if form == "switches":
        return {key: value == mode if key.startswith("pooling") else value for key, value in values.items()}
    return json.loads(json.dumps(values).replace("{}", mode))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_each_form_gives_the_same_vector(tmp_path: Path, form: str, mode: str) -> None:
    loaded = load(encoder(tmp_path, settings(form, mode), room=FORMS[form][1]))
    batch = loaded.processor(["a b c", "good"], padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(tmp_path).eval()(**batch).last_hidden_state
    lengths = batch["attention_mask"].sum(1)
    of_row = {"mean": lambda row: row.mean(0), "cls": lambda row: row[0], "max": lambda row: row.amax(0)}[mode]
    expected = torch.stack([of_row(states[at, : int(length)]) for at, length in enumerate(lengths)])
    torch.testing.assert_close(loaded.model(**batch).logits, torch.nn.functional.normalize(expected, dim=-1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["weightedmean", "lasttoken", "mean_sqrt_len_tokens"])
def test_other_poolings_are_refused_by_name(tmp_path: Path, form: str, mode: str) -> None:
    with pytest.raises(ModelError, match=rf"pools its tokens by {mode}\. Accepted: mean, cls, max") as caught:
        load(encoder(tmp_path, settings(form, mode), room=FORMS[form][1]))
    assert "cannot be read" not in str(caught.value)


def test_joined_poolings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pools its tokens by mean and max"):
        load(encoder(tmp_path, {"pooling_mode": ["mean", "max"]}))


def test_no_mode_is_the_mean(tmp_path: Path) -> None:
    assert load(encoder(tmp_path, {"word_embedding_dimension": 16})).model.config.sentence_pooling == "mean"


@pytest.mark.parametrize("kind", ["LayerNorm", "WeightedLayerPooling", "LSTM", "CNN", "WordWeights", "Router", "BoW"])
def test_layers_without_counterpart_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelError, match=f"has a layer {kind} .*Accepted: Transformer, Pooling, Dense, Normalize, Dropout"):
        load(encoder(tmp_path, {"pooling_mode": "mean"}, more=(kind,)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, "not linear"),
        ({"activation_function": "torch.nn.modules.linear.Identity", "use_residual": True}, "not linear"),
        ({"activation_function": "torch.nn.modules.linear.Identity", "module_input_name": "token_embeddings"}, "not linear"),
        ({"activation_function": "torch.nn.modules.linear.Identity"}, "no weights of its linear layer in safetensors"),
    ],
)
def test_linear_layers_that_are_none_are_refused(tmp_path: Path, layer: dict[str, Any], message: str) -> None:
    folder = encoder(tmp_path, {"pooling_mode": "mean"}, more=("Dense", "Normalize"))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text(json.dumps({"in_features": 16, "out_features": 4, **layer}), "utf-8")
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "the weights of" not in str(caught.value)


@pytest.mark.parametrize("file", ["modules.json", "1_Pooling/config.json"])
def test_files_that_are_no_json_are_named(tmp_path: Path, file: str) -> None:
    folder = encoder(tmp_path, {"pooling_mode": "mean"})
    (folder / file).write_text("{", "utf-8")
    with pytest.raises(ModelError, match=rf"{Path(file).name} cannot be read.*Accepted: JSON"):
        load(folder)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = encoder(tmp_path, {"pooling_mode": "mean"})
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"names 1_Pooling/config\.json in its modules\.json and lacks it"):
        load(folder)


def test_a_prompt_before_every_text_is_refused(tmp_path: Path) -> None:
    folder = encoder(tmp_path, {"pooling_mode": "mean"})
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), "utf-8")
    with pytest.raises(ModelError, match="puts 'query: ' before every text"):
        load(folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts | {"default_prompt_name": None}), "utf-8")
    load(folder)


@pytest.mark.parametrize(
    ("limits", "file", "expected"),
    [
        (None, "", 24),  # the tokenizer's own
        ({"max_seq_length": None}, "sentence_bert_config.json", 24),
        ({"max_seq_length": 9, "do_lower_case": False}, "sentence_bert_config.json", 9),
        ({"max_seq_length": 9}, "sentence_roberta_config.json", 9),
        ({"max_seq_length": 28}, "sentence_xlm-roberta_config.json", 28),  # over the tokenizer's, as sentence-transformers does
        ({"max_seq_length": 500}, "sentence_bert_config.json", 32),  # the model's positions
        ({"processing_kwargs": {"text": {"max_length": 7}}}, "sentence_bert_config.json", 7),
        ({"max_seq_length": 9, "processing_kwargs": {"common": {"max_length": 6}}}, "sentence_bert_config.json", 6),
    ],
)
def test_texts_are_read_as_far_as_the_teacher_reads_them(
    tmp_path: Path, limits: dict[str, Any] | None, file: str, expected: int
) -> None:
    folder = encoder(tmp_path / "teacher", {"pooling_mode": "mean"}, limits=limits, file=file)
    loaded = load(folder)
    assert token_limit(loaded.processor, None) == expected
    loaded.processor.save_pretrained(tmp_path / "student")  # what a student reads with keeps it
    config = loaded.model.config
    assert (
        tasks.build("sentence-embeddings").load_processor(str(tmp_path / "student"), model_config=config).model_max_length
        == expected
    )


def test_texts_are_lowered_where_the_files_say_so(tmp_path: Path) -> None:
    folder = encoder(tmp_path, {"pooling_mode": "mean"}, limits={"max_seq_length": 9, "do_lower_case": True})
    assert load(folder).processor("Good A")["input_ids"] == tokenizer()("good a")["input_ids"]


def test_a_folder_of_another_origin_has_no_such_files(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert read("nobody/has-this-model") is None
