"""Which span a model names, and how well texts of answers agree: exact match and F1 as SQuAD counts them."""

# N windows, U units (0 for no answer, then words)

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

LONGEST_WORDS = 30


def best_spans(logits: np.ndarray, *, longest: int = LONGEST_WORDS) -> tuple[np.ndarray, np.ndarray]:
    """The span that each window answers, and how much better it is than no answer.

    Args:
        logits: [N, 2, U]: of each unit as the first, and as the last.
        longest: Most words of a span.

    Returns:
        First and last unit [N, 2], never unit 0, and [N] the sum of their logits less that of unit 0 twice.
    """
    logits = np.asarray(logits, np.float64)
    count = logits.shape[-1]
    if count < 2:
        return np.zeros((len(logits), 2), np.int64), np.full(len(logits), -np.inf)
    best, spans = np.full(len(logits), -np.inf), np.zeros((len(logits), 2), np.int64)
    first, last = logits[:, 0, 1:], logits[:, 1, 1:]
    for width in range(min(longest, count - 1)):
        sums = first[:, : count - 1 - width] + last[:, width:]
        place = sums.argmax(1)
        value = sums[np.arange(len(sums)), place]
        better = value > best
        best[better] = value[better]
        spans[better] = np.stack([place + 1, place + 1 + width], 1)[better]
    return spans, best - logits[:, 0, 0] - logits[:, 1, 0]


def span_scores(named: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """``exact_match`` and ``f1`` over words of spans [N, 2], where [0, 0] means no answer."""
    named, true = np.asarray(named), np.asarray(true)
    exact = (named == true).all(1)
    shared = np.minimum(named[:, 1], true[:, 1]) - np.maximum(named[:, 0], true[:, 0]) + 1
    sizes = (named[:, 1] - named[:, 0] + 1) + (true[:, 1] - true[:, 0] + 1)
    both = (named[:, 0] > 0) & (true[:, 0] > 0)
    f1 = np.where(both, 2 * np.maximum(shared, 0) / np.maximum(sizes, 1), exact)
    return {"f1": float(f1.mean()), "exact_match": float(exact.mean())}


def normalised(text: str) -> str:
    """Lower case, without punctuation, English articles and doubled spaces, as SQuAD's evaluation has it.

    Source: Rajpurkar et al. 2016, SQuAD (arXiv 1606.05250), section 6.1 and its evaluation script.
    """
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(named: str, answers: Sequence[str]) -> float:
    """1 where the text equals an answer once both are normalised; without answers, where nothing was named."""
    return float(any(normalised(named) == normalised(answer) for answer in answers or [""]))


def text_f1(named: str, answers: Sequence[str]) -> float:
    """The best F1 over the normalised words that the text shares with an answer; without answers, 1 where nothing was named.

    Example:
        >>> text_f1("the red car", ["red cars"])
        0.5
    """
    return max(_one_f1(normalised(named).split(), normalised(answer).split()) for answer in answers or [""])


def _one_f1(named: list[str], true: list[str]) -> float:
    if not named or not true:
        return float(named == true)
    shared = sum((Counter(named) & Counter(true)).values())
    return 2 * shared / (len(named) + len(true))
