from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.npyio import NpzFile
from shared import shared_path

from mesm.datasets.annotations.records import Annotation, Saliency
from mesm.datasets.annotations.registry import read_annotations
from mesm.datasets.errors import FeatureError
from mesm.datasets.targets import (
    ROWS_SHARE_DURATION,
    moment_rows,
    pool_rows,
    prepare_video,
    query_targets,
    sample_pos_neg,
    sample_windows,
)


def annotation(
    *moments: tuple[float, float], duration: float | None = 150.0, saliency: Saliency | None = None
) -> Annotation:
    return Annotation(0, "v", "q", moments, duration, saliency, "train")


def golden_annotation(golden: NpzFile, number: int) -> Annotation:
    start, end = golden["batch/moment"][number].tolist()
    return annotation((start, end), duration=golden["batch/duration"][number].item())


@pytest.mark.parametrize(
    ("name", "clip_len_s"), [("golden_charades_csf", 1.0), ("golden_tacos_c3d", ROWS_SHARE_DURATION)]
)
def test_targets_equal_the_golden_batches(name: str, clip_len_s: float) -> None:
    with np.load(shared_path(f"golden/{name}.npz")) as golden:
        for number, rows in enumerate(golden["batch/video_mask"].sum(axis=1).tolist()):
            targets = query_targets(golden_annotation(golden, number), rows, clip_len_s)
            assert targets.start_idx == golden["batch/start_idx"][number]
            assert targets.end_idx == golden["batch/end_idx"][number]
            np.testing.assert_array_equal(targets.clip_mask, golden["batch/clip_mask"][number, :rows])
            np.testing.assert_array_equal(targets.saliency, golden["batch/clip_mask"][number, :rows])
            np.testing.assert_allclose(targets.windows, golden["batch/norm_moment"][number][None], atol=1e-6)
            np.testing.assert_allclose(targets.spans, golden["batch/norm_span"][number][None], atol=1e-6)


@pytest.mark.parametrize(("name", "width"), [("golden_charades_csf", [512, 2304]), ("golden_tacos_c3d", [4096])])
def test_prepared_features_equal_the_golden_batches(name: str, width: list[int]) -> None:
    with np.load(shared_path(f"golden/{name}.npz")) as golden:
        batch, mask = golden["batch/video_feat"], golden["batch/video_mask"]
    for video, rows in zip(batch, mask.sum(axis=1).tolist(), strict=True):
        streams = np.split(video[:rows, :-2], np.cumsum(width)[:-1], axis=1)
        # The golden features are random and not all of unit length: only the added columns are comparable.
        np.testing.assert_allclose(prepare_video(streams, 600)[:, -2:], video[:rows, -2:], atol=1e-7)


@settings(deadline=None)
@given(
    start=st.floats(0, 100),
    width=st.floats(0, 100),
    duration=st.floats(0.5, 100),
    rows=st.integers(1, 300),
    clip_len_s=st.sampled_from([1.0, 2.0, 0.17, ROWS_SHARE_DURATION]),
)
def test_a_moment_covers_at_least_one_row(
    start: float, width: float, duration: float, rows: int, clip_len_s: float
) -> None:
    first, last = moment_rows((start, start + width), rows, clip_len_s, duration)
    assert 0 <= first <= last < rows
    targets = query_targets(annotation((start, start + width), duration=duration), rows, clip_len_s)
    assert targets.clip_mask.sum() == last - first + 1


def test_several_moments_cover_their_union() -> None:
    targets = query_targets(annotation((10, 12), (2, 3), duration=20), 20, 1.0)
    assert np.flatnonzero(targets.clip_mask).tolist() == [2, 3, 10, 11, 12]
    assert (targets.start_idx, targets.end_idx) == (2, 12)
    np.testing.assert_allclose(targets.spans, [[0.55, 0.1], [0.125, 0.05]], rtol=1e-6)


def test_windows_may_be_fractions_of_the_rows() -> None:
    cut = annotation((10, 20), duration=151)
    np.testing.assert_allclose(query_targets(cut, 75, 2.0, length_from="rows").windows, [[10 / 150, 20 / 150]])
    np.testing.assert_allclose(query_targets(cut, 75, 2.0).windows, [[10 / 151, 20 / 151]])


