"""One encoder's share of an extraction: batches that fill across videos, and the shards that come of them.

Features must not depend on how many processes decode, on when an extraction was killed, or on which videos
failed, to the last bit; and what a network makes of a row depends, in the last bits, on the rows beside it.
So batches are a function of the videos' order alone:

* every full batch of a video's own rows is encoded by itself, as soon as it is there;
* what remains of each video, less than a batch, is joined with the remains of its neighbours in order, once
  the video is complete; a video that fails has never touched another one's batch;
* a shard ends after a video, when it has `flush_rows` rows or SHARD_VIDEOS videos, and no batch reaches
beyond it.

A record says by which rules its file was read, when that file was last changed, and the hash of all of it. Where time
or rules differ, the file is looked at again, and decoded only when that shows another content, or a file that those
rules read otherwise; else the record is written anew, with the same features, so that nobody asks again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.folder import FeatureFolder, ShardWriter
from mesm.extractors.contracts import READING_RULE, FramePlan, VideoEncoder, VideoInfo
from mesm.extractors.decoding.source_file import SourceFile
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.rows import Planner, RowAssembler, row_seconds

SHARD_VIDEOS = 64
"""A shard holds no more videos than this, so that a killed run loses no more."""

FRAMES_PER_BATCH = 8
"""A batch holds at most this many frames for each row of `batch_size`, so that clips do not fill the memory."""

_RESULTS_IN_FLIGHT = 2


class Stored(Enum):
    """What a folder holds of a file, as far as a glance at it tells."""

    NOTHING = auto()
    """No features, or those of another file."""
    DOUBTFUL = auto()
    """Features of a file of this size and quick hash, but of another time, or read by earlier rules."""
    ALL = auto()


@dataclass
class VideoRows:
    """One video on its way through one encoder."""

    video_id: str
    info: VideoInfo
    source: SourceFile
    plan: FramePlan
    features: np.ndarray
    """(rows, dim) float32, filled as batches are encoded."""
    encoded: np.ndarray
    """(rows,) bool: which of them are filled."""
    assembler: RowAssembler
    batched: int = 0
    """Rows that are in a batch of this video alone."""
    clips: list[list[torch.Tensor]] = field(default_factory=list)
    """Frames of each of the rows after these."""
    decoder: str = ""
    missing: int = 0


@runtime_checkable
class Thinning(Protocol):
    """An encoder of whose rows not all are stored."""

    def thinned(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays that are stored of a video's rows (n, dim); `features` are some of them."""


class Lane(Protocol):
    """Whoever takes frames of videos while they are decoded."""

    @property
    def encoder(self) -> Planner:
        """What says which frames are wanted."""

    def stored(self, video_id: str, source: SourceFile) -> Stored:
        """Tell whether this file was taken before, without opening it."""

    def holds(self, video_id: str, source: SourceFile, info: VideoInfo) -> bool:
        """Tell whether exactly this file was taken before, now that it was opened."""

    def renew(self, video_id: str, source: SourceFile) -> None:
        """Take note that what is stored is of the file as it is now."""

    def open(self, job: int, video_id: str, info: VideoInfo, source: SourceFile, plan: FramePlan) -> object:
        """Expect the frames of a video."""

    def add_frame(self, job: int, number: int, frame: torch.Tensor) -> None:
        """Take a transformed (h, w, 3) frame of an open video, if it is one of the wanted."""

    def drop(self, job: int) -> None:
        """Forget an open video."""

    def complete(self, job: int, decoder: str, missing: int) -> None:
        """Take note that all frames of a video came; called in the videos' order."""

    def publish(self) -> None:
        """Store what is complete."""

    def close(self) -> None:
        """Give up what is not stored."""


