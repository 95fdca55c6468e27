"""What a cache keeps of a distribution over a vocabulary, in bytes: draws from it, its largest entries, or all of it.

Shapes: n places of a document, V entries of the vocabulary, K draws or entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.response import Response
from potstill.errors import CacheError
from potstill.ground.precision import FLOOR
from potstill.knowledge.responses.head_and_tail import HeadAndTail
from potstill.knowledge.responses.samples import Samples
from potstill.knowledge.tokens.coding import best_scale, decode, drawn_of, encode

Kept = Mapping[str, np.ndarray]


class Scheme(Protocol):
    """One way to keep distributions; it is written into the manifest as its fields."""

    name: ClassVar[str]

    def keep(self, logits: Tensor, generator: torch.Generator) -> Kept:
        """What is kept of the logits of a document's places [n, V], which may be overwritten."""

    def pack(self, documents: list[Kept]) -> tuple[list[bytes], dict[str, Any]]:
        """The bytes of each document, and what reading them needs to know of all."""

    def unpack(self, data: np.ndarray, facts: Mapping[str, Any]) -> Kept:
        """The inverse of `pack` for one document."""

    def response(self, documents: list[Kept], places: Tensor, shape: tuple[int, int], vocab_size: int) -> Response:
        """What was kept of all places of a batch.

        Args:
            documents: In the order of their places.
            places: [P] int64, where each place lies in the batch of B · T tokens.
            shape: (B, T).
        """

    def bytes_per_token(self, vocab_size: int) -> float:
        """About how many bytes a place takes; for an estimate before anything is kept."""


@dataclass(frozen=True)
class Sampled:
    """Draws from the distribution itself: unbiased for forward KL.

    Source: Anshumann et al. 2025, Sparse Logit Sampling (arXiv 2503.16870).
    """

    name: ClassVar[str] = "sampled"
    samples: int = 50
    temperature: float = 1.0

    def keep(self, logits: Tensor, generator: torch.Generator) -> Kept:
        weights = logits.sub_(logits.amax(-1, keepdim=True)).div_(self.temperature).exp_()
        draws = torch.multinomial(weights, self.samples, replacement=True, generator=generator)
        return {"draws": draws.cpu().numpy()}

    def pack(self, documents: list[Kept]) -> tuple[list[bytes], dict[str, Any]]:
        drawn = [drawn_of(one["draws"]) for one in documents]
        scale = best_scale(drawn)
        return [encode(one, scale=scale) for one in drawn], {"scale": scale}

    def unpack(self, data: np.ndarray, facts: Mapping[str, Any]) -> Kept:
        ids, counts = decode(data, num_draws=self.samples, scale=int(facts["scale"])).padded()
        return {"ids": ids, "counts": counts}

    def response(self, documents: list[Kept], places: Tensor, shape: tuple[int, int], vocab_size: int) -> Response:
        width = max((one["ids"].shape[1] for one in documents), default=1)
        ids, counts = (
            _spread([_widened(one[name], width) for one in documents], places, shape, torch.int64) for name in ("ids", "counts")
        )
        return Samples(ids, self.temperature, vocab_size, counts)

    def bytes_per_token(self, vocab_size: int) -> float:
        return self.samples / 8 + 0.3 * self.samples * np.log2(vocab_size) / 8


@dataclass(frozen=True)
class TopK:
    """The largest entries; the rest as one more entry, or left out, which makes the head too likely.

    Args:
        entries: How many are kept.
        tail: Whether the rest counts as an entry; without it the kept entries are made to sum to 1.
    """

    name: ClassVar[str] = "top_k"
    entries: int = 50
    temperature: float = 1.0
    tail: bool = True

    def keep(self, logits: Tensor, generator: torch.Generator) -> Kept:
        found = HeadAndTail.of(logits, entries=self.entries, temperature=self.temperature)
        head, tail = found.log_probabilities, found.tail
        if not self.tail:
            head, tail = head.log_softmax(-1), torch.full_like(tail, FLOOR)
        ids = found.ids.cpu().numpy()
        return {"ids": ids, "head": head.half().cpu().numpy(), "rest": tail.half().cpu().numpy()}

    def pack(self, documents: list[Kept]) -> tuple[list[bytes], dict[str, Any]]:
        wide = any(int(one["ids"].max(initial=0)) > np.iinfo(np.uint16).max for one in documents)
        kind = "<u4" if wide else "<u2"
        packed = [one["ids"].astype(kind).tobytes() + one["head"].tobytes() + one["rest"].tobytes() for one in documents]
        return packed, {"ids": kind, "kept": documents[0]["ids"].shape[1] if documents else self.entries}

    def unpack(self, data: np.ndarray, facts: Mapping[str, Any]) -> Kept:
        kind, kept = np.dtype(facts["ids"]), int(facts["kept"])
        places, rest = divmod(len(data), kept * (kind.itemsize + 2) + 2)
        if rest:
            raise CacheError("kept entries are damaged", "the bytes as they were written", "write the cache again")
        parts = np.split(data, np.cumsum([places * kept * kind.itemsize, places * kept * 2]))
        ids = parts[0].view(kind).astype(np.int64).reshape(places, kept)
        return {"ids": ids, "head": parts[1].view(np.float16).reshape(places, kept), "rest": parts[2].view(np.float16)}

    def response(self, documents: list[Kept], places: Tensor, shape: tuple[int, int], vocab_size: int) -> Response:
        ids = _spread([one["ids"] for one in documents], places, shape, torch.int64)
        head, rest = (_spread([one[name] for one in documents], places, shape, torch.float32) for name in ("head", "rest"))
        return HeadAndTail(ids, self.temperature, vocab_size, head, rest)

    def bytes_per_token(self, vocab_size: int) -> float:
        return self.entries * (4 if vocab_size <= 65536 else 6) + 2


@dataclass(frozen=True)
class Dense:
    """Every entry in 16 bits: for small vocabularies."""

    name: ClassVar[str] = "dense"
    temperature: float = 1.0

    def keep(self, logits: Tensor, generator: torch.Generator) -> Kept:
        return {"log_p": (logits / self.temperature).log_softmax(-1).clamp_(min=FLOOR).half().cpu().numpy()}

    def pack(self, documents: list[Kept]) -> tuple[list[bytes], dict[str, Any]]:
        return [one["log_p"].tobytes() for one in documents], {"entries": documents[0]["log_p"].shape[1] if documents else 1}

    def unpack(self, data: np.ndarray, facts: Mapping[str, Any]) -> Kept:
        return {"log_p": data.view(np.float16).reshape(-1, int(facts["entries"]))}

    def response(self, documents: list[Kept], places: Tensor, shape: tuple[int, int], vocab_size: int) -> Response:
        log_p = _spread([one["log_p"] for one in documents], places, shape, torch.float32)
        ids = torch.arange(vocab_size).expand(*shape, -1)
        return HeadAndTail(ids, self.temperature, vocab_size, log_p, log_p.new_full(shape, FLOOR))

    def bytes_per_token(self, vocab_size: int) -> float:
        return 2.0 * vocab_size


SCHEMES: dict[str, type[Sampled] | type[TopK] | type[Dense]] = {one.name: one for one in (Sampled, TopK, Dense)}


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _spread(parts: list[np.ndarray], places: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Values of the places, zeros elsewhere: [B, T] or [B, T, K]."""
    values = torch.from_numpy(np.concatenate(parts)).to(dtype)
    return values.new_zeros((shape[0] * shape[1], *values.shape[1:])).index_copy_(0, places, values).unflatten(0, shape)
