"""Spans by statistics of the curve: a threshold, the best contrast, a two-state path, expected overlaps.

All take a standardised, smoothed curve (n,), and return spans (k, 3), best first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from mesm.model.curves.spans import all_spans, best_apart, overlaps, prefix_sums, runs, scored, statistic

MOST = 10
"""Spans that a procedure returns."""


@dataclass(frozen=True)
class Threshold:
    """Runs of rows above a share of the curve's range."""

    share: float = 0.5
    length_prior: float = 1.5
    """Weight of log(L / n) in the rank of a span of L of n rows."""

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the runs, ranked by their statistic."""
        level = curve.min() + self.share * np.ptp(curve)
        _, starts, ends = runs((curve >= level)[None])
        return best_apart(scored(starts, ends, rank(curve, starts, ends, self.length_prior)), 1.0, MOST)


@dataclass(frozen=True)
class Contrast:
    """The span whose rows differ most from all others, by the two-sample statistic."""

    length_prior: float = 1.5
    apart: float = 0.5
    """IoU above which the worse of two spans is dropped."""

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the best of all spans."""
        starts, ends = all_spans(len(curve))
        return best_apart(scored(starts, ends, rank(curve, starts, ends, self.length_prior)), self.apart, MOST)


@dataclass(frozen=True)
class Path:
    """Runs of the likelier path through two states, Gaussian, of one variance: the moment, and what is not it."""

    separation: float = 0.75
    """Distance of either state's mean from the curve's, in standard deviations of the curve."""
    stay: float = 0.99
    """Probability of the next row to be in the same state."""
    length_prior: float = 1.5

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the path's runs, ranked by their statistic; without a run, the whole curve."""
        on = likeliest_path(2 * self.separation * curve, self.stay)
        _, starts, ends = runs((on if on.any() else ~on)[None])
        return best_apart(scored(starts, ends, rank(curve, starts, ends, self.length_prior)), 1.0, MOST)


@dataclass(frozen=True)
class Overlap:
    """The span that overlaps most, on average, with the spans that could be meant.

    Of two Gaussian states of one variance, with the same odds at every border, a span is the one that is meant with a
    probability proportional to exp(`sharpness` / noise times the sum of its rows) and to (L / n)^`length_prior`. The
    noise is the variance that the likeliest path leaves, so that on a clean curve one span remains. Of all spans the
    one with the highest expected intersection over union is the best answer: the decision of least expected loss, where
    the loss is the measure by which answers are judged. A short peak overlaps with few others, so that it wins only
    where it stands out far.
    """

    sharpness: float = 0.4
    """Evidence of one row that is a standard deviation above the mean, in nats, where all is noise; less than that of
    independent rows, as neighbours say the same."""
    length_prior: float = 0.5
    apart: float = 0.4
    most_likely: int = 512
    """Spans that are taken into account, the likeliest."""

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return the likeliest spans by their expected overlap, 0 to 1."""
        starts, ends = all_spans(len(curve))
        sums = prefix_sums(self.sharpness / noise(curve) * curve)
        evidence = sums[ends] - sums[starts] + self.length_prior * np.log((ends - starts) / len(curve))
        likely = np.argsort(-evidence, kind="stable")[: self.most_likely]
        chances = np.exp(evidence[likely] - evidence[likely[0]])
        spans = scored(starts[likely], ends[likely], chances)
        spans[:, 2] = overlaps(spans, spans) @ (chances / chances.sum())
        return best_apart(spans, self.apart, MOST)


@dataclass(frozen=True)
class Coverage:
    """The span that covers most of the rows that belong to the moment, and least of the others.

    Each row belongs with the probability that the two-state model of `Path` gives it, by all paths (forward and
    backward), its evidence divided by the noise as in `Overlap`. A span's score is its expected intersection with those
    rows over its expected union with them.
    """

    separation: float = 0.4
    stay: float = 0.97
    apart: float = 0.5

    def spans(self, curve: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        """Return spans by their expected intersection over their expected union, 0 to 1."""
        starts, ends = all_spans(len(curve))
        sums = prefix_sums(state_probabilities(2 * self.separation / noise(curve) * curve, self.stay))
        inside = sums[ends] - sums[starts]
        return best_apart(scored(starts, ends, inside / (ends - starts + sums[-1] - inside)), self.apart, MOST)


def rank(curve: np.ndarray, starts: np.ndarray, ends: np.ndarray, length_prior: float) -> np.ndarray:
    """Return the statistic of spans and a mild prior for long ones, (k,)."""
    return statistic(curve, starts, ends) + length_prior * np.log((ends - starts) / len(curve))


def noise(curve: np.ndarray) -> float:
    """Return the variance of a standardised curve within the two states of its likeliest path, 0.001 to 1."""
    on = likeliest_path(2 * Path.separation * curve, Path.stay)
    share = on.mean()
    if share in (0.0, 1.0):
        return 1.0
    return max(1.0 - float(curve[on].mean() ** 2 * share / (1 - share)), 1e-3)


def likeliest_path(evidence: np.ndarray, stay: float) -> np.ndarray:
    """Return the states (n,) bool of the likeliest path, by log likelihood ratios of the two states (n,).

    Viterbi's recursion, in the difference of the two states' best log likelihoods: the best predecessor costs at most
    one change of state, so that the difference is clipped at the price of a change.
    """
    price = float(np.log(stay / (1 - stay)))
    lead, leads = 0.0, np.empty(len(evidence))
    for row, ratio in enumerate(evidence.tolist()):
        lead = min(max(lead, -price), price) + ratio
        leads[row] = lead
    # Backwards: a lead beyond the price decides a row; any other row is in the state of the next one.
    decided = np.abs(leads) > price
    decided[-1] = True
    rows = np.arange(len(leads))
    decider = np.minimum.accumulate(np.where(decided, rows, len(leads))[::-1])[::-1]
    return leads[decider] > 0


def state_probabilities(evidence: np.ndarray, stay: float) -> np.ndarray:
    """Return the probability (n,) of the state for which `evidence` (n,), log ratios, speaks, by all paths."""
    before, after = _log_odds(evidence, stay), _log_odds(evidence[::-1], stay)[::-1]
    return expit(before + after + evidence)


def _log_odds(evidence: np.ndarray, stay: float) -> np.ndarray:
    """Return the log odds (n,) of the states of each row by the rows before it alone."""
    odds, found = 0.0, np.zeros(len(evidence))
    for row in range(1, len(evidence)):
        share = expit(odds + evidence[row - 1])
        odds = logit(stay * share + (1 - stay) * (1 - share))
        found[row] = odds
    return found
