"""The narrator stage: frames of videos go through a narrator, its passages into a folder of narrations.

A passage stands for a frame every so many seconds, and is made of that frame alone. A video's times are narrated in
batches whose bounds follow from the times, so that what is said does not depend on where a run was killed. What was
said is stored again and again on the way: a run that is killed loses no more than the last flush, and the next one goes
on at the times that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mesm.datasets.narration import NARRATIONS, Passage, from_arrays, to_arrays
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.folder import FeatureFolder, ShardWriter, folder_path
from mesm.extractors.contracts import READING_RULE, FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import ExtractConfig
from mesm.pipeline.extract.lane import Stored
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.videos import VideoItem
from mesm.pipeline.run.console import say

FLUSH_PASSAGES, FLUSH_S = 64, 30.0
"""After so many passages, or seconds, what was said is stored."""
SAMPLE = 8
"""Frames that are narrated to say how long all of them will take."""
LONGEST_SIDE = 672
"""Pixels of a frame that a narrator gets, at most: twice what LLaVA looks at."""


class Speaker(Protocol):
    """Whoever says what frames show: `mesm.extractors.narrators.mllm.Narrator`."""

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that changes a word."""

    def narrate(self, frames: Sequence[np.ndarray]) -> list[str]:
        """Say what each frame shows."""


def narration_folder(features: Path, speaker: Speaker, interval_s: float) -> FeatureFolder:
    """Open the folder of what a narrator says at this interval, or make it."""
    spec = {**speaker.spec, "interval_s": interval_s, "longest_side": LONGEST_SIDE}
    return FeatureFolder.create_or_open(features, NARRATIONS, spec)


def times_of(duration_s: float, interval_s: float) -> list[float]:
    """Return the seconds at which a video is narrated: every interval, up to its end."""
    step, last = Fraction(str(interval_s)), Fraction(duration_s)
    return [float(number * step) for number in range(int(last / step) + 1)]


