"""The order of the answers: what the overlap with the classified frames is, and when it counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from settings import SETTINGS

from mesm.model.batch import Targets
from mesm.model.losses import covered_share
from mesm.model.ranking import soft_iou
from mesm.model.spans import spans_to_windows
from mesm.pipeline.evaluate.postprocessing import temporal_iou


def test_overlap_with_certain_frames_is_the_iou_with_their_window() -> None:
    inside = torch.zeros(1, 12)
    inside[0, 3:7] = 1
    windows = torch.tensor([[[0.3, 0.7], [0.0, 1.0], [0.35, 0.45], [0.72, 0.95], [-0.5, 0.5], [0.0, 0.31]]])
    expected = temporal_iou(windows.clamp(0, 1).numpy(), np.array([0.3, 0.7]))
    np.testing.assert_allclose(soft_iou(windows, inside, torch.tensor([10])).numpy(), expected, atol=1e-6)


def test_overlap_counts_frames_by_their_probability() -> None:
    inside, window = torch.tensor([[0.5, 0.2, 0.8, 0.0]]), torch.tensor([[[0.125, 0.75]]])
    covered = 0.5 * 0.5 + 0.2 + 0.8
    expected = covered / (2.5 + 1.5 - covered)
    assert soft_iou(window, inside, torch.tensor([4])).item() == pytest.approx(expected)
    padded = torch.nn.functional.pad(inside, (0, 5))
    assert soft_iou(window, padded, torch.tensor([4])).item() == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "duration_s"), [(194, 250.0), (31, 30.0), (180, 30.0)])
@pytest.mark.parametrize("moment_s", [(10.0, 15.0), (10.2, 14.1), (28.5, 30.0), (0.0, 1.0)])
def test_the_moment_overlaps_fully_with_what_its_classifier_learns(
    rows: int, duration_s: float, moment_s: tuple[float, float]
) -> None:
    window = torch.tensor([[moment_s]]) / duration_s
    mask, nothing = torch.ones(1, rows, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.int64)
    learnt = covered_share(Targets(window, (1,), mask, mask.float(), nothing, nothing), mask)
    # A moment that begins inside a row is blurred to that row.
    blur = min(1.0, 2 * duration_s / rows / (moment_s[1] - moment_s[0]))
    assert float(soft_iou(window, learnt, mask.sum(1))) >= 1 - 0.5 * blur
    assert float(soft_iou(window, learnt, mask.sum(1))) > float(soft_iou(window + 0.1, learnt, mask.sum(1)))


def test_an_empty_window_overlaps_with_nothing() -> None:
    nothing = soft_iou(torch.tensor([[[0.5, 0.5], [1.0, 1.0]]]), torch.zeros(1, 3), torch.tensor([3]))
    assert nothing.tolist() == [[0, 0]]


def test_frames_reorder_the_answers_and_need_their_classifier() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    batch = setting.batch()
    network = setting.network(encoder_loss="bce").eval()
    output = network(batch)
    by_class, by_frames = (network.decode(output, batch, rank_by).scores for rank_by in ("class", "frames"))
    assert torch.equal(by_class, output.logits[0].softmax(-1)[..., 0])
    assert output.frame_logits is not None
    for query, video in enumerate(batch.video_of_query):
        rows = batch.frames.lengths[video]
        inside = output.frame_logits[query : query + 1, :rows].sigmoid()
        window = spans_to_windows(output.spans[0][query : query + 1])
        expected = by_class[query] * soft_iou(window, inside, torch.tensor([rows]))[0]
        torch.testing.assert_close(by_frames[query], expected)
    plain = setting.network().eval()
    with pytest.raises(ValueError, match="frame classifier"):
        plain.decode(plain(batch), batch, "frames")
