"""Groups of queries that share a video, batches of groups for an epoch, and splits by video.

An item of the published loaders is a video with all its queries (MESM data loaders): a batch counts groups,
not queries. Everything here is a function of its arguments: the same seed and epoch give the same batches on
any machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mesm.datasets.annotations.records import Annotation
from mesm.datasets.errors import AnnotationError

GroupBy = Literal["video", "youtube-id", "query"]

_YOUTUBE_CLIP = re.compile(r"(?P<video>.+)_(?P<start>\d+(?:\.\d+)?)_(?P<end>\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Group:
    """Queries of one video, or a chunk of them."""

    name: str
    """The video id, or the YouTube id of the video that the clips were cut from."""
    indices: tuple[int, ...]
    """Positions of the queries in the list of annotations."""


def group_queries(
    annotations: Sequence[Annotation],
    by: GroupBy = "video",
    *,
    order: Sequence[float] | None = None,
    max_queries: int = 0,
    seed: int = 0,
) -> list[Group]:
    """Group queries by video, groups in order of first appearance, queries sorted stably within their group.

    `order` gives the value that each query is sorted by; the published loaders use the first row of its
    moment. Without it, that is the moment's start in seconds, or the clip's start in its YouTube video for
    `youtube-id` (QVHighlights). With `max_queries` > 0 the queries of a video are shuffled with `seed` and
    cut into chunks of at most that many; each chunk is sorted and is a group of its own (TACoS: 10). By `query`, every
    query is a group of its own (QD-DETR, Moment-DETR).
    """
    if order is not None and len(order) != len(annotations):
        raise ValueError(f"expected {len(annotations)} sorting values, one per query, found {len(order)}")
    keys = order if order is not None else [_start(annotation, by) for annotation in annotations]
    if by == "query":
        return [Group(annotation.video_id, (index,)) for index, annotation in enumerate(annotations)]
    members: dict[str, list[int]] = {}
    for index, annotation in enumerate(annotations):
        members.setdefault(group_name(annotation.video_id, by), []).append(index)
    generator = np.random.default_rng(seed)
    groups = []
    for name, indices in members.items():
        for chunk in _chunks(indices, max_queries, generator):
            groups.append(Group(name, tuple(sorted(chunk, key=lambda index: keys[index]))))
    return groups


def group_name(video_id: str, by: GroupBy) -> str:
    """Return what queries of this video are grouped under: the video id itself, or its YouTube id."""
    return youtube_clip(video_id)[0] if by == "youtube-id" else video_id


def youtube_clip(video_id: str) -> tuple[str, float, float]:
    """Take `j7rJstUseKg_360.0_510.0` apart: YouTube id, start and end of the clip in seconds."""
    match = _YOUTUBE_CLIP.fullmatch(video_id)
    if match is None:
        raise AnnotationError(f"expected a video id such as NAME_360.0_510.0, found {video_id!r}")
    return match["video"], float(match["start"]), float(match["end"])


def epoch_batches(
    groups: Sequence[Group], batch_groups: int, *, seed: int, epoch: int, one_chunk_per_video: bool = False
) -> list[list[int]]:
    """Return the batches of one epoch as lists of group numbers; every group stands in exactly one batch.

    With `one_chunk_per_video` (TACoS) the groups of a batch belong to different videos. The last batch may be
    smaller; one that would hold a single group joins the batch before it where the videos allow, because a
    negative query is taken from another group of the batch.
    """
    if batch_groups < 1:
        raise ValueError(f"expected at least 1 group in a batch, found {batch_groups}")
    generator = np.random.default_rng([seed, epoch])
    if one_chunk_per_video:
        batches = _batches_of_different_videos(groups, batch_groups, generator)
    else:
        shuffled = generator.permutation(len(groups)).tolist()
        batches = [shuffled[i : i + batch_groups] for i in range(0, len(shuffled), batch_groups)]
    if batch_groups > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        names = {groups[number].name for number in batches[-2]}
        if not one_chunk_per_video or groups[batches[-1][0]].name not in names:
            alone = batches.pop()
            batches[-1] += alone
    return batches


def split_by_video(
    annotations: Sequence[Annotation], fraction: float, *, seed: int, by: GroupBy = "video"
) -> tuple[list[Annotation], list[Annotation]]:
    """Hold back a fraction of the videos with all their queries; return (kept, held back), in their order.

    Videos are ranked by the SHA-256 of `seed:name`, and the first `fraction` of them (at least one, never
    all) are held back: the choice depends on the set of videos and the seed, not on the order of the file.
    """
    names = {group_name(annotation.video_id, by) for annotation in annotations}
    if not 0 < fraction < 1 or len(names) < 2:
        found = f"{fraction} of {len(names)} videos"
        raise ValueError(f"expected a fraction between 0 and 1 of at least 2 videos, found {found}")
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    held = set(ranked[: min(max(round(fraction * len(names)), 1), len(names) - 1)])
    is_held = [group_name(annotation.video_id, by) in held for annotation in annotations]
    kept = [annotation for annotation, out in zip(annotations, is_held, strict=True) if not out]
    return kept, [annotation for annotation, out in zip(annotations, is_held, strict=True) if out]


def _start(annotation: Annotation, by: GroupBy) -> float:
    if by == "youtube-id":
        return youtube_clip(annotation.video_id)[1]
    return min(start for start, _ in annotation.moments)


def _chunks(indices: list[int], max_queries: int, generator: np.random.Generator) -> list[list[int]]:
    if max_queries <= 0:
        return [indices]
    shuffled = generator.permutation(indices).tolist()
    return [shuffled[i : i + max_queries] for i in range(0, len(shuffled), max_queries)]


def _batches_of_different_videos(
    groups: Sequence[Group], batch_groups: int, generator: np.random.Generator
) -> list[list[int]]:
    """Draw batches until no chunk is left, at most one chunk per video in each.

    A video that still has a chunk for every batch to come must be drawn now; the other places go to videos
    drawn with probability proportional to the chunks they have left. That needs the smallest possible number
    of batches.
    """
    chunks: dict[str, list[int]] = {}
    for number in generator.permutation(len(groups)).tolist():
        chunks.setdefault(groups[number].name, []).append(number)
    queues = list(chunks.values())
    left = np.array([len(queue) for queue in queues], dtype=np.int64)
    batches = []
    remaining = max(-(-len(groups) // batch_groups), int(left.max(initial=0)))
    while left.any():
        # Weighted sampling without replacement: the largest log(weight) + Gumbel noise win.
        with np.errstate(divide="ignore"):
            score = np.log(left) + generator.gumbel(size=len(left))
        score[left >= remaining] = np.inf
        drawn = np.argsort(-score, kind="stable")[: min(batch_groups, int((left > 0).sum()))]
        batches.append([queues[video].pop() for video in drawn.tolist()])
        left[drawn] -= 1
        remaining -= 1
    return batches
