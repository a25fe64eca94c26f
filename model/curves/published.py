"""Spans by published training-free procedures, on a standardised, smoothed curve (n,); they return (k, 3), best first.

Their constants were made for curves of three rows a second of BLIP-2; here they are given for one row a second and, as
a curve has no unit here, as shares of its range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mesm.model.curves.spans import all_spans, best_apart, contrast, normalised, overlaps, runs, scored
from mesm.model.curves.statistical import MOST, rank


@dataclass(frozen=True)
class Watershed:
    """Runs at many thresholds, joined over gaps (temporal actionness grouping, Zhao et al., ICCV 2017).

    Ranked by the two-sample statistic: by the contrast of means, the shortest peak would win.
    """

    lowest: float = 0.1
    highest: float = 0.9
    step: float = 0.05
    gap: int = 2
    """Rows below the threshold over which runs are joined."""
    length_prior: float = 1.5
    apart: float = 0.5

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the runs of all thresholds."""
        shares = np.arange(self.lowest, self.highest + self.step / 2, self.step)
        levels, starts, ends = runs(curve >= curve.min() + shares[:, None] * np.ptp(curve))
        begins = np.ones(len(starts), bool)
        begins[1:] = (levels[1:] != levels[:-1]) | (starts[1:] - ends[:-1] > self.gap)
        starts, ends = starts[begins], ends[np.append(begins[1:], True)]
        return best_apart(scored(starts, ends, rank(curve, starts, ends, self.length_prior)), self.apart, MOST)


@dataclass(frozen=True)
class StaticDynamic:
    """A rise and what stays high after it (TFVTG, Zheng et al., ECCV 2024): the sum of both scores.

    Static: mean inside minus mean outside. Dynamic: how far the curve has risen at the start, which moves back to where
    the rise began. The mask of rows that BLIP-2 scores .2 or less has no counterpart on a curve without a unit.
    """

    stride: int = 7
    """Lengths are multiples of it, up to half the curve."""
    sigma: float = 1.0
    """Of the Gaussian that the curve is smoothed with before it is differentiated, rows."""
    rise: float = 0.003
    """Least rise over three rows, as a share of the curve's range."""
    apart: float = 0.3

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the spans by the sum of both scores."""
        rows, begins = len(curve), self.beginnings(curve)
        lengths = np.arange(self.stride, rows // 2 + 1, self.stride)
        if not len(lengths):
            lengths = np.array([max(1, rows // 2)])
        starts, picked = np.nonzero(np.arange(rows)[:, None] + lengths[None] <= rows)
        ends = starts + lengths[picked]
        dynamic = curve[starts] - curve[begins[starts]]
        spans = scored(begins[starts], ends, contrast(curve, starts, ends) + dynamic)
        return best_apart(spans, self.apart, MOST)

    def beginnings(self, curve: np.ndarray) -> np.ndarray:
        """Return for each row the row at which the rise that leads to it began, itself where there is none: (n,)."""
        # scipy.ndimage takes a while to import, which the other procedures need not wait for.
        from scipy.ndimage import gaussian_filter1d

        steps = np.diff(gaussian_filter1d(curve, self.sigma, mode="nearest"), prepend=curve[:1])
        steps[0] = 0.0
        one, two = (np.concatenate([np.zeros(k), steps])[: len(steps)] for k in (1, 2))
        least = self.rise * np.ptp(curve)
        rising = (3 * steps > least) | (2 * steps + one > least) | (steps + one + two > least)
        rising[0] = False
        return np.maximum.accumulate(np.where(rising, 0, np.arange(len(curve))))


@dataclass(frozen=True)
class Scenes:
    """Unions of scenes by contrast, with a vote (TAG, training-free temporal grounding by clustering).

    Rows are pooled over time and clustered by k-means whose distances are averaged over neighbours, so that clusters
    are coherent in time; the similarities are made more normal by a Box-Cox transform. Each union of neighbouring
    scenes up to half the video has a contrast; spans vote for one another by their overlap.
    """

    clusters: int = 9
    pooled: int = 3
    """Rows on either side over which vectors are averaged."""
    coherent: int = 3
    """Rows over which distances to a cluster are averaged."""
    longest: float = 0.5
    """Share of the video that a union may take."""
    power: float = 0.6
    """Of the overlap, in the vote."""
    voters: int = 12
    apart: float = 0.5

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return unions of scenes by the votes for them; without vectors, the curve's own values are clustered."""
        if vectors is None:
            edges = self.edges(curve[:, None])
        else:
            edges = self.edges(normalised(np.asarray(vectors, np.float64), 1e-12))
        first, last = all_spans(len(edges) - 1)
        starts, ends = edges[first], edges[last]
        short = (ends - starts <= self.longest * len(curve)) | (last - first == 1)
        starts, ends = starts[short], ends[short]
        spans = scored(starts, ends, contrast(adjusted(curve), starts, ends))
        voters = spans[np.argsort(-spans[:, 2], kind="stable")[: self.voters]]
        spans[:, 2] = overlaps(spans, voters) ** self.power @ np.maximum(voters[:, 2], 0.0)
        return best_apart(spans, self.apart, MOST)

    def edges(self, vectors: np.ndarray) -> np.ndarray:
        """Cut vectors (n, D) into scenes: the rows at which one begins, and n."""
        from scipy.ndimage import uniform_filter1d

        pooled = uniform_filter1d(vectors, 2 * self.pooled + 1, axis=0, mode="nearest")
        count = min(self.clusters, len(pooled))
        centres = pooled[(np.arange(count) * 2 + 1) * len(pooled) // (2 * count)]
        labels = np.full(len(pooled), -1)
        for _ in range(50):
            distances = ((pooled[:, None] - centres[None]) ** 2).sum(-1)
            found = uniform_filter1d(distances, self.coherent, axis=0, mode="nearest").argmin(1)
            if np.array_equal(found, labels):
                break
            labels = found
            members = labels[None] == np.arange(count)[:, None]
            kept = members.any(1)
            centres[kept] = members[kept] @ pooled / members[kept].sum(1, keepdims=True)
        return np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])


def adjusted(curve: np.ndarray) -> np.ndarray:
    """Make the values of a curve more normal: Box and Cox's transform, lambda in -2 to 2, of the curve between 0 and 1.

    A hundredth is added, as the transform wants positive values. A curve of fewer than three values stays as it is.
    """
    if len(np.unique(curve)) < 3:
        return curve
    from scipy.stats import boxcox, boxcox_normmax

    positive = (curve - curve.min()) / np.ptp(curve) + 0.01
    power = float(np.clip(boxcox_normmax(positive, brack=(-2.0, 2.0), method="mle"), -2.0, 2.0))
    changed = boxcox(positive, lmbda=power)
    return (changed - changed.min()) / np.ptp(changed)
