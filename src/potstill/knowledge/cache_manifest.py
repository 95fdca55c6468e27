"""The manifest of a knowledge cache: what it holds, whose knowledge it is, and a checksum for every file."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from potstill.errors import CacheError
from potstill.ground.disk import read_json, write_json_atomic
from potstill.knowledge.responses import Kept, read_keep

MANIFEST = "manifest.json"
TOKEN_COUNTS = "tokens"
FORMAT = 1
_REWRITE = "write the cache again (delete its folder, or use --overwrite)"
_READ_BYTES = 1 << 22
_WORDS = {"teacher": "teacher", "processor": "tokenizer or image processor", "data": "data"}


@dataclass(frozen=True)
class Fingerprints:
    """What knowledge belongs to: a teacher's settings and weights, its processor, encoded rows; an empty one is not compared."""

    teacher: str = ""
    processor: str = ""
    data: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a cache holds.

    Args:
        num_classes: Of the answers; 0 until the first shard is written.
        dtype: Of the stored answers, "float32" or "float16".
        needs: Names of the stored values, "logits" first where held.
        ragged: Of the needs, those with one entry per token (logits: per unit of the answer), stored without padding.
        shard_rows: Rows per shard; the last has the rest.
        checksums: File name → checksum of its bytes.
        scheme: Which kind of response is kept: its name, or a mapping {name, …} with its options.
        tap_dtype: Of all stored values but the logits; empty where it is theirs.
    """

    fingerprints: Fingerprints
    num_rows: int
    num_classes: int
    dtype: str
    needs: tuple[str, ...]
    ragged: tuple[str, ...]
    shard_rows: int
    checksums: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = False
    scheme: str | Mapping[str, Any] = "dense"
    version: int = FORMAT
    tap_dtype: str = ""

    @functools.cached_property
    def kept(self) -> Kept:
        """Which kind of response is kept."""
        return read_keep(self.scheme)

    @functools.cached_property
    def answers(self) -> dict[str, np.ndarray]:
        """What is packed of one answer: arrays [1, …] that are stored, numbers [] that are those of all rows."""
        return self.kept.example(max(self.num_classes, 1)) if "logits" in self.needs else {}

    def dtype_of(self, name: str) -> np.dtype:
        """Of one stored array."""
        if name in self.answers:
            return numpy_dtype(self.dtype) if np.issubdtype(self.answers[name].dtype, np.floating) else self.answers[name].dtype
        return numpy_dtype(self.tap_dtype or self.dtype)

    @property
    def num_shards(self) -> int:
        """Shards of the whole cache."""
        return -(-self.num_rows // self.shard_rows)

    def rows_of(self, shard: int) -> slice:
        """Positions that a shard covers."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_rows))

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the arrays of a shard: those of the needs, and the tokens per row where some value is ragged."""
        return (*self._arrays_of(self.needs), *([TOKEN_COUNTS] if self.ragged else []))

    @property
    def ragged_arrays(self) -> tuple[str, ...]:
        """Names of the arrays with one entry per token or unit."""
        return self._arrays_of(self.ragged)

    def _arrays_of(self, needs: tuple[str, ...]) -> tuple[str, ...]:
        answers = tuple(name for name, array in self.answers.items() if array.ndim)
        return tuple(name for need in needs for name in (answers if need == "logits" else (need,)))

    def files_of(self, shard: int) -> dict[str, str]:
        """Array → file name of one shard."""
        return {name: shard_file(name, shard) for name in self.stored}

    def with_checksums(self, checksums: Mapping[str, str]) -> Manifest:
        """The same with more files known."""
        return replace(self, checksums=dict(sorted({**self.checksums, **checksums}.items())))

    def save(self, folder: Path) -> None:
        """Write it atomically."""
        write_json_atomic(folder / MANIFEST, asdict(self))


def shard_file(name: str, shard: int) -> str:
    """The file of one array in one shard, for example ``hidden_-1-00003.npy``."""
    return f"{name.replace(':', '_').replace('/', '_')}-{shard:05d}.npy"


def load_manifest(folder: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        CacheError: There is none, it is not whole, or of a format that this version does not read.
    """
    if not folder.is_dir():
        raise CacheError(f"there is no knowledge cache at {folder}", "a folder that write_cache wrote", "write it first")
    held = read_json(folder / MANIFEST)
    held = {"tap_dtype": "", **held} if isinstance(held, dict) else held  # caches of earlier versions have one dtype
    if not isinstance(held, dict) or not {item.name for item in fields(Manifest)} <= held.keys():
        raise CacheError(f"{folder / MANIFEST} is absent or not whole", "a finished knowledge cache", _REWRITE)
    if held["version"] != FORMAT:
        raise CacheError(f"the cache in {folder} has format {held['version']}", f"format {FORMAT}", _REWRITE)
    named = {item.name: held[item.name] for item in fields(Manifest)}
    tuples = {name: tuple(held[name]) for name in ("needs", "ragged")}
    return Manifest(**named | tuples | {"fingerprints": Fingerprints(**held["fingerprints"])})


def check_fingerprints(folder: Path, held: Fingerprints, expected: Fingerprints) -> None:
    """Refuse a cache of another teacher, processor or data set, and name every difference."""
    pairs = {name: (getattr(held, name), getattr(expected, name)) for name in _WORDS}
    differences = [
        f"its {_WORDS[name]} has fingerprint {old or 'none'}, this run's has {new}"
        for name, (old, new) in pairs.items()
        if new and old != new
    ]
    if differences:
        raise CacheError(
            f"the knowledge cache in {folder} does not belong to this run: {'; '.join(differences)}",
            "a cache that was written with the same teacher, processor and data",
            f"give the teacher and data that it was written with, or {_REWRITE}",
        )


def checksum(path: Path) -> str:
    """Of the bytes of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def find_damage(folder: Path, checksums: Mapping[str, str]) -> list[str]:
    """Files that are absent or whose bytes changed, each with what is wrong."""
    damage = []
    for name, expected in sorted(checksums.items()):
        if not (folder / name).is_file():
            damage.append(f"{name} is missing")
        elif checksum(folder / name) != expected:
            damage.append(f"{name} has changed since it was written")
    return damage


def check_whole(folder: Path, manifest: Manifest) -> None:
    """Refuse a cache that is not finished or damaged, and name the files."""
    if not manifest.is_complete:
        todo = "run the command that writes it again: it goes on where it stopped"
        raise CacheError(f"the cache in {folder} is not finished", "a whole cache", todo)
    expected = {name for shard in range(manifest.num_shards) for name in manifest.files_of(shard).values()}
    damage = [f"{name} is not listed" for name in sorted(expected - manifest.checksums.keys())]
    damage += find_damage(folder, manifest.checksums)
    if damage:
        shown = "; ".join(damage[:4]) + (f"; and {len(damage) - 4} more" if len(damage) > 4 else "")
        raise CacheError(f"the cache in {folder} is damaged: {shown}", "files as they were written", _REWRITE)


def numpy_dtype(name: str) -> np.dtype:
    """The dtype of stored values, "float32" or "float16"."""
    if name not in ("float32", "float16"):
        raise CacheError(f"a cache cannot hold {name!r}", "float32, float16", "set the cache's dtype to one of these")
    return np.dtype(name)
