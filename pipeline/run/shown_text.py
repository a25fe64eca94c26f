"""Text that comes from files and names, made safe to be shown: on a terminal, in JSON, on a page.

A file's name may hold any byte but two. Written as they are, some of them move a terminal's cursor, set its title, turn
the order of what follows around, or are no text at all.
"""

from __future__ import annotations

import json
import re
from typing import Any

_BYTES = re.compile("[\udc80-\udcff]")
"""Bytes of a name that are not UTF-8, as Python's strings hold them."""
_HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what separates lines or overrides the direction, halves of characters."""


def visible(text: str) -> str:
    """Return a text with what would act on the reader's terminal or page written as an escape, such as `\\x1b`.

    Line feeds stay, as messages have several lines; see `one_line`.
    """
    text = _BYTES.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return _HARMFUL.sub(lambda found: _escape(ord(found[0])), text)


def one_line(text: str) -> str:
    """Return what is to stand in one line, such as a name from a listing, with its line feeds as escapes, too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that any program reads and any terminal shows: UTF-8, what is harmful as escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
