"""Elastic boundaries: labels by overlap, pseudo moments, the answers' pairs, and guides that look before and after."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from mesm.model.elastic import (
    best_pairs,
    highlighted,
    location_loss,
    pseudo_rows,
    row_overlap,
    rows_of_windows,
    threshold_of,
)
from mesm.model.layers.boundaries import OrderedReader
from mesm.model.layers.guided import before_and_after
from mesm.model.layers.proposals import lay_out, proposal_features


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    inner = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return inner / (max(one[1], other[1]) - min(one[0], other[0]))


@pytest.mark.parametrize("seed", range(3))
def test_the_label_is_the_pair_of_rows_that_overlaps_a_window_most(seed: int) -> None:
    draw = np.random.default_rng(seed)
    windows = np.sort(draw.uniform(0, 1, (6, 2)), axis=1).astype(np.float32)
    lengths = draw.integers(1, 12, 6)
    found = rows_of_windows(torch.from_numpy(windows), torch.from_numpy(lengths), int(lengths.max())).tolist()
    for window, length, rows in zip(windows.tolist(), lengths.tolist(), found, strict=True):
        pairs = [(i, j) for i, j in itertools.product(range(length), repeat=2) if i <= j]
        best = max(pairs, key=lambda p: overlap((p[0] / length, (p[1] + 1) / length), window))
        assert tuple(rows) == best


def test_a_window_of_no_length_falls_to_the_first_row() -> None:
    assert rows_of_windows(torch.tensor([[0.5, 0.5]]), torch.tensor([4]), 6).tolist() == [[0, 0]]


def test_the_threshold_falls_from_one_to_a_half() -> None:
    device = torch.device("cpu")
    curve = [float(threshold_of(torch.tensor(e / 10, dtype=torch.float64), device)) for e in range(11)]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == pytest.approx(1, abs=1e-4)
    assert curve[5] == pytest.approx(0.75)
    assert float(threshold_of(None, device)) == curve[10] == pytest.approx(0.5, abs=1e-4)


def test_the_pseudo_moment_is_the_best_scored_proposal_that_is_near_enough() -> None:
    rows = torch.tensor([[0, 7]])
    bounds = torch.tensor([[[0, 7], [0, 9], [8, 15]]])
    scores, mask = torch.tensor([[0.2, 0.5, 0.9]]), torch.ones(1, 3, dtype=torch.bool)
    for threshold, expected in ((0.7, [0, 9]), (0.9, [0, 7])):
        found = pseudo_rows(rows, bounds, scores, mask, torch.tensor(threshold, dtype=torch.float64))
        assert found.tolist() == [expected]
    nowhere = pseudo_rows(rows, bounds, scores, ~mask, torch.tensor(0.5, dtype=torch.float64))
    assert nowhere.tolist() == rows.tolist()


def test_location_loss_stays_finite_where_the_published_one_underflows() -> None:
    logits = torch.tensor([[0.0, 200.0, 0.0]])
    rows = torch.tensor([[0, 0]])
    chances = logits.log_softmax(1), logits.log_softmax(1)
    assert torch.isinf(location_loss(*chances, rows, rows - torch.tensor([0, 1]), official=True))
    assert float(location_loss(*chances, rows, rows, official=False)) == pytest.approx(400)


def test_highlights_reach_a_tenth_beyond_moment_and_pseudo_moment() -> None:
    mask = torch.ones(1, 40, dtype=torch.bool)
    rows, pseudo = torch.tensor([[10, 19]]), torch.tensor([[12, 29]])
    found = highlighted(rows, pseudo, mask, official=False)[0].nonzero().flatten()
    assert (int(found[0]), int(found[-1])) == (8, 31)
    early = highlighted(rows, pseudo, mask, official=True)[0].nonzero().flatten()
    assert (int(early[0]), int(early[-1])) == (9, 20)


@pytest.mark.parametrize("official", [False, True])
def test_answers_are_the_likeliest_pairs_without_overlapping_ones(official: bool) -> None:
    draw = np.random.default_rng(5)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    start, end = (
        torch.from_numpy(draw.standard_normal((2, 9))).float().masked_fill(~mask, -1e30).log_softmax(1)
        for _ in range(2)
    )
    pairs, scores = best_pairs(start, end, mask, 4, official)
    for query, length in enumerate((9, 6)):
        every = [(i, j) for i, j in itertools.product(range(length), repeat=2) if i <= j]
        every.sort(key=lambda p: -float((start[query, p[0]] + end[query, p[1]]).exp()))
        kept: list[tuple[int, int]] = []
        for pair in every:
            if all(float(row_overlap(torch.tensor(pair), torch.tensor(other))) <= 0.5 for other in kept):
                kept.append(pair)
        assert pairs[query].tolist() == [list(pair) for pair in kept[:4]]
        best = (start[query, kept[0][0]] + end[query, kept[0][1]]).exp()
        assert float(scores[query, 0]) == pytest.approx(float(best), rel=1e-5)


def test_where_fewer_answers_are_left_the_last_one_stands_repeatedly() -> None:
    one = torch.zeros(1, 1)
    pairs, scores = best_pairs(one, one, torch.ones(1, 1, dtype=torch.bool), 3, official=False)
    assert pairs.tolist() == [[[0, 0]] * 3]
    assert scores.tolist() == [[1.0] * 3]


def test_guides_are_maxima_of_valid_rows_before_and_after() -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 5, 3))).float()
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    before, after = before_and_after(x, mask)
    for video, length in enumerate((5, 3)):
        for row in range(5):
            valid = row < length
            first = x[video, :row].amax(0) if valid and row else torch.zeros(3)
            last = x[video, row + 1 : length].amax(0) if valid and row + 1 < length else torch.zeros(3)
            assert torch.equal(before[video, row], first)
            assert torch.equal(after[video, row], last)


def test_proposals_are_maxima_over_their_blocks() -> None:
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 21, 4))).float()
    mask = torch.arange(21) < torch.tensor([[21], [9]])
    proposals = lay_out(mask)
    found = proposal_features(x, mask, proposals, -1e30)
    for video, length in enumerate((21, 9)):
        for number, (i, j) in enumerate(zip(proposals.first.tolist(), proposals.last.tolist(), strict=True)):
            valid = 8 * j < length
            assert bool(proposals.mask[video, number]) is valid
            rows = x[video, 8 * i : min(8 * j + 8, length)]
            assert torch.equal(found[video, number], rows.amax(0) if valid else torch.zeros(4))
            bounds = [min(8 * i, length - 1), min(8 * j + 7, length - 1)] if valid else [0, 0]
            assert proposals.bounds[video, number].tolist() == bounds


def test_rows_are_read_in_order_as_packed_sequences_are() -> None:
    torch.manual_seed(0)
    reader, lengths = OrderedReader(6).double(), (7, 1, 4)
    found = []
    for read in (reader.both_ways, reader.packed):
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 7, 6))).requires_grad_()
        reader.zero_grad()
        out = read(x, lengths)
        out.square().sum().backward()
        found.append([out, x.grad, *(p.grad for p in reader.rnn.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs)
