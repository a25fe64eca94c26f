"""Films and moments that the tests of showing share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from media import B_FRAMES, Film, make_film, read_number, x264

from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.streams import open_stream
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.source import Source

BURST_S = 0.04
SPOKEN = Film(
    "sound.mp4",
    (*x264(B_FRAMES), "-c:a", "aac", "-b:a", "128k", "-map", "0:v", "-map", "1:a"),
    frames=150,
    inputs=("-f", "lavfi", "-t", "6", "-i", f"aevalsrc='if(lt(mod(t,1),{BURST_S}),sin(2*PI*2000*t),0)':s=48000"),
)
"""A tone of BURST_S begins with each second, which is every 25th frame."""


def numbers_in(path: Path) -> list[int | None]:
    """The numbers painted on the frames of a film, in order."""
    with open_stream(probe(path)) as stream:
        return [read_number(picture) for _, picture in stream]


def film(folder: Path, name: str = "film.mp4", frames: int = 50, rate: Fraction = Fraction(25)) -> Source:
    """A film whose frames carry their number."""
    return Source.of(make_film(Film(name, x264(B_FRAMES), frames=frames, rate=rate), folder))


def found(
    path: Path, start_s: float, end_s: float, query: str = "a dog", score: float = 0.5, **more: object
) -> FoundMoment:
    return FoundMoment(path, start_s, end_s, score, query, "contrast", "a model", **more)  # type: ignore[arg-type]


def onsets_s(path: Path) -> list[float]:
    """Seconds from a film's first picture at which its sound begins after silence."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        first = min(
            float(p.pts * p.time_base) for p in container.demux(container.streams.video[0]) if p.pts is not None
        )
    samples, begins = [], None
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        rate = stream.rate
        for frame in container.decode(stream):
            begins = float(frame.pts * frame.time_base) if begins is None else begins
            samples.append(frame.to_ndarray().reshape(len(frame.layout.channels), -1)[0])
    sound = np.abs(np.concatenate(samples)).astype(np.float64)
    window = rate // 500
    level = sound[: len(sound) // window * window].reshape(-1, window).max(1)
    loud = level > level.max() / 4
    starts = np.flatnonzero(loud & ~np.concatenate([[False], loud[:-1]]))
    assert begins is not None
    return (starts * window / rate + begins - first).tolist()