class FrameChoice:
    """Which frames a narrator gets, and at what size."""

    name = NARRATIONS

    def __init__(self, interval_s: float) -> None:
        self.clip_len_s = interval_s

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take what a player shows at each time, the aspect kept."""
        scale = min(LONGEST_SIDE / max(info.width, info.height), 1.0)
        size = (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
        frames = shown_at(info, times_of(info.duration_s, self.clip_len_s))
        return FramePlan(frames[:, None], FrameTransform("device", short_side=None, exact=size, crop=size))


def shown_at(info: VideoInfo, times_s: Sequence[float]) -> np.ndarray:
    """(n,) int64 the frame that is shown at each time: the last one that began, or the first one."""
    begins = info.timestamps * float(info.time_base) + float(info.start_s)
    return (np.searchsorted(begins, np.asarray(times_s) + 1e-6, side="right") - 1).clip(min=0)


@dataclass
class _Narrated:
    """One video on its way."""

    video_id: str
    info: VideoInfo
    source: SourceFile
    times: list[float]
    numbers: list[int]
    """The frame of each time."""
    said: dict[float, str]
    wanted: set[int]
    """Places among the times whose frames are still to come."""
    frames: dict[int, np.ndarray] = field(default_factory=dict)


class NarrationLane:
    """Takes frames while they are decoded, has them narrated, and stores the passages."""

    def __init__(self, speaker: Speaker, folder: FeatureFolder, interval_s: float, batch_size: int) -> None:
        self.encoder = FrameChoice(interval_s)
        self.passages, self.empty = 0, 0
        """Passages that were made, and those of them that say nothing."""
        self.on_passages: Callable[[int], None] = lambda passages: None
        self._speaker, self._folder, self._batch = speaker, folder, batch_size
        self._joined: ShardWriter | None = None
        self._open: dict[int, _Narrated] = {}
        self._unstored: dict[str, tuple[_Narrated, bool]] = {}
        self._new, self._flushed = 0, time.monotonic()

    def stored(self, video_id: str, source: SourceFile) -> Stored:
        """Tell whether all of this file was narrated, without opening it."""
        same = self._is_of(video_id, source)
        return Stored.ALL if same and self._folder.record(video_id).meta.get("complete") else Stored.NOTHING

    def _is_of(self, video_id: str, source: SourceFile) -> bool:
        if video_id not in self._folder:
            return False
        record = self._folder.record(video_id)
        return (record.source_size, record.source_hash) == (source.size, source.quick_hash)

    def holds(self, video_id: str, source: SourceFile, info: VideoInfo) -> bool:
        """Tell whether all of this file was narrated."""
        return self.stored(video_id, source) is Stored.ALL

    def renew(self, video_id: str, source: SourceFile) -> None:
        """Do nothing: records tell files by their content alone."""

    def open(self, job: int, video_id: str, info: VideoInfo, source: SourceFile, plan: FramePlan) -> None:
        """Expect the frames of a video; what was said of it before stays."""
        times, numbers = times_of(info.duration_s, self.encoder.clip_len_s), plan.frames[:, 0].tolist()
        known = from_arrays(self._folder.read(video_id)) if self._is_of(video_id, source) else []
        said = {passage.time_s: passage.text for passage in known}
        wanted = set[int]()
        for first in range(0, len(times), self._batch):
            places = range(first, min(first + self._batch, len(times)))
            # Always whole batches: what is said of a frame may depend on those beside it, in the last bits.
            if any(times[place] not in said for place in places):
                wanted.update(places)
        self._open[job] = _Narrated(video_id, info, source, times, numbers, said, wanted)

    def add_frame(self, job: int, number: int, frame: torch.Tensor) -> None:
        """Take a (h, w, 3) uint8 frame; narrate when a batch is full."""
        video = self._open[job]
        first = int(np.searchsorted(video.numbers, number, side="left"))
        last = int(np.searchsorted(video.numbers, number, side="right"))
        for place in range(first, last):
            if place in video.wanted:
                video.frames[place] = frame.cpu().numpy()
                batch = range(place // self._batch * self._batch, (place // self._batch + 1) * self._batch)
                if all(other in video.frames or other >= len(video.times) for other in batch):
                    self._narrate(video, [other for other in batch if other < len(video.times)])

    def _narrate(self, video: _Narrated, places: Sequence[int]) -> None:
        frames = [video.frames.pop(place) for place in places]
        texts = _in_parts(self._speaker, frames)
        for place, text in zip(places, texts, strict=True):
            video.said[video.times[place]] = text
            video.wanted.discard(place)
            self.empty += not text
        self.passages += len(texts)
        self._new += len(texts)
        self.on_passages(self.passages)
        write_point("narrate:batch")
        self._unstored[video.video_id] = video, False
        if self._new >= FLUSH_PASSAGES or time.monotonic() - self._flushed > FLUSH_S:
            self.publish()

    def drop(self, job: int) -> None:
        """Forget an open video; what was said of it stays."""
        self._open.pop(job, None)

    def complete(self, job: int, decoder: str, missing: int) -> None:
        """Take note that all frames of a video came."""
        video = self._open.pop(job, None)
        if video is not None:
            lacking = sorted(video.frames)
            if lacking:
                self._narrate(video, lacking)
            self._unstored[video.video_id] = video, not video.wanted

    def publish(self) -> None:
        """Store what was said since the last time."""
        if self._unstored:
            if self._joined is None:
                self._joined = self._folder.writer()
            for video, complete in self._unstored.values():
                passages = [Passage(second, text) for second, text in video.said.items()]
                self._joined.add(
                    video.video_id,
                    to_arrays(passages),
                    duration_s=video.info.duration_s,
                    source_size=video.source.size,
                    source_hash=video.source.quick_hash,
                    meta={"complete": complete, "rule": READING_RULE},
                )
            self._joined.publish()
            write_point("narrate:published")
            self._unstored.clear()
        self._new, self._flushed = 0, time.monotonic()

    def close(self) -> None:
        """Leave the folder; what was not published is given up."""
        if self._joined is not None:
            self._joined.close()


def _in_parts(speaker: Speaker, frames: list[np.ndarray]) -> list[str]:
    """Narrate frames together, or half of them at a time where the accelerator's memory does not hold them."""
    try:
        return speaker.narrate(frames)
    except torch.OutOfMemoryError as error:
        if len(frames) == 1:
            raise PipelineError("the accelerator's memory does not hold one frame; use a smaller narrator") from error
    say(f"warning: the accelerator's memory does not hold {len(frames)} frames; taking half as many at a time")
    half = (len(frames) + 1) // 2
    return [*_in_parts(speaker, frames[:half]), *_in_parts(speaker, frames[half:])]


