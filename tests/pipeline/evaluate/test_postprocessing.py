"""Windows come out as the published evaluation makes them, and stay in the video otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mesm.model.spans import exact_windows
from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.evaluate.postprocessing import (
    non_maximum_suppression,
    postprocess_windows,
    temporal_iou,
    windows_in_seconds,
)
from mesm.pipeline.evaluate.protocols import Protocol, find_protocol

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_metrics.json").read_text())
SETTINGS = sorted(GOLDEN)


@pytest.mark.parametrize("name", SETTINGS)
def test_published_postprocessing_is_met(name: str) -> None:
    setting = GOLDEN[name]
    raw = np.array([entry["pred_relevant_windows"] for entry in setting["raw"]])
    expected = np.array([entry["pred_relevant_windows"] for entry in setting["post"]])
    durations = np.array([entry["duration"] for entry in setting["gt"]])
    protocol = find_protocol(setting["dataset"], published=True, clip_len_s=setting["clip_len"])
    assert (protocol.max_s, protocol.nms_iou) == (setting["max_ts"], None)
    np.testing.assert_allclose(postprocess_windows(raw, durations, protocol), expected, atol=5e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_published_suppression_is_met(name: str) -> None:
    setting = GOLDEN[name]
    for post, expected in zip(setting["post"], setting["nms_0p7"], strict=False):
        windows = np.array(post["pred_relevant_windows"])
        kept = windows[non_maximum_suppression(windows[None], 0.7)[0]]
        np.testing.assert_array_equal(kept, np.array(expected))


def test_spans_become_seconds_best_first() -> None:
    spans = np.array([[[0.5, 0.2], [0.25, 0.5]]], np.float32)
    found = windows_in_seconds(
        exact_windows(torch.from_numpy(spans)).numpy(),
        np.array([[0.1, 0.7]], np.float32),
        np.array([20.0]),
        Protocol("any"),
    )
    np.testing.assert_allclose(found, [[[0, 10, 0.7], [8, 12, 0.1]]])


def test_without_a_constant_windows_are_clamped_to_their_video() -> None:
    windows = np.array([[[-3, 50, 1.0]], [[10, 200, 1.0]]])
    found = postprocess_windows(windows, np.array([30.0, 120.0]), Protocol("any"))
    np.testing.assert_array_equal(found, [[[0, 30, 1]], [[10, 120, 1]]])


def test_suppression_is_applied_when_the_protocol_asks() -> None:
    windows = np.array([[[0, 10, 0.9], [0, 9, 0.8], [20, 30, 0.7]]])
    found = postprocess_windows(windows, np.array([30.0]), Protocol("any", nms_iou=0.7))
    np.testing.assert_array_equal(found[0], [[0, 10, 0.9], [20, 30, 0.7]])


@given(seed=st.integers(0, 10**6), threshold=st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_suppression_keeps_the_best_and_no_two_alike(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    windows = np.sort(rng.uniform(0, 30, (4, 10, 2)), axis=2)
    keep = non_maximum_suppression(windows, threshold)
    assert keep[:, 0].all()
    for rows, kept in zip(windows, keep, strict=True):
        overlap = temporal_iou(rows[kept][:, None], rows[kept][None])
        assert (overlap - np.eye(len(overlap)) <= threshold).all()
        for dropped in np.flatnonzero(~kept):
            better = [i for i in np.flatnonzero(kept) if i < dropped]
            assert temporal_iou(rows[better], rows[dropped]).max() > threshold


def test_iou_of_empty_turned_or_distant_windows_is_zero() -> None:
    one = np.array([[3, 3], [5, 2], [0, 1]], float)
    assert (temporal_iou(one, np.array([[3, 3], [2, 5], [4, 6]], float)) == 0).all()


def test_rounding_needs_the_clip_length() -> None:
    with pytest.raises(ConfigError, match="clip_len_s"):
        find_protocol("charades", published=True)
    with pytest.raises(ConfigError, match="expected one of"):
        find_protocol("movies")
