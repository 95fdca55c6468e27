"""Tiny teachers and rows of every kind for `outcomes.py`, made from fixed seeds when a flow asks for them.

The weights are random but wide, and those of the classifiers of moods and digits are fitted to their rows for a second, so that
answers differ from row to row and a change of the arithmetic shows in every figure.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

TELLING = {"bad": ["dull", "dreary", "cold", "clumsy"], "good": ["bright", "lovely", "warm", "clever"]}
THINGS = ("book", "film", "song")
NEUTRAL = ["play", "story", "scene", "actor", "the", "a", "this", "was", "is", "and", "very", "quite", "with"]
WORDS = [*NEUTRAL, *THINGS, *TELLING["bad"], *TELLING["good"]]
MOODS, DIGITS, TAGS = ("bad", "good"), ("0", "1", "2"), ("B-LOC", "B-PER", "O")
SIDE, FIT_STEPS = 8, 25


class World:
    """Models and rows in a folder; each is made once, when it is first asked for.

    Args:
        folder: Receives them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def bert(self) -> str:
        """A BERT that knows two moods."""
        return self.bert_for("bert", transformers.BertForSequenceClassification, MOODS, fit=True)

    @cached_property
    def body(self) -> str:
        """The same BERT without a head."""
        return self.bert_for("body", transformers.BertModel, ())

    @cached_property
    def pair_bert(self) -> str:
        """A BERT for pairs of texts."""
        return self.bert_for("pair-bert", transformers.BertForSequenceClassification, ("other", "same"))

    @cached_property
    def tagger(self) -> str:
        """A BERT that tags words."""
        return self.bert_for("tagger", transformers.BertForTokenClassification, TAGS)

    @cached_property
    def reader(self) -> str:
        """A BERT that finds spans."""
        return self.bert_for("reader", transformers.BertForQuestionAnswering, ())

    @cached_property
    def distilbert(self) -> str:
        """A DistilBERT with other tokens than the BERT's: whole words, in another order."""
        return self.word_distilbert("distilbert", MOODS, fit=True)

    @cached_property
    def thing_distilbert(self) -> str:
        """A DistilBERT for the things that texts name."""
        return self.word_distilbert("thing-distilbert", THINGS)

    @cached_property
    def vit(self) -> str:
        """A vision transformer for three digits."""
        sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        sizes |= {"image_size": SIDE, "patch_size": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return self.image_model("vit", transformers.ViTConfig(**sizes, **names(DIGITS), initializer_range=spread(fit=True)))

    @cached_property
    def resnet(self) -> str:
        """A residual network for three digits."""
        sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"}
        return self.image_model("resnet", transformers.ResNetConfig(**sizes, **names(DIGITS)))

    @cached_property
    def narrow_bert(self) -> str:
        """The configuration of a narrow BERT with the tokens of `bert`, as a student to be named."""
        folder = self.folder / "narrow-bert"
        bert_config(word_pieces(), hidden_size=16, num_hidden_layers=2, intermediate_size=32).save_pretrained(folder)
        return str(folder)

    @cached_property
    def moods(self) -> str:
        """Texts with one telling word each."""
        chance = random.Random(0)
        return self.rows("moods", 120, lambda at: {"text": telling(chance, MOODS[at % 2]), "label": MOODS[at % 2]})

    @cached_property
    def long_moods(self) -> str:
        """Texts of which a third is longer than the teacher reads at once."""
        chance = random.Random(1)

        def row(at: int) -> Mapping[str, Any]:
            words = chance.choices(NEUTRAL, k=90 if at % 3 == 0 else 6)
            return {"text": " ".join([*words, chance.choice(TELLING[MOODS[at % 2]])]), "label": MOODS[at % 2]}

        return self.rows("long-moods", 80, row)

    @cached_property
    def unlabelled(self) -> str:
        """Texts without labels."""
        chance = random.Random(2)
        return self.rows("unlabelled", 60, lambda at: {"text": telling(chance, MOODS[at % 2])})

    @cached_property
    def things(self) -> str:
        """Texts whose label is the thing that they name, in other columns than `moods`."""
        chance = random.Random(3)

        def row(at: int) -> Mapping[str, Any]:
            words = [*chance.choices(NEUTRAL, k=4), THINGS[at % 3]]
            return {"sentence": " ".join(chance.sample(words, len(words))), "thing": THINGS[at % 3]}

        return self.rows("things", 120, row)

    @cached_property
    def pairs(self) -> str:
        """Pairs of texts of the same or another mood."""
        chance = random.Random(4)

        def row(at: int) -> Mapping[str, Any]:
            first, second = MOODS[at // 2 % 2], MOODS[(at // 2 + at) % 2]
            label = "same" if first == second else "other"
            return {"premise": telling(chance, first), "hypothesis": telling(chance, second), "label": label}

        return self.rows("pairs", 100, row)

    @cached_property
    def graded(self) -> str:
        """Texts with a set of labels and a number that follow from their words."""
        chance = random.Random(5)

        def row(at: int) -> Mapping[str, Any]:
            mood, thing = MOODS[at % 2], THINGS[at % 3]
            text = f"{telling(chance, mood)} {thing}"
            score = 500.0 + 100.0 * (at % 2) + len(text)
            return {"text": text, "labels": [mood, *([thing] if thing != "song" else [])], "score": score}

        return self.rows("graded", 120, row)

    @cached_property
    def tagged(self) -> str:
        """Words with tags: moods are persons or places."""
        chance, kinds = random.Random(6), {"bad": "B-LOC", "good": "B-PER"}

        def row(at: int) -> Mapping[str, Any]:
            words = [*chance.choices(NEUTRAL, k=4), *(chance.choice(TELLING[mood]) for mood in MOODS)]
            words = chance.sample(words, len(words))
            tags = [next((kinds[mood] for mood in MOODS if word in TELLING[mood]), "O") for word in words]
            return {"tokens": words, "tags": tags}

        return self.rows("tagged", 120, row)

    @cached_property
    def questions(self) -> str:
        """Questions whose answer is the one thing in the text; a quarter is longer than the teacher reads at once."""
        chance = random.Random(7)

        def row(at: int) -> Mapping[str, Any]:
            words, answer = chance.choices(NEUTRAL, k=70 if at % 4 == 0 else 7), THINGS[at % 3]
            words.insert(chance.randrange(len(words)), answer)
            context = " ".join(words)
            answers = [{"text": answer, "answer_start": context.find(answer)}]
            return {"question": "the", "context": context, "answers": answers}

        return self.rows("questions", 80, row)

    @cached_property
    def digits(self) -> str:
        """Three of scikit-learn's digits, in a folder for each."""
        folder, held = self.folder / "digits", load_digits(n_class=3)
        for index, (image, label) in enumerate(zip(held.images[:120], held.target)):
            (folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype(np.uint8)).save(folder / str(label) / f"{index:03d}.png")
        return str(folder)

    def rows(self, name: str, count: int, row: Callable[[int], Mapping[str, Any]]) -> str:
        """A JSON Lines file of `count` rows."""
        file = self.folder / f"{name}.jsonl"
        file.write_text("\n".join(json.dumps(row(at)) for at in range(count)), "utf-8")
        return str(file)

    def bert_for(self, name: str, kind: Any, classes: Sequence[str], *, fit: bool = False) -> str:
        """A BERT of three narrow layers with a head of that kind."""
        torch.manual_seed(0)
        tokenizer = word_pieces()
        return self.kept(name, kind(bert_config(tokenizer, initializer_range=spread(fit), **names(classes))), tokenizer, fit=fit)

    def word_distilbert(self, name: str, classes: Sequence[str], *, fit: bool = False) -> str:
        """A DistilBERT of two narrow layers that reads whole words."""
        tokens = ["[SEP]", "[CLS]", "[UNK]", "[PAD]", "[MASK]", *sorted(WORDS, reverse=True)]
        backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 0)]
        )
        special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 3, "dropout": 0.0}
        config = transformers.DistilBertConfig(
            vocab_size=len(tokens), attention_dropout=0.0, initializer_range=spread(fit), **sizes, **names(classes)
        )
        torch.manual_seed(1)
        model = transformers.DistilBertForSequenceClassification(config)
        return self.kept(name, model, transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special), fit=fit)

    def image_model(self, name: str, config: Any) -> str:
        """A classifier of pictures of `SIDE` by `SIDE` pixels."""
        torch.manual_seed(2)
        model, size = transformers.AutoModelForImageClassification.from_config(config), {"height": SIDE, "width": SIDE}
        processor = transformers.ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        return self.kept(name, model, processor, fit=True)

    def kept(self, name: str, model: Any, processor: Any, *, fit: bool) -> str:
        """The folder of a model and what it reads with; fitted to moods or digits if asked for."""
        folder = self.folder / name
        if fit:
            inputs, labels = (self.digit_batch if hasattr(processor, "image_mean") else self.mood_batch)(processor)
            fit_to(model, inputs, labels)
        model.eval().save_pretrained(folder)
        processor.save_pretrained(folder)
        return str(folder)

    def mood_batch(self, tokenizer: Any) -> tuple[Any, torch.Tensor]:
        """All texts of `moods` and their classes."""
        rows = [json.loads(line) for line in Path(self.moods).read_text("utf-8").splitlines()]
        inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
        return inputs, torch.tensor([MOODS.index(row["label"]) for row in rows])

    def digit_batch(self, processor: Any) -> tuple[Any, torch.Tensor]:
        """All pictures of `digits` and their classes."""
        files = sorted(Path(self.digits).rglob("*.png"))
        images = [Image.open(file).convert("RGB") for file in files]
        return processor(images, return_tensors="pt"), torch.tensor([DIGITS.index(file.parent.name) for file in files])


def telling(chance: random.Random, mood: str) -> str:
    """A text with one word that tells its mood."""
    words = chance.choices([*NEUTRAL, *THINGS], k=chance.randint(2, 8))
    words.insert(chance.randrange(len(words)), chance.choice(TELLING[mood]))
    return " ".join(words)


def spread(fit: bool) -> float:
    """Of random weights; the usual 0.02 makes answers that hardly differ between rows."""
    return 0.1 if fit else 0.25


def fit_to(model: Any, inputs: Any, labels: torch.Tensor) -> None:
    """A few steps on all rows at once; enough for most answers to be right."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs).logits, labels).backward()
        optimizer.step()


def names(classes: Sequence[str]) -> dict[str, Any]:
    """The entries of a configuration that name classes; none where there are none."""
    if not classes:
        return {}
    return {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}


def word_pieces() -> Any:
    """A WordPiece tokenizer that knows the words, all letters and some tokens that no text uses."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    tokens += [f"unused{index}" for index in range(60)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.BertTokenizerFast(tokenizer_object=backend)


def bert_config(tokenizer: Any, **changes: Any) -> transformers.BertConfig:
    """Three layers of width 32, without dropout."""
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertConfig(vocab_size=len(tokenizer), **(sizes | changes))
