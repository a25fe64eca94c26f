"""Text files that people hand over: UTF-8 with or without a mark, and words for what they are when they are not.

JSON is read by `parse_json` and `read_json` alone, whose only errors are ValueError and, of the file, OSError.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

LONGEST_TEXT = 512 * 1024**2
"""Bytes of the longest text file that is read."""

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_ARCHIVES = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
}


def read_plain_text(path: Path, longest: int = LONGEST_TEXT) -> str:
    """Read a UTF-8 file, with or without a byte order mark; line ends of every kind become line feeds.

    Raises ValueError that says what the file is instead and how it becomes UTF-8, OSError when it cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"expected a text of at most {longest / 2**20:g} MiB, found more")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text, found {_other(content, error.start)}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:
    """Return what a text of JSON holds; ValueError that says why it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def read_json(path: Path) -> Any:
    """Return what a file of JSON holds. Raises ValueError that says why it is none, OSError when it cannot be read."""
    return parse_json(read_plain_text(path))


def _other(content: bytes, place: int) -> str:
    """Say what bytes are that are not UTF-8 from `place` on."""
    for mark, name in _MARKS.items():
        if content.startswith(mark):
            return f"{name}; save it as UTF-8, as by `iconv -f {name} -t UTF-8`"
    for start, name in _ARCHIVES.items():
        if content.startswith(start):
            return f"{name}; unpack it, or give another file" if "archive" in name else name
    line = content.count(b"\n", 0, place) + 1
    if b"\0" in content[:4096]:
        return f"no text (byte {place}, 0x{content[place]:02x})"
    return (
        f"byte 0x{content[place]:02x} in line {line}, as in Latin-1 or another encoding of Windows; "
        "save it as UTF-8, as by `iconv -f LATIN1 -t UTF-8`"
    )
