"""Pieces of long videos: what a border cuts off is never an answer, and moments across it come out whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesm.pipeline.ground.pieces import KEPT_WINDOWS, Pieces, merge_windows, stretch, weigh

SIZE = 100


def pieces_of(rows: int) -> Pieces:
    return Pieces.of(rows, SIZE, 2 * SIZE)


def answers_to(pieces: Pieces, *moments: tuple[float, float], score: float = 0.8) -> np.ndarray:
    """What a perfect network says of every piece: the parts of the moments that it shows, (n, 4)."""
    found = []
    for number, start in enumerate(pieces.starts):
        for begin, end in moments:
            fractions = (np.array([[begin, end]]) - start) / pieces.size
            if fractions[0, 0] < 1 and fractions[0, 1] > 0:
                found.append(pieces.windows(number, fractions, np.array([score])))
    return np.concatenate(found)


def settled(pieces: Pieces, *moments: tuple[float, float]) -> list[list[float]]:
    found = merge_windows(pieces.settle(answers_to(pieces, *moments)), 1e9)
    return sorted(found[:, :2].round(6).tolist())


def test_pieces_cover_a_long_video_and_overlap_by_half() -> None:
    pieces = pieces_of(537)
    assert pieces.starts[0] == 0
    assert pieces.starts[-1] + SIZE == 537
    assert all(0 < b - a <= SIZE / 2 for a, b in itertools.pairwise(pieces.starts))
    assert [number for batch in pieces.batches() for number in batch] == list(range(len(pieces.starts)))


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (SIZE, 1), (2 * SIZE, 1), (2 * SIZE + 1, 4)])
def test_videos_up_to_twice_the_training_length_are_one_piece(rows: int, count: int) -> None:
    assert len(pieces_of(rows).starts) == count


def test_a_video_is_never_longer_than_what_a_network_is_given() -> None:
    assert len(Pieces.of(150, SIZE, 120).starts) > 1
    assert Pieces.of(120, SIZE, 120).starts == (0,)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2 * SIZE + 1, 700),
    begin=st.floats(0.0, 1.0),
    length=st.floats(2.0, SIZE / 2 - 1),
)
def test_a_moment_of_up_to_half_a_piece_comes_out_once_and_whole(rows: int, begin: float, length: float) -> None:
    start = begin * (rows - length)
    (found,) = settled(pieces_of(rows), (start, start + length))
    assert found == pytest.approx([start, start + length], abs=1e-5)


@pytest.mark.parametrize(
    "moment", [(60.0, 160.0), (20.0, 290.0), (110.0, 205.0), (0.0, 130.0), (380.0, 537.0), (0.0, 537.0)]
)
def test_a_moment_longer_than_a_piece_shows_comes_out_whole(moment: tuple[float, float]) -> None:
    assert list(moment) in settled(pieces_of(537), moment)
    best = merge_windows(pieces_of(537).settle(answers_to(pieces_of(537), moment)), 537.0)
    assert best[0, :2].tolist() == list(moment)


def test_moments_side_by_side_are_not_joined() -> None:
    assert settled(pieces_of(537), (90.0, 100.0), (101.0, 120.0)) == [[90.0, 100.0], [101.0, 120.0]]
    long = (0.0, 70.0), (75.0, 160.0)
    assert settled(pieces_of(537), *long) == [list(part) for part in long]


def test_a_doubtful_part_is_not_joined_to_a_sure_one() -> None:
    pieces = pieces_of(537)
    sure = np.array([[30.0, 100.0, 0.9, 0.0]])
    rest = np.array([[50.0, 140.0, 0.1, 1.0], [60.0, 90.0, 0.9, 1.0]])
    found = pieces.settle(np.concatenate([sure, rest]))
    assert [30.0, 100.0, 0.9] in found.tolist()


def test_a_piece_that_shows_nothing_cannot_win_by_its_own_sure_answer() -> None:
    pieces = pieces_of(400)
    saliency = np.zeros(400, np.float32)
    saliency[310:330] = 3.0
    windows = np.array([[20.0, 40.0, 0.9], [310.0, 330.0, 0.2], [60.0, 80.0, 0.0]])
    weighed = pieces.comparable(windows, saliency)
    assert weighed[1, 2] > weighed[0, 2]
    assert ((weighed[:, 2] >= 0) & (weighed[:, 2] <= 1)).all()
    assert weighed[2, 2] < 1e-300
    assert np.allclose(pieces.comparable(windows, 10 * saliency + 5), weighed)
    assert np.array_equal(pieces.comparable(windows, np.ones(400, np.float32)), windows)


def test_a_deviation_of_saliency_is_worth_seven_times_the_score() -> None:
    alike = weigh(np.array([0.7, 0.7 / np.exp(2.0)]), np.array([-1.0, 0.0]))
    assert alike[0] == pytest.approx(alike[1])
    extreme = weigh(np.array([1.0, 1.0, 0.0]), np.array([1e6, -1e6, 1e6]))
    assert extreme.tolist() == pytest.approx([1.0, 0.0, 1.0 / (1 + np.exp(700.0))])


def test_an_answer_is_repeated_once_and_only_the_best_are_kept() -> None:
    windows = np.array([[10.0, 20.0, 0.9], [10.1, 20.1, 0.8], [40.0, 50.0, 0.7], [60.0, 60.0, 0.6], [90.0, 120.0, 0.5]])
    assert merge_windows(windows, 100.0).tolist() == [[10.0, 20.0, 0.9], [40.0, 50.0, 0.7], [90.0, 100.0, 0.5]]
    starts = 2.0 * np.arange(KEPT_WINDOWS + 50)
    many = np.column_stack([starts, starts + 1, np.linspace(1, 0, len(starts))])
    assert np.array_equal(merge_windows(many, 1e9), many[:KEPT_WINDOWS])
    assert not len(merge_windows(np.empty((0, 3)), 10.0))


def test_scores_of_pooled_rows_are_spread() -> None:
    assert stretch(np.array([1.0, 2.0]), 5).tolist() == [1, 1, 1, 2, 2]
