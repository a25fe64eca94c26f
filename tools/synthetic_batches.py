"""Seeded batches of random features in the shape of a published setting, for benchmarks and equality tests."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mesm.model.batch import Batch, Targets, WordMask, Words
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.network_config import NetworkConfig, Sizes
from mesm.model.registry import build_network
from mesm.pipeline.config.load import load_config


@dataclass(frozen=True)
class BatchShape:
    """Sizes of a batch: the rows of each video, and the video and the group of each query."""

    video_dim: int
    text_dim: int
    word_classes: int
    rows: tuple[int, ...]
    video_of_query: tuple[int, ...]
    group_of_query: tuple[int, ...]
    words: int
    """Most words of a query."""
    windows: int = 1
    """Most windows of a query."""
    levels: int = 1
    """Highest saliency label."""


def _shared_videos(queries: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable([video] * count for video, count in enumerate(queries)))


def _rows(low: int, high: int, count: int) -> tuple[int, ...]:
    """Spread `count` lengths evenly from `low` to `high`."""
    return tuple(int(length) for length in np.linspace(high, low, count).round())


_TWELVE = (3, 2, 4, 2, 3, 2, 3, 2, 4, 2, 3, 2)
_CHARADES = _shared_videos(_TWELVE)
_TACOS = _shared_videos((10, 10, 10))
# Queries of one group mostly describe different clips of one long video, each of 75 rows.
_HIGHLIGHTS = _shared_videos((4, 4, 3, 4, 4, 3, 4, 4, 4, 3, 4, 4))
_DEMO = _shared_videos((6, 4, 6, 5, 6, 4, 6, 5))

PUBLISHED = {
    "charades-clip-slowfast": BatchShape(2818, 512, 1114, _rows(22, 39, 12), _CHARADES, _CHARADES, 16),
    "charades-vgg-glove": BatchShape(4098, 300, 1112, _rows(128, 232, 12), _CHARADES, _CHARADES, 16),
    "tacos-c3d-glove": BatchShape(4098, 300, 1112, _rows(120, 228, 3), _TACOS, _TACOS, 16),
    "qvhighlights-clip-slowfast": BatchShape(
        2818, 512, 5003, (75,) * 45, tuple(range(45)), _HIGHLIGHTS, 32, windows=5, levels=12
    ),
}
"""Batches of the published training settings: about 30 queries (QVHighlights 45), videos of different lengths."""

ELASTIC = {
    "emb-charades": BatchShape(1026, 300, 1, _rows(22, 39, 16), tuple(range(16)), tuple(range(16)), 12),
    "activitynet-i3d-glove-emb": BatchShape(1026, 300, 1, (128,) * 16, tuple(range(16)), tuple(range(16)), 20),
}
"""Batches of EMB: 16 queries, about a video each."""

_SIXTEEN = tuple(range(16))

GRIDS = {
    f"{network}-{dataset}-c3d": BatchShape(width, 300, classes, (256,) * 16, _SIXTEEN, _SIXTEEN, words=words)
    for network in ("msat", "acb")
    for dataset, width, classes, words in (("tacos", 4098, 1514, 16), ("activitynet", 502, 10728, 24))
}
"""Batches of sixteen queries about videos of their own, which all have the same number of rows."""

SHAPES = {**PUBLISHED, **ELASTIC, **GRIDS, "demo": BatchShape(258, 256, 203, _rows(16, 45, 8), _DEMO, _DEMO, 14)}
"""These, and the batches of the demo, whose network is so small that threads wait more than they compute."""


def configs_of(setting: str) -> tuple[NetworkConfig, Sizes, Any]:
    """Network, sizes and losses of a setting, with the widths of its features."""
    config, shape = load_config(setting), SHAPES[setting]
    return config.model, Sizes(shape.video_dim, shape.text_dim, shape.word_classes), config.loss


def network_of_setting(setting: str, **switches: object) -> tuple[Network, Any]:
    """Build the network of a setting, with some options changed; returns it and its losses' weights."""
    config, sizes, losses = configs_of(setting)
    return build_network(replace(config, **switches), sizes), losses


def make_batch(shape: BatchShape, seed: int = 0) -> Batch:
    """Draw a batch to train on: features, words, masked words, negatives and targets."""
    draw = np.random.default_rng(seed)
    n, rows, layout = len(shape.video_of_query), np.asarray(shape.rows), Layout(shape.rows)
    lengths = draw.integers(min(4, shape.words), shape.words + 1, n)
    lengths[0] = shape.words
    words_mask = np.arange(shape.words) < lengths[:, None]
    words = torch.from_numpy(draw.standard_normal((n, shape.words, shape.text_dim), dtype=np.float32))
    valid = torch.from_numpy(words_mask)
    features = torch.from_numpy(draw.standard_normal((int(rows.sum()), shape.video_dim), dtype=np.float32))
    groups = np.asarray(shape.group_of_query)
    others = groups[:, None] != groups
    negative = np.where(others, draw.random(others.shape), -1.0).argmax(1)
    hidden = words_mask & (draw.random(words_mask.shape) < 1 / 3)
    unknown = words_mask & (draw.random(words_mask.shape) < 0.1)
    labels = draw.integers(0, shape.word_classes, words_mask.shape)
    return Batch(
        video=torch.nn.functional.normalize(features, dim=-1),
        frames=layout,
        video_of_query=shape.video_of_query,
        group_of_query=shape.group_of_query,
        words=Words(torch.nn.functional.normalize(words, dim=-1) * valid[..., None], valid, tuple(lengths.tolist())),
        negative_query=torch.from_numpy(negative),
        word_mask=WordMask(torch.from_numpy(hidden), torch.from_numpy(unknown), torch.from_numpy(labels)),
        targets=_targets(shape, rows[list(shape.video_of_query)], layout.width, draw),
        query_ids=torch.arange(n),
    )


def _targets(shape: BatchShape, lengths: np.ndarray, width: int, draw: np.random.Generator) -> Targets:
    """Draw windows that do not overlap and the frames and labels that follow from them."""
    n = len(lengths)
    counts = draw.integers(1, shape.windows + 1, n)
    windows = np.tile(np.array([0.0, 1.0], np.float32), (n, shape.windows, 1))
    inside, positive, negative = np.zeros((n, width), bool), [], []
    frames = np.arange(width)
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        edges = np.sort(draw.choice(np.arange(1, 2 * shape.windows + 4), 2 * count, replace=False))
        # Off the grid, so that no overlap lies on the bound that tells positives from others.
        some = ((edges + draw.uniform(-0.3, 0.3, len(edges))) / (2 * shape.windows + 4)).reshape(-1, 2)
        windows[row, :count] = some
        for start, end in some:
            inside[row] |= (frames >= int(start * length)) & (frames <= int(end * length)) & (frames < length)
        outside = np.flatnonzero(~inside[row] & (frames < length))
        positive.append(draw.choice(np.flatnonzero(inside[row]), 2))
        negative.append(draw.choice(outside if len(outside) else frames[:length], 2))
    labels = inside * draw.integers(1, shape.levels + 1, inside.shape)
    return Targets(
        windows=torch.from_numpy(windows),
        window_counts=tuple(int(count) for count in counts),
        clip_mask=torch.from_numpy(inside),
        saliency=torch.from_numpy(labels.astype(np.float32)),
        positive=torch.from_numpy(np.stack(positive)),
        negative=torch.from_numpy(np.stack(negative)),
    )
