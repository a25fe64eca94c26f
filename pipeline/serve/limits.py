"""What visitors may bring and ask."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of what one visitor, and all of them together, may use."""

    upload_bytes: int = 500 * MIB
    """Size of one film."""
    upload_s: float = 3600.0
    """Length of one film."""
    uploads: int = 5
    """Films of one visitor at a time."""
    all_bytes: int = 4000 * MIB
    """Size of the films of all visitors together."""
    idle_s: float = 3600.0
    """After so long without a sign of its visitor, an upload is removed."""
    words: int = 1000
    """Characters of a question."""
    moments: int = 6
    """Answers about one film."""
    hits: int = 12
    """Answers of a search."""
    cut_s: float = 600.0
    """Length of a moment that is cut."""
    preview_s: float = 60.0
    """Length of a preview."""
    waiting: int = 20
    """Questions that may wait; further ones are refused."""

    @property
    def text(self) -> str:
        """Return what the page says of uploads."""
        return (
            f"up to {self.upload_bytes / MIB:,.0f} MB and {self.upload_s / 60:g} minutes; it is removed when you leave"
        )
