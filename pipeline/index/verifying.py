"""The third look at what a search found: does a moment show what was asked? Times and order stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.seeking import SeekingStream
from mesm.extractors.errors import VideoError
from mesm.extractors.verification import Verifier
from mesm.pipeline.ground.answers import Evidence, FoundMoment
from mesm.pipeline.run.console import ProgressBar, say

FRAMES = 8
"""Frames of a moment that are shown."""
MOMENTS = 10
"""Moments of a question that are looked at, the best ones."""
LONGEST_SIDE = 448
"""Pixels of a frame that is shown."""


def verified(moments: Sequence[FoundMoment], verifier: Verifier) -> list[FoundMoment]:
    """Return moments with the verdict of each as evidence, `verified` or `refuted`, those of files that are there.

    Evidence has the probability of yes; `method` says model, hash of the prompt, and frames. Only the first `MOMENTS`
    are looked at. A file that cannot be read is said, and its moments stay without a verdict.
    """
    asked = moments[:MOMENTS]
    with ProgressBar("moments verified", len(asked)) as bar:
        found = []
        for number, moment in enumerate(asked, start=1):
            found.append(_verified(moment, verifier))
            bar.update(number)
    return [*found, *moments[MOMENTS:]]


def _verified(moment: FoundMoment, verifier: Verifier) -> FoundMoment:
    if not moment.query.strip() or not moment.file.exists():
        return moment
    try:
        pictures = frames_of(moment)
    except VideoError as error:
        say(f"failed: {moment.file} is not verified: {error}")
        return moment
    verdict = verifier.verify(moment.query, pictures)
    kind = "verified" if verdict.yes else "refuted"
    how = {"model": verifier.name, "prompt": verifier.prompt_hash, "frames": len(pictures)}
    return replace(
        moment,
        evidence=(*moment.evidence, Evidence(kind, verdict.probability)),
        method={**moment.method, "verify": {**how, "probability": round(verdict.probability, 6)}},
    )


def frames_of(moment: FoundMoment) -> list[np.ndarray]:
    """Return up to `FRAMES` frames of a moment, at the middles of equal parts of it; VideoError."""
    info = probe(moment.file)
    seconds = float(info.start_s) + info.timestamps * float(info.time_base)
    times = moment.start_s + (np.arange(FRAMES) + 0.5) / FRAMES * (moment.end_s - moment.start_s)
    numbers = np.unique(np.maximum(np.searchsorted(seconds, times, side="right") - 1, 0))
    with SeekingStream(info) as stream:
        return [_small(picture) for _, picture in stream.pictures_of(numbers.tolist())]


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.array(image)
