"""The losses of MESM, each a mean over the N queries of a batch unless it says otherwise.

Sources: the formulas of the published code, from which the published numbers come; where they differ from the paper,
the docstring says so. `encoder_loss: bce` follows equation 6 of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.batch import Batch, Targets
from mesm.model.layouts import Layout
from mesm.model.matcher import Pairs, match
from mesm.model.networks.mesm import Output
from mesm.model.spans import generalised_iou, spans_to_windows, windows_to_spans


@dataclass(frozen=True)
class LossConfig:
    """Weights and constants. The defaults are the published setting for Charades-STA."""

    span: float = 10.0
    giou: float = 1.0
    label: float = 4.0
    saliency: float = 4.0
    frame: float = 4.0
    """Weight of the frame classifier's loss (`encoder_loss: bce`)."""
    rank_divisor: float = 12.0
    triplet: bool = False
    rebuild_words: float = 0.1
    segment_sentence: float = 0.1
    background_weight: float = 0.1
    """Weight of spans that answer for no window in the classification."""
    contrast_iou: float = 0.9
    """Queries of a group whose moments' generalised IoU reaches this are positives of each other."""
    temperature: float = 0.5
    margin: float = 0.2
    label_smoothing: float = 0.1


RANK_LEVELS = 11
"""Saliency labels reach 12 (three annotators, 0 to 4 each); a frame is a positive of level r when its label is >= r."""


@dataclass(frozen=True)
class Share:
    """What a process of several has of a batch, so that the sum of everybody's losses is that of the whole batch."""

    queries: float = 1.0
    """Share of the batch's queries."""
    windows: float = 1.0
    """Share of the batch's windows, over which span and giou are means."""
    gather: Callable[[Tensor], Tensor] = lambda x: x
    """Join rows of all processes in their order, with gradients."""


WHOLE = Share()


def compute_losses(output: Output, batch: Batch, config: LossConfig, share: Share = WHOLE) -> dict[str, Tensor]:
    """Compute every loss that the batch has targets for; the layers below the last get the suffix `_<layer>`.

    Returns scalars: span, giou, label, saliency, frame, rebuild_words, segment_sentence (those that apply), and
    `total`, their weighted sum. With a `share` of a batch, they are this process's part of the sum.
    """
    return matched_losses(output, batch, config, match_spans(output, batch, config), share)


def match_spans(output: Output, batch: Batch, config: LossConfig) -> Pairs:
    """Say which spans answer for which windows, in every decoder layer; several a query wait for the device."""
    if batch.targets is None:
        raise ValueError("losses need a batch with targets")
    logits, spans = torch.stack(output.logits), torch.stack(output.spans)
    targets = batch.targets
    return match(logits, spans, targets.windows, targets.window_counts, config.span, config.giou, config.label)


def matched_losses(
    output: Output, batch: Batch, config: LossConfig, pairs: Pairs, share: Share = WHOLE
) -> dict[str, Tensor]:
    """Compute the losses of `compute_losses` for spans that are matched already: nothing but tensor operations."""
    assert batch.targets is not None
    losses: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    logits, spans = torch.stack(output.logits), torch.stack(output.spans)
    for name, values in span_losses(logits, spans, batch.targets, pairs, config).items():
        for i, value in enumerate(values.unbind()):
            key = name if i == 0 else f"{name}_{i - 1}"
            losses[key], weights[key] = value, getattr(config, name)
    if output.negative_saliency is not None:
        losses["saliency"] = saliency_loss(
            output.saliency, output.negative_saliency, batch.query_mask(), batch.targets, config
        )
    if output.frame_logits is not None:
        mask = batch.query_mask()
        losses["frame"] = frame_loss(output.frame_logits, mask, covered_share(batch.targets, mask))
    if output.word_logits is not None and batch.word_mask is not None:
        losses["rebuild_words"] = word_loss(
            output.word_logits, batch.word_mask.labels, batch.plan.words, config.label_smoothing
        )
    if output.segment_token is not None:
        losses["segment_sentence"] = segment_sentence_loss(output, batch, config, share.gather)
    if share is not WHOLE:
        by_windows = ("span", "giou")
        losses = {k: v * (share.windows if k.startswith(by_windows) else share.queries) for k, v in losses.items()}
    losses["total"] = torch.stack(
        [(weights[k] if k in weights else getattr(config, k)) * v for k, v in losses.items()]
    ).sum()
    return losses


