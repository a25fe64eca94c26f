"""A split held in memory, and the batches that are cut from it.

Every video and every query is prepared once. A step gathers rows of two resident tensors; nothing is copied once per
query, and whatever is random in a batch is a function of (seed, epoch, step), so that a resumed run draws the same.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.annotations import Annotation
from mesm.datasets.errors import FeatureError
from mesm.datasets.grouping import Group, group_queries
from mesm.datasets.shards import FeatureFolder, row_count_problem
from mesm.datasets.targets import (
    ROWS_SHARE_DURATION,
    QueryTargets,
    prepare_video,
    query_targets,
    sample_pos_neg,
    sample_windows,
)
from mesm.datasets.vocabulary import Vocabulary
from mesm.model import Batch, Layout, Targets, WordMask
from mesm.pipeline.config import DatasetConfig
from mesm.pipeline.queries import TextSource, Words

RESIDENT_SHARE = 0.5
"""Share of the free memory that the frames may take before they are mapped from a file instead."""
SHOWN = 10

Crops = Mapping[str, tuple[int, int]]
"""The rows [first, stop) that are shown of some videos, by their names."""


class FrameTable:
    """The prepared frames of many videos in one tensor (rows, D), on a device or mapped from a temporary file."""

    def __init__(self, videos: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> None:
        """Hold prepared videos (L, D)."""
        self.lengths = {video: len(rows) for video, rows in videos.items()}
        self.dim = next(iter(videos.values())).shape[1]
        starts = np.cumsum([0, *self.lengths.values()])[:-1]
        self._starts = dict(zip(videos, starts.tolist(), strict=True))
        self.rows = _gather(videos, sum(self.lengths.values()), self.dim, torch.device(device))

    @classmethod
    def load(
        cls,
        folders: Sequence[FeatureFolder],
        video_ids: Sequence[str],
        config: DatasetConfig,
        device: torch.device | str = "cpu",
    ) -> FrameTable:
        """Read and prepare the features of the given videos; FeatureError names those that are missing."""
        for folder in folders:
            missing = sorted(set(video_ids) - set(folder.keys()))
            if missing:
                raise FeatureError(
                    f"{folder.path} lacks {len(missing)} of {len(set(video_ids))} videos that the annotations name, "
                    f"among them {', '.join(missing[:SHOWN])}; extract them, or remove their queries"
                )
        return cls({video: read_video(folders, video, config) for video in dict.fromkeys(video_ids)}, device)

    def take(self, video_ids: Sequence[str], crops: Crops | None = None) -> tuple[Tensor, Layout]:
        """Gather the packed frames (T, D) of the given videos; of those in `crops`, the rows [first, stop) only."""
        crops = crops or {}
        ranges = np.array([crops.get(video, (0, self.lengths[video])) for video in video_ids])
        lengths = ranges[:, 1] - ranges[:, 0]
        starts = np.repeat([self._starts[video] for video in video_ids] + ranges[:, 0], lengths)
        ends = np.cumsum(lengths)
        within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        rows = self.rows.index_select(0, _tensor(starts + within, self.rows.device))
        if crops:
            # The temporal endpoints are those of what is left.
            endpoints = np.stack((within, within + 1), axis=1) / np.repeat(lengths, lengths)[:, None]
            rows[:, -2:] = _tensor(endpoints.astype(np.float32), rows.device)
        return rows, Layout(lengths.tolist(), self.rows.device)

    def blanked(self) -> FrameTable:
        """Return these videos with nothing to see: zeros but for the two temporal endpoint columns."""
        return self._changed(torch.cat((torch.zeros_like(self.rows[:, :-2]), self.rows[:, -2:]), dim=1), None)

    def exchanged(self, seed: int = 0) -> FrameTable:
        """Return these videos each with the frames of another one; there must be two or more."""
        order = np.random.default_rng(seed).permutation(sorted(self.lengths)).tolist()
        return self._changed(self.rows, dict(zip(order, [*order[1:], order[0]], strict=True)))

    def _changed(self, rows: Tensor, taken: Mapping[str, str] | None) -> FrameTable:
        table = object.__new__(FrameTable)
        taken = taken or {video: video for video in self.lengths}
        table.rows, table.dim = rows, self.dim
        table.lengths = {video: self.lengths[other] for video, other in taken.items()}
        table._starts = {video: self._starts[other] for video, other in taken.items()}
        return table


def read_video(folders: Sequence[FeatureFolder], video: str, config: DatasetConfig) -> np.ndarray:
    """Join a video's feature streams into the network's input (L, D)."""
    streams = [np.asarray(folder.read(video)["features"]) for folder in folders]
    return prepare_video(streams, config.max_rows, config.rows)


def _gather(videos: Mapping[str, np.ndarray], rows: int, dim: int, device: torch.device) -> Tensor:
    size = rows * dim * 4
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if size < RESIDENT_SHARE * free:
            return torch.from_numpy(np.concatenate(list(videos.values()))).to(device)
    if size < RESIDENT_SHARE * _free_memory():
        return torch.from_numpy(np.concatenate(list(videos.values())))
    # The file has no name once it is mapped, so a killed run leaves nothing behind.
    with tempfile.NamedTemporaryFile(prefix="mesm-frames-") as file:
        file.truncate(size)
        table = torch.from_file(file.name, shared=True, size=rows * dim).view(rows, dim)
    position = 0
    for video in videos.values():
        table[position : position + len(video)] = torch.from_numpy(video)
        position += len(video)
    return table


def _free_memory() -> int:
    """Bytes that new allocations can take without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 8 * 1024**3


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