@dataclass(frozen=True)
class Estimate:
    """What narrating would take."""

    videos: int
    """Videos that are not narrated to their end."""
    passages: int
    """Passages that they lack."""
    unreadable: list[str]
    """Videos that cannot be read, and why."""
    seconds: float
    """Of the narrator, as a sample of frames took; 0 without a sample."""


def estimate(
    items: Sequence[VideoItem],
    speaker: Speaker,
    features: Path,
    interval_s: float,
    batch_size: int,
    sample: bool = True,
) -> Estimate:
    """Say what narrating would take: measure every video that is not narrated, and narrate a few grey frames."""
    spec = {**speaker.spec, "interval_s": interval_s, "longest_side": LONGEST_SIDE}
    path = folder_path(features, NARRATIONS, spec)
    folder = FeatureFolder.open(path) if FeatureFolder.is_one(path) else None
    videos, passages, unreadable = 0, 0, []
    for item in items:
        try:
            if item.problem:
                raise VideoError(item.problem)
            if folder is not None and _is_complete(folder, item):
                continue
            times = times_of(probe(item.path).duration_s, interval_s)
        except VideoError as error:
            unreadable.append(f"{item.video_id}: {error}")
            continue
        known = folder.record(item.video_id).rows if folder is not None and item.video_id in folder else 0
        lacking = max(len(times) - known, 0)
        videos, passages = videos + (lacking > 0), passages + lacking
    return Estimate(videos, passages, unreadable, _seconds_of_one(speaker, batch_size) * passages if sample else 0.0)


def _is_complete(folder: FeatureFolder, item: VideoItem) -> bool:
    """Tell whether a file was narrated to its end."""
    if item.video_id not in folder:
        return False
    record, source = folder.record(item.video_id), SourceFile.of(item.path)
    same = (record.source_size, record.source_hash) == (source.size, source.quick_hash)
    return same and bool(record.meta.get("complete"))


def _seconds_of_one(speaker: Speaker, batch_size: int) -> float:
    started = time.monotonic()
    grey = [np.full((LONGEST_SIDE // 2, LONGEST_SIDE, 3), 128, np.uint8)] * SAMPLE
    for first in range(0, SAMPLE, batch_size):
        speaker.narrate(grey[first : first + batch_size])
    return (time.monotonic() - started) / SAMPLE


@dataclass(frozen=True)
class NarrationReport:
    """What `narrate_videos` did."""

    videos: ExtractionSummary
    folder: FeatureFolder
    passages: int
    """Passages that were made."""
    empty: int
    """Those of them that say nothing."""


def narrate_videos(
    items: Sequence[VideoItem],
    speaker: Speaker,
    features: Path,
    interval_s: float,
    batch_size: int,
    settings: ExtractConfig,
    device: torch.device,
    on_progress: Callable[[int, int, int], None] = lambda passages, settled, total: None,
) -> NarrationReport:
    """Narrate what the folder of this narrator lacks; `on_progress` is told passages, settled and all videos."""
    folder = narration_folder(features, speaker, interval_s)
    lane = NarrationLane(speaker, folder, interval_s, batch_size)
    settled = 0

    def videos_settled(done: int, total: int) -> None:
        nonlocal settled
        settled = done
        on_progress(lane.passages, done, total)

    lane.on_passages = lambda passages: on_progress(passages, settled, len(items))
    summary = extract_videos(
        items,
        [],
        [],
        workers=settings.workers,
        device=device,
        timeout_s=settings.timeout_s,
        on_progress=videos_settled,
        beside=[lane],
    )
    folder.refresh()
    return NarrationReport(summary, folder, lane.passages, lane.empty)
