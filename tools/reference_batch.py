"""A batch in which every query has its own copy of its video, for the plain form of the network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mesm.model.batch import Batch


@dataclass
class PlainBatch:
    """N queries, each with its own copy of its video; True in a mask is a valid position."""

    video: Tensor
    """(N, L, D_video)."""
    video_mask: Tensor
    words: Tensor
    """(N, W, D_text)."""
    words_mask: Tensor
    groups: list[int]
    """Group of each query, counted from 0 in order."""
    negative: list[int]
    clip_mask: Tensor
    """(N, L) bool."""
    windows: list[Tensor]
    """(M, 2) of each query."""
    saliency: Tensor
    """(N, L)."""
    positive_frames: Tensor | None
    negative_frames: Tensor | None
    masked: Tensor | None
    """(N, W) bool; None: no words are rebuilt."""
    unknown: Tensor | None
    labels: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> PlainBatch:
        """Copy each query's video out of a batch that shares them."""
        assert batch.targets is not None
        assert batch.negative_query is not None
        videos, mask = batch.frames.pad(batch.video), batch.frames.mask
        order = {group: i for i, group in enumerate(dict.fromkeys(batch.group_of_query))}
        pick = list(batch.video_of_query)
        targets, words = batch.targets, batch.word_mask
        return cls(
            video=videos[pick].clone(),
            video_mask=mask[pick],
            words=batch.words.vectors,
            words_mask=batch.words.mask,
            groups=[order[group] for group in batch.group_of_query],
            negative=batch.negative_query.tolist(),
            clip_mask=targets.clip_mask,
            windows=[w[:count] for w, count in zip(targets.windows, targets.window_counts, strict=True)],
            saliency=targets.saliency,
            positive_frames=targets.positive,
            negative_frames=targets.negative,
            masked=words.masked if words else None,
            unknown=words.unknown if words else None,
            labels=words.labels if words else None,
        )
