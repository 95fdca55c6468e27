"""Lines of text files, decoded as UTF-8, with an error that names the line and the likely encoding."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from potstill.errors import DataError

_MARKS = ((b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_LEGACY = ("gb18030", "big5", "shift_jis", "euc_kr")
_SAMPLE_BYTES = 1 << 20
_AFTER_RETURN = re.compile(r"(?<=\r)(?!\n)(?!$)")  # where a line ends in a carriage return alone


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; a name that ends in ``.gz`` is unpacked on the way."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def decoded_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their line ends, without a byte order mark.

    Raises:
        DataError: The file is empty, or a line is not UTF-8; names the line and the likely encoding.
    """
    with open_bytes(path) as file:
        number = 0
        for number, raw in enumerate(_raw_lines(path, file), 1):
            if number == 1:
                _refuse_other_marks(path, raw)
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as err:
                raise _wrong_encoding(path, number, raw) from err
            yield from _AFTER_RETURN.split(line) if "\r" in line.removesuffix("\r\n") else (line,)
    if number == 0:
        raise empty_file(path)


def _raw_lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile) as err:
        raise DataError(f"{path} is not a whole gzip file ({err})", "a complete .gz file", "copy or download it again") from err


def empty_file(path: Path) -> DataError:
    """The error for a file with nothing in it."""
    return DataError(f"{path} is empty", "a file with at least one row", "check that it was written or downloaded whole")


def _refuse_other_marks(path: Path, start: bytes) -> None:
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            raise _as_error(path, 1, encoding)


def _wrong_encoding(path: Path, number: int, line: bytes) -> DataError:
    with open_bytes(path) as file:
        sample = file.read(_SAMPLE_BYTES)
    encoding = likely_encoding(sample)
    return _as_error(path, number, encoding, line.decode(encoding, errors="replace").strip())


def _as_error(path: Path, number: int, encoding: str, sample: str = "") -> DataError:
    reads = f" (read so, the line is {shorten(sample)!r})" if sample else ""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    source = (
        f"gzip -dc {path} | iconv -f {encoding.upper()} -t UTF-8"
        if plain != path
        else f"iconv -f {encoding.upper()} -t UTF-8 {path}"
    )
    return DataError(
        f"line {number} of {path} is not UTF-8; it looks like {encoding}{reads}",
        "text files in UTF-8, with or without a byte order mark",
        f"convert it: {source} > {plain.with_name(plain.stem + '.utf8' + plain.suffix)}",
    )


def likely_encoding(sample: bytes) -> str:
    """The encoding that a sample of non-UTF-8 text is most likely in.

    East Asian encodings are distinguished by how many of their characters are common ones; what none of them can read, or
    reads as rare characters, is taken for Western European ``cp1252``.
    """
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    scores = {encoding: _plausibility(sample, encoding) for encoding in _LEGACY}
    best = max(scores, key=lambda encoding: scores[encoding])
    return best if scores[best] > 0.5 else "cp1252"


def _plausibility(sample: bytes, encoding: str) -> float:
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    foreign = [character for character in text if ord(character) > 127]
    if not foreign:
        return 0.0
    pairs = sum(1 for first, second in itertools.pairwise(text) if ord(first) > 127 and ord(second) > 127)
    common = sum(1 for character in foreign if _is_common(character, encoding))
    return common / len(foreign) if pairs else 0.0


def _is_common(character: str, encoding: str) -> bool:
    if "　" <= character <= "〟" or "！" <= character <= "～":
        return True
    if encoding == "shift_jis":
        return "ぁ" <= character <= "ヿ" or _in_first_level(character, "shift_jis", 0x88, 0x98)
    if encoding == "euc_kr":
        return "가" <= character <= "힣"
    if encoding == "big5":
        return _in_first_level(character, "big5", 0xA4, 0xC6)
    return _in_first_level(character, "gb2312", 0xB0, 0xD7)


def _in_first_level(character: str, encoding: str, low: int, high: int) -> bool:
    try:
        raw = character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return len(raw) == 2 and low <= raw[0] <= high


def shorten(text: str, limit: int = 60) -> str:
    """The text cut to `limit` characters, for error messages."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
