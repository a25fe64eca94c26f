"""A small extraction that tests can kill: eight short films, two seeded encoders, shards of a few videos.

As a program it serves extractions, each in a process of its own that is forked after the imports, which take
longer than the extraction. It reads one JSON object a line, `{"videos", "features", "log", "fault",
"kill_after_s"}`, and answers with `{"status", "seconds"}`: the status of the process as
`waitstatus_to_exitcode` has it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from mesm.datasets.shards.faults import FAULT_VARIABLE
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import image_rows, window_rows
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.videos import collect_videos

FLUSH_ROWS = 12
BATCH_SIZE = 4
VIDEOS = 8
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
    """Write eight films of 2 to 4 s, 64x48 at 10 frames a second, whose pictures drift and differ."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(VIDEOS):
        generator = np.random.default_rng(number)
        picture = np.kron(generator.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        with av.open(str(folder / f"film{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(10))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(20 + 3 * number):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, 2 * shift, axis=1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())


def extract(videos: Path, features: Path, log: Path) -> ExtractionSummary:
    """Extract every film with both encoders, decoding each once."""
    torch.set_num_threads(1)
    encoders = [SeededEncoder("image", 1, 0.5, log), SeededEncoder("clip", 4, 1.0, log)]
    folders = [FeatureFolder.create_or_open(features, encoder.name, encoder.spec) for encoder in encoders]
    return extract_videos(
        collect_videos(videos), encoders, folders, batch_size=BATCH_SIZE, flush_rows=FLUSH_ROWS, threads=1
    )


def serve() -> None:
    """Answer requests on standard input until it ends."""
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            _run(request)
        status, seconds = _watch(process, Path(request["log"]), request["kill_after_s"])
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "seconds": seconds}), flush=True)


def _watch(process: int, log: Path, kill_after_s: float) -> tuple[int, float]:
    """Wait for the end of a process; return its status and the seconds since its first batch was encoded."""
    first = 0.0
    ended = status = 0
    while not ended:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not first and log.exists():
            first = time.monotonic()
        if not ended and kill_after_s and first and time.monotonic() - first >= kill_after_s:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.0005)
    return status, time.monotonic() - first if first else 0.0


def _run(request: dict[str, Any]) -> None:
    code = 1
    try:
        os.environ[FAULT_VARIABLE] = request["fault"]
        summary = extract(Path(request["videos"]), Path(request["features"]), Path(request["log"]))
        code = 0 if not summary.failed else 3
    except BaseException:
        traceback.print_exc()
    os._exit(code)


class Server:
    """The other end of `serve`."""

    def __init__(self, videos: Path) -> None:
        self._videos = videos
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, features: Path, log: Path, *, fault: str = "", kill_after_s: float = 0) -> tuple[int, float]:
        """Extract; return the exit status (negative: a signal) and the seconds since the first batch.

        `kill_after_s` counts from the first batch, too: what comes before is the start of the decode process.
        """
        request = {
            "videos": str(self._videos),
            "features": str(features),
            "log": str(log),
            "fault": fault,
            "kill_after_s": kill_after_s,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["status"], answer["seconds"]

    def close(self) -> None:
        """End the server, and wait for its end."""
        self._process.communicate()


if __name__ == "__main__":
    serve()
