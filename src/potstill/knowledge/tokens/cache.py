"""A cache of a teacher's distributions over the next token: found by document and position, written in shards.

The places of a document are its positions whose next token is learned, in their order. A shard holds the documents of a range of
numbers, whatever windows they are packed into; what is drawn for a document follows from the seed and its number, so any worker
writes the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from potstill.contracts.answers import NO_LABEL
from potstill.contracts.signal import TeacherSignal
from potstill.contracts.source import require
from potstill.errors import CacheError
from potstill.ground.devices import device_of
from potstill.ground.disk import read_json, write_bytes_atomic, write_json_atomic
from potstill.knowledge.tokens.schemes import SCHEMES, Kept, Scheme
from potstill.models.decoder import Decoder
from potstill.models.vocabulary_head import VocabularyHead

MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 16  # learned tokens of a shard, about
BATCH_TOKENS = 4096
_TILE_LOGITS = 1 << 24


@dataclass(frozen=True)
class Identity:
    """What a cache belongs to; another one is refused.

    Args:
        teacher: Fingerprint of its weights.
        tokenizer: Fingerprint of the tokenizer and the chat template.
        documents: Fingerprint of the documents.
        vocab_size: Entries of the distributions.
    """

    teacher: str
    tokenizer: str
    documents: str
    vocab_size: int


def shard_ranges(places: np.ndarray) -> list[range]:
    """Ranges of document numbers, each with about `SHARD_TOKENS` places [M]."""
    owner = np.maximum(np.cumsum(places) - 1, 0) // SHARD_TOKENS
    starts = np.flatnonzero(np.diff(owner, prepend=-1) > 0)
    stops = [*starts[1:], len(places)]
    return [range(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def write_token_cache(
    decoder: Decoder,
    documents: Any,
    folder: Path,
    *,
    scheme: Scheme,
    identity: Identity,
    windows: Callable[[range], Any],
    collator: Callable[[list[Any]], Mapping[str, Tensor]],
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask the teacher for all documents, or for every n-th shard; goes on where an interrupted writer stopped.

    Args:
        documents: See `modalities.language.documents.Documents`.
        windows: The windows of a range of documents.
        shard: (i, n): this worker writes the shards whose number is i modulo n.

    Returns:
        ``scheme``, ``bytes_per_token``, ``tokens`` and ``seconds`` of what is there.

    Raises:
        CacheError: The folder holds a cache of another teacher, tokenizer or data, or the teacher gives what is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = np.add.reduceat(np.asarray(documents.learned, np.int64), documents.starts[:-1])
    ranges, wanted = shard_ranges(places), _manifest(scheme, identity, len(documents), seed)
    held = read_json(folder / MANIFEST)
    if held is None:
        write_json_atomic(folder / MANIFEST, wanted)
    elif held != wanted:
        _refuse(folder, held, wanted)
    done = 0
    for number, span in enumerate(ranges):
        if number % shard[1] != shard[0]:
            continue
        if read_json(_facts_file(folder, number)) is None:
            started = time.perf_counter()
            kept = _ask(decoder, windows(span), collator, scheme, seed, identity.vocab_size)
            _write_shard(folder, number, span, [kept[index] for index in span], scheme, places[span.start : span.stop], started)
        done += int(places[span.start : span.stop].sum())
        if on_progress is not None:
            on_progress(done, int(places.sum()))
    return cache_facts(folder, scheme.name, len(ranges))


def cache_facts(folder: Path, scheme: str, num_shards: int) -> dict[str, Any]:
    """Figures of the shards that are there."""
    facts = [one for number in range(num_shards) if (one := read_json(_facts_file(folder, number))) is not None]
    tokens, size = sum(one["tokens"] for one in facts), sum(one["bytes"] for one in facts)
    seconds = sum(one["seconds"] for one in facts)
    return {"scheme": scheme, "tokens": tokens, "bytes_per_token": size / max(1, tokens), "seconds": seconds, "bytes": size}


class TokenCache:
    """A source of knowledge that reads a finished cache.

    Raises:
        CacheError: It is not there, not finished, damaged, or of another teacher, tokenizer or data.
    """

    is_fixed = True
    gives_hidden = False

    def __init__(self, folder: Path, identity: Identity | None = None) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            raise CacheError(f"{folder} holds no cache of tokens", "a finished one", "run the stage that writes it")
        self.manifest = dict(manifest)
        if identity is not None and self.manifest["identity"] != asdict(identity):
            _refuse(folder, self.manifest, self.manifest | {"identity": asdict(identity)})
        options = dict(self.manifest["scheme"])
        self.scheme: Scheme = SCHEMES[options.pop("name")](**options)
        self.vocab_size = int(self.manifest["identity"]["vocab_size"])
        self._shards: list[tuple[dict[str, Any], np.ndarray]] = []
        self._places: list[tuple[int, int]] = []  # of each document: its shard, and its number in it
        number = 0
        while len(self._places) < self.manifest["documents"]:
            self._open(number)
            number += 1

    def _open(self, number: int) -> None:
        facts = read_json(_facts_file(self.folder, number))
        if facts is None:
            raise CacheError(
                f"{self.folder} lacks shard {number}", "all shards", "let the worker that writes it finish, or run it again"
            )
        data = np.memmap(_data_file(self.folder, number), np.uint8, "r") if facts["bytes"] else np.zeros(0, np.uint8)
        if len(data) != facts["bytes"]:
            raise _damaged(self.folder, number)
        self._shards.append((dict(facts), data))
        self._places += [(number, index) for index in range(len(facts["starts"]) - 1)]

    def check(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            CacheError: One differs.
        """
        for number, (facts, data) in enumerate(self._shards):
            if _checksum(data.tobytes()) != facts["checksum"]:
                raise _damaged(self.folder, number)

    @property
    def facts(self) -> dict[str, Any]:
        """Figures of what is kept; see `write_token_cache`."""
        return cache_facts(self.folder, self.scheme.name, len(self._shards))

    @property
    def fingerprint(self) -> str:
        """Of the teacher."""
        return str(self.manifest["identity"]["teacher"])

    def can_provide(self, need: str) -> bool:
        """Distributions alone."""
        return need == "logits"

    def signal(self, batch: Mapping[str, Any], needs: Collection[str]) -> TeacherSignal:
        """What was kept for the learned tokens of a batch; its windows hold whole documents.

        Raises:
            CacheError: A document of the batch has other places than were kept.
            NeedsError: More than distributions is asked for.
        """
        require(needs, self.can_provide, source="a cache of tokens", remedy="set distill.cache: never to ask the teacher live")
        targets, samples = batch["targets"].cpu(), batch["sample_ids"].cpu()
        is_learned = targets != NO_LABEL
        places = is_learned.flatten().nonzero().squeeze(-1)
        owners = samples.flatten()[places]
        found, counts = torch.unique_consecutive(owners, return_counts=True)
        kept = []
        for sample, count in zip(found.tolist(), counts.tolist()):
            one = self._read(sample)
            length = len(next(iter(one.values())))
            if length != count:
                raise CacheError(
                    f"document {sample} has {count} learned tokens in the batch, and {length} were kept",
                    "the documents that the cache was written for",
                    "write the cache again",
                )
            kept.append(one)
        shape = (targets.shape[0], targets.shape[1])
        return TeacherSignal(self.scheme.response(kept, places, shape, self.vocab_size) if kept else None)

    def _read(self, sample: int) -> Kept:
        number, index = self._places[sample]
        facts, data = self._shards[number]
        start, stop = facts["starts"][index], facts["starts"][index + 1]
        return self.scheme.unpack(np.array(data[start:stop]), facts["of_all"])


