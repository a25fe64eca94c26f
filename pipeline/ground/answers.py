"""What is asked and answered: an encoded video, moments, and all that is said of one query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
class Match:
    """Whether an answer is better than chance in its video."""

    contrast: float
    """By how much the best rows exceed the others, as many as the best answer has, in units of the sentence's length
    beyond what fits any picture."""
    chance: float
    """What sentences that fit any picture reach in the same video with as many rows: the 95th percentile."""

    @property
    def confident(self) -> bool:
        """Whether the query stands out more than they do."""
        return self.contrast > self.chance


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
    match: Match | None = None
    """Whether anything was found, where that can be said: of answers without a checkpoint."""

    @property
    def times(self) -> np.ndarray:
        """(rows,) float64 seconds: the middle of each row."""
        return (np.arange(len(self.saliency)) + 0.5) * self.row_s

    def _repr_html_(self) -> str:
        """Show the moments as a table, for notebooks."""
        from mesm.pipeline.report.moments import MomentRow, moments_table

        return moments_table(self.query, [MomentRow(m.start_s, m.end_s, m.score) for m in self.moments])


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


UNTRAINED = "untrained: meaningless"
"""Note of answers by random weights."""
NO_MATCH = "no confident match"
"""Note of answers that stand out no more than those to sentences that fit any picture."""

HEARD_WORDS = "spoken, transcribed"
"""Kind of evidence: words that a network heard, where no subtitles say them."""


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on."""

    kind: str
    """`picture` (frames that fit the sentence), `words` (of subtitles), `spoken, transcribed` (words that a network
    heard), `network` (a trained network), `verified` or `refuted` (the probability of yes, by a model that was asked
    whether the moment shows it)."""
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
    """`probability` (of a trained network, see `Moment`), `salient` (that, weighed among all films of a search),
    `contrast` (zero-shot: it ranks the moments of one search), or `fused` (reciprocal ranks of several kinds)."""
    model: str
    """The run or model that answered."""
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    """What is to be known of the answer: `UNTRAINED`, `NO_MATCH`, `query cut`; of an index: `missing`, `changed`."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: name and fingerprint, and for answers without a checkpoint the procedure and its constants."""
