"""Tokenizers of every kind, trained in a second on made-up sentences."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("WordPiece", "Unigram", "BPE-bytes", "BPE-characters", "BPE-fallback")
SYLLABLES = ("ka", "lo", "mi", "ter", "ing", "est", "un", "re", "or", "al", "ness", "ful", "st", "pre", "dom")


def sentences(number: int, seed: int, words: int = 400) -> list[str]:
    """Sentences over a Zipf-like vocabulary of made-up words."""
    chooser = random.Random(7)
    lexicon = ["".join(chooser.choices(SYLLABLES, k=chooser.randint(1, 4))) for _ in range(words)]
    speaker = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(words)]
    return [" ".join(speaker.choices(lexicon, weights, k=speaker.randint(3, 12))) + "." for _ in range(number)]


def trained(kind: str, size: int = 500) -> PreTrainedTokenizerFast:
    """A tokenizer of `kind` with special tokens, a post-processor and a trained vocabulary."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    common = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**common)
    elif kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **common)
    elif kind == "BPE-bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **common)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind == "BPE-fallback"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        if kind == "BPE-fallback":
            common["special_tokens"] = special + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(**common)
    tokenizer.train_from_iterator(sentences(2000, seed=1), trainer)
    ids = {name: tokenizer.token_to_id(name) for name in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **names)
