"""The losses of the plain form of the network, written as the published code states them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mesm.model.networks.mesm import MesmLosses
from mesm.tools.reference_batch import PlainBatch


def window_giou(a: Tensor, b: Tensor) -> Tensor:
    """(P, 2) and (M, 2) windows to (P, M) generalised IoU."""
    a, b = a[:, None], b[None]
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    inner = (torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])).clamp(min=0)
    union = a[..., 1] - a[..., 0] + b[..., 1] - b[..., 0] - inner
    return inner / union - (hull - union) / hull


def to_windows(spans: Tensor) -> Tensor:
    """(..., 2) centre and width to start and end."""
    return torch.stack((spans[..., 0] - spans[..., 1] / 2, spans[..., 0] + spans[..., 1] / 2), dim=-1)


def reference_losses(out: dict[str, Tensor], batch: PlainBatch, config: MesmLosses) -> dict[str, Tensor]:
    """The losses under their published names, and `total`."""
    losses = dict(_span_losses(out["pred_logits"], out["pred_spans"], batch, config))
    for i in range(sum(name.startswith("aux_outputs") for name in out) // 2):
        aux = (out[f"aux_outputs/{i}/pred_logits"], out[f"aux_outputs/{i}/pred_spans"])
        losses |= {f"{name}_{i}": value for name, value in _span_losses(*aux, batch, config).items()}
    losses["loss_saliency"] = _saliency_loss(out, batch, config)
    if "recfw_words_logit" in out:
        losses["loss_rec_fw"] = _word_loss(out["recfw_words_logit"], batch, config)
    losses["loss_rec_ss"] = _segment_sentence_loss(out, batch, config)
    weights = {
        "loss_span": config.span,
        "loss_giou": config.giou,
        "loss_label": config.label,
        "loss_saliency": config.saliency,
        "loss_rec_fw": config.rebuild_words,
        "loss_rec_ss": config.segment_sentence,
    }
    losses["total"] = sum((weights[name.removesuffix("_0")] * value for name, value in losses.items()), torch.zeros(()))
    return losses


def _span_losses(logits: Tensor, spans: Tensor, batch: PlainBatch, config: MesmLosses) -> dict[str, Tensor]:
    l1, giou, label = [], [], torch.ones(logits.shape[:2], dtype=torch.int64, device=logits.device)
    for i, windows in enumerate(batch.windows):
        truth = torch.stack(((windows[:, 0] + windows[:, 1]) / 2, windows[:, 1] - windows[:, 0]), dim=-1)
        overlap = window_giou(to_windows(spans[i]), windows)
        distance = (spans[i][:, None] - truth[None]).abs()
        cost = config.span * distance.sum(-1) - config.giou * overlap - config.label * logits[i].softmax(-1)[:, :1]
        chosen, target = linear_sum_assignment(cost.detach().cpu().numpy())
        label[i, chosen] = 0
        l1.append(distance[chosen, target])
        giou.append(1 - overlap[chosen, target])
    weight = torch.tensor([1.0, config.background_weight], device=logits.device)
    cross_entropy = -logits.log_softmax(-1).gather(-1, label[..., None])[..., 0] * weight[label]
    return {"loss_span": torch.cat(l1).mean(), "loss_giou": torch.cat(giou).mean(), "loss_label": cross_entropy.mean()}


def _saliency_loss(out: dict[str, Tensor], batch: PlainBatch, config: MesmLosses) -> Tensor:
    score, negative, mask = out["saliency_scores"], out["neg_saliency_scores"], batch.video_mask
    low = (F.softplus(negative) * mask).sum(1).mean()
    both = torch.cat((score, negative), dim=1) / config.temperature
    both = torch.where(torch.cat((mask, mask), dim=1), both, -2000.0)
    log_probability = both.log_softmax(1)[:, : mask.shape[1]]
    rank = torch.zeros((), device=score.device)
    for level in range(1, 12):
        positive = ((batch.saliency >= level) & mask).float()
        rank = rank - ((log_probability * positive).sum(1) / positive.sum(1).clamp(min=1e-6)).mean()
    loss = rank / config.rank_divisor + low
    if config.triplet:
        assert batch.positive_frames is not None
        assert batch.negative_frames is not None
        gap = score.gather(1, batch.negative_frames) - score.gather(1, batch.positive_frames)
        loss = loss + 2 * F.relu(config.margin + gap).mean()
    return loss


def _word_loss(logits: Tensor, batch: PlainBatch, config: MesmLosses) -> Tensor:
    assert batch.labels is not None
    log_probability = logits.log_softmax(-1)
    right = log_probability.gather(-1, batch.labels[..., None])[..., 0]
    smooth = config.label_smoothing
    each = -(1 - smooth) * right - smooth * log_probability.mean(-1)
    return ((each * batch.words_mask).sum(1) / batch.words_mask.sum(1)).mean()


def _segment_sentence_loss(out: dict[str, Tensor], batch: PlainBatch, config: MesmLosses) -> Tensor:
    segments, sentences = [], []
    for i in range(len(batch.groups)):
        segments.append(out["projected_video"][i][batch.clip_mask[i]].mean(0))
        sentences.append(out["text"][i][out["text_mask"][i]].mean(0))
    cosine = F.normalize(torch.stack(segments), dim=-1) @ F.normalize(torch.stack(sentences), dim=-1).T
    log_probability = (cosine / config.temperature).log_softmax(1)
    hulls = torch.stack([torch.stack((w[:, 0].min(), w[:, 1].max())) for w in batch.windows])
    groups = torch.tensor(batch.groups, device=cosine.device)
    positive = (window_giou(hulls, hulls) >= config.contrast_iou) & (groups[:, None] == groups)
    return -((log_probability * positive).sum(1) / positive.sum(1)).mean()
