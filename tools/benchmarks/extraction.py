"""Measure what an extraction costs beyond decoding: time, and memory over the video's length.

    python -m mesm.tools.benchmark_extraction                      a generated film
    python -m mesm.tools.benchmark_extraction --video FILM.mp4

Encoders that compute next to nothing stand in for networks, so that what is left is the pipeline's own cost. The
variants of a round are measured one after the other and the rounds repeated, so that a machine that is busy with
something else disturbs all of them; the best round of each counts. The start of the decode process, which a real
extraction pays once, is left out by a first film of a moment's length.

* `overhead`: an extraction with an encoder that computes nothing, over plain sequential decoding by the same decoder
  that gives the frames of the encoder as RGB arrays; `overhead_without_rgb`: over decoding that gives none.
* `together`: two encoders in one run, over decoding + both encoders alone - one decoding.
* `memory_mb`: peak resident memory, children included, with the film and with one `--longer` times as long.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import torch

from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.sampling import clip_rows, image_rows
from mesm.extractors.decoding.streams import open_stream
from mesm.pipeline.extract.run import extract_videos
from mesm.pipeline.extract.videos import VideoItem
from mesm.pipeline.run.memory import keep_freed_memory

FILM_SECONDS = 120
DIM = 16
_MIB = 1024**2


class IdleEncoder:
    """Takes 224 x 224 frames and computes nothing, or a few sums."""

    dim = DIM

    def __init__(self, name: str, clip_len_s: float, frames_per_row: int, work: int = 0) -> None:
        self.name = name
        self.clip_len_s = clip_len_s
        self.spec: Mapping[str, Any] = {"encoder": name, "clip_len_s": clip_len_s, "frames": frames_per_row}
        self._frames_per_row = frames_per_row
        self._work = work

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take frames as CLIP does, or as SlowFast does."""
        if self._frames_per_row == 1:
            frames = image_rows(info, self.clip_len_s)
        else:
            frames = clip_rows(info, self.clip_len_s, self._frames_per_row, self.clip_len_s)
        return FramePlan(frames, FrameTransform("device", 224, None, (224, 224)))

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        """Return zeros, after adding up the pixels a few times."""
        for _ in range(self._work):
            clips.sum()
        return torch.zeros(len(clips), DIM)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--video", type=Path, help="film to measure with; default: a generated one, 640x360")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--longer", type=int, default=10, help="how many times as long the film for memory is")
    parser.add_argument("--only", choices=["time", "memory"], help="measure only this")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    if chosen.peak_of is not None:
        print(peak_memory(chosen.peak_of))
        return
    with tempfile.TemporaryDirectory() as folder:
        film = chosen.video or generate(Path(folder) / "film.mp4", FILM_SECONDS)
        result: dict[str, Any] = {}
        if chosen.only != "memory":
            result |= measure_time(film, chosen.rounds)
        if chosen.only != "time":
            longer = repeat(film, chosen.longer, Path(folder) / "longer.mp4")
            result["memory_mb"] = {name: peak_of(path) for name, path in (("film", film), ("longer", longer))}
    print(json.dumps(result, indent=1))


def measure_time(film: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of each variant's best round, and the two ratios."""
    image, clip = IdleEncoder("image", 1.0, 1), IdleEncoder("clip", 2.0, 32)
    small_image, small_clip = IdleEncoder("image", 1.0, 1, work=20), IdleEncoder("clip", 2.0, 32, work=1)
    variants: dict[str, Callable[[], float]] = {
        "decoding": lambda: decode_seconds(film),
        "decoding, image frames as RGB": lambda: decode_seconds(film, image),
        "decoding, clip frames as RGB": lambda: decode_seconds(film, clip),
        "idle image encoder": lambda: extract_seconds(film, [image]),
        "idle clip encoder": lambda: extract_seconds(film, [clip]),
        "small image encoder": lambda: extract_seconds(film, [small_image]),
        "small clip encoder": lambda: extract_seconds(film, [small_clip]),
        "both small encoders": lambda: extract_seconds(film, [small_image, small_clip]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            seconds[name].append(run())
    best = {name: min(values) for name, values in seconds.items()}
    alone = best["small image encoder"] + best["small clip encoder"]
    idle = {name: best[f"idle {name} encoder"] for name in ("image", "clip")}
    return {
        "seconds": {name: round(value, 3) for name, value in best.items()},
        "overhead": {name: round(s / best[f"decoding, {name} frames as RGB"], 3) for name, s in idle.items()},
        "overhead_without_rgb": {name: round(s / best["decoding"], 3) for name, s in idle.items()},
        "together": round(best["both small encoders"] / (alone - best["decoding"]), 3),
    }


def decode_seconds(film: Path, encoder: IdleEncoder | None = None) -> float:
    """Decode every frame, in order, with the decoder that an extraction would use and one thread.

    The frames of the encoder, if there is one, are made RGB arrays.
    """
    started = time.perf_counter()
    info = probe(film)
    wanted = set() if encoder is None else set(encoder.plan(info).frames.ravel().tolist())
    with open_stream(info, threads=1) as stream:
        for _, picture in stream.pictures(wanted):
            if picture is not None:
                picture.rgb()
    return time.perf_counter() - started


def extract_seconds(film: Path, encoders: Sequence[IdleEncoder]) -> float:
    """Extract the film after a first one of two frames; return the seconds between the two."""
    with tempfile.TemporaryDirectory() as folder:
        first = generate(Path(folder) / "first.mp4", 1)
        folders = [FeatureFolder.create_or_open(Path(folder), encoder.name, encoder.spec) for encoder in encoders]
        settled: list[float] = []
        extract_videos(
            [VideoItem("a", first), VideoItem("b", film)],
            encoders,
            folders,
            on_progress=lambda done, total: settled.append(time.perf_counter()),
        )
        return settled[1] - settled[0]


def generate(path: Path, seconds: int) -> Path:
    """Write a film of ffmpeg's moving test picture: H.264, 640x360, 30 frames a second."""
    source = ["-f", "lavfi", "-i", f"testsrc2=s=640x360:r=30:d={seconds}"]
    run_ffmpeg(*source, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", str(path))
    return path


def repeat(film: Path, times: int, path: Path) -> Path:
    """Write the film `times` times one after the other, without encoding it again."""
    run_ffmpeg("-stream_loop", str(times - 1), "-i", str(film), "-c", "copy", "-an", str(path))
    return path


def run_ffmpeg(*arguments: str) -> None:
    """Run the ffmpeg that imageio-ffmpeg brings."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-nostdin", *arguments]
    subprocess.run(command, check=True)


def peak_of(film: Path) -> float:
    """Return `peak_memory` as a process of its own finds it."""
    command = [sys.executable, "-m", "mesm.tools.benchmark_extraction", "--peak-of", str(film)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_memory(film: Path) -> float:
    """Return the peak of the resident memory of this process and its children, in MiB, while a film is extracted."""
    encoders = [IdleEncoder("image", 1.0, 1), IdleEncoder("clip", 2.0, 32)]
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as folder:
        folders = [FeatureFolder.create_or_open(Path(folder), encoder.name, encoder.spec) for encoder in encoders]
        extract_videos([VideoItem("film", film)], encoders, folders)
    ended.set()
    watcher.join()
    return round(peak / _MIB, 1)


def resident_bytes() -> int:
    """Return the resident memory of this process and of its children; what they share counts for each."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    pages = 0
    for process in ("self", *children):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:
            # It ended meanwhile.
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")