@dataclass(frozen=True)
class _Query:
    words: Words
    labels: np.ndarray
    unknown: np.ndarray
    targets: QueryTargets | None


class MomentData:
    """The queries of one split with everything that a step needs of them."""

    def __init__(
        self,
        annotations: Sequence[Annotation],
        frames: FrameTable,
        text: TextSource,
        vocabulary: Vocabulary,
        config: DatasetConfig,
        seed: int = 0,
    ) -> None:
        """Prepare queries and targets; queries without a moment (a test split without truth) have no targets."""
        self.annotations = list(annotations)
        self.frames, self.config = frames, config
        self.text_dim = text.dim
        cache: dict[str, tuple[Words, np.ndarray, np.ndarray]] = {}
        self._queries = [self._prepare(a, text, vocabulary, cache) for a in self.annotations]
        has_targets = all(query.targets is not None for query in self._queries)
        by_start = [q.targets.start_idx if q.targets else 0 for q in self._queries]
        self.groups: list[Group] = group_queries(
            self.annotations,
            config.group_by,
            order=by_start if config.group_by == "video" or not has_targets else None,
            max_queries=config.max_queries_per_group,
            seed=seed,
        )
        widths = [len(query.words.tokens) for query in self._queries]
        self._word_starts = np.cumsum([0, *widths])[:-1]
        # The last row is the zero vector that padding reads.
        vectors = [query.words.vectors for query in self._queries]
        table = np.concatenate([*vectors, np.zeros((1, text.dim), np.float32)])
        self._words = torch.from_numpy(table).to(frames.rows.device)

    def __len__(self) -> int:
        return len(self.annotations)

    def _prepare(
        self,
        annotation: Annotation,
        text: TextSource,
        vocabulary: Vocabulary,
        cache: dict[str, tuple[Words, np.ndarray, np.ndarray]],
    ) -> _Query:
        if annotation.query not in cache:
            words = text.words(annotation.query)
            labels = np.array([vocabulary.label(token) for token in words.tokens], np.int64)
            cache[annotation.query] = words, labels, labels == vocabulary.unknown
        targets = None
        if annotation.moments:
            length_from = "rows" if self.config.length_from_rows else "duration"
            rows = self.frames.lengths[annotation.video_id]
            targets = query_targets(annotation, rows, self.config.clip_len, length_from=length_from)  # type: ignore[arg-type]
        return _Query(*cache[annotation.query], targets)

    def duration(self, index: int) -> float:
        """Seconds that the fractions of a query's spans refer to."""
        annotation = self.annotations[index]
        if annotation.duration_s is not None:
            return annotation.duration_s
        return self.frames.lengths[annotation.video_id] * self.config.clip_len

    def lengths_of_groups(self) -> list[int]:
        """Rows of each group's longest video."""
        return [max(self.frames.lengths[self.annotations[i].video_id] for i in g.indices) for g in self.groups]

    def with_frames(self, frames: FrameTable) -> MomentData:
        """Return the same queries about other frames; not for training, as targets stay what they are."""
        data = copy.copy(self)
        data.frames = frames
        return data

    def words_of_all(self) -> Tensor:
        """(words, D): the word vectors of all queries, one after the other."""
        return self._words[:-1]

    def windows_of(self, indices: Sequence[int]) -> int:
        """Count the windows that a step trains on."""
        targets = (self._queries[i].targets for i in indices)
        return sum(min(len(t.windows), self.config.max_windows) for t in targets if t is not None)

    def queries_of(self, group_numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the queries of some groups and the place of each one's group among them."""
        indices: list[int] = []
        places: list[int] = []
        for place, number in enumerate(group_numbers):
            members = self.groups[number].indices
            indices += members
            places += [place] * len(members)
        return indices, places

    def batch(
        self,
        indices: Sequence[int],
        groups: Sequence[int],
        generator: np.random.Generator | None = None,
        with_saliency: bool = True,
        part: range | None = None,
        crop: float = 0.0,
    ) -> Batch:
        """Cut a batch. With a generator it is one to train on: negatives, masked words and targets are drawn.

        crop: probability that of a video only a random part is shown, which holds the moments of all its queries.

        part: places in `indices` of the queries that are answered, when another process answers the rest. What is drawn
        is the same as without it.
        """
        if generator is None:
            return self._inputs(indices, groups)
        crops = self._crops(indices, crop, generator) if crop > 0 else {}
        negative = draw_negatives(np.asarray(groups), generator) if with_saliency else None
        words, masks = self._word_masks(indices, generator)
        targets = self._targets(indices, crops, generator)
        own = np.arange(len(indices)) if part is None else np.arange(part.start, part.stop)
        lent = np.array([], int) if negative is None else np.setdiff1d(negative[own], own)
        order = np.concatenate((own, lent))
        batch = self._inputs([indices[i] for i in order], [groups[i] for i in order], crops)
        device, widest = batch.words.device, batch.frames.width
        batch.answered = len(own) if len(lent) else 0
        if negative is not None:
            place = {query: number for number, query in enumerate(order.tolist())}
            batch.negative_query = _tensor(np.array([place[i] for i in negative[own].tolist()]), device)
        width = batch.words.shape[1]
        masked, unknown, labels = (_tensor(_fitted(array[own], width), device) for array in (words, *masks))
        batch.word_mask = WordMask(masked, unknown, labels)
        batch.targets = targets.rows(own, widest, device)
        return batch

    def _crops(self, indices: Sequence[int], chance: float, generator: np.random.Generator) -> Crops:
        """Draw which videos of a batch are cropped, and to which rows [first, stop)."""
        extents: dict[str, tuple[int, int]] = {}
        for i in indices:
            targets, video = self._queries[i].targets, self.annotations[i].video_id
            if targets is not None:
                first, stop = targets.extent()
                before = extents.get(video, (first, stop))
                extents[video] = min(first, before[0]), max(stop, before[1])
        crops: dict[str, tuple[int, int]] = {}
        for (video, (first, stop)), draws in zip(extents.items(), generator.random((len(extents), 3)), strict=True):
            if draws[0] < chance:
                left = self.frames.lengths[video] - stop
                crops[video] = int(draws[1] * (first + 1)), stop + int(draws[2] * (left + 1))
        return crops

    def _inputs(self, indices: Sequence[int], groups: Sequence[int], crops: Crops | None = None) -> Batch:
        """Cut what the network reads."""
        videos = list(dict.fromkeys(self.annotations[i].video_id for i in indices))
        number = {video: n for n, video in enumerate(videos)}
        frames, layout = self.frames.take(videos, crops)
        words, words_mask = self._word_batch(indices)
        return Batch(
            video=frames,
            frames=layout,
            video_of_query=tuple(number[self.annotations[i].video_id] for i in indices),
            group_of_query=tuple(groups),
            words=words,
            words_mask=_tensor(words_mask, words.device),
            word_lengths=tuple(words_mask.sum(1).tolist()),
        )

    def _word_batch(self, indices: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        widths = np.array([len(self._queries[i].words.tokens) for i in indices])
        columns = np.arange(widths.max())
        mask = columns < widths[:, None]
        index = np.where(mask, self._word_starts[list(indices)][:, None] + columns, len(self._words) - 1)
        rows = torch.from_numpy(index.ravel()).to(self._words.device, non_blocking=True)
        return self._words.index_select(0, rows).view(*index.shape, -1), mask

    def _word_masks(
        self, indices: Sequence[int], generator: np.random.Generator
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Draw the words that are masked, (N, W) bool; also which are unknown, and the class of each."""
        lengths = np.array([len(self._queries[i].labels) for i in indices])
        shape = (len(indices), int(lengths.max()))
        weights, labels, unknown = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, bool)
        for row, i in enumerate(indices):
            query = self._queries[i]
            width = len(query.labels)
            weights[row, :width], labels[row, :width] = query.words.weights, query.labels
            unknown[row, :width] = query.unknown
        return draw_masked_words(weights, lengths, generator), (unknown, labels)

    def _targets(self, indices: Sequence[int], crops: Crops, generator: np.random.Generator) -> _Targets:
        videos = [self.annotations[i].video_id for i in indices]
        ranges = np.array([crops.get(video, (0, self.frames.lengths[video])) for video in videos])
        lengths = ranges[:, 1] - ranges[:, 0]
        shape = (len(indices), int(lengths.max()))
        clip_mask, relevant = np.zeros(shape, bool), np.zeros(shape, bool)
        saliency = np.zeros(shape, np.float32)
        chosen = []
        for row, i in enumerate(indices):
            targets = self._queries[i].targets
            if targets is None:
                raise FeatureError(f"query {self.annotations[i].query_id} has no moment and cannot be trained on")
            if videos[row] in crops:
                targets = targets.cropped(*crops[videos[row]])
            rows = len(targets.clip_mask)
            clip_mask[row, :rows], relevant[row, :rows] = targets.clip_mask, targets.relevant
            saliency[row, :rows] = targets.saliency
            chosen.append(targets.windows[sample_windows(len(targets.windows), self.config.max_windows, generator)])
        has_scores = any(self.annotations[i].saliency is not None for i in indices)
        valid = np.arange(shape[1]) < lengths[:, None]
        positive, negative = sample_pos_neg(relevant, valid, generator, saliency if has_scores else None)
        return _Targets(chosen, clip_mask, saliency, positive, negative)


@dataclass(frozen=True)
class _Targets:
    """Targets of a whole batch, on the host."""

    windows: list[np.ndarray]
    clip_mask: np.ndarray
    saliency: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    def rows(self, own: np.ndarray, width: int, device: torch.device) -> Targets:
        """Return those of some queries, their frames in the given width."""
        chosen = [self.windows[i] for i in own]
        windows = np.tile(np.array([0.0, 1.0], np.float32), (len(chosen), max(map(len, chosen)), 1))
        for row, some in zip(windows, chosen, strict=True):
            row[: len(some)] = some
        return Targets(
            windows=_tensor(windows, device),
            window_counts=tuple(map(len, chosen)),
            clip_mask=_tensor(_fitted(self.clip_mask[own], width), device),
            saliency=_tensor(_fitted(self.saliency[own], width), device),
            positive=_tensor(self.positive[own], device),
            negative=_tensor(self.negative[own], device),
        )


def _fitted(array: np.ndarray, width: int) -> np.ndarray:
    """Cut or pad (zeros) the second axis."""
    if array.shape[1] >= width:
        return np.ascontiguousarray(array[:, :width])
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def draw_negatives(groups: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
    """Draw for each query a random one of another group: (N,) int64, or None when all are of one group."""
    others = groups[:, None] != groups[None, :]
    if not others.any(axis=1).all():
        return None
    return np.where(others, generator.random(others.shape), -1.0).argmax(axis=1)


def draw_masked_words(weights: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw max(length // 3, 1) words of each query without replacement, by weight; none of a query of one word.

    weights: (N, W), 0 for words that are never drawn; lengths: (N,) words including start and end. Returns (N, W) bool.
    """
    count = np.where(lengths > 1, np.maximum(lengths // 3, 1), 0)
    # The largest of log(weight) + Gumbel noise are a weighted draw without replacement.
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + generator.gumbel(size=weights.shape)
    rank = (-keys).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return (rank < count[:, None]) & (weights > 0)
