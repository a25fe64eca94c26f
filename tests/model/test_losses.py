"""Every loss beside a slow, direct form of its formula."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from settings import SETTINGS
from torch import Tensor

from mesm.model.batch import Targets
from mesm.model.layouts import Layout
from mesm.model.losses import (
    contrast,
    covered_share,
    frame_loss,
    hull_windows,
    margin_loss,
    rank_loss,
    silence_loss,
    span_losses,
    word_loss,
)
from mesm.model.matcher import match
from mesm.model.networks.mesm import MesmLosses


def targets(windows: Tensor, counts: tuple[int, ...], clip_mask: Tensor, saliency: Tensor | None = None) -> Targets:
    labels = clip_mask.float() if saliency is None else saliency
    frames = torch.zeros(len(counts), 2, dtype=torch.int64)
    return Targets(windows, counts, clip_mask, labels, frames, frames + 1)


def losses_of_one_layer(logits: Tensor, spans: Tensor, truth: Targets) -> dict[str, Tensor]:
    config = MesmLosses()
    logits, spans = logits[None], spans[None]
    pairs = match(logits, spans, truth.windows, truth.window_counts, config.span, config.giou, config.label)
    found = span_losses(logits, spans, truth, pairs, config.background_weight)
    return {name: value[0] for name, value in found.items()}


def test_span_losses_of_one_window() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.0, 0.0], [-1.0, 1.0]]])
    spans = torch.tensor([[[0.4, 0.2], [0.9, 0.1], [0.1, 0.1]]])
    truth = targets(torch.tensor([[[0.3, 0.6]]]), (1,), torch.ones(1, 4, dtype=torch.bool))
    losses = losses_of_one_layer(logits, spans, truth)
    assert float(losses["span"]) == pytest.approx((0.05 + 0.1) / 2)
    assert float(losses["giou"]) == pytest.approx(1 - 0.2 / 0.3, abs=1e-6)
    nll = -logits[0].log_softmax(-1)
    expected = (nll[0, 0] + 0.1 * nll[1, 1] + 0.1 * nll[2, 1]) / 3
    assert float(losses["label"]) == pytest.approx(float(expected))


def test_span_losses_of_several_windows_are_means_over_matched_spans() -> None:
    spans = torch.tensor([[[0.2, 0.2], [0.7, 0.2], [0.5, 0.9]], [[0.5, 0.4], [0.1, 0.1], [0.9, 0.1]]])
    windows = torch.tensor([[[0.6, 0.9], [0.1, 0.3]], [[0.3, 0.7], [0.0, 1.0]]])
    truth = targets(windows, (2, 1), torch.ones(2, 4, dtype=torch.bool))
    losses = losses_of_one_layer(torch.zeros(2, 3, 2), spans, truth)
    # Off by (0.05, 0.1) in one of the three matched spans, exact in the others.
    assert float(losses["span"]) == pytest.approx(0.15 / 6)
    assert float(losses["giou"]) == pytest.approx((1 - 0.2 / 0.3) / 3, abs=1e-6)
    assert float(losses["label"]) == pytest.approx(math.log(2) * (3 + 3 * 0.1) / 6)


def test_rank_loss_sums_levels_and_skips_levels_without_frames() -> None:
    torch.manual_seed(0)
    score, negative = torch.randn(3, 5), torch.randn(3, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    label = torch.tensor([[0, 3, 12, 0, 1], [0, 2, 2, 0, 0], [0, 0, 0, 0, 0]]).float()
    expected = 0.0
    for n in range(3):
        valid = [*(score[n][mask[n]] / 0.5).tolist(), *(negative[n][mask[n]] / 0.5).tolist()]
        normaliser = math.log(sum(math.exp(x) for x in valid))
        for level in range(1, 12):
            chosen = [i for i in range(5) if mask[n, i] and label[n, i] >= level]
            if chosen:
                expected -= sum(float(score[n, i]) / 0.5 - normaliser for i in chosen) / len(chosen) / 3
    assert float(rank_loss(score, negative, mask, label, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_labels_of_zero_and_one_use_the_first_level_only() -> None:
    torch.manual_seed(0)
    score, negative, mask = torch.randn(2, 6), torch.randn(2, 6), torch.ones(2, 6, dtype=torch.bool)
    label = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]).float()
    log_probability = (torch.cat((score, negative), 1) / 0.5).log_softmax(1)
    expected = -(log_probability[0, 1:3].mean() + log_probability[1, 0]) / 2
    assert float(rank_loss(score, negative, mask, label, 0.5)) == pytest.approx(float(expected), rel=1e-5)


def test_negative_scores_do_not_overflow() -> None:
    score = torch.zeros(1, 3)
    negative = torch.tensor([[200.0, 0.0, 500.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    label = torch.tensor([[1.0, 0.0, 0.0]])
    loss = silence_loss(negative, mask) + 0 * rank_loss(score, negative, mask, label, 0.5)
    assert loss.detach().item() == pytest.approx(200 + math.log(2), rel=1e-5)
    loss.backward()
    assert negative.grad is not None
    assert torch.isfinite(negative.grad).all()
    assert negative.grad[0, 2] == 0


def test_triplet_compares_chosen_frames() -> None:
    score = torch.tensor([[0.5, 0.6, -1.0]])
    truth = targets(torch.tensor([[[0.0, 0.5]]]), (1,), torch.tensor([[True, False, False]]))
    truth = replace(truth, positive=torch.tensor([[0, 0]]), negative=torch.tensor([[1, 2]]))
    assert float(margin_loss(score, truth, 0.2)) == pytest.approx(2 * (0.2 + 0.1) / 2, rel=1e-5)


def test_triplet_without_frames_is_refused() -> None:
    truth = targets(torch.tensor([[[0.0, 0.5]]]), (1,), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="triplet"):
        margin_loss(torch.zeros(1, 3), replace(truth, positive=None), 0.2)


def test_frames_are_covered_by_their_share_of_the_windows() -> None:
    windows = torch.tensor([[[0.25, 0.55], [0.0, 1.0]], [[0.05, 0.15], [0.5, 1.0]], [[0.0, 1.0], [0.2, 0.6]]])
    mask = torch.ones(3, 10, dtype=torch.bool)
    mask[2, 4:] = False
    share = covered_share(targets(windows, (1, 2, 2), mask), mask)
    expected = [
        [0, 0, 0.5, 1, 1, 0.5, 0, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
    ]
    torch.testing.assert_close(share, torch.tensor(expected))


def test_frame_loss_is_a_mean_over_frames_then_queries() -> None:
    logits = torch.tensor([[1.0, -2.0, 9.0], [0.5, 0.0, -1.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    inside = torch.tensor([[True, False, False], [False, True, True]])
    first = (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2
    second = (math.log1p(math.exp(0.5)) + math.log(2) + math.log1p(math.exp(1))) / 3
    assert float(frame_loss(logits, mask, inside)) == pytest.approx((first + second) / 2, rel=1e-6)


def test_word_loss_smooths_over_all_classes_and_ignores_padding() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, 0], [6, 0, 0]])
    layout = Layout([2, 1], width=3)
    log_probability = logits.log_softmax(-1)

    def word(n: int, i: int) -> float:
        return float(-0.9 * log_probability[n, i, labels[n, i]] - 0.1 / 7 * log_probability[n, i].sum())

    expected = ((word(0, 0) + word(0, 1)) / 2 + word(1, 0)) / 2
    assert float(word_loss(layout.pack(logits), labels, layout, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_hull_spans_all_windows_of_a_query() -> None:
    windows = torch.tensor([[[0.5, 0.6], [0.1, 0.3]], [[0.4, 0.5], [0.0, 1.0]]])
    truth = targets(windows, (2, 1), torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(hull_windows(truth), torch.tensor([[0.1, 0.6], [0.4, 0.5]]))


def test_contrast_takes_overlapping_moments_of_a_group_as_positives() -> None:
    torch.manual_seed(0)
    segment, sentence = torch.randn(4, 6), torch.randn(4, 6)
    # 0 and 1 overlap by 0.9 in the same group, 2 by less, 3 equals 0 in another group.
    window = torch.tensor([[0.0, 0.50], [0.0, 0.451], [0.0, 0.449], [0.0, 0.50]])
    group = torch.tensor([0, 0, 0, 1])
    logits = F.normalize(segment, dim=-1) @ F.normalize(sentence, dim=-1).T / 0.5
    log_probability = logits.log_softmax(1)
    positives = {0: [0, 1], 1: [0, 1, 2], 2: [1, 2], 3: [3]}
    expected = -sum(float(log_probability[n, chosen].mean()) for n, chosen in positives.items()) / 4
    assert float(contrast(segment, sentence, window, group, 0.5, 0.9)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_total_weighs_every_part(name: str) -> None:
    setting = SETTINGS[name]
    config, batch = setting.loss, setting.batch()
    network = setting.network().eval()
    losses = network.losses(network(batch), batch, config)
    expected = sum(
        getattr(config, key.removesuffix("_0")) * float(value) for key, value in losses.items() if key != "total"
    )
    assert float(losses["total"]) == pytest.approx(expected, rel=1e-5)
    assert set(losses) == {
        "span",
        "giou",
        "label",
        "span_0",
        "giou_0",
        "label_0",
        "saliency",
        "rebuild_words",
        "segment_sentence",
        "total",
    }


def test_losses_without_targets_are_refused() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    batch = setting.batch()
    network = setting.network().eval()
    output = network(batch)
    with pytest.raises(ValueError, match="targets"):
        network.losses(output, replace(batch, targets=None), setting.loss)
