"""MSAT written plainly: padded words, a copy of its video for each query, every cell of the grid from its three parts.

The same mathematics as `mesm.model.networks.msat`, with its names of parameters, as its published code goes about it.
To measure against, and to compare with.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Batch, Targets, WordMask
from mesm.model.network_config import Sizes
from mesm.model.networks.msat import TEMPORAL_COLUMNS, Msat, MsatConfig, MsatLosses
from mesm.model.position import position_codes
from mesm.model.proposal_losses import cells_near, overlap_targets, stage_targets


class PlainGridBatch:
    """N queries, each with its own copy of its video in bins."""

    def __init__(self, batch: Batch, bins: int, device: torch.device | str = "cpu") -> None:
        assert batch.targets is not None
        assert batch.word_mask is not None
        videos = batch.frames.pad(batch.video)[list(batch.video_of_query)][..., :-TEMPORAL_COLUMNS]
        if videos.shape[1] != bins or not batch.frames.full:
            raise ValueError(f"the plain form takes videos of {bins} rows")
        self.bins = videos.contiguous().to(device)
        self.words, self.mask = batch.words.vectors.to(device), batch.words.mask.to(device)
        self.targets: Targets = batch.to(device).targets  # type: ignore[assignment]
        self.word_mask: WordMask = batch.to(device).word_mask  # type: ignore[assignment]


class ReferenceMsat(nn.Module):
    """The decoupled and the asymmetric network, with the modules of ours for their weights and none of its forwards."""

    def __init__(self, config: MsatConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.ours = config, Msat(config, sizes)

    def forward(self, batch: PlainGridBatch) -> dict[str, Tensor]:
        """Return logits of points (N, 3, T), of all cells (N, T, T, 3), and of all words (N, W, classes)."""
        config, ours, p = self.config, self.ours, self.config.dropout
        size, total = config.bins // config.clips, config.clips + 1
        points = F.avg_pool1d(batch.bins.transpose(1, 2), size, size, size // 2).transpose(1, 2)
        count = batch.words.shape[1]
        table = position_codes(max(config.positions, total + count), config.positions, config.dim).to(points.device)
        words = ours.word_projection(batch.words)
        if self.training:
            words = torch.where(batch.word_mask.masked[..., None], ours.hidden_word, words)
        words = self._drop(ours.word_norm(words + table[total : total + count]))
        points = self._drop(ours.point_norm(ours.point_projection(points) + table[:total]))
        for layer in ours.encoder.layers:  # type: ignore[union-attr]
            points, words = self._layer(layer, points, words, batch.mask)
        out = {"words": ours.word_head[4](self._drop(F.relu(ours.word_head[1](self._drop(words)))))}
        start, end, middle = self._drop(F.relu(ours.stage_projection[1](self._drop(points)))).chunk(3, -1)
        heads = ((ours.start_head, start), (ours.end_head, end), (ours.middle_head, middle))
        out["stages"] = torch.cat([head[3](F.dropout(F.relu(head[0](x)), p, self.training)) for head, x in heads], -1)
        index = torch.arange(total, device=points.device)
        between = (index[:, None] + index) // 2
        shape = (*points.shape[:1], total, total, -1)
        cells = torch.cat((start[:, :, None].expand(shape), middle[:, between], end[:, None].expand(shape)), dim=-1)
        out["cells"] = ours.grid.second(self._drop(F.relu(ours.grid.first(cells))))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training)

    def _layer(self, layer: Any, points: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        everywhere = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
        if self.config.encoder == "decoupled":
            seen = (self._joint(layer.attend_points, points, words, everywhere, mask), layer.feed_points)
            read = (self._joint(layer.attend_words, words, points, mask, everywhere), layer.feed_words)
            return self._feed(*seen[::-1]), self._feed(*read[::-1])
        if hasattr(layer, "attend_points"):
            words = self._plain(layer.attend, words, words, mask)
            return points, self._feed(layer.feed, self._plain(layer.attend_points, words, points, everywhere))
        both = torch.cat((points, words), dim=1)
        both = self._feed(layer.feed, self._plain(layer.attend, both, both, torch.cat((everywhere, mask), dim=1)))
        return both[:, : points.shape[1]], both[:, points.shape[1] :]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)

    def _residual(self, output: nn.Module, context: Tensor, x: Tensor) -> Tensor:
        return output.norm(self._drop(output.dense(context)) + x)  # type: ignore[operator]

    def _feed(self, feed: nn.Module, x: Tensor) -> Tensor:
        if isinstance(feed, nn.Identity):
            return x
        return self._residual(feed.outer, F.gelu(feed.inner(x)), x)  # type: ignore[operator,arg-type]

    def _joint(self, part: nn.Module, x: Tensor, y: Tensor, own: Tensor, other: Tensor) -> Tensor:
        q, k, v = (self._heads(getattr(part, name)(x)) for name in ("query", "key", "value"))
        across = self._heads(part.query_other(x))  # type: ignore[operator]
        k_other, v_other = (self._heads(getattr(part, name)(y)) for name in ("key_other", "value_other"))
        scores = torch.cat((q @ k.transpose(-1, -2), across @ k_other.transpose(-1, -2)), dim=-1)
        hidden = (~torch.cat((own, other), dim=1))[:, None, None]
        weights = (scores / math.sqrt(q.shape[-1])).masked_fill(hidden, -1e6).softmax(-1)
        context = (self._drop(weights) @ torch.cat((v, v_other), dim=2)).transpose(1, 2).flatten(2)
        return self._residual(part.output, context, x)  # type: ignore[arg-type]

    def _plain(self, part: nn.Module, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        q = self._heads(part.query(x))  # type: ignore[operator]
        k, v = (self._heads(getattr(part, name)(y)) for name in ("key", "value"))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None, None], -1e6)
        context = (self._drop(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        return self._residual(part.output, context, x)  # type: ignore[arg-type]


def reference_grid_losses(
    out: dict[str, Tensor], batch: PlainGridBatch, network: ReferenceMsat, weights: MsatLosses
) -> dict[str, Tensor]:
    """Losses over whole grids."""
    config, grid = network.config, network.ours.grid
    windows, valid = batch.targets.windows * config.clips, batch.targets.window_mask
    stages, near = stage_targets(windows, valid, config.clips, weights.peak)
    cells, queries = out["cells"], len(batch.bins)
    place = torch.arange(config.clips + 1, device=cells.device)
    corners = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1)
    moments = (cells[..., :2].detach() + corners).flatten(1, 2)
    candidate = torch.zeros(corners.shape[:2], dtype=torch.bool, device=cells.device)
    candidate[grid.starts, grid.ends] = True
    used = candidate.flatten() & (moments[..., 0] < moments[..., 1])
    truth, score = overlap_targets(moments, windows, valid), cells[..., 2].flatten(1)

    def weighted(logits: Tensor, target: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return loss * (logits.sigmoid() - target) ** 2

    listed = cells_near(windows, near)
    found = cells[listed.query, listed.start, listed.end, :2]
    masked = batch.word_mask.masked & batch.mask
    text = F.cross_entropy(out["words"][masked], batch.word_mask.labels[masked], reduction="sum")
    losses = {
        "stage": weighted(out["stages"].transpose(1, 2), stages).sum(-1).mean(),
        "offset": ((found - listed.offsets).abs() * listed.weight[:, None]).sum() / (2 * queries),
        "overlap": ((weighted(score, truth) * used).sum(1) / used.sum(1).clamp(min=1)).mean(),
        "words": text / masked.any(1).sum().clamp(min=1),
    }
    losses["total"] = torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()
    return losses
