"""The pieces of words that CLIP reads; open_clip ships the list."""

from __future__ import annotations

from collections.abc import Mapping

from mesm.extractors.encoders.clip_towers import pieces


def token_pieces() -> Mapping[int, str]:
    """Return the text of every token id of CLIP's byte-pair encoding; `</w>` closes a word."""
    return pieces()
