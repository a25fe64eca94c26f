"""What answers questions about videos, with a trained network or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mesm.pipeline.ground.answers import UNTRAINED, EncodedVideo, FoundMoment, GroundingResult


class Grounder(Protocol):
    """Encodes a video once, and answers any number of questions about it."""

    @property
    def model(self) -> str:
        """The run or model that answers."""

    @property
    def score_kind(self) -> str:
        """What its scores are, see `FoundMoment`."""

    @property
    def max_words(self) -> int:
        """Words of a question that it reads."""

    @property
    def untrained(self) -> bool:
        """Whether its weights are random, so that the answers mean nothing."""

    def encode_video(self, path: str | Path, cache: Path | None = None) -> EncodedVideo:
        """Decode a video once and encode it; `cache`: a folder of features to look in, and to keep the result in."""

    def ground(self, video: EncodedVideo, query: str, top_k: int = 5) -> GroundingResult:
        """Answer a question: the `top_k` best moments. An empty question is a PipelineError."""

    def ground_many(self, video: EncodedVideo, queries: Sequence[str], top_k: int = 5) -> Iterator[GroundingResult]:
        """Answer questions, some at a time."""


def found_moments(grounder: Grounder, video: EncodedVideo, result: GroundingResult) -> list[FoundMoment]:
    """Return the answers to one question as they are printed and stored."""
    notes = [*([UNTRAINED] if grounder.untrained else []), *(["query cut"] if result.words_cut else [])]
    return [
        FoundMoment(
            video.path,
            moment.start_s,
            moment.end_s,
            moment.score,
            result.query,
            grounder.score_kind,
            grounder.model,
            (),
            tuple(notes),
        )
        for moment in result.moments
    ]
