"""Drawn tokens in few bits: which draws begin a new token, and the gaps between the tokens.

The K draws of a place are sorted. A bit for each says whether it begins a token that the draw before was not; the tokens
themselves are gaps in Rice's code, a fixed number of low bits and the rest in unary. The low bits, the unary parts and the flags
of a document are three streams, so that all its places are decoded at once.

Shapes: N places of a document, K draws of a place, U tokens drawn at all places together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from potstill.errors import CacheError

SCALES = range(2, 21)
_HEADER = np.dtype([("places", "<u4"), ("low_bits", "<u4"), ("unary_bits", "<u4")])


class Drawn(NamedTuple):
    """Draws of the places of a document.

    Args:
        ids: [U] token ids, ascending within a place.
        counts: [U] how often each was drawn; those of a place sum to K.
        tokens: [N] how many tokens were drawn at each place.
    """

    ids: np.ndarray
    counts: np.ndarray
    tokens: np.ndarray

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and counts as [N, most tokens of a place] int64, with places of count 0."""
        width = int(self.tokens.max(initial=1))
        ids, counts = (np.zeros((len(self.tokens), width), np.int64) for _ in range(2))
        is_there = np.arange(width) < self.tokens[:, None]
        ids[is_there], counts[is_there] = self.ids, self.counts
        return ids, counts


def drawn_of(draws: np.ndarray) -> Drawn:
    """Draws [N, K] in any order, put together."""
    ordered = np.sort(draws, axis=-1)
    begins = np.ones(ordered.shape, bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(begins)
    counts = np.diff(np.append(starts, ordered.size))
    return Drawn(ordered.ravel()[starts].astype(np.int64), counts, begins.sum(-1))


def encode(drawn: Drawn, *, scale: int) -> bytes:
    """A document's draws in bytes.

    Args:
        scale: About log2 of the largest usual token id; how well it is chosen decides the size alone.
    """
    num_draws = int(drawn.counts.sum()) // max(1, len(drawn.tokens))
    flags = np.zeros(len(drawn.tokens) * num_draws, bool)
    if len(drawn.counts):
        flags[np.concatenate([[0], np.cumsum(drawn.counts)[:-1]])] = True
    gaps, widths = _gaps(drawn), np.repeat(_widths(drawn.tokens, scale), drawn.tokens)
    low = _write_fields(gaps & ((np.int64(1) << widths) - 1), widths)
    unary = np.zeros(int((gaps >> widths).sum()) + len(gaps), bool)
    unary[np.cumsum((gaps >> widths) + 1) - 1] = True
    header = np.array([(len(drawn.tokens), len(low), len(unary))], _HEADER)
    return header.tobytes() + b"".join(np.packbits(bits).tobytes() for bits in (flags, low, unary))


def decode(data: bytes | memoryview | np.ndarray, *, num_draws: int, scale: int) -> Drawn:
    """The inverse of `encode`.

    Raises:
        CacheError: The bytes are damaged.
    """
    held = np.frombuffer(data, np.uint8)
    places, num_low, num_unary = (int(value) for value in np.frombuffer(held[: _HEADER.itemsize].tobytes(), _HEADER)[0])
    sizes = [-(-bits // 8) for bits in (places * num_draws, num_low, num_unary)]
    if len(held) != _HEADER.itemsize + sum(sizes):
        raise CacheError("kept draws are damaged", "the bytes as they were written", "write the cache again")
    starts = np.cumsum([_HEADER.itemsize, *sizes])
    flags, low, unary = (
        np.unpackbits(held[start:stop], count=bits).astype(bool)
        for start, stop, bits in zip(starts, starts[1:], (places * num_draws, num_low, num_unary), strict=False)
    )
    begins = np.flatnonzero(flags)
    tokens = flags.reshape(places, num_draws).sum(-1) if places else np.zeros(0, np.int64)
    widths = np.repeat(_widths(tokens, scale), tokens)
    quotients = np.diff(np.flatnonzero(unary), prepend=-1) - 1
    gaps = (quotients << widths) | _read_fields(low, widths)
    steps = gaps + 1
    total = np.cumsum(steps)
    first = np.concatenate([[0], np.cumsum(tokens)[:-1]]) if places else np.zeros(0, np.int64)
    before = np.repeat(total[first] - steps[first] if len(total) else total, tokens)
    return Drawn(total - before - 1, np.diff(np.append(begins, places * num_draws)), tokens)


def best_scale(documents: list[Drawn]) -> int:
    """The scale under which these documents take the fewest bits."""
    parts = [(_gaps(drawn), drawn.tokens) for drawn in documents]

    def bits(scale: int) -> int:
        return sum(int((widths + (gaps >> widths) + 1).sum()) for gaps, widths in _sized(parts, scale))

    return min(SCALES, key=bits)


def _sized(parts: list[tuple[np.ndarray, np.ndarray]], scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(gaps, np.repeat(_widths(tokens, scale), tokens)) for gaps, tokens in parts]


def _gaps(drawn: Drawn) -> np.ndarray:
    """[U] what lies between a token and the one before it at the same place; from −1 for the first."""
    gaps = np.diff(drawn.ids, prepend=-1) - 1
    first = (np.cumsum(drawn.tokens) - drawn.tokens)[drawn.tokens > 0]
    gaps[first] = drawn.ids[first]
    return gaps


def _widths(tokens: np.ndarray, scale: int) -> np.ndarray:
    """[N] low bits of each gap at a place with this number of tokens."""
    return np.maximum(scale - np.floor(np.log2(np.maximum(tokens, 1))).astype(np.int64), 0)


def _write_fields(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Numbers in fields of these widths, the highest bit first, as one array of bits."""
    places = np.repeat(np.cumsum(widths) - widths, widths)
    shift = np.repeat(widths, widths) - 1 - (np.arange(int(widths.sum())) - places)
    return (np.repeat(values, widths) >> shift & 1).astype(bool)


def _read_fields(bits: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The inverse of `_write_fields`."""
    starts = np.cumsum(widths) - widths
    shift = np.repeat(widths, widths) - 1 - (np.arange(len(bits)) - np.repeat(starts, widths))
    parts = bits.astype(np.int64) << shift
    sums = np.concatenate([[0], np.cumsum(parts)])
    return sums[starts + widths] - sums[starts]
