"""The procedures by name, and the curves that they read."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mesm.model.curves.published import Scenes, StaticDynamic, Watershed
from mesm.model.curves.statistical import Contrast, Coverage, Overlap, Path, Threshold

DEFAULT = "overlap"


class Decoder(Protocol):
    """A procedure with its constants: a frozen dataclass."""

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return spans (k, 3) of a prepared curve (n,): first row, row after the last, score; best first, k >= 1.

        vectors: (n, D), those of the rows, for procedures that look at the video itself.
        """


DECODERS: Mapping[str, type[Any]] = {
    "contrast": Contrast,
    "coverage": Coverage,
    "overlap": Overlap,
    "path": Path,
    "scenes": Scenes,
    "static-dynamic": StaticDynamic,
    "threshold": Threshold,
    "watershed": Watershed,
}


def make_decoder(name: str, constants: Mapping[str, float] | None = None) -> Decoder:
    """Build a procedure, with other constants than its own where some are given; ValueError for unknown names."""
    if name not in DECODERS:
        raise ValueError(
            f"there is no decoder {name!r}{_nearest(name, DECODERS)}; expected one of {', '.join(DECODERS)}"
        )
    kind = DECODERS[name]
    known: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(kind)}
    given = dict(constants or {})
    for unknown in sorted(set(given) - set(known)):
        raise ValueError(f"decoder {name} has no constant {unknown!r}; it has {', '.join(known)}")
    decoder: Decoder = kind(**{key: known[key](value) for key, value in given.items()})
    return decoder


def name_of(decoder: Decoder) -> str:
    """Return the name of a procedure in the table."""
    return next(name for name, kind in DECODERS.items() if isinstance(decoder, kind))


def _nearest(name: str, names: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
