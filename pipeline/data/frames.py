"""The frames of many videos in one tensor."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder, row_count_problem
from mesm.datasets.targets import (
    ROWS_SHARE_DURATION,
    prepare_video,
)
from mesm.datasets.video_names import video_name
from mesm.model.layouts import Layout, to_device
from mesm.pipeline.config.schema import DatasetConfig
from mesm.pipeline.data.stored_rows import StoredRows
from mesm.pipeline.run.memory import free_memory

RESIDENT_SHARE = 0.5
"""Share of the free memory that the frames may take before they stay on the disk."""
RESIDENT_MOST = 2**30
"""Bytes that they take at most: from the disk's cache a batch is read as fast as from a table."""


SHOWN = 10


Crops = Mapping[str, tuple[int, int]]
"""The rows [first, stop) that are shown of some videos, by their names."""


class FrameTable:
    """The prepared frames of many videos: one tensor (rows, D) on a device, or rows in a temporary file."""

    def __init__(
        self, videos: Mapping[str, np.ndarray], device: torch.device | str = "cpu", endpoints: bool = True
    ) -> None:
        """Hold prepared videos (L, D); endpoints: the last two columns are start and end of each row."""
        dim = next(iter(videos.values())).shape[1]
        self._lay_out({video: len(rows) for video, rows in videos.items()}, dim, endpoints)
        self._fill(videos.items(), torch.device(device))

    def _lay_out(self, lengths: dict[str, int], dim: int, endpoints: bool = True) -> None:
        self.lengths, self.dim, self.endpoints, self._blank = lengths, dim, endpoints, False
        self.sources: dict[str, str | None] = {video: video for video in lengths}
        """Of which video the frames are that are shown of each one; None: of none."""
        starts = np.cumsum([0, *lengths.values()])[:-1]
        self._starts = dict(zip(lengths, starts.tolist(), strict=True))

    def _fill(self, videos: Iterable[tuple[str, np.ndarray]], device: torch.device) -> None:
        """Take in one video after the other, so that they are in memory once at most."""
        count = sum(self.lengths.values())
        if not _is_resident(count * self.dim * 4, device):
            stored = StoredRows(count, self.dim)
            for video, rows in videos:
                stored.write(self._starts[video], rows)
            self.rows: Tensor | StoredRows = stored
            return
        table = torch.empty(count, self.dim)
        for video, rows in videos:
            table[self._starts[video] : self._starts[video] + len(rows)] = torch.from_numpy(rows)
        self.rows = table.to(device) if _is_resident_on(device, count * self.dim * 4) else table

    @classmethod
    def load(
        cls,
        folders: Sequence[FeatureFolder],
        video_ids: Sequence[str],
        config: DatasetConfig,
        device: torch.device | str = "cpu",
    ) -> FrameTable:
        """Read and prepare the features of the given videos; FeatureError names those that are missing."""
        require_videos(folders, video_ids)
        videos = list(dict.fromkeys(video_ids))
        first = read_video(folders, videos[0], config)
        lengths = {v: min(config.max_rows, *(folder.record(v).rows for folder in folders)) for v in videos}
        table = object.__new__(cls)
        table._lay_out(lengths, first.shape[1])
        table._fill(((video, read_video(folders, video, config)) for video in videos), torch.device(device))
        return table

    def take(self, video_ids: Sequence[str], crops: Crops | None = None) -> tuple[Tensor, Layout]:
        """Gather the packed frames (T, D) of the given videos; of those in `crops`, the rows [first, stop) only."""
        crops = crops or {}
        ranges = np.array([crops.get(video, (0, self.lengths[video])) for video in video_ids])
        lengths = ranges[:, 1] - ranges[:, 0]
        firsts = np.array([self._starts[video] for video in video_ids]) + ranges[:, 0]
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        if isinstance(self.rows, StoredRows):
            rows = self.rows.take(zip(firsts.tolist(), lengths.tolist(), strict=True), int(ends[-1]))
        else:
            rows = self.rows.index_select(0, to_device(np.repeat(firsts, lengths) + within, self.rows.device))
        if self._blank:
            rows[:, :-2] = 0
        if crops and self.endpoints:
            # The temporal endpoints are those of what is left.
            endpoints = np.stack((within, within + 1), axis=1) / np.repeat(lengths, lengths)[:, None]
            rows[:, -2:] = to_device(endpoints.astype(np.float32), rows.device)
        return rows, Layout(lengths.tolist(), self.rows.device)

    def blanked(self) -> FrameTable:
        """Return these videos with nothing to see: zeros but for the two temporal endpoint columns."""
        table = copy.copy(self)
        table._blank, table.sources = True, dict.fromkeys(self.lengths)
        return table

    def exchanged(self, seed: int = 0) -> FrameTable:
        """Return these videos each with the frames of another one; there must be two or more."""
        order = np.random.default_rng(seed).permutation(sorted(self.lengths)).tolist()
        taken = dict(zip(order, [*order[1:], order[0]], strict=True))
        table = copy.copy(self)
        table.sources = {video: self.sources[other] for video, other in taken.items()}
        table.lengths = {video: self.lengths[other] for video, other in taken.items()}
        table._starts = {video: self._starts[other] for video, other in taken.items()}
        return table


def require_videos(folders: Sequence[FeatureFolder], video_ids: Sequence[str]) -> None:
    """Raise FeatureError unless every folder has the features of the given videos."""
    for folder in folders:
        missing = sorted(set(video_ids) - set(folder.keys()))
        if missing:
            named = [video for video in missing if video_name(video) in folder]
            hint = f" ({named[0]} is called {video_name(named[0])} there)" if named else ""
            raise FeatureError(
                f"{folder.path} lacks {len(missing)} of {len(set(video_ids))} videos that the annotations name, "
                f"among them {', '.join(missing[:SHOWN])}{hint}; extract them, or remove their queries"
            )


def read_video(folders: Sequence[FeatureFolder], video: str, config: DatasetConfig) -> np.ndarray:
    """Join a video's feature streams into the network's input (L, D)."""
    streams = [np.asarray(folder.read(video)["features"]) for folder in folders]
    return prepare_video(streams, config.max_rows, config.rows, config.normalise_rows)


def _is_resident(size: int, device: torch.device) -> bool:
    """Say whether so many bytes of frames are kept in memory."""
    return _is_resident_on(device, size) or size < min(RESIDENT_SHARE * free_memory(), RESIDENT_MOST)


def _is_resident_on(device: torch.device, size: int) -> bool:
    return device.type == "cuda" and size < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]


def check_durations(folders: Sequence[FeatureFolder], annotations: Sequence[Annotation]) -> str | None:
    """Compare rows * clip length with the annotated durations.

    Raises FeatureError when most videos disagree: the features were made with another clip length, or of other videos.
    Returns a warning when some do.
    """
    durations = {a.video_id: a.duration_s for a in annotations if a.duration_s is not None}
    warnings = []
    for folder in folders:
        problems = []
        for video, duration in durations.items():
            record = folder.record(video)
            clip_len = None if record.clip_len_s in (None, ROWS_SHARE_DURATION) else record.clip_len_s
            problem = row_count_problem(record.rows, clip_len, duration)
            if problem is not None:
                problems.append(f"{video}: {problem}")
        text = f"{len(problems)} of {len(durations)} videos of {folder.path.name}: " + "; ".join(problems[:3])
        if len(problems) > 0.5 * len(durations):
            raise FeatureError(f"rows and annotated durations do not agree in {text}")
        if problems:
            warnings.append(f"rows and annotated durations differ by more than a clip in {text}")
    return "; ".join(warnings) or None
