"""Losses that networks share, each a mean over the N queries of a batch unless it says otherwise.

Sources: the formulas of the published code, from which the published numbers come; where they differ from the paper,
the docstring says so. `encoder_loss: bce` follows equation 6 of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mesm.model.batch import Batch, Targets
from mesm.model.layouts import Layout
from mesm.model.matcher import Pairs, match
from mesm.model.spans import generalised_iou, spans_to_windows, windows_to_spans

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


class SpanWeights(Protocol):
    """Weights of the losses of spans, which double as the costs of their matching."""

    @property
    def span(self) -> float:
        """Of the L1 distance."""

    @property
    def giou(self) -> float:
        """Of one minus the generalised IoU."""

    @property
    def label(self) -> float:
        """Of the classification."""

    @property
    def background_weight(self) -> float:
        """Of spans that answer for no window, in the classification."""


def assign_spans(logits: list[Tensor], spans: list[Tensor], batch: Batch, weights: SpanWeights) -> Pairs:
    """Say which spans answer for which windows, in every decoder layer; several windows a query wait for the device.

    logits, spans: (N, Q, 2) of each layer.
    """
    targets = targets_of(batch)
    return match(
        torch.stack(logits),
        torch.stack(spans),
        targets.windows,
        targets.window_counts,
        weights.span,
        weights.giou,
        weights.label,
    )


def targets_of(batch: Batch) -> Targets:
    """Return the batch's targets; ValueError when it has none."""
    if batch.targets is None:
        raise ValueError("losses need a batch with targets")
    return batch.targets


def losses_of_layers(
    logits: list[Tensor], spans: list[Tensor], batch: Batch, pairs: Pairs, weights: SpanWeights
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Compute span, giou and label of every decoder layer; those below the last get the suffix `_<layer>`.

    logits, spans: (N, Q, 2) of each layer, the last one first. Returns the losses and their weights.
    """
    losses: dict[str, Tensor] = {}
    factors: dict[str, float] = {}
    values = span_losses(torch.stack(logits), torch.stack(spans), targets_of(batch), pairs, weights.background_weight)
    for name, layers in values.items():
        for i, value in enumerate(layers.unbind()):
            key = name if i == 0 else f"{name}_{i - 1}"
            losses[key], factors[key] = value, getattr(weights, name)
    return losses, factors


def add_total(losses: dict[str, Tensor], factors: Mapping[str, float], share: Share) -> dict[str, Tensor]:
    """Take this process's share of every loss, and add `total`, their sum weighted by `factors`."""
    if share is not WHOLE:
        by_windows = ("span", "giou")
        losses = {k: v * (share.windows if k.startswith(by_windows) else share.queries) for k, v in losses.items()}
    return {**losses, "total": torch.stack([factors[k] * v for k, v in losses.items()]).sum()}


def span_losses(
    logits: Tensor, spans: Tensor, targets: Targets, pairs: Pairs, background_weight: float
) -> dict[str, Tensor]:
    """L1 and generalised IoU of the matched spans, and cross-entropy of all of them, for each of K decoder layers.

    logits, spans: (K, N, Q, 2). Three tensors (K,). span: mean |difference| over matched spans and both coordinates;
    giou: mean of 1 - GIoU; label: plain mean of the weighted cross-entropy over N * Q (class 0 = moment).
    """
    query, span, window = pairs
    layer = torch.arange(logits.shape[0], device=logits.device)[:, None]
    matched, truth = spans[layer, query, span], targets.windows[query, window]
    label = torch.ones(logits.shape[:3], dtype=torch.int64, device=logits.device)
    label[layer, query, span] = 0
    weight = torch.full_like(logits[..., 0], background_weight).masked_fill(label == 0, 1.0)
    probability = logits.log_softmax(-1).gather(-1, label[..., None]).squeeze(-1)
    return {
        "span": (matched - windows_to_spans(truth)).abs().mean((1, 2)),
        "giou": (1 - generalised_iou(spans_to_windows(matched), truth)).mean(1),
        "label": -(weight * probability).mean((1, 2)),
    }


def silence_loss(negative: Tensor, mask: Tensor) -> Tensor:
    """All frames score low for a query that is not theirs (QD-DETR): -log(1 - sigmoid), summed over frames; (N, L).

    Written so that it cannot overflow, as the published form does above scores of 17.
    """
    return (F.softplus(negative) * mask).sum(1).mean()


def margin_loss(score: Tensor, targets: Targets, margin: float) -> Tensor:
    """Chosen frames of the moment score higher than others by a margin (Moment-DETR); score: (N, L).

    Twice the mean over N queries and 2 pairs. ValueError when the targets hold no pairs.
    """
    if targets.positive is None or targets.negative is None:
        raise ValueError("the triplet term needs the positive and negative frames of each query")
    gap = score.gather(1, targets.negative) - score.gather(1, targets.positive)
    return 2 * F.relu(margin + gap).mean()


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
    video: Tensor,
    text: Tensor,
    text_mask: Tensor,
    batch: Batch,
    temperature: float,
    least_iou: float,
    gather: Callable[[Tensor], Tensor] = WHOLE.gather,
) -> Tensor:
    """Contrast of segments with completed sentences (MESM's L_ss; its equation 5 sums before the logarithm).

    Segment: mean of the projected frames inside the moment; sentence: mean of the token and the words. See `contrast`.
    video: (V, L, D), zeros at padding; text: (N, W, D); text_mask: (N, W); gather: adds other processes' sentences.
    """
    targets = targets_of(batch)
    inside = targets.clip_mask.to(video.dtype)
    # Frames of a shared video are weighted where they lie instead of being copied for each query.
    numbers = torch.arange(video.shape[0], device=video.device)
    own = (batch.plan.video[: batch.count, None] == numbers).to(video.dtype)
    segment = (own[:, :, None] * inside[:, None, :]).flatten(1) @ video.flatten(0, 1)
    segment = segment / inside.sum(1, keepdim=True)
    weight = text_mask.to(text.dtype)
    sentence = torch.einsum("nw,nwd->nd", weight, text) / weight.sum(1, keepdim=True)
    window, group = hull_windows(targets), batch.plan.group[: batch.count]
    others = None if gather is WHOLE.gather else (gather(window), gather(group))
    return contrast(segment, gather(sentence), window, group, temperature, least_iou, others)


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
    temperature: float,
    least_iou: float,
    others: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Contrast of segments (N, D) with sentences (M, D): minus the mean log-probability of each segment's positives.

    Softmax of cosine / temperature over the sentences; positives: same group, and windows of generalised IoU >=
    `least_iou`.

    window: (N, 2) and group: (N,) of the segments; others: (M, 2) and (M,) of the sentences, None: the same queries.
    """
    other_window, other_group = (window, group) if others is None else others
    similarity = F.normalize(segment, dim=-1) @ F.normalize(sentence, dim=-1).T
    log_probability = (similarity / temperature).log_softmax(1)
    overlap = generalised_iou(window[:, None], other_window[None]) >= least_iou
    positive = (overlap & (group[:, None] == other_group[None])).to(segment.dtype)
    return -((positive * log_probability).sum(1) / positive.sum(1)).mean()
