"""All pairs of rows at once say what counting window by window says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mesm.model import span_pairs
from mesm.model.span_pairs import REACHED, best_windows, inside_probability, overlaps_of_pairs, pair_mask

LENGTHS = (7, 1, 5)
ROWS = max(LENGTHS)


def some_probability(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    """Probabilities of the pairs of some videos, and the mask of their rows."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    logits = 3 * torch.randn(len(lengths), max(lengths), max(lengths), generator=torch.Generator().manual_seed(seed))
    flat = logits.masked_fill(~pair_mask(mask), -torch.inf).flatten(1).softmax(1)
    return flat.view_as(logits), mask


def iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


def pairs_of(rows: int) -> list[tuple[int, int]]:
    return [(first, last) for first in range(rows) for last in range(first, rows)]


def test_overlaps_are_those_of_the_windows() -> None:
    _, mask = some_probability()
    windows = torch.tensor([[[0.1, 0.6], [0.0, 1.0]], [[0.2, 0.9], [0.0, 1.0]], [[0.5, 0.55], [0.3, 0.4]]])
    found = overlaps_of_pairs(windows, mask)
    assert torch.isfinite(found).all()
    for query, rows in enumerate(LENGTHS):
        for number in range(2):
            start, end = (windows[query, number] * rows).tolist()
            for first, last in pairs_of(rows):
                expected = iou((first, last + 1), (start, end))
                assert found[query, number, first, last].item() == pytest.approx(expected, abs=1e-6)


def test_rows_are_inside_with_the_probability_of_the_windows_over_them() -> None:
    probability, mask = some_probability()
    expected = np.zeros((len(LENGTHS), ROWS))
    for query, rows in enumerate(LENGTHS):
        for first, last in pairs_of(rows):
            expected[query, first : last + 1] += probability[query, first, last].item()
    np.testing.assert_allclose((inside_probability(probability) * mask).numpy(), expected, atol=1e-6)


def worth_of(probability: Tensor, rows: int) -> dict[tuple[int, int], float]:
    """What every window of a video is worth, counted window by window."""
    worth = {}
    for first, last in pairs_of(rows):
        total = 0.0
        for one, other in pairs_of(rows):
            overlap = iou((first, last + 1), (one, other + 1))
            gained = overlap + sum(overlap >= least for least in REACHED)
            total += probability[one, other].item() * gained / (1 + len(REACHED))
        worth[first, last] = total
    return worth


@pytest.mark.parametrize("at_once", [1, 32])
def test_the_best_window_is_that_of_the_best_expected_overlap(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_pairs, "QUERIES_AT_ONCE", at_once)
    for seed in range(4):
        probability, mask = some_probability(seed)
        windows, scores = best_windows(probability, mask, 3, 0.7)
        assert windows.dtype == torch.float64
        for query, rows in enumerate(LENGTHS):
            worth = worth_of(probability[query], rows)
            best = max(worth, key=lambda pair: worth[pair])
            expected = [best[0] / rows, (best[1] + 1) / rows]
            np.testing.assert_allclose(windows[query, 0].numpy(), expected)
            assert scores[query, 0].item() == pytest.approx(worth[best], abs=1e-6)


def test_the_best_window_need_not_be_the_most_probable_one() -> None:
    probability, mask = torch.zeros(1, 9, 9), torch.ones(1, 9, dtype=torch.bool)
    probability[0, 8, 8] = 0.4
    probability[0, 0, [2, 3, 4]] = 0.2
    windows, _ = best_windows(probability, mask, 1, 0.7)
    np.testing.assert_allclose(windows[0, 0].numpy(), [0, 4 / 9])


def test_answers_keep_apart_and_the_worst_stands_repeatedly() -> None:
    probability, mask = some_probability(lengths=(9, 1))
    windows, scores = best_windows(probability, mask, 6, 0.3)
    spans = [tuple(window) for window in windows[0].tolist()]
    for number, one in enumerate(spans):
        for other in spans[:number]:
            assert one == other or iou(one, other) <= 0.3
    assert scores[0].tolist() == sorted(scores[0].tolist(), reverse=True)
    assert windows[1].tolist() == [[0.0, 1.0]] * 6
    assert scores[1].tolist() == pytest.approx([1.0] * 6)


def test_padding_changes_no_answer() -> None:
    probability, mask = some_probability(lengths=(6,))
    wider = torch.nn.functional.pad(probability, (0, 4, 0, 4))
    wide_mask = torch.nn.functional.pad(mask, (0, 4))
    for ours, other in zip(
        best_windows(probability, mask, 5, 0.7), best_windows(wider, wide_mask, 5, 0.7), strict=True
    ):
        torch.testing.assert_close(ours, other)


def test_candidates_bound_what_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_pairs, "CANDIDATES", 4)
    probability, mask = torch.zeros(1, 40, 40), torch.ones(1, 40, dtype=torch.bool)
    probability[0, 10, 19], probability[0, 11, 20], probability[0, 30, 31] = 0.4, 0.35, 0.25
    windows, _ = best_windows(probability, mask, 2, 0.5)
    np.testing.assert_allclose(windows[0].numpy() * 40, [[10, 20], [30, 32]])