class EncoderLane:
    """Takes the frames of many videos at a time and publishes their features in the videos' order."""

    def __init__(self, encoder: VideoEncoder, folder: FeatureFolder, batch_size: int, flush_rows: int) -> None:
        self.encoder = encoder
        self.folder = folder
        self.rows = 0
        """Rows published so far."""
        self._store = np.dtype(folder.spec.get("store", "float16"))
        self._batch_size = batch_size
        self._flush_rows = flush_rows
        self._joined: ShardWriter | None = None
        self._open: dict[int, VideoRows] = {}
        self._complete: list[VideoRows] = []
        self._renewed: list[tuple[str, SourceFile]] = []
        self._remains: list[tuple[VideoRows, int, list[torch.Tensor]]] = []
        self._results: list[tuple[torch.Tensor, list[tuple[VideoRows, int]]]] = []

    def stored(self, video_id: str, source: SourceFile) -> Stored:
        """Tell whether the folder holds features of this file, without opening it."""
        if video_id not in self.folder:
            return Stored.NOTHING
        record = self.folder.record(video_id)
        if (record.source_size, record.source_hash) != (source.size, source.quick_hash):
            return Stored.NOTHING
        # The quick hash of a small file is that of all of it: its time says nothing more.
        same = record.meta.get("sha256") == source.quick_hash or record.meta.get("modified_ns") == source.modified_ns
        return Stored.ALL if same and record.meta.get("rule") == READING_RULE else Stored.DOUBTFUL

    def holds(self, video_id: str, source: SourceFile, info: VideoInfo) -> bool:
        """Tell whether the folder holds features of a file that was hashed and measured, as it is read now."""
        if self.stored(video_id, source) is Stored.NOTHING:
            return False
        meta = self.folder.record(video_id).meta
        return meta.get("sha256", source.whole_hash) == source.whole_hash and meta.get("rule", 0) >= info.rule

    def renew(self, video_id: str, source: SourceFile) -> None:
        """Note in a record that its features are of this file, too; in a folder that cannot be written, do nothing."""
        if os.access(self.folder.path, os.W_OK):
            self._renewed.append((video_id, source))
        if len(self._renewed) >= SHARD_VIDEOS:
            self._publish_renewed()

    def open(self, job: int, video_id: str, info: VideoInfo, source: SourceFile, plan: FramePlan) -> VideoRows:
        """Expect the frames of a video. FeatureError when the folder cannot be written."""
        self._join()
        features = np.zeros((len(plan.frames), self.encoder.dim), dtype=np.float32)
        encoded = np.zeros(len(features), dtype=bool)
        rows = VideoRows(video_id, info, source, plan, features, encoded, RowAssembler(plan))
        self._open[job] = rows
        return rows

    def add_frame(self, job: int, number: int, frame: torch.Tensor) -> None:
        """Take a transformed (h, w, 3) frame of an open video, if any of its rows shows it."""
        rows = self._open[job]
        if not rows.assembler.needs(number):
            return
        for clip in rows.assembler.add(number, frame):
            rows.clips.append(clip)
            if len(rows.clips) == self._rows_per_batch(rows):
                places = [(rows, rows.batched + place) for place in range(len(rows.clips))]
                self._encode(places, rows.clips)
                rows.batched += len(places)
                rows.clips = []

    def drop(self, job: int) -> None:
        """Forget an open video; nothing of it has touched another one."""
        self._open.pop(job, None)

    def complete(self, job: int, decoder: str, missing: int) -> None:
        """Take in the remains of a video all of whose frames came; to be called in the videos' order."""
        rows = self._open.pop(job, None)
        if rows is None:
            return
        rows.decoder, rows.missing = decoder, missing
        places = range(rows.batched, rows.batched + len(rows.clips))
        self._remains += [(rows, place, clip) for place, clip in zip(places, rows.clips, strict=True)]
        rows.clips = []
        size = self._rows_per_batch(rows)
        while len(self._remains) >= size:
            self._encode_remains(size)
        self._complete.append(rows)
        write_point("extract:video-complete")
        if len(self._complete) >= SHARD_VIDEOS or self._pending_rows() >= self._flush_rows:
            self.publish()

    def publish(self) -> None:
        """Encode what remains and publish the complete videos as one shard.

        Raises FeatureError when that cannot be written, PipelineError when the numbers cannot be stored.
        """
        self._publish_renewed()
        if not self._complete:
            return
        self._encode_remains(len(self._remains))
        self._fetch(0)
        writer = self._join()
        for rows in self._complete:
            stored = self._stored(rows)
            arrays = self.encoder.thinned(stored) if isinstance(self.encoder, Thinning) else {"features": stored}
            writer.add(rows.video_id, arrays, **_record_fields(self.encoder, rows))
        write_point("extract:shard-complete")
        writer.publish()
        write_point("extract:shard-published")
        self.rows += self._pending_rows()
        self._complete.clear()

    def close(self) -> None:
        """Leave the folder; what was not published is given up."""
        if self._joined is not None:
            self._joined.close()

    def _join(self) -> ShardWriter:
        """Join the writers of the folder, once there is something to write."""
        if self._joined is None:
            self._joined = self.folder.writer()
        return self._joined

    def _publish_renewed(self) -> None:
        """Publish records whose features stay, as a shard of their own."""
        if not self._renewed:
            return
        writer = self._join()
        for video_id, source in self._renewed:
            record = self.folder.record(video_id)
            writer.add(
                video_id,
                self.folder.read(video_id),
                clip_len_s=record.clip_len_s,
                duration_s=record.duration_s,
                fps=record.fps,
                source_size=source.size,
                source_hash=source.quick_hash,
                meta={**record.meta, **_source_meta(source)},
            )
        writer.publish()
        self._renewed.clear()

    def _pending_rows(self) -> int:
        return sum(len(rows.features) for rows in self._complete)

    def _rows_per_batch(self, rows: VideoRows) -> int:
        frames_per_row = rows.plan.frames.shape[1]
        return max(1, min(self._batch_size, self._batch_size * FRAMES_PER_BATCH // frames_per_row))

    def _encode_remains(self, count: int) -> None:
        batch = self._remains[:count]
        if batch:
            self._encode([(rows, place) for rows, place, _ in batch], [clip for _, _, clip in batch])
            # Only now: an interrupt during the encoding must not lose rows.
            del self._remains[:count]

    def _encode(self, places: list[tuple[VideoRows, int]], clips: list[list[torch.Tensor]]) -> None:
        sizes = {len(clip) for clip in clips}
        if len(sizes) > 1:
            raise PipelineError(
                f"{self.encoder.name} asks for rows of {', '.join(map(str, sorted(sizes)))} frames; expected as many "
                "for every row of every video"
            )
        frames = torch.stack([frame for clip in clips for frame in clip])
        features = self.encoder.encode(frames.unflatten(0, (len(clips), *sizes)))
        if features.shape != (len(clips), self.encoder.dim):
            raise PipelineError(
                f"{self.encoder.name} gave features of shape {tuple(features.shape)} for {len(clips)} rows; "
                f"expected ({len(clips)}, {self.encoder.dim})"
            )
        self._results.append((features, places))
        # An accelerator works on the newest batches while the processor prepares the next one.
        self._fetch(_RESULTS_IN_FLIGHT)
        write_point("extract:batch-encoded")

    def _fetch(self, in_flight: int) -> None:
        """Put results into their videos' features, all but the newest ones."""
        while len(self._results) > in_flight:
            features, places = self._results[0]
            for (rows, place), feature in zip(places, features.float().cpu().numpy(), strict=True):
                rows.features[place] = feature
                rows.encoded[place] = True
            del self._results[0]

    def _stored(self, rows: VideoRows) -> np.ndarray:
        if not rows.encoded.all():
            lacking = int((~rows.encoded).sum())
            raise PipelineError(f"{self.encoder.name}: {lacking} rows of {rows.video_id} were never encoded")
        with np.errstate(over="ignore"):
            stored = rows.features.astype(self._store)
        if not np.isfinite(stored).all():
            largest = np.abs(rows.features).max()
            raise PipelineError(
                f"{self.encoder.name}: features of {rows.video_id} cannot be stored as {self._store}: the largest is "
                f"{largest:g}; extract with precision fp32, or store float32"
            )
        return stored


def _record_fields(encoder: VideoEncoder, rows: VideoRows) -> dict[str, Any]:
    info = rows.info
    meta: dict[str, Any] = {"decoder": rows.decoder, **_source_meta(rows.source)}
    if info.start_s:
        meta["start_s"] = float(info.start_s)
    if rows.missing:
        meta["frames_missing"] = rows.missing
    return {
        "clip_len_s": row_seconds(len(rows.features), encoder.clip_len_s, info.duration_s),
        "duration_s": info.duration_s,
        "fps": info.fps,
        "source_size": rows.source.size,
        "source_hash": rows.source.quick_hash,
        "meta": meta,
    }


def _source_meta(source: SourceFile) -> dict[str, Any]:
    return {"rule": READING_RULE, "modified_ns": source.modified_ns, "sha256": source.whole_hash}
