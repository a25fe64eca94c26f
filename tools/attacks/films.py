"""Short films, and sentences about them: enough for every stage, and drawn in a second."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FILMS = 12
FRAMES_PER_S = 10
SPLITS = {"train": 2, "val": 10, "test": 2}
"""Queries that each film of a split has; of the middle one enough that scores are calibrated."""


@dataclass(frozen=True)
class Material:
    """What the jobs read, all of it below one folder."""

    place: Path

    @property
    def videos(self) -> Path:
        """Films."""
        return self.place / "films"

    @property
    def annotations(self) -> Path:
        """Their queries."""
        return self.place / "annotations.jsonl"

    @property
    def features(self) -> Path:
        """Their features."""
        return self.place / "features"

    @property
    def run(self) -> Path:
        """A short training on them."""
        return self.place / "run"


def make_films(folder: Path, films: int) -> None:
    """Write films of 2 s and longer, 64x48 at 10 frames a second, whose pictures drift and differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(films):
        generator = np.random.default_rng(number)
        picture = np.kron(generator.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        with av.open(str(folder / f"film{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(FRAMES_PER_S))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(_frames(number)):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * shift, axis=1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def make_annotations(file: Path, films: int) -> None:
    """Write queries about these films, three quarters of them for training, in the `jsonl` annotation format."""
    lines = []
    for number in range(films):
        split = "train" if number < 3 * films // 4 else "val" if number % 2 else "test"
        length = _frames(number) / FRAMES_PER_S
        lines += [
            {
                "query_id": f"{number}-{query}",
                "video_id": f"film{number}",
                "query": f"the picture drifts {query} times",
                "moments": [[0.1 * query, length - 0.5]],
                "duration_s": length,
                "split": split,
            }
            for query in range(SPLITS[split])
        ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _frames(number: int) -> int:
    return 20 + 3 * number
