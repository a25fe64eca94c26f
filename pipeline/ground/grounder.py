"""What answers questions about videos, with a trained network or without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mesm.pipeline.ground.answers import NO_MATCH, UNTRAINED, EncodedVideo, FoundMoment, GroundingResult


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

    @property
    def method(self) -> Mapping[str, Any]:
        """What answers say of how they were made, as JSON types."""

    def encode_video(self, path: str | Path, cache: Path | None = None) -> EncodedVideo:
        """Decode a video once and encode it; `cache`: a folder of features to look in, and to keep the result in."""

    def ground(self, video: EncodedVideo, query: str, top_k: int = 5) -> GroundingResult:
        """Answer a question: the `top_k` best moments. An empty question is a PipelineError."""

    def ground_many(self, video: EncodedVideo, queries: Sequence[str], top_k: int = 5) -> Iterator[GroundingResult]:
        """Answer questions, some at a time."""


def found_moments(grounder: Grounder, video: EncodedVideo, result: GroundingResult) -> list[FoundMoment]:
    """Return the answers to one question as they are printed and stored."""
    unsure = result.match is not None and not result.match.confident
    said = ((UNTRAINED, grounder.untrained), (NO_MATCH, unsure), ("query cut", result.words_cut))
    notes = [note for note, holds in said if holds]
    method = dict(grounder.method)
    if result.match is not None:
        match = result.match
        method["match"] = {"confident": match.confident, "contrast": match.contrast, "chance": match.chance}
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
            method,
        )
        for moment in result.moments
    ]