def span_losses(logits: Tensor, spans: Tensor, targets: Targets, pairs: Pairs, config: LossConfig) -> dict[str, Tensor]:
    """L1 and generalised IoU of the matched spans, and cross-entropy of all of them, for each of K decoder layers.

    logits, spans: (K, N, Q, 2). Three tensors (K,). span: mean |difference| over matched spans and both coordinates;
    giou: mean of 1 - GIoU; label: plain mean of the weighted cross-entropy over N * Q (class 0 = moment).
    """
    query, span, window = pairs
    layer = torch.arange(logits.shape[0], device=logits.device)[:, None]
    matched, truth = spans[layer, query, span], targets.windows[query, window]
    label = torch.ones(logits.shape[:3], dtype=torch.int64, device=logits.device)
    label[layer, query, span] = 0
    weight = torch.full_like(logits[..., 0], config.background_weight).masked_fill(label == 0, 1.0)
    probability = logits.log_softmax(-1).gather(-1, label[..., None]).squeeze(-1)
    return {
        "span": (matched - windows_to_spans(truth)).abs().mean((1, 2)),
        "giou": (1 - generalised_iou(spans_to_windows(matched), truth)).mean(1),
        "label": -(weight * probability).mean((1, 2)),
    }


def saliency_loss(score: Tensor, negative: Tensor, mask: Tensor, targets: Targets, config: LossConfig) -> Tensor:
    """Frames of the moment score high, all frames score low for a negative query (QD-DETR); all tensors (N, L).

    rank / rank_divisor + negative (+ triplet). The negative term is -log(1 - sigmoid), written so that it cannot
    overflow.
    """
    low = (F.softplus(negative) * mask).sum(1).mean()
    loss = rank_loss(score, negative, mask, targets.saliency, config.temperature) / config.rank_divisor + low
    if config.triplet:
        if targets.positive is None or targets.negative is None:
            raise ValueError("the triplet term needs the positive and negative frames of each query")
        gap = score.gather(1, targets.negative) - score.gather(1, targets.positive)
        loss = loss + 2 * F.relu(config.margin + gap).mean()
    return loss


