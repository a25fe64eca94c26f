"""Which videos meet in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

LENGTH_POOL = 8
"""Batches that `group_by_length` sorts together."""


def batches_by_length(batches: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Exchange groups between neighbouring batches so that each holds videos of similar length.

    Batches are taken `LENGTH_POOL` at a time, or a quarter of them if they are few, so which groups meet still changes
    from epoch to epoch. Within a pool, batches keep a random order: that of their shortest videos in `batches`.
    """
    size = min(LENGTH_POOL, max(len(batches) // 4, 2))
    result: list[list[int]] = []
    for start in range(0, len(batches), size):
        pool = batches[start : start + size]
        drawn = [group for batch in pool for group in batch]
        ordered = iter(sorted(drawn, key=lambda group: lengths[group]))
        similar = [list(itertools.islice(ordered, len(batch))) for batch in pool]
        place = {group: number for number, group in enumerate(drawn)}
        result += sorted(similar, key=lambda batch: place[batch[0]])
    return result
