"""Every loss of the catalogue as a pure function: ``functional.<name>(student, teacher, …, reduction="mean")``."""

from __future__ import annotations

from potstill.losses.attention import at, attention_kl, tinybert_attention
from potstill.losses.feature import cosine, cwd, embedding_mse, ghnd, hidden_mse, pkd
from potstill.losses.relation import gram
from potstill.losses.response import ce, jsd, kl, logit_mse, reverse_kl, skew_kl, skew_reverse_kl, soft_ce, tvd

__all__ = [
    "at",
    "attention_kl",
    "ce",
    "cosine",
    "cwd",
    "embedding_mse",
    "ghnd",
    "gram",
    "hidden_mse",
    "jsd",
    "kl",
    "logit_mse",
    "pkd",
    "reverse_kl",
    "skew_kl",
    "skew_reverse_kl",
    "soft_ce",
    "tinybert_attention",
    "tvd",
]
