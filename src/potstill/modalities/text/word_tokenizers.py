"""Tokenizers that read rows already split into words."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from potstill.modalities.text.word_tokenising import check_tells_words


def load_word_tokenizer(tokenizer: Any, name_or_path: str) -> Any:
    """The tokenizer as it must be set to read words: byte-level ones take a space before each word as part of it.

    Args:
        tokenizer: As loaded from `name_or_path`.
        name_or_path: Where to load it again with that setting.

    Raises:
        ModelError: A tokenizer that cannot tell words apart.
    """
    check_tells_words(tokenizer)
    if getattr(tokenizer, "add_prefix_space", None) is not False:
        return tokenizer
    limit = tokenizer.model_max_length
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, add_prefix_space=True)
    tokenizer.model_max_length = limit
    return tokenizer
