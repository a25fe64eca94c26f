"""Spans, windows and their overlap."""

from __future__ import annotations

import pytest
import torch

from mesm.model.spans import generalised_iou, inverse_sigmoid, spans_to_windows, windows_to_spans


def test_windows_and_spans_convert_both_ways() -> None:
    windows = torch.tensor([[0.1, 0.5], [0.0, 1.0], [0.3, 0.3]])
    assert torch.allclose(windows_to_spans(windows), torch.tensor([[0.3, 0.4], [0.5, 1.0], [0.3, 0.0]]))
    assert torch.allclose(spans_to_windows(windows_to_spans(windows)), windows)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.2, 0.6), (0.2, 0.6), 1.0),
        ((0.0, 0.5), (0.25, 0.75), 1 / 3),
        ((0.0, 0.4), (0.4, 0.8), 0.0),
        ((0.0, 0.1), (0.9, 1.0), -0.8),
        ((0.0, 1.0), (0.4, 0.6), 0.2),
    ],
)
def test_generalised_iou_of_known_windows(a: tuple[float, float], b: tuple[float, float], expected: float) -> None:
    first, second = torch.tensor(a), torch.tensor(b)
    assert float(generalised_iou(first, second)) == pytest.approx(expected, abs=1e-6)
    assert float(generalised_iou(second, first)) == pytest.approx(expected, abs=1e-6)


def test_logits_stay_finite_at_the_ends() -> None:
    x = torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5])
    logits = inverse_sigmoid(x)
    assert torch.isfinite(logits).all()
    assert float(logits[2].sigmoid()) == pytest.approx(0.25)
    assert float(logits[1]) == pytest.approx(-float(logits[3]))
