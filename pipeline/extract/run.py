"""The extract stage: videos in, feature shards out, each video decoded once for all encoders.

Decode processes run ahead while this process encodes. Videos go in the order of their ids; which shard and which batch
a row belongs to follows from that order alone (see `mesm.pipeline.extract.lane`), so that a run that was killed and
started again ends with the same bytes as one that was not. A video is skipped, before it is opened by any decoder, when
the folder holds features of a file of the same size, time and quick hash (see `source_file.SourceFile`); where only the
time differs, or earlier rules of reading made the features, the file is measured and hashed before it is skipped.

Videos that cannot be read stop nobody: they are in the summary and in `failures.json` beside the feature folders, with
their reasons, until a later run has read them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.headers import check_key
from mesm.datasets.shards.publishing import remove_stale_temporaries
from mesm.extractors.contracts import FrameTransform, VideoEncoder
from mesm.extractors.decoding.pool import (
    DecodedFrame,
    DecodePool,
    Event,
    Failed,
    Finished,
    FrameOutput,
    Probed,
    Restarted,
)
from mesm.extractors.decoding.resizing import apply_transform
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import DecodeMemoryError, EncoderError, VideoError
from mesm.pipeline.extract.failures import FAILURES_FILE, Failure, record_failures
from mesm.pipeline.extract.films import Films, LocalFilms
from mesm.pipeline.extract.lane import EncoderLane, Lane, Stored
from mesm.pipeline.extract.rows import checked_plan
from mesm.pipeline.extract.videos import VideoItem, refuse_repeated, select_videos

FLUSH_ROWS = 4096


LOOK_AHEAD = 2
"""Videos that may be under way or wait for their predecessors, per decode process."""


@dataclass(frozen=True)
class ExtractionSummary:
    """What `extract_videos` did."""

    done: int
    """Videos that were decoded and stored for every encoder that lacked them."""
    skipped: int
    """Videos that were there already."""
    failed: list[Failure]
    rows: int
    """Feature rows stored, of all encoders together."""
    seconds: float


def extract_videos(
    videos: Sequence[VideoItem],
    encoders: Sequence[VideoEncoder],
    folders: Sequence[FeatureFolder],
    *,
    workers: int = 1,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    timeout_s: float = 60.0,
    threads: int = 1,
    flush_rows: int = FLUSH_ROWS,
    on_progress: Callable[[int, int], None] = lambda settled, total: None,
    beside: Sequence[Lane] = (),
    films: Films | None = None,
) -> ExtractionSummary:
    """Extract the features that the encoders' folders lack, decoding each video once.

    `batch_size`: rows per batch; clips of more than 8 frames have smaller batches. `timeout_s`: seconds
    without a new frame after which a video is given up. `threads`: decoder threads of each of the `workers`
    processes. `flush_rows`: rows after which a shard is published. `on_progress` is told how many videos are
    settled, and of how many. `beside`: whoever takes other frames of the same decoding, such as thumbnails.
    `films`: where the videos are had from, if not from their paths.
    Features are stored as float16, as the released ones are, unless the folder's spec says `"store": "float32"`.

    Raises PipelineError for ids that repeat or numbers that cannot be stored, FeatureError when a folder
    cannot be written. An interrupt, or an error, publishes what is complete before it is passed on.
    """
    started = time.monotonic()
    refuse_repeated(videos)
    # Here, too, as nobody joins the writers of a folder that lacks nothing.
    for place in {place for folder in folders for place in (folder.path, folder.path.parent)}:
        if os.access(place, os.W_OK):
            remove_stale_temporaries(place)
    with ExitStack() as stack:
        own = [
            EncoderLane(encoder, folder, batch_size, flush_rows)
            for encoder, folder in zip(encoders, folders, strict=True)
        ]
        lanes = [*own, *beside]
        for lane in lanes:
            stack.callback(lane.close)
        pool = stack.enter_context(DecodePool(workers, timeout_s=timeout_s, threads=threads))
        roots = sorted({folder.path.parent for folder in folders})
        chosen, source = select_videos(videos), films or LocalFilms()
        run = _Extraction(chosen, lanes, roots, pool, torch.device(device), on_progress, source)
        try:
            run.run()
        except KeyboardInterrupt:
            pool.close()
            run.finish()
            raise
        except Exception:
            pool.close()
            # What ended the run is what the user must hear of, also where it keeps this from being written.
            with contextlib.suppress(Exception):
                run.finish()
            raise
        run.finish()
        rows = sum(lane.rows for lane in own)
    return ExtractionSummary(run.done, run.skipped, run.failed, rows, time.monotonic() - started)


@dataclass
class _Route:
    """Where the frames of one output go."""

    wanted: list[np.ndarray]
    """Frame numbers that each lane asks for."""
    lanes: dict[FrameTransform | None, list[Lane]]
    """Lanes by the transform that is left to do on the device."""


class _Extraction:
    """One run over the videos in order: starts them, routes their frames, and settles them one after the other."""

    def __init__(
        self,
        items: Sequence[VideoItem],
        lanes: Sequence[Lane],
        roots: Sequence[Path],
        pool: DecodePool,
        device: torch.device,
        on_progress: Callable[[int, int], None],
        films: Films,
    ) -> None:
        self.done = 0
        self.skipped = 0
        self.failed: list[Failure] = []
        self._items = items
        self._lanes, self._roots = lanes, roots
        self._pool = pool
        self._device = device
        self._on_progress = on_progress
        self._films = films
        self._next = 0
        self._settled = 0
        self._asked: dict[int, list[Lane]] = {}
        """Lanes that do not have a video for certain."""
        self._lacking: dict[int, list[Lane]] = {}
        """Lanes for which it is decoded."""
        self._files: dict[int, Path] = {}
        """Of the videos that are under way."""
        self._sources: dict[int, SourceFile] = {}
        self._routes: dict[int, list[_Route]] = {}
        self._outcomes: dict[int, Finished | Failure | None] = {}
        """Of the videos that came to an end; None for those that were there."""

    def run(self) -> None:
        """Extract all videos; what the last shards will hold is left to `finish`."""
        while self._settled < len(self._items):
            self._start_more()
            if self._settled not in self._outcomes:
                self._handle(self._pool.next_event())
            while self._settled in self._outcomes:
                self._settle(self._outcomes.pop(self._settled))

    def finish(self) -> None:
        """Publish what is complete, and write down what failed."""
        for lane in self._lanes:
            lane.publish()
        read = {item.video_id for item in self._items[: self._settled]} - {one.video_id for one in self.failed}
        for root in self._roots:
            record_failures(root / FAILURES_FILE, self.failed, read)

    def _start_more(self) -> None:
        ahead = self._settled + LOOK_AHEAD * self._pool.workers
        self._films.expect(self._items[self._next : ahead], self._lacks)
        while self._pool.idle > 0 and self._next < min(ahead, len(self._items)):
            # Those under way are not kept waiting for one that is being fetched, which may wait for room of theirs.
            if self._next > self._settled and not self._films.is_ready(self._items[self._next]):
                break
            self._start(self._next)
            self._next += 1

    def _lacks(self, item: VideoItem, source: SourceFile) -> bool:
        return any(lane.stored(item.video_id, source) is not Stored.ALL for lane in self._lanes)

    def _start(self, job: int) -> None:
        item = self._items[job]
        if item.problem:
            self._refuse(job, "name", item.problem)
            return
        try:
            check_key(item.video_id)
            source = self._films.look(item)
            asked = [lane for lane in self._lanes if lane.stored(item.video_id, source) is not Stored.ALL]
            if not asked:
                self._outcomes[job] = None
                return
            path = self._films.take(item)
        except FeatureError as error:
            self._refuse(job, "name", str(error))
            return
        except VideoError as error:
            self._refuse(job, error.reason, str(error))
            return
        self._asked[job], self._files[job] = asked, path
        self._pool.start(job, path)

    def _refuse(self, job: int, reason: str, message: str) -> None:
        item = self._items[job]
        file = self._files.pop(job, None)
        # A file in the spool is known to nobody else.
        shown = message if file is None else message.replace(str(file), item.place)
        self._outcomes[job] = Failure(item.video_id, item.place, reason, shown)

    def _handle(self, event: Event) -> None:
        match event:
            case DecodedFrame():
                self._route(event)
            case Probed():
                self._plan(event)
            case Finished():
                self._outcomes[event.job] = event
            case Restarted():
                self._drop(event.job)
            case Failed():
                self._fail(event.job, event.error.reason, event.error)

    def _plan(self, probed: Probed) -> None:
        """Ask the encoders which frames they need, and have each decoded once."""
        routes: dict[FrameTransform | None, _Route] = {}
        video_id = self._items[probed.job].video_id
        self._sources[probed.job] = probed.source
        asked = self._asked[probed.job]
        self._lacking[probed.job] = [lane for lane in asked if not lane.holds(video_id, probed.source, probed.info)]
        if not self._lacking[probed.job]:
            self._pool.dismiss(probed)
            self._outcomes[probed.job] = None
            return
        try:
            for lane in self._lacking[probed.job]:
                plan = checked_plan(lane.encoder, probed.info)
                early, late = self._divide(plan.transform)
                route = routes.setdefault(early, _Route([], {}))
                route.wanted.append(np.unique(plan.frames))
                route.lanes.setdefault(late, []).append(lane)
                lane.open(probed.job, video_id, probed.info, probed.source, plan)
        except EncoderError as error:
            self._pool.dismiss(probed)
            self._fail(probed.job, "plan", error)
            return
        self._routes[probed.job] = list(routes.values())
        outputs = [
            FrameOutput(transform, np.unique(np.concatenate(route.wanted))) for transform, route in routes.items()
        ]
        try:
            self._pool.decode(probed, outputs)
        except DecodeMemoryError as error:
            self._fail(probed.job, error.reason, error)
        write_point("extract:probed")

    def _divide(self, transform: FrameTransform) -> tuple[FrameTransform | None, FrameTransform | None]:
        """Say what is done while decoding and what on the device: an accelerator scales full frames itself."""
        if transform.resize == "device" and self._device.type != "cpu":
            return None, transform
        return transform, None

    def _route(self, event: DecodedFrame) -> None:
        pixels = torch.from_numpy(event.pixels)
        frame = pixels.clone() if self._device.type == "cpu" else pixels.to(self._device)
        for transform, lanes in self._routes[event.job][event.output].lanes.items():
            shown = frame if transform is None else apply_transform(frame[None], transform)[0]
            for lane in lanes:
                lane.add_frame(event.job, event.number, shown)

    def _settle(self, outcome: Finished | Failure | None) -> None:
        """Bring the next video in order to its end."""
        job = self._settled
        if isinstance(outcome, Finished):
            for lane in self._lacking[job]:
                lane.complete(job, outcome.decoder, outcome.missing)
            self.done += 1
        elif isinstance(outcome, Failure):
            self.failed.append(outcome)
        else:
            self.skipped += 1
        lacking, source = self._lacking.pop(job, []), self._sources.pop(job, None)
        if source is not None and not isinstance(outcome, Failure):
            for lane in self._asked[job]:
                if lane not in lacking:
                    lane.renew(self._items[job].video_id, source)
        self._asked.pop(job, None)
        self._routes.pop(job, None)
        self._files.pop(job, None)
        self._films.release(self._items[job])
        self._settled += 1
        self._on_progress(self._settled, len(self._items))

    def _fail(self, job: int, reason: str, error: Exception) -> None:
        self._drop(job)
        self._refuse(job, reason, str(error))

    def _drop(self, job: int) -> None:
        for lane in self._lacking.get(job, []):
            lane.drop(job)
