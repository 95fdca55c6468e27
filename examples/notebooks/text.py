# %% [markdown]
# # Distil a text classifier
#
# A small BERT learns to tell good reviews from bad ones; a student with a fifth of its parameters learns from it. Everything is made here and
# takes about half a minute on two cores. With your own model, start at "The run".

# %%
import csv
import random
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import potstill

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A teacher and data
#
# Reviews are drawn from a few words; one in twenty labels is wrong, as in real data.

# %%
random.seed(0)
words = {
    "good": ["fine", "warm", "clever", "moving"],
    "bad": ["dull", "cold", "clumsy", "slow"],
    "film": ["film", "plot", "cast", "scene"],
}


def review(label: str) -> str:
    parts = [f"the {random.choice(words['film'])} is {random.choice(words[label])}" for _ in range(random.randint(1, 3))]
    return " and ".join(parts)


other = {"good": "bad", "bad": "good"}
rows = [(review(label), label if random.random() > 0.05 else other[label]) for label in random.choices(["good", "bad"], k=900)]
with (folder / "reviews.csv").open("w", newline="") as stream:
    csv.writer(stream).writerows([("text", "label"), *rows])

vocabulary = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "the",
    "is",
    "and",
    *sorted({word for group in words.values() for word in group}),
]
tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(
    "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)]
)
PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
).save_pretrained(folder / "teacher")
torch.manual_seed(0)
sizes = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
BertForSequenceClassification(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder / "teacher")

# %% [markdown]
# ## The run
#
# The teacher has random weights, so it is trained first (`from_scratch`). With a fine-tuned model leave `teacher` out of the configuration.

# %%
pipeline = potstill.DistillationPipeline(
    teacher_model=folder / "teacher",
    data=folder / "reviews.csv",
    config={
        "ratio": 0.8,
        "teacher": {"from_scratch": True, "epochs": 4},
        "distill": {"epochs": 6},
        "quantize": "dynamic",
        "evaluate": {"batch_sizes": [1], "repeats": 10},
    },
    output_dir=folder / "out",
)
result = pipeline.run(observer=False)
result

# %% [markdown]
# ## What came out

# %%
print(result.summary())
student = potstill.load(folder / "out")
for row in student.predict(["the plot is clever and the cast is warm", "the scene is slow"]):
    print(row["prediction"], {name: round(value, 3) for name, value in row["probabilities"].items()})

# %%
result.to_frame()
