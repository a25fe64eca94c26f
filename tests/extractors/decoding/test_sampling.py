"""Index tables: the published ones exactly, the clean ones by their properties."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared_path

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.sampling import (
    clip_rows,
    exact_duration,
    exact_seconds,
    frames_before,
    image_rows,
    interval_rows,
    parity_row_length,
    resampled_frames,
    row_count,
    slowfast_parity_indices,
    slowfast_parity_rows,
    window_rows,
)
from mesm.extractors.errors import EncoderError

CLIP_TABLE = "golden/extractors/sampling_clip.json"
SLOWFAST_TABLE = "golden/extractors/sampling_slowfast.json"
SLOWFAST_SPAN = Fraction(64, 30)


def test_a_window_that_reaches_beyond_the_end_is_shifted_back_to_fit() -> None:
    assert window_rows(steady(10, 38), 2.0, 4).tolist() == [[2, 7, 12, 17], [20, 25, 30, 35]]
    assert window_rows(steady(10, 15), 2.0, 4).tolist() == [[2, 7, 12, 14]]
    assert window_rows(steady(10, 15), 1.0, 2).tolist() == [[2, 7], [7, 12]]


def video(timestamps: Sequence[int], time_base: Fraction, last: int) -> VideoInfo:
    """Describe a video whose frames are shown at these ticks, the last one for `last` ticks."""
    end = timestamps[-1] + last
    fps = Fraction(len(timestamps)) / (end * time_base)
    ticks = np.array(timestamps, dtype=np.int64)
    return VideoInfo(Path("video"), 64, 48, fps, float(end * time_base), ticks, time_base, "h264", "mov", 0, "pyav")


def steady(fps: Fraction | int, frames: int) -> VideoInfo:
    """Describe a video of constant rate whose times are exact."""
    fps = Fraction(fps)
    step = fps.denominator
    return video(range(0, frames * step, step), Fraction(1, fps.numerator), step)


def published(path: str, table: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(shared_path(path).read_text())[table]
    return entries


def exact_rates() -> dict[str, Fraction]:
    return {entry["fps"]: Fraction(entry["fps_exact"]) for entry in published(CLIP_TABLE, "table")}


def test_resampling_equals_ffmpegs_fps_filter_on_every_published_video() -> None:
    for entry in published(CLIP_TABLE, "table"):
        info = steady(Fraction(entry["fps_exact"]), entry["n_frames"])
        frames = resampled_frames(info, Fraction(1, entry["clip_len"]))
        assert frames.tolist() == entry["frame_index"], entry
        assert len(frames) == entry["rows"]


def test_parity_image_rows_equal_the_published_ones_with_the_rule_for_short_videos() -> None:
    short = 0
    for entry in published(CLIP_TABLE, "table"):
        info = steady(Fraction(entry["fps_exact"]), entry["n_frames"])
        rule = entry.get("hero_short_rule", entry)
        short += "hero_short_rule" in entry
        assert image_rows(info, entry["clip_len"], "parity")[:, 0].tolist() == rule["frame_index"], entry
    assert short > 0


def test_clean_image_rows_equal_the_published_ones_where_no_video_is_short() -> None:
    for entry in published(CLIP_TABLE, "table"):
        if "hero_short_rule" not in entry:
            info = steady(Fraction(entry["fps_exact"]), entry["n_frames"])
            assert image_rows(info, entry["clip_len"])[:, 0].tolist() == entry["frame_index"], entry


def test_slowfast_indices_inside_a_clip_equal_the_published_ones() -> None:
    rates = exact_rates()
    for entry in published(SLOWFAST_TABLE, "index_lists"):
        indices = slowfast_parity_indices(rates[entry["fps"]], entry["clip_len"])
        assert indices.tolist() == entry["hero"], entry


def test_slowfast_source_frames_equal_the_published_ones_end_to_end() -> None:
    rates = exact_rates()
    for entry in published(SLOWFAST_TABLE, "end_to_end"):
        info = steady(rates[entry["fps"]], entry["n_frames"])
        rows = slowfast_parity_rows(info, entry["clip_len"])
        assert len(resampled_frames(info, Fraction(30))) == entry["frames30"]
        assert len(resampled_frames(info, Fraction(1, entry["clip_len"]))) == entry["clip_rows"]
        assert rows.shape == (entry["n_clips"], 32)
        for row, frames in entry["source_frames"].items():
            assert rows[int(row)].tolist() == frames, (entry["fps"], entry["n_frames"], row)


def test_frames_just_before_the_centre() -> None:
    assert image_rows(steady(30, 180), 2.0)[:, 0].tolist() == [29, 89, 149]
    assert image_rows(steady(30, 90), 1.0)[:, 0].tolist() == [14, 44, 74]
    assert image_rows(steady(25, 50), 1.0)[:, 0].tolist() == [12, 37]


def test_slowfast_clip_at_30_fps_is_every_second_frame_around_the_centre() -> None:
    row = clip_rows(steady(30, 300), 2.0, 32, SLOWFAST_SPAN)[2]
    assert np.diff(row).tolist() == [2] * 31
    assert row[0] + row[-1] == pytest.approx(2 * 149, abs=2)


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(24000, 1001), Fraction(60), Fraction(6119, 1000)])
def test_clean_clips_span_the_same_time_at_every_rate(fps: Fraction) -> None:
    info = steady(fps, int(20 * fps))
    row = clip_rows(info, 1.0, 32, SLOWFAST_SPAN)[10]
    times = row * float(1 / fps)
    middle_of_parts = 10.5 + float(SLOWFAST_SPAN) * ((np.arange(32) + 0.5) / 32 - 0.5)
    assert (times < middle_of_parts + 1e-9).all()
    assert (times >= middle_of_parts - float(1 / fps) - 1e-9).all()


def test_i3d_windows_hold_each_frame_once_at_24_fps_and_the_last_fits() -> None:
    info = steady(24, 24 * 3 + 14)
    rows = window_rows(info, 1.0, 24)
    assert rows[:3].tolist() == [list(range(24 * row, 24 * row + 24)) for row in range(3)]
    assert rows[3].tolist() == list(range(14 + 48, 14 + 72))
    short = window_rows(steady(24, 10), 1.0, 24)
    assert short.tolist() == [[*range(10), *[9] * 14]]


def test_c3d_intervals_are_consecutive_and_stay_inside() -> None:
    rows = interval_rows(steady(30, 300), 1.0, 128)
    assert (np.diff(rows, axis=1) == 1).all()
    assert rows.min() == 0
    assert rows.max() == 299
    assert rows[4].mean() == pytest.approx(134, abs=1)
    assert interval_rows(steady(30, 60), 1.0, 128)[:, -1].tolist() == [59, 59]


def test_frame_of_a_time_is_the_last_one_before_it_whatever_the_spacing() -> None:
    info = video([0, 100, 500, 510, 2000], Fraction(1, 1000), 40)
    times = [Fraction(0), Fraction(1, 10), Fraction(101, 1000), Fraction(1, 2), Fraction(19, 10), Fraction(3)]
    assert frames_before(info, times).tolist() == [0, 0, 1, 1, 3, 4]


def test_variable_rate_goes_by_time_not_by_count() -> None:
    dense_then_sparse = video([*range(0, 1000, 10), *range(1000, 3000, 500)], Fraction(1, 1000), 500)
    assert image_rows(dense_then_sparse, 1.0)[:, 0].tolist() == [49, 100, 102]
    assert image_rows(dense_then_sparse, 1.0, "parity")[:, 0].tolist() == [49, 100, 102]


def test_short_video_has_two_rows_in_parity_mode_and_one_in_clean_mode() -> None:
    info = steady(30, 30)
    assert image_rows(info, 2.0, "parity")[:, 0].tolist() == [7, 22]
    assert parity_row_length(info, 2.0) == Fraction(1, 2)
    assert image_rows(info, 2.0).tolist() == [[14]]
    assert parity_row_length(steady(30, 300), 2.0) == 2


def test_single_frame_gives_one_row_everywhere() -> None:
    info = steady(100, 1)
    tables = [
        image_rows(info, 2.0),
        image_rows(info, 2.0, "parity"),
        clip_rows(info, 2.0, 32, SLOWFAST_SPAN),
        window_rows(info, 1.0, 24),
        interval_rows(info, 1.0, 128),
        slowfast_parity_rows(info, 1.0),
    ]
    assert all((table == 0).all() and len(table) == 1 and table.dtype == np.int64 for table in tables)


def test_clip_lengths_are_taken_for_the_fraction_that_was_meant() -> None:
    assert exact_seconds(1 / 6) == Fraction(1, 6)
    assert exact_seconds(0.04) == Fraction(1, 25)
    assert row_count(steady(24, 24 * 30), 1 / 6) == 180
    assert image_rows(steady(24, 24), 1 / 6)[:, 0].tolist() == [1, 5, 9, 13, 17, 21]


@pytest.mark.parametrize("clip_len", [0.0, -1.0])
def test_clip_length_must_be_positive(clip_len: float) -> None:
    with pytest.raises(EncoderError, match="more than 0"):
        image_rows(steady(30, 30), clip_len)


def test_parity_slowfast_needs_whole_seconds() -> None:
    with pytest.raises(EncoderError, match="whole seconds"):
        slowfast_parity_rows(steady(30, 90), 1.5)


@st.composite
def any_video(draw: st.DrawFn) -> VideoInfo:
    steps = draw(st.lists(st.integers(1, 4000), min_size=1, max_size=60))
    time_base = Fraction(1, draw(st.sampled_from([24, 1000, 15360, 90000])))
    return video([0, *np.cumsum(steps).tolist()], time_base, draw(st.integers(1, 4000)))


@settings(max_examples=60, deadline=None)
@given(any_video(), st.sampled_from([0.5, 1.0, 2.0, 1 / 6]))
def test_every_table_is_sound(info: VideoInfo, clip_len: float) -> None:
    tables = [
        image_rows(info, clip_len),
        image_rows(info, clip_len, "parity"),
        clip_rows(info, clip_len, 8, 1.0),
        window_rows(info, clip_len, 6),
        interval_rows(info, clip_len, 4),
    ]
    for table in tables:
        assert table.min() >= 0
        assert table.max() < info.frame_count
        assert (np.diff(table, axis=1) >= 0).all()
        assert (np.diff(table[:, 0]) >= 0).all()
    counts = {len(table) for table in (tables[0], *tables[2:])}
    assert counts == {row_count(info, clip_len)}
    assert abs(counts.pop() * exact_seconds(clip_len) - exact_duration(info)) <= exact_seconds(clip_len)


@settings(max_examples=60, deadline=None)
@given(any_video(), st.sampled_from([0.5, 1.0, 2.0]))
def test_clean_image_row_is_the_frame_on_screen_at_the_centre(info: VideoInfo, clip_len: float) -> None:
    times = [int(tick) * info.time_base for tick in info.timestamps]
    length = exact_seconds(clip_len)
    for row, frame in enumerate(image_rows(info, clip_len)[:, 0].tolist()):
        centre = row * length + min(length, exact_duration(info)) / 2
        assert times[frame] < centre
        assert frame + 1 == len(times) or times[frame + 1] >= centre
