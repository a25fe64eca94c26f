"""Procedures that read spans from curves: what must hold of each, on clean curves, noisy ones, and any curve at all."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesm.model.curves.decoders import DECODERS, DEFAULT, make_decoder
from mesm.model.curves.spans import best_apart, overlaps, smooth, standardise
from mesm.model.curves.statistical import likeliest_path, state_probabilities
from mesm.model.curves.video import (
    Reading,
    find_spans,
    in_seconds,
    read_curve,
    share_among_alike,
    similarity,
    stands_out,
    window_starts,
)

NAMES = sorted(DECODERS)
EXACT = [name for name in NAMES if name not in ("static-dynamic", "scenes")]
"""Of the others, one has lengths that are multiples of a stride, and one pools rows before it cuts them."""

curves = st.lists(st.integers(-40, 40), min_size=1, max_size=40).map(lambda values: np.array(values, float) / 8)


def reading(name: str, **common: float) -> Reading:
    return Reading(make_decoder(name), **common)


def unsmoothed(name: str) -> Reading:
    return reading(name, smoothed_s=1.0, alike_s=0.0)


def box(rows: int, *spans: tuple[int, int]) -> np.ndarray:
    curve = np.zeros(rows)
    for start, end in spans:
        curve[start:end] = 1.0
    return curve


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(curve=curves)
def test_spans_are_ordered_inside_and_best_first(name: str, curve: np.ndarray) -> None:
    spans = find_spans(curve, 1.0, reading(name))
    assert len(spans)
    assert np.isfinite(spans).all()
    assert (spans[:, 0] >= 0).all()
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[:, 1] <= len(curve)).all()
    assert (np.diff(spans[:, 2]) <= 0).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(curve=curves, scale=st.floats(0.01, 100.0), shift=st.floats(-5.0, 5.0))
def test_unit_and_zero_of_the_similarities_change_nothing(
    name: str, curve: np.ndarray, scale: float, shift: float
) -> None:
    spans = find_spans(curve, 1.0, reading(name))
    assert np.allclose(find_spans(scale * curve + shift, 1.0, reading(name)), spans, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2, 3, 30, 200])
def test_constant_curves_and_short_videos_have_an_answer(name: str, rows: int) -> None:
    vectors = np.ones((rows, 4), np.float32)
    spans = find_spans(np.full(rows, 0.3), 1.0, reading(name), vectors)
    assert len(spans)
    assert np.isfinite(spans).all()
    assert (spans[:, 1] <= rows).all()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("start", "end"), [(5, 15), (0, 8), (20, 30), (12, 18)])
def test_a_clean_moment_is_found_exactly(name: str, start: int, end: int) -> None:
    best = find_spans(box(30, (start, end)), 1.0, unsmoothed(name))[0]
    assert best[:2].tolist() == [start, end]


@pytest.mark.parametrize("name", ["path", "threshold", "contrast", "watershed"])
def test_two_clean_moments_are_both_found(name: str) -> None:
    spans = find_spans(box(40, (5, 13), (25, 35)), 1.0, unsmoothed(name))
    assert {(25, 35), (5, 13)} <= {(int(start), int(end)) for start, end, _ in spans}


@pytest.mark.parametrize("name", ["contrast", "coverage", "overlap", "path"])
@pytest.mark.parametrize(("noise", "least"), [(0.1, 0.95), (0.3, 0.85), (0.6, 0.6)])
def test_noise_moves_borders_little(name: str, noise: float, least: float) -> None:
    random = np.random.default_rng(0)
    truth = np.array([[10.0, 22.0]])
    found = [
        overlaps(find_spans(box(40, (10, 22)) + noise * random.standard_normal(40), 1.0, unsmoothed(name))[:1], truth)
        for _ in range(20)
    ]
    assert np.mean(found) >= least


@pytest.mark.parametrize("name", ["contrast", "coverage", "overlap"])
@settings(max_examples=20, deadline=None)
@given(curve=curves)
def test_a_film_played_backwards_has_the_same_best_score(name: str, curve: np.ndarray) -> None:
    forwards, backwards = (find_spans(values, 1.0, unsmoothed(name))[0, 2] for values in (curve, curve[::-1]))
    assert forwards == pytest.approx(backwards, abs=1e-6)


@pytest.mark.parametrize(("start", "end"), [(5, 15), (20, 30), (12, 20)])
def test_scenes_find_a_clean_moment_to_a_pooled_row(start: int, end: int) -> None:
    best = find_spans(box(30, (start, end)), 1.0, unsmoothed("scenes"))[:1]
    assert overlaps(best, np.array([[start, end]])) >= 0.6


def test_static_and_dynamic_score_goes_back_to_where_the_rise_began() -> None:
    curve = np.concatenate([np.zeros(10), np.linspace(0, 1, 5), np.ones(7), np.zeros(12)])
    start, end = find_spans(curve, 1.0, unsmoothed("static-dynamic"))[0, :2]
    assert 6 <= start <= 11
    assert 18 <= end <= 22


def test_the_path_is_the_likeliest_of_all_paths() -> None:
    random = np.random.default_rng(1)
    rows, price = 9, np.log(0.9 / 0.1)
    states = (np.arange(2**rows)[:, None] >> np.arange(rows)) & 1
    for _ in range(20):
        evidence = 2 * random.standard_normal(rows)
        totals = states @ evidence - price * np.abs(np.diff(states, axis=1)).sum(1)
        assert (likeliest_path(evidence, 0.9) == states[totals.argmax()]).all()
        chances = np.exp(totals - totals.max())
        expected = chances @ states / chances.sum()
        assert np.allclose(state_probabilities(evidence, 0.9), expected)


def test_rows_that_look_alike_share_their_values_and_others_do_not() -> None:
    random = np.random.default_rng(2)
    vectors = np.repeat(np.eye(2), 10, axis=0)
    curve = box(20, (10, 20)) + 0.5 * random.standard_normal(20)
    shared = share_among_alike(curve, vectors, 6, 0.2)
    assert np.abs(shared - box(20, (10, 20))).max() < 0.5
    assert shared[:10].std() < curve[:10].std() / 2
    blind = share_among_alike(curve, np.ones((20, 2)), 6, 0.2)
    assert np.allclose(blind[6:14], smooth(curve, 6)[6:14])


def test_what_fits_every_picture_cannot_win() -> None:
    generic, wanted = np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])
    vectors = np.array([[4.0, 0.0, 0.0], [1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    curve = similarity(vectors, wanted, generic)
    assert curve.argmax() == 1
    assert similarity(vectors, wanted, 0 * generic).argmax() != 1
    assert abs(curve.sum()) < 1e-12
    assert np.allclose(similarity(5 * vectors, 3 * wanted, generic), curve)


def test_a_curve_does_not_depend_on_the_blocks_that_it_is_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    vectors, sentence, generic = random.standard_normal((50, 8)), random.standard_normal(8), 0.1 * np.ones(8)
    curve = similarity(vectors, sentence, generic)
    shared = share_among_alike(curve, vectors, 6, 0.5)
    for size in (1, 7, 49, 50):
        monkeypatch.setattr("mesm.model.curves.spans.BLOCK_ROWS", size)
        assert np.allclose(similarity(vectors, sentence, generic), curve, atol=1e-12)
        assert np.allclose(share_among_alike(curve, vectors, 6, 0.5), shared, atol=1e-6)


def test_how_far_a_curve_stands_out_is_the_best_span_less_what_is_left() -> None:
    curves = np.stack([box(10, (3, 6)), np.zeros(10), 2 * box(10, (0, 3))])
    assert np.allclose(stands_out(curves, 3), [1, 0, 2])
    assert np.allclose(stands_out(curves, 10), 0)
    random = np.random.default_rng(6).standard_normal((2, 12))
    expected = [max(c[s : s + 4].mean() - np.delete(c, np.s_[s : s + 4]).mean() for s in range(9)) for c in random]
    assert np.allclose(stands_out(random, 4), expected)


def test_rows_of_other_lengths_are_the_same_rows() -> None:
    random = np.random.default_rng(7)
    vectors, curve = random.standard_normal((30, 6)), random.standard_normal(30)
    longer = vectors * random.uniform(0.5, 3.0, (30, 1))
    for name in (DEFAULT, "scenes"):
        ours, others = (find_spans(curve, 1.0, reading(name), rows) for rows in (vectors, longer))
        assert np.allclose(ours, others, atol=1e-4)


def test_a_long_film_is_read_in_windows_that_cover_it() -> None:
    starts = window_starts(1000, 60)
    assert starts[0] == 0
    assert starts[-1] == 940
    assert max(np.diff(starts)) <= 30


@pytest.mark.parametrize("name", [DEFAULT, "path", "contrast"])
@pytest.mark.parametrize("start", [0, 45, 599, 3000, 3580])
def test_a_moment_of_an_hour_is_found_wherever_it_lies(name: str, start: int) -> None:
    random = np.random.default_rng(start)
    curve = box(3600, (start, start + 20)) + 0.2 * random.standard_normal(3600)
    best = find_spans(curve, 1.0, reading(name))[:1]
    assert overlaps(best, np.array([[start, start + 20]])) >= 0.7


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8, deadline=None)
@given(rows=st.integers(151, 400), seed=st.integers(0, 1000), scale=st.floats(0.01, 100.0), flat=st.booleans())
def test_spans_of_long_films_are_ordered_inside_and_of_no_unit(
    name: str, rows: int, seed: int, scale: float, flat: bool
) -> None:
    curve = np.full(rows, 0.3) if flat else np.random.default_rng(seed).standard_normal(rows).round(3)
    spans = find_spans(curve, 1.0, reading(name))
    assert len(spans)
    assert np.isfinite(spans).all()
    assert (spans[:, 0] >= 0).all()
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[:, 1] <= rows).all()
    assert (np.diff(spans[:, 2]) <= 0).all()
    assert np.allclose(find_spans(scale * curve - 3, 1.0, reading(name)), spans, atol=1e-6)


@pytest.mark.parametrize("length", [24, 40, 60])
@pytest.mark.parametrize("start", [135, 150, 158, 165, 180, 195])
def test_a_moment_across_a_windows_border_comes_out_once_and_whole(start: int, length: int) -> None:
    random = np.random.default_rng(start)
    curve = box(600, (start, start + length)) + 0.05 * random.standard_normal(600)
    spans = find_spans(curve, 1.0, reading(DEFAULT))
    shared = np.minimum(spans[:, 1], start + length) - np.maximum(spans[:, 0], start)
    assert overlaps(spans[:1], np.array([[start, start + length]])) >= 0.7
    assert (shared >= 6).sum() == 1


def test_memory_does_not_grow_by_copies_of_all_rows() -> None:
    rows, dim = 30_000, 128
    vectors = np.random.default_rng(8).standard_normal((rows, dim), np.float32).astype(np.float16)
    tracemalloc.start()
    curve = similarity(vectors, np.ones(dim), np.zeros(dim))
    read_curve(curve, 1.0, reading(DEFAULT), vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows * dim * 4 / 2


def test_a_moment_longer_than_a_window_comes_out_whole() -> None:
    random = np.random.default_rng(3)
    curve = box(3600, (1000, 1200)) + 0.1 * random.standard_normal(3600)
    best = find_spans(curve, 1.0, reading(DEFAULT))[:1]
    assert overlaps(best, np.array([[1000, 1200]])) >= 0.9


def test_the_rank_in_a_long_film_is_one_for_all_windows() -> None:
    """Every window has a best contrast; the one of a flat stretch must not win."""
    random = np.random.default_rng(4)
    curve = box(600, (300, 320)) + 0.05 * random.standard_normal(600)
    curve[100:110] += 0.3
    spans = find_spans(curve, 1.0, reading(DEFAULT))
    assert overlaps(spans[:1], np.array([[300, 320]])) >= 0.7
    smoothed = read_curve(curve, 1.0, reading(DEFAULT))
    assert spans[0, 2] == pytest.approx(smoothed[int(spans[0, 0]) : int(spans[0, 1])].mean())


def test_seconds_lie_within_the_video() -> None:
    spans = np.array([[0.0, 3.0, 1.0], [28.0, 32.0, 0.5], [31.0, 32.0, 0.1]])
    assert in_seconds(spans, 1.0, 30.0, -0.5).tolist() == [[0.0, 2.5, 1.0], [27.5, 30.0, 0.5]]
    assert in_seconds(spans, 0.5, 30.0)[0].tolist() == [0.0, 1.5, 1.0]


def test_of_spans_that_overlap_the_best_stays() -> None:
    spans = np.array([[0.0, 10.0, 0.5], [1.0, 10.0, 0.9], [20.0, 30.0, 0.1]])
    assert best_apart(spans, 0.5, 10)[:, 2].tolist() == [0.9, 0.1]
    assert len(best_apart(spans, 0.5, 1)) == 1


def test_a_curve_that_is_constant_to_rounding_says_nothing() -> None:
    assert not standardise(np.full(7, 0.1) + 1e-16 * np.arange(7)).any()


def test_an_unknown_decoder_or_constant_is_named() -> None:
    with pytest.raises(ValueError, match=r"no decoder 'pathh' \(did you mean 'path'\?\)"):
        make_decoder("pathh")
    with pytest.raises(ValueError, match="no constant 'speed'"):
        make_decoder("path", {"speed": 1.0})