def rank_loss(score: Tensor, negative: Tensor, mask: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Contrast of frames with label >= r to all other frames and to the negative query's, summed over r = 1..11.

    score, negative, mask, label: (N, L). A level that no frame of a query reaches adds nothing for it; levels are
    means over all N queries.
    """
    both = torch.cat((score, negative), dim=1) / temperature
    both = both.masked_fill(~mask.repeat(1, 2), -2000.0)
    log_probability = both.log_softmax(1)[:, : score.shape[1]]
    levels = torch.arange(1, RANK_LEVELS + 1, device=score.device)
    positive = ((label[:, None] >= levels[:, None]) & mask[:, None]).to(score.dtype)
    count = positive.sum(-1)
    mean = torch.einsum("nrl,nl->nr", positive, log_probability) / count.clamp(min=1e-6)
    return -mean.mean(0).sum()


def frame_loss(logits: Tensor, mask: Tensor, inside: Tensor) -> Tensor:
    """Binary cross-entropy of each valid frame being inside the moment (equation 6); tensors (N, L)."""
    loss = F.binary_cross_entropy_with_logits(logits, inside.to(logits.dtype), reduction="none")
    return ((loss * mask).sum(1) / mask.sum(1)).mean()


def covered_share(targets: Targets, mask: Tensor) -> Tensor:
    """(N, L): which share of each frame's time the query's windows cover; mask: (N, L), its valid frames.

    Frames share the duration evenly. `Targets.clip_mask` holds whole rows instead, the last one included, as the
    published losses take them, and counts them in seconds even where rows were pooled.
    """
    rows = mask.sum(1)[:, None, None]
    place = torch.arange(mask.shape[1], device=mask.device)
    start, end = (targets.windows * rows).unsqueeze(-1).unbind(2)
    share = (torch.minimum(end, place + 1) - torch.maximum(start, place)).clamp(min=0)
    return (share * targets.window_mask[..., None]).sum(1).clamp(max=1) * mask


def word_loss(logits: Tensor, labels: Tensor, layout: Layout, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing over all valid words, masked or not; (T, classes) and (N, W).

    Mean over the words of a query, then over queries. The smoothed share spreads over all classes.
    """
    chosen = layout.pack(labels[..., None]).squeeze(1)
    loss = F.cross_entropy(logits, chosen, reduction="none", label_smoothing=smoothing)
    return (loss / layout.length_of_row).sum() / layout.mask.shape[0]


def segment_sentence_loss(
    output: Output, batch: Batch, config: LossConfig, gather: Callable[[Tensor], Tensor] = WHOLE.gather
) -> Tensor:
    """Contrast of segments with completed sentences (L_ss; the paper's equation 5 sums before the logarithm).

    Segment: mean of the projected frames inside the moment; sentence: mean of the token and the words. Softmax of
    their cosine / temperature over the batch's sentences; positives: same group and generalised IoU >= contrast_iou;
    minus the mean of the positives' log-probabilities, over all segments. `gather` adds other processes' sentences.
    """
    assert batch.targets is not None
    targets = batch.targets
    video = output.projected_video
    inside = targets.clip_mask.to(video.dtype)
    # Frames of a shared video are weighted where they lie instead of being copied for each query.
    numbers = torch.arange(video.shape[0], device=video.device)
    own = (batch.plan.video[: batch.count, None] == numbers).to(video.dtype)
    segment = (own[:, :, None] * inside[:, None, :]).flatten(1) @ video.flatten(0, 1)
    segment = segment / inside.sum(1, keepdim=True)
    weight = output.text_mask.to(output.text.dtype)
    sentence = torch.einsum("nw,nwd->nd", weight, output.text) / weight.sum(1, keepdim=True)
    window, group = hull_windows(targets), batch.plan.group[: batch.count]
    others = None if gather is WHOLE.gather else (gather(window), gather(group))
    return contrast(segment, gather(sentence), window, group, config, others)


def hull_windows(targets: Targets) -> Tensor:
    """(N, 2): from the first start to the last end of each query's windows."""
    valid = targets.window_mask
    start = targets.windows[..., 0].masked_fill(~valid, float("inf")).amin(1)
    end = targets.windows[..., 1].masked_fill(~valid, float("-inf")).amax(1)
    return torch.stack((start, end), dim=-1)


def contrast(
    segment: Tensor,
    sentence: Tensor,
    window: Tensor,
    group: Tensor,
    config: LossConfig,
    others: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute the contrast of `segment_sentence_loss`: segment (N, D), sentence (M, D), windows and groups of both.

    window: (N, 2) and group: (N,) of the segments; others: (M, 2) and (M,) of the sentences, None: the same queries.
    """
    other_window, other_group = (window, group) if others is None else others
    similarity = F.normalize(segment, dim=-1) @ F.normalize(sentence, dim=-1).T
    log_probability = (similarity / config.temperature).log_softmax(1)
    overlap = generalised_iou(window[:, None], other_window[None]) >= config.contrast_iou
    positive = (overlap & (group[:, None] == other_group[None])).to(segment.dtype)
    return -((positive * log_probability).sum(1) / positive.sum(1)).mean()
