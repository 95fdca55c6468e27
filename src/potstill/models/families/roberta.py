"""RoBERTa and XLM-RoBERTa: BERT's blocks, positions counted from the padding id + 1, and a head of two layers."""

from __future__ import annotations

from typing import Any

from potstill.models.families.bert import Bert


class Roberta(Bert):
    """RoBERTa."""

    model_type = "roberta"
    architecture = "RobertaForSequenceClassification"
    head_paths = ("classifier.out_proj", *Bert.head_paths)
    pooler_paths = ("classifier.dense",)

    def position_offset(self, config: Any) -> int:
        """Positions start behind the padding id."""
        return int(config.pad_token_id or 0) + 1


class XlmRoberta(Roberta):
    """XLM-RoBERTa."""

    model_type = "xlm-roberta"
    architecture = "XLMRobertaForSequenceClassification"
