"""ELECTRA: BERT's blocks, a token table that may be narrow, and a head of two layers."""

from __future__ import annotations

from potstill.models.families.bert import Bert


class Electra(Bert):
    """ELECTRA."""

    model_type = "electra"
    architecture = "ElectraForSequenceClassification"
    embedding_paths: tuple[str, ...] = ("embeddings_project", "embeddings")
    head_paths = ("classifier.out_proj", *Bert.head_paths)
    pooler_paths: tuple[str, ...] = ("classifier.dense",)
