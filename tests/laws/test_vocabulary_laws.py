"""Laws of the vocabulary cut: the data reads as before, other text stays readable, the model answers the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from potstill.students.cut import cut_student
from potstill.students.plan import plan
from potstill.students.vocabulary import count_tokens, cut_vocabulary
from students.builders import tiny_model
from students.tokenizers_for_tests import KINDS, sentences, trained

UNSEEN = ["zebra quixotic 42!", "Kalomi? (unterest)", "mixed KAlo-12,5"]


def counted(tokenizer, texts):
    return count_tokens(tokenizer(texts)["input_ids"], len(tokenizer))


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_its_tokens_kept_the_corpus_reads_identically(kind):
    tokenizer, corpus = trained(kind), sentences(60, seed=2)
    before = tokenizer(corpus, corpus[::-1])["input_ids"]
    cut = cut_vocabulary(tokenizer, count_tokens(before, len(tokenizer)))
    assert len(cut.kept_ids) == len(cut.tokenizer) < len(tokenizer)
    assert cut.coverage == 1.0
    assert cut.unseen_inflation >= 1.0
    after = cut.tokenizer(corpus, corpus[::-1])["input_ids"]
    assert [cut.kept_ids[ids].tolist() for ids in after] == before
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert cut.kept_ids[getattr(cut.tokenizer, f"{name}_token_id")] == getattr(tokenizer, f"{name}_token_id")
    assert tokenizer(corpus, corpus[::-1])["input_ids"] == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_other_text_loses_no_meaning(kind, share):
    tokenizer, corpus = trained(kind, size=700), sentences(300, seed=2)
    size = int(len(tokenizer) * share) + (160 if kind == "BPE-fallback" else 0)
    cut = cut_vocabulary(tokenizer, counted(tokenizer, corpus), size, unseen_texts=UNSEEN)
    assert len(cut.tokenizer) == len(cut.kept_ids) == size
    assert 0 < cut.coverage <= 1
    for text in [*sentences(100, seed=3), *UNSEEN]:
        old, new = (t(text, add_special_tokens=False)["input_ids"] for t in (tokenizer, cut.tokenizer))
        assert new.count(cut.tokenizer.unk_token_id) <= old.count(tokenizer.unk_token_id)
        if tokenizer.unk_token_id not in old:
            assert cut.tokenizer.decode(new).replace(" ", "") == tokenizer.decode(old).replace(" ", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_loads_with_plain_transformers(kind, tmp_path):
    tokenizer, corpus = trained(kind), sentences(60, seed=2)
    cut = cut_vocabulary(tokenizer, counted(tokenizer, corpus))
    cut.tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == len(cut.kept_ids)
    assert loaded(corpus)["input_ids"] == cut.tokenizer(corpus)["input_ids"]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "distilbert", "electra"])
def test_a_model_with_a_cut_vocabulary_answers_the_same(model_type):
    tokenizer, corpus = trained("Unigram"), sentences(20, seed=2)
    changes = {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "pad_token_id": tokenizer.pad_token_id}
    teacher = tiny_model(model_type, **changes)
    cut = cut_vocabulary(tokenizer, counted(tokenizer, corpus))
    whole = plan(teacher, ratio=0)
    planned = dataclasses.replace(whole, config=whole.config | {"vocab_size": len(cut.kept_ids)}, vocabulary=len(cut.kept_ids))
    student = cut_student(teacher, planned, vocabulary_cut=cut)
    names = ["input_ids", "attention_mask"]
    with torch.no_grad():
        old, new = (t(corpus, padding=True, return_tensors="pt") for t in (tokenizer, cut.tokenizer))
        expected = teacher(**{name: old[name] for name in names}).logits
        answered = student(**{name: new[name] for name in names}).logits
    torch.testing.assert_close(answered, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_the_saved_student_runs_in_a_pipeline(model_type, tmp_path):
    tokenizer, corpus = trained("BPE-bytes", size=700), sentences(200, seed=2)
    changes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "pad_token_id": tokenizer.pad_token_id}
    labels = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    teacher = tiny_model(model_type, **changes, **labels)
    counts = counted(tokenizer, corpus)
    planned = plan(teacher, ratio=0.6, token_counts=counts)
    cut = cut_vocabulary(tokenizer, counts, planned.vocabulary)
    batch = dict(tokenizer(corpus[:32], padding=True, return_tensors="pt"))
    student = cut_student(teacher, planned, [batch], cut)
    assert sum(p.numel() for p in student.parameters()) == planned.parameters
    student.save_pretrained(tmp_path)
    cut.tokenizer.save_pretrained(tmp_path)
    answers = transformers.pipeline("text-classification", model=str(tmp_path))(corpus[:4] + UNSEEN)
    assert {answer["label"] for answer in answers} <= {"bad", "fair", "good"}
    assert all(np.isfinite(answer["score"]) for answer in answers)
