"""A split held in memory, and the batches that are cut from it.

Every video and every query is prepared once. A step gathers rows of two resident tensors; nothing is copied once per
query, and whatever is random in a batch is a function of (seed, epoch, step), so that a resumed run draws the same.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import FeatureError
from mesm.datasets.grouping import Group, group_queries
from mesm.datasets.targets import (
    QueryTargets,
    query_targets,
    sample_pos_neg,
    sample_windows,
)
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.model.batch import Batch, Sentences, Targets, WordMask, Words
from mesm.model.layouts import to_device
from mesm.model.network_config import Draw
from mesm.pipeline.config.schema import DatasetConfig
from mesm.pipeline.data.draws import draw_masked_words, draw_negatives, draw_words_alike, next_of_other_group
from mesm.pipeline.data.word_table import WordRows

if TYPE_CHECKING:
    from mesm.pipeline.data.frames import Crops, FrameTable
    from mesm.pipeline.data.narrations import Narrations
    from mesm.pipeline.data.sentences import SentenceVectors
    from mesm.pipeline.data.texts import QueryWords, TextSource


QUERIES_PER_PART = 8192
"""Queries whose words are looked at together, when all are to be looked at."""


@dataclass(frozen=True)
class _Query:
    words: QueryWords
    """Without their vectors, which stand in the table of all."""
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
        sentences: SentenceVectors | None = None,
        narrations: Narrations | None = None,
    ) -> None:
        """Prepare queries and targets; queries without a moment (a test split without truth) have no targets.

        sentences: of the queries, and narrations: of the videos, for networks that read them.
        """
        self.annotations = list(annotations)
        self.sentences, self.narrations = sentences, narrations
        self._told = None if narrations is None else narrations.table(frames, config.clip_len)
        self.frames, self.config = frames, config
        self.text_dim = text.dim
        cache: dict[str, tuple[QueryWords, np.ndarray, np.ndarray]] = {}
        self._distinct, self._rows_of_sentence = WordRows(text.dim), dict[str, np.ndarray]()
        self._queries = [self._prepare(a, text, vocabulary, cache) for a in self.annotations]
        has_targets = all(query.targets is not None for query in self._queries)
        by_start = [q.targets.start_idx if q.targets else 0 for q in self._queries]
        self.groups: list[Group] = group_queries(
            self.annotations,
            config.group_by,
            order=by_start if config.group_by != "youtube-id" or not has_targets else None,
            max_queries=config.max_queries_per_group,
            seed=seed,
        )
        # A sentence that many queries say stands there once, and so does a vector of many sentences.
        rows = self._rows_of_sentence
        starts = np.cumsum([0, *map(len, rows.values())])[:-1]
        start_of = dict(zip(rows, starts.tolist(), strict=True))
        self._word_starts = np.array([start_of[annotation.query] for annotation in self.annotations], np.int64)
        self._word_rows = np.concatenate(list(rows.values()))
        self._words = torch.from_numpy(self._distinct.table()).to(frames.rows.device)
        del self._distinct, self._rows_of_sentence

    def __len__(self) -> int:
        return len(self.annotations)

    def _prepare(
        self,
        annotation: Annotation,
        text: TextSource,
        vocabulary: Vocabulary,
        cache: dict[str, tuple[QueryWords, np.ndarray, np.ndarray]],
    ) -> _Query:
        if annotation.query not in cache:
            words = text.words(annotation.query)
            labels = np.array([vocabulary.label(token) for token in words.tokens], np.int64)
            self._rows_of_sentence[annotation.query] = self._distinct.add(words.vectors)
            words = replace(words, vectors=words.vectors[:0].copy())
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
        if self.narrations is not None:
            data._told = self.narrations.table(frames, self.config.clip_len)
        return data

    def with_other_narratives(self) -> MomentData:
        """Return the same queries about the same frames, each with the narrative of another video."""
        if self.narrations is None:
            raise ValueError("there are no narratives to exchange")
        data = copy.copy(self)
        data._told = self.narrations.table(self.frames, self.config.clip_len, self.narrations.exchanged())
        return data

    def with_sentences(self, said: Sequence[int]) -> MomentData:
        """Return the same queries, each with the sentence of the query at this place; not for training."""
        data = copy.copy(self)
        data.annotations = [
            replace(a, query=self.annotations[i].query) for a, i in zip(self.annotations, said, strict=True)
        ]
        data._queries = [
            replace(own, words=self._queries[i].words, labels=self._queries[i].labels, unknown=self._queries[i].unknown)
            for own, i in zip(self._queries, said, strict=True)
        ]
        data._word_starts = self._word_starts[list(said)]
        return data

    def words_of_all(self) -> Iterator[Tensor]:
        """Yield the word vectors of all queries, one after the other, in parts (words, D)."""
        for start in range(0, len(self), QUERIES_PER_PART):
            part = range(start, min(start + QUERIES_PER_PART, len(self)))
            places = [self._word_starts[i] + np.arange(len(self._queries[i].words.tokens)) for i in part]
            rows = self._word_rows[np.concatenate(places)]
            yield self._words.index_select(0, to_device(rows, self._words.device))

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
        draws: Draw = Draw.NONE,
        part: range | None = None,
        crop: float = 0.0,
    ) -> Batch:
        """Cut a batch. With a generator it is one to train on, with targets and what the network draws.

        crop: probability that of a video only a random part is shown, which holds the moments of all its queries.

        part: places in `indices` of the queries that are answered, when another process answers the rest. What is drawn
        is the same as without it.
        """
        if generator is None:
            return self._inputs(indices, groups)
        crops = self._crops(indices, crop, generator) if crop > 0 else {}
        negative = self._negatives(groups, generator, draws)
        word_masks = self._word_masks(indices, generator, draws)
        targets = self._targets(indices, crops, generator, Draw.ROW_PAIRS in draws)
        own = np.arange(len(indices)) if part is None else np.arange(part.start, part.stop)
        lent = np.array([], int) if negative is None else np.setdiff1d(negative[own], own)
        order = np.concatenate((own, lent))
        batch = self._inputs([indices[i] for i in order], [groups[i] for i in order], crops)
        device, widest = batch.video.device, batch.frames.width
        place = {query: number for number, query in enumerate(order.tolist())}
        changes: dict[str, Any] = {"answered": len(own) if len(lent) else 0}
        if negative is not None:
            changes["negative_query"] = to_device(np.array([place[i] for i in negative[own].tolist()]), device)
        if word_masks is not None:
            width = batch.words.mask.shape[1]
            changes["word_mask"] = WordMask(*(to_device(_fitted(array[own], width), device) for array in word_masks))
        return replace(batch, targets=targets.rows(own, widest, device), **changes)

    @staticmethod
    def _negatives(groups: Sequence[int], generator: np.random.Generator, draws: Draw) -> np.ndarray | None:
        """(N,) the place of each query's negative query, if there are any."""
        if Draw.OTHER_QUERY in draws:
            return draw_negatives(np.asarray(groups), generator)
        return next_of_other_group(np.asarray(groups)) if Draw.NEXT_QUERY in draws else None

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
        sentences = None
        if self.sentences is not None:
            lengths = [layout.lengths[number[self.annotations[i].video_id]] for i in indices]
            row_s = tuple(self.duration(i) / rows for i, rows in zip(indices, lengths, strict=True))
            asked = [self.annotations[i].query for i in indices]
            sentences = sentence_batch(self.sentences, asked, row_s, words.device)
        return Batch(
            video=frames,
            frames=layout,
            video_of_query=tuple(number[self.annotations[i].video_id] for i in indices),
            group_of_query=tuple(groups),
            words=Words(words, to_device(words_mask, words.device), tuple(words_mask.sum(1).tolist())),
            sentences=sentences,
            narration=None if self._told is None else self._told.take(videos, crops)[0],
            query_ids=to_device(np.asarray(indices, np.int64), words.device),
        )

    def _word_batch(self, indices: Sequence[int]) -> tuple[Tensor, np.ndarray]:
        widths = np.array([len(self._queries[i].words.tokens) for i in indices])
        columns = np.arange(widths.max())
        mask = columns < widths[:, None]
        places = np.where(mask, self._word_starts[list(indices)][:, None] + columns, 0)
        index = np.where(mask, self._word_rows[places], len(self._words) - 1)
        rows = torch.from_numpy(index.ravel()).to(self._words.device, non_blocking=True)
        return self._words.index_select(0, rows).view(*index.shape, -1), mask

    def _word_masks(
        self, indices: Sequence[int], generator: np.random.Generator, draws: Draw
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Draw the words that are masked, (N, W) bool, if any are; also which are unknown, and the class of each."""
        if not draws & (Draw.MASKED_WORDS | Draw.MASKED_WORDS_ALIKE):
            return None
        lengths = np.array([len(self._queries[i].labels) for i in indices])
        shape = (len(indices), int(lengths.max()))
        weights, labels, unknown = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, bool)
        for row, i in enumerate(indices):
            query = self._queries[i]
            width = len(query.labels)
            weights[row, :width], labels[row, :width] = query.words.weights, query.labels
            unknown[row, :width] = query.unknown
        if Draw.MASKED_WORDS_ALIKE in draws:
            return draw_words_alike(lengths, generator), unknown, labels
        return draw_masked_words(weights, lengths, generator), unknown, labels

    def _targets(
        self, indices: Sequence[int], crops: Crops, generator: np.random.Generator, with_pairs: bool
    ) -> _Targets:
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
        if not with_pairs:
            return _Targets(chosen, clip_mask, saliency, None, None)
        has_scores = any(self.annotations[i].saliency is not None for i in indices)
        valid = np.arange(shape[1]) < lengths[:, None]
        positive, negative = sample_pos_neg(relevant, valid, generator, saliency if has_scores else None)
        return _Targets(chosen, clip_mask, saliency, positive, negative)


def sentence_batch(
    found: SentenceVectors, queries: Sequence[str], row_s: tuple[float, ...], device: torch.device
) -> Sentences:
    """Put together what a batch says of the sentences of its queries."""
    vectors = np.stack([found.of_query[query] for query in queries])
    return Sentences(to_device(vectors, device), to_device(found.generic, device), found.columns, row_s)


@dataclass(frozen=True)
class _Targets:
    """Targets of a whole batch, on the host."""

    windows: list[np.ndarray]
    clip_mask: np.ndarray
    saliency: np.ndarray
    positive: np.ndarray | None
    negative: np.ndarray | None

    def rows(self, own: np.ndarray, width: int, device: torch.device) -> Targets:
        """Return those of some queries, their frames in the given width."""
        chosen = [self.windows[i] for i in own]
        windows = np.tile(np.array([0.0, 1.0], np.float32), (len(chosen), max(map(len, chosen)), 1))
        for row, some in zip(windows, chosen, strict=True):
            row[: len(some)] = some
        return Targets(
            windows=to_device(windows, device),
            window_counts=tuple(map(len, chosen)),
            clip_mask=to_device(_fitted(self.clip_mask[own], width), device),
            saliency=to_device(_fitted(self.saliency[own], width), device),
            positive=None if self.positive is None else to_device(self.positive[own], device),
            negative=None if self.negative is None else to_device(self.negative[own], device),
        )


def _fitted(array: np.ndarray, width: int) -> np.ndarray:
    """Cut or pad (zeros) the second axis."""
    if array.shape[1] >= width:
        return np.ascontiguousarray(array[:, :width])
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))