def _ask(
    decoder: Decoder, rows: Any, collator: Callable[[list[Any]], Mapping[str, Tensor]], scheme: Scheme, seed: int, vocab_size: int
) -> dict[int, Kept]:
    """What is kept of the documents of these windows, by document number."""
    device, kept = device_of(decoder.model), {}
    head = decoder.head.first(vocab_size)
    with torch.no_grad():
        for start, stop in _batches(np.asarray(rows.lengths)):
            batch = collator([rows[index] for index in range(start, stop)])
            hidden = decoder.hidden({name: batch[name].to(device) for name in ("input_ids", "position_ids")})
            is_learned, samples = batch["targets"] != NO_LABEL, batch["sample_ids"]
            for sample in torch.unique(samples[samples >= 0]).tolist():
                states = hidden[(is_learned & (samples == sample)).to(device)]
                generator = torch.Generator(device).manual_seed(_seed_of(seed, sample))
                kept[sample] = _joined([scheme.keep(_logits(head, part), generator) for part in _tiles(states, vocab_size)])
    return kept


def _logits(head: VocabularyHead, states: Tensor) -> Tensor:
    logits = head.logits(states)
    if not torch.isfinite(logits).all():
        raise CacheError("the teacher gives logits that are not finite", "finite numbers", "load it in float32")
    return logits


def _tiles(states: Tensor, vocab_size: int) -> tuple[Tensor, ...]:
    return states.split(max(1, _TILE_LOGITS // vocab_size))


def _joined(parts: list[Kept]) -> Kept:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _batches(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of windows of about `BATCH_TOKENS`, padding included."""
    found, start = [], 0
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and (stop + 1 - start) * lengths[start : stop + 1].max() <= BATCH_TOKENS:
            stop += 1
        found.append((start, stop))
        start = stop
    return found


def _write_shard(
    folder: Path, number: int, span: range, kept: list[Kept], scheme: Scheme, places: np.ndarray, started: float
) -> None:
    parts, of_all = scheme.pack(kept)
    data = b"".join(parts)
    write_bytes_atomic(_data_file(folder, number), data)
    facts = {
        "documents": [span.start, span.stop],
        "starts": np.concatenate([[0], np.cumsum([len(part) for part in parts])]).tolist(),
        "tokens": int(places.sum()),
        "bytes": len(data),
        "checksum": _checksum(data),
        "of_all": of_all,
        "seconds": time.perf_counter() - started,
    }
    write_json_atomic(_facts_file(folder, number), facts)


def _manifest(scheme: Any, identity: Identity, documents: int, seed: int) -> dict[str, Any]:
    return {
        "version": 1,
        "scheme": {"name": scheme.name, **asdict(scheme)},
        "identity": asdict(identity),
        "documents": documents,
        "seed": seed,
    }


def _refuse(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Say in what a cache differs from the one that is wanted."""
    before, after = held.get("identity", {}), wanted["identity"]
    names = [name for name in after if before.get(name) != after[name]]
    names += [name for name in ("scheme", "documents", "seed") if held.get(name) != wanted[name] and name not in names]
    raise CacheError(
        f"{folder} holds a cache of another {' and '.join(names) or 'version'}",
        "the teacher, tokenizer with its chat template, data and scheme that it was written with",
        "take another output folder, or delete this one",
    )


def _damaged(folder: Path, number: int) -> CacheError:
    return CacheError(
        f"shard {number} of {folder} is damaged",
        "the file as it was written",
        f"delete {_facts_file(folder, number).name} and run the stage that writes the cache again",
    )


def _seed_of(seed: int, sample: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{sample}".encode(), digest_size=7).digest(), "little")


def _checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _data_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.bin"


def _facts_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.json"
