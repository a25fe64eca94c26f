"""What is drawn at random for a batch."""

from __future__ import annotations

import numpy as np


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


def draw_words_alike(lengths: np.ndarray, generator: np.random.Generator, chance: float = 0.15) -> np.ndarray:
    """Draw each word of each query with the same chance; where none is drawn, one; where all are, one is spared.

    A query of one word has none drawn. lengths: (N,) words; returns (N, most words) bool.
    """
    width = int(lengths.max())
    valid = np.arange(width) < lengths[:, None]
    keys = np.where(valid, generator.random((len(lengths), width)), -1.0)
    one = np.arange(width) == keys.argmax(axis=1)[:, None]
    drawn = valid & (generator.random(keys.shape) < chance)
    drawn |= one & ~drawn.any(axis=1, keepdims=True)
    return drawn & ~(one & (drawn == valid).all(axis=1, keepdims=True))


def next_of_other_group(groups: np.ndarray) -> np.ndarray:
    """Return for each query the next one of another group, (N,) int64; the next one where all are of one group."""
    n = len(groups)
    following = (np.arange(n)[:, None] + np.arange(1, n + 1)) % n
    other = groups[following] != groups[:, None]
    return following[np.arange(n), np.where(other.any(axis=1), other.argmax(axis=1), 0)]
