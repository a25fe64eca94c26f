"""Which part of a file a player asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

_BYTES = re.compile(r"bytes=(\d*)-(\d*)")


class UnsatisfiableError(ValueError):
    """The part lies outside the file."""


def part_of(header: str, size: int) -> tuple[int, int] | None:
    """Return first byte and the one after the last of a file of `size` bytes; None: all of it is to be sent.

    A header that is no single range of bytes is passed over, as the standard allows. UnsatisfiableError when the range
    begins behind the end.
    """
    found = _BYTES.fullmatch(header.strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if max(len(first), len(last)) > 18:
        return None
    if not first:
        if int(last) == 0 or size == 0:
            raise UnsatisfiableError
        return max(size - int(last), 0), size
    begin, end = int(first), int(last) + 1 if last else size
    if begin >= size:
        raise UnsatisfiableError
    return None if end <= begin else (begin, min(end, size))
