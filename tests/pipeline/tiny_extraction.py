"""A small extraction that tests can kill: eight short films, two seeded encoders, shards of a few videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import image_rows, window_rows
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.videos import collect_videos
from mesm.tools.attacks.films import make_films
from mesm.tools.attacks.processes import Forks, Kill, Task

FLUSH_ROWS = 12
BATCH_SIZE = 4
VIDEOS = 8
FIRST_BATCH = "extract:batch-encoded"
SIDE = 16
DIM = 8


class SeededEncoder:
    """Projects the pixels of a row's frames at random, and logs how many rows it was given."""

    dim = DIM

    def __init__(self, name: str, frames_per_row: int, clip_len_s: float, log: Path) -> None:
        self.name = name
        self.clip_len_s = clip_len_s
        self.spec: Mapping[str, Any] = {
            "encoder": name,
            "frames_per_row": frames_per_row,
            "clip_len_s": clip_len_s,
            "seed": 0,
        }
        self._frames_per_row = frames_per_row
        self._log = log
        generator = torch.Generator().manual_seed(0)
        self._weights = torch.randn(frames_per_row * SIDE * SIDE * 3, DIM, generator=generator)

    def plan(self, info: VideoInfo) -> FramePlan:
        if self._frames_per_row == 1:
            frames = image_rows(info, self.clip_len_s)
        else:
            frames = window_rows(info, self.clip_len_s, self._frames_per_row)
        transform = FrameTransform(resize="device", short_side=SIDE, exact=None, crop=(SIDE, SIDE))
        return FramePlan(frames, transform)

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        with open(self._log, "a") as stream:
            stream.write(f"{self.name} {len(clips)}\n")
        return torch.tanh(clips.flatten(1).float() @ self._weights / 4096)


def make_videos(folder: Path) -> None:
    """Write eight films of 2 to 4 s."""
    make_films(folder, VIDEOS)


def extract(videos: Path, features: Path, log: Path) -> ExtractionSummary:
    """Extract every film with both encoders, decoding each once."""
    torch.set_num_threads(1)
    encoders = [SeededEncoder("image", 1, 0.5, log), SeededEncoder("clip", 4, 1.0, log)]
    folders = [FeatureFolder.create_or_open(features, encoder.name, encoder.spec) for encoder in encoders]
    return extract_videos(
        collect_videos(videos), encoders, folders, batch_size=BATCH_SIZE, flush_rows=FLUSH_ROWS, threads=1
    )


def run(videos: str, features: str, log: str) -> int:
    """Extract; the exit code is 3 when a film failed."""
    return 3 if extract(Path(videos), Path(features), Path(log)).failed else 0


class Server:
    """Runs extractions, each in a process of its own that may be killed."""

    def __init__(self, videos: Path) -> None:
        self._videos = videos
        self._forks = Forks([__name__])

    def run(
        self, features: Path, log: Path, *, fault: str = "", kill_after_s: float | None = None
    ) -> tuple[int, float]:
        """Extract; return the exit status (negative: a signal) and the seconds since the first batch.

        `kill_after_s` counts from the first batch, too: what comes before is the start of the decode process.
        """
        arguments = (str(self._videos), str(features), str(log))
        kill = None if kill_after_s is None else Kill(FIRST_BATCH, 1, kill_after_s)
        ended = self._forks.run(Task(f"{__name__}:run", arguments, fault=fault, kill=kill))
        assert not ended.orphans
        encoded = [at for name, at in ended.passages if name == FIRST_BATCH]
        return ended.status, ended.seconds - encoded[0] if encoded else 0.0

    def close(self) -> None:
        """End the process that forks, and wait for its end."""
        self._forks.close()