def test_saliency_marks_the_rows_with_a_score_and_lists_all_relevant_ones() -> None:
    saliency = Saliency((3, 4, 9), ((1.0, 2.0, 4.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)))
    targets = query_targets(annotation((6, 10), (18, 20), saliency=saliency), 10, 2.0)
    assert targets.saliency[[3, 4, 9]].tolist() == [7, 0, 1]
    assert np.flatnonzero(targets.clip_mask).tolist() == [3, 9]
    assert np.flatnonzero(targets.relevant).tolist() == [3, 4, 9]


def test_cropped_targets_hold_every_moment() -> None:
    saliency = Saliency((2,), ((3.0, 3.0, 3.0),))
    for targets, extent in (
        (query_targets(annotation((6, 10), (15, 17), duration=20.0), 10, 2.0), (3, 9)),
        (query_targets(annotation((6, 10), (15, 17), duration=20.0, saliency=saliency), 10, 2.0), (2, 9)),
    ):
        assert targets.extent() == extent
        cropped = targets.cropped(2, 9)
        assert np.array_equal(cropped.clip_mask, targets.clip_mask[2:9])
        assert (cropped.start_idx, cropped.end_idx) == (targets.start_idx - 2, targets.end_idx - 2)
        np.testing.assert_allclose(cropped.windows * 7 * 2 + 4, [[6, 10], [15, 17]], rtol=1e-5)
        np.testing.assert_allclose(cropped.spans[:, 1] * 7 * 2, [4, 2], rtol=1e-5)


def test_saliency_is_spread_over_rows_of_another_length() -> None:
    saliency = Saliency((1,), ((1.0, 1.0, 1.0),))
    assert np.flatnonzero(query_targets(annotation((2, 4), saliency=saliency), 8, 1.0).clip_mask).tolist() == [2, 3]
    shared = annotation((2, 4), duration=8.0, saliency=saliency)
    assert np.flatnonzero(query_targets(shared, 16, ROWS_SHARE_DURATION).clip_mask).tolist() == [4, 5, 6, 7]


def test_moments_stand_in_for_saliency_that_was_cut_off() -> None:
    targets = query_targets(annotation((60, 62), saliency=Saliency((30,), ((4.0,),))), 5, 2.0)
    assert np.flatnonzero(targets.clip_mask).tolist() == [4]
    assert np.flatnonzero(targets.relevant).tolist() == [4]


def test_published_qvhighlights_targets() -> None:
    annotations = read_annotations("qvhighlights", shared_path("annotations/qvhighlights"), "train")
    targets = [query_targets(entry, 75, 2.0, length_from="rows") for entry in annotations]
    assert sum((target.relevant != target.clip_mask).any() for target in targets) == 43
    assert max(target.saliency.max() for target in targets) == 12
    assert sum(len(target.windows) > 5 for target in targets) == 261
    assert all(target.clip_mask.any() for target in targets)


def test_a_video_without_duration_is_as_long_as_its_rows() -> None:
    without = annotation((2, 4), duration=None)
    np.testing.assert_allclose(query_targets(without, 10, 2.0).windows, [[0.1, 0.2]])
    with pytest.raises(FeatureError, match="needs one"):
        query_targets(without, 10, ROWS_SHARE_DURATION)
    with pytest.raises(FeatureError, match="at least 1 row"):
        query_targets(without, 0, 2.0)


def test_too_many_windows_are_sampled() -> None:
    generator = np.random.default_rng(0)
    assert sample_windows(5, 5, generator).tolist() == [0, 1, 2, 3, 4]
    drawn = {tuple(sample_windows(7, 5, generator).tolist()) for _ in range(200)}
    assert len(drawn) == 21
    assert all(list(windows) == sorted(set(windows)) and len(windows) == 5 for windows in drawn)


