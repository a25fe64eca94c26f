"""What is asked and answered: an encoded video, moments, and all that is said of one query."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Moment:
    """One answer."""

    start_s: float
    end_s: float
    score: float
    """0 to 1, higher is better: the probability that this window is the moment, by `evaluate.rank_by: frames` times its
    overlap with the frames that look like it. Of a run that was calibrated: the share of answers with this score whose
    IoU with the moment is 0.5 or more. Without a checkpoint it only ranks the spans of one video."""


@dataclass(frozen=True)
class GroundingResult:
    """Everything that the network says about one query and one video."""

    query: str
    moments: list[Moment]
    """Best first."""
    saliency: np.ndarray
    """(rows,) float32: how well each row fits the query, in no particular unit."""
    row_s: float
    """Seconds of a row."""
    words_cut: bool
    """The query was longer than the network reads, and its end was left out."""


@dataclass(frozen=True)
class EncodedVideo:
    """A video's features, ready for any number of queries."""

    path: Path
    duration_s: float
    streams: tuple[np.ndarray, ...]
    """(rows, dim) features of each encoder."""

    @property
    def rows(self) -> int:
        """Rows that all streams have."""
        return min(len(stream) for stream in self.streams)

    @property
    def row_s(self) -> float:
        """Seconds of a row."""
        return self.duration_s / self.rows


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on."""

    kind: str
    """`picture` (frames that fit the sentence), `words` (what is said), `network` (a trained network)."""
    score: float
    """In the unit of its kind."""
    text: str = ""
    """The words, where there are some."""


@dataclass(frozen=True)
class FoundMoment:
    """One moment of one file, as it is printed, stored and handed to whoever cuts or shows it."""

    file: Path
    start_s: float
    end_s: float
    score: float
    query: str
    score_kind: str
    """`probability` (of a trained network, see `Moment`), `contrast` (zero-shot: it ranks the moments of one search),
    or `fused` (reciprocal ranks of several kinds of evidence)."""
    model: str
    """The run or model that answered."""
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    """What is to be known of the answer: `untrained`, `missing`, `changed`, `query cut`."""