@settings(deadline=None)
@given(data=st.data(), seed=st.integers(0, 5))
def test_positive_and_negative_rows_come_from_their_pools(data: st.DataObject, seed: int) -> None:
    rows = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    valid = np.arange(8) < np.array(rows)[:, None]
    relevant = np.zeros_like(valid)
    for number, count in enumerate(rows):
        relevant[number, data.draw(st.lists(st.integers(0, count - 1), min_size=1))] = True
    scores = np.where(relevant, data.draw(st.integers(0, 3)) + np.arange(8), 0).astype(np.float32)
    for saliency in (None, scores):
        pos, neg = sample_pos_neg(relevant, valid, np.random.default_rng(seed), saliency)
        assert pos.shape == neg.shape == (len(rows), 2)
        for number in range(len(rows)):
            inside, outside = relevant[number], valid[number] & ~relevant[number]
            assert inside[pos[number]].all()
            hard = neg[number] if saliency is None else neg[number, 1:]
            assert outside[hard].all() if outside.any() else inside[hard].all()
            if saliency is None:
                assert (pos[number, 0] != pos[number, 1]) == (inside.sum() > 1)
                assert (neg[number, 0] != neg[number, 1]) == ((outside if outside.any() else inside).sum() > 1)
            else:
                assert saliency[number, pos[number, 0]] == saliency[number][inside].max()
                assert saliency[number, neg[number, 0]] == saliency[number][inside].min()


def test_without_irrelevant_rows_the_random_rows_repeat_the_chosen_ones() -> None:
    relevant = np.array([[True, True, True, False]])
    saliency = np.array([[2.0, 1.0, 3.0, 0.0]])
    pos, neg = sample_pos_neg(relevant, relevant, np.random.default_rng(0), saliency)
    assert (pos.tolist(), neg.tolist()) == ([[2, 2]], [[1, 1]])
    pos, neg = sample_pos_neg(relevant, relevant, np.random.default_rng(0))
    assert pos.tolist() == neg.tolist()


def test_every_row_of_a_pool_is_drawn_equally_often() -> None:
    relevant = np.tile([True, True, True, False, False], (6000, 1))
    pos, neg = sample_pos_neg(relevant, np.ones_like(relevant), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(pos.ravel()) / 12000, [1 / 3] * 3, atol=0.02)
    np.testing.assert_allclose(np.bincount(neg[:, 0], minlength=5)[3:] / 6000, [0.5, 0.5], atol=0.02)


def test_a_query_without_relevant_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one relevant row"):
        sample_pos_neg(np.array([[False, True]]), np.array([[True, False]]), np.random.default_rng(0))


def test_streams_are_normalised_apart_and_cut_to_the_shortest() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(7, 3)), generator.normal(size=(5, 4)).astype(np.float16)
    video = prepare_video([first, second], 10)
    assert video.shape == (5, 9)
    assert video.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(video[:, :3], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(video[:, 3:7], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(video[:, 7:], [[i / 5, (i + 1) / 5] for i in range(5)], rtol=1e-6)


def test_zero_rows_stay_zero() -> None:
    assert not prepare_video([np.zeros((2, 3), dtype=np.float32)], 10)[:, :3].any()


def test_long_videos_are_truncated_or_pooled() -> None:
    stream = np.random.default_rng(0).normal(size=(100, 3))
    cut = prepare_video([stream], 75, "truncate")
    np.testing.assert_array_equal(cut[:, :3], prepare_video([stream[:75]], 75)[:, :3])
    pooled = prepare_video([stream], 75, "pool")
    assert pooled.shape == (75, 5)
    np.testing.assert_allclose(pooled[-1, 3:], [74 / 75, 1], rtol=1e-6)


@given(rows=st.integers(2, 400), data=st.data())
def test_pooled_bins_equal_their_definition(rows: int, data: st.DataObject) -> None:
    bins = data.draw(st.integers(1, rows - 1))
    video = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    # Python's round is half to even, like the published loaders.
    edges = [min(round(i / bins * rows), rows - 1) for i in range(bins + 1)]
    expected = [video[a:b].mean(axis=0) if a < b else video[a] for a, b in pairwise(edges)]
    np.testing.assert_allclose(pool_rows(video, bins), expected, atol=1e-5)


@pytest.mark.parametrize("streams", [[], [np.zeros((0, 3))], [np.zeros(3)]])
def test_impossible_streams_are_refused(streams: list[np.ndarray]) -> None:
    with pytest.raises(FeatureError, match="expected one or more streams"):
        prepare_video(streams, 10)
