"""MSAT: multi-stage aggregated transformer (Zhang et al., CVPR 2021), with the changes of arXiv 2312.07435.

Points of the video and words go through an encoder; each point says how much it is a start, a middle and an end, and of
these three parts every cell of a grid of moments makes a score and offsets of its ends. `encoder: asymmetric` takes
asymmetric co-attention blocks (ACB) for MSAT's decoupled layers, `vtc` adds the contrast of videos and sentences. Where
papers and published codes differ, this follows the codes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mesm.model.batch import Batch, in_float32
from mesm.model.bounds import AtLeastOne, Layers, Overlap, Probability, Weight
from mesm.model.layers.coattention import NORM_EPS, AsymmetricEncoder, DecoupledEncoder, Drop, PointsAndWords, lay_out
from mesm.model.layers.grid import GridHead, moments_of_cells
from mesm.model.layers.inputs import measure_scaling, scaling
from mesm.model.layers.points import Bags, at_rows, bags_of_points, pool_points
from mesm.model.losses import WHOLE, Share, add_total, targets_of
from mesm.model.momentum_contrast import Contrasted, MomentumContrast, Pooled
from mesm.model.network import Answers, Network
from mesm.model.network_config import TEMPORAL_COLUMNS, Draw, NetworkConfig, Sizes
from mesm.model.position import position_codes
from mesm.model.proposal_losses import (
    Cells,
    cells_near,
    offset_loss,
    overlap_loss,
    overlap_targets,
    stage_loss,
    stage_targets,
    windows_in_clips,
)
from mesm.model.ranking import best_apart

DEVIATION = 0.02
NAME = "msat"


@dataclass(frozen=True)
class MsatConfig(NetworkConfig):
    """Sizes and switches of the network. The defaults are MSAT's published setting for TACoS."""

    network: Literal["msat"] = "msat"
    dim: AtLeastOne = 512
    heads: AtLeastOne = 32
    feed_forward_dim: AtLeastOne = 512
    dropout: Probability = 0.1
    standardise: bool = False
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first (not in
    the paper)."""
    encoder: Literal["decoupled", "asymmetric"] = "decoupled"
    """`decoupled`: MSAT's layers; `asymmetric`: asymmetric co-attention blocks (ACB)."""
    encoder_layers: Layers = 6
    """Of the decoupled encoder."""
    groups: Layers = 3
    """Of the asymmetric encoder: so often come `asymmetric_blocks` and one connected block."""
    asymmetric_blocks: Layers = 2
    ffn: Literal["none", "figure"] = "none"
    """`figure`: a feed-forward layer behind each block of the asymmetric encoder, as its figure draws them and its code
    has them not."""
    clips: AtLeastOne = 128
    """Clips that the video is cut into; moments begin and end at the points between them."""
    bins: AtLeastOne = 256
    """Rows that every video is averaged into, or repeated to, first."""
    positions: AtLeastOne = 194
    """Rows of the published table of positions: those of points, then of words. Longer sentences continue it."""
    vtc: bool = False
    """Contrast of videos and sentences with slow encoders and a queue."""
    vtc_queue: AtLeastOne = 50000
    vtc_momentum: Annotated[float, Ge(0), Le(1)] = 0.995
    vtc_alpha: Probability = 0.3
    """Share of the slow encoders' opinion in the target of the contrast."""
    vtc_alpha_warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps over which that share grows from 0, as in ALBEF; the published code has none."""
    nms: Overlap = 0.37
    """IoU with a better answer above which a moment is no answer."""
    answers: AtLeastOne = 5
    behaviour: Literal["fixed", "official"] = "fixed"
    """`official` reproduces defects of the published codes: a batch without a usable moment has no loss (NaN); of the
    contrast, slow encoders that begin unrelated, empty sums for moments inside a clip, sums over padded words, random
    vectors that count before the queue is filled, and a temperature without bounds."""

    def draws(self) -> Draw:
        """Words that are hidden, all alike."""
        return Draw.MASKED_WORDS_ALIKE

    def ties(self) -> list[str]:
        """Name the option under which what is learnt of a query depends on how long the others of its batch are."""
        return ["model.behaviour=official with model.vtc"] if self.vtc and self.behaviour == "official" else []

    def most_words(self) -> int | None:
        """In `official` as many as the published table of positions has room for."""
        return self.positions - self.clips - 1 if self.behaviour == "official" else None

    def most_queries(self) -> int | None:
        """As many as the queue of the contrast holds."""
        return self.vtc_queue if self.vtc else None

    def problems(self) -> list[str]:
        """Say which values cannot go together."""
        found = []
        if self.dim % self.heads:
            found.append(f"dim must be a multiple of heads, found dim {self.dim} and heads {self.heads}")
        if self.bins % (2 * self.clips):
            found.append(f"bins must be an even multiple of clips, found bins {self.bins} and clips {self.clips}")
        if self.positions <= self.clips + 1:
            found.append(f"positions must be more than the {self.clips + 1} points, found {self.positions}")
        if self.ffn == "figure" and self.encoder != "asymmetric":
            found.append("ffn: figure is of the asymmetric encoder; the decoupled one has feed-forward layers anyway")
        return found


@dataclass(frozen=True)
class MsatLosses:
    """Weights and constants. The defaults are MSAT's published ones for TACoS, that of the contrast is of ACB + VTC."""

    stage: Weight = 0.3
    offset: Weight = 1.0
    overlap: Weight = 200.0
    words: Weight = 0.25
    contrast: Weight = 0.5
    peak: Probability = 0.7
    """From this height on, a bell around a moment's end counts as 1."""


@dataclass
class MsatOutput:
    """What the network says about N queries."""

    stages: Tensor
    """(N, 3, T) logits of each point being a start, an end, the middle."""
    cells: Tensor
    """(N, C, 3) of each candidate cell: offsets of start and end in clips, and the logit of its overlap."""
    near: Tensor | None = None
    """(K, 3), the same of the cells that learn offsets; None without targets."""
    words: Tensor | None = None
    """(H, classes), logits of the hidden words; None without any."""
    contrast: Contrasted | None = None
    """In training with `vtc`."""

    def float(self) -> MsatOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)


@dataclass(frozen=True)
class _Lying:
    """What the host says of a batch."""

    bags: Bags
    both: PointsAndWords
    hidden: Tensor | None
    """Which packed words are hidden, (H,) int64."""


class PointHead(nn.Sequential):
    """Linear, ReLU, dropout, Linear: one number a point."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), Drop(dropout), nn.Linear(hidden, 1))


class Msat(Network):
    """The complete network."""

    config: MsatConfig

    def __init__(self, config: MsatConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim, hidden, p = config.dim, config.feed_forward_dim, config.dropout
        self.video_scaling = scaling(sizes.video_dim, config.standardise)
        self.text_scaling = scaling(sizes.text_dim, config.standardise)
        self.word_projection = nn.Linear(sizes.text_dim, dim)
        self.point_projection = nn.Linear(sizes.video_dim - TEMPORAL_COLUMNS, dim)
        self.hidden_word = nn.Parameter(torch.empty(1, dim))
        self.drop = Drop(p)
        self.word_norm, self.point_norm = (nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(2))
        if config.encoder == "decoupled":
            self.encoder: nn.Module = DecoupledEncoder(config.encoder_layers, dim, config.heads, hidden, p)
        else:
            inner = hidden if config.ffn == "figure" else 0
            self.encoder = AsymmetricEncoder(config.groups, config.asymmetric_blocks, dim, config.heads, inner, p)
        self.contrast: MomentumContrast | None = None
        if config.vtc:
            constants = (config.vtc_queue, config.vtc_momentum, config.vtc_alpha, config.vtc_alpha_warmup_steps)
            self.contrast = MomentumContrast(dim, *constants, config.behaviour)
        self.word_head = nn.Sequential(
            Drop(p), nn.Linear(dim, dim), nn.ReLU(), Drop(p), nn.Linear(dim, sizes.word_classes)
        )
        self.stage_projection = nn.Sequential(Drop(p), nn.Linear(dim, 3 * dim), nn.ReLU(), Drop(p))
        self.start_head, self.end_head, self.middle_head = (PointHead(dim, hidden, p) for _ in range(3))
        self.grid = GridHead(dim, hidden, config.clips, p)
        self._initialise()

    def _initialise(self) -> None:
        """Normal weights up to the encoder, whose decoupled layers begin alike; Xavier's for two of the heads."""
        for module in (self.word_projection, self.point_projection, *self.encoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=DEVIATION)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.hidden_word, std=DEVIATION)
        if isinstance(self.encoder, DecoupledEncoder):
            self.encoder.initialise()
        if self.contrast is not None:
            self.contrast.initialise(DEVIATION)
        for head in (self.word_head, self.stage_projection):
            for module in head:
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    nn.init.zeros_(module.bias)

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure means and deviations with `standardise`."""
        measure_scaling(self.video_scaling, frames)
        measure_scaling(self.text_scaling, words)

    def state_of_training(self) -> tuple[str, ...]:
        """What only the contrast reads."""
        return () if self.contrast is None else tuple(f"contrast.{name}" for name in self.contrast.state_of_training())

    def prepare(self, batch: Batch) -> None:
        """Lay out points and words; say which words are hidden."""
        super().prepare(batch)
        self._lying(batch)

    def _lying(self, batch: Batch) -> _Lying:
        if NAME not in batch.kept:
            config, device = self.config, batch.video.device
            bags = bags_of_points(batch.frames.lengths, config.clips, config.bins, device)
            hidden = None
            if batch.word_mask is not None:
                masked = batch.word_mask.masked[: batch.count, : batch.words.vectors.shape[1], None]
                hidden = batch.plan.words.pack(masked).squeeze(1).nonzero().squeeze(1)
            batch.kept[NAME] = _Lying(bags, lay_out(batch.plan.words, config.clips + 1), hidden)
        found: _Lying = batch.kept[NAME]
        return found

    def forward(self, batch: Batch) -> MsatOutput:
        """Answer N queries; with targets also what the losses read."""
        lying, learns = self._lying(batch), batch.targets is not None
        points, words = self.embed(batch)
        contrast = None
        if self.contrast is not None:
            if self.training and batch.targets is not None:
                self.contrast.follow()
                contrast = self.contrast.vectors(self._pooled(points, words, batch))
            points, words = self.contrast.visual_encoder(points), self.contrast.text_encoder(words)
        words = batch.plan.words.pack(words)
        hidden = lying.hidden if learns else None
        points, words = self.encoder(points.flatten(0, 1), words, lying.both, hidden is not None)
        parts = self.stages(points.view(batch.count, -1, self.config.dim))
        grid = self.grid.project(parts[0], parts[2], parts[1])
        near = None
        if batch.targets is not None:
            cells = self._near(batch)
            near = self.grid.cells(grid, cells.query, cells.start, cells.end)
        return MsatOutput(
            stages=self.stage_logits(parts),
            cells=self.grid.candidates(grid),
            near=near,
            words=None if hidden is None else self.word_head(words.index_select(0, hidden)),
            contrast=contrast,
        )

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed the points of each query's video, (N, T, D), and its words, (N, W, D)."""
        count, total = batch.words.vectors.shape[1], self.config.clips + 1
        known, room = max(self.config.positions, total + count), self.config.positions - total
        if count > room and self.config.behaviour == "official":
            raise ValueError(f"a query has {count} words, the published table of positions has room for {room}")
        table = position_codes(known, self.config.positions, self.config.dim).to(batch.video.device)
        words = self.word_projection(self.text_scaling(batch.words.vectors[: batch.count]))
        if self.training and batch.word_mask is not None:
            masked = batch.word_mask.masked[: batch.count, :count, None]
            words = torch.where(masked, self.hidden_word.to(words.dtype), words)
        words = self.drop(self.word_norm(words + table[total : total + count]))
        pooled = pool_points(self.video_scaling(batch.video), self._lying(batch).bags)[:, :-TEMPORAL_COLUMNS]
        points = self.point_projection(pooled).view(len(batch.frames), total, -1)
        points = self.point_norm(points + table[:total])
        points = points.index_select(0, batch.plan.video[: batch.count])
        return self.drop(points), words

    def stages(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Part points (N, T, D) into what they are as starts, ends and middles, (N, T, D) each."""
        start, end, middle = self.stage_projection(points).chunk(3, dim=-1)
        return start, end, middle

    def stage_logits(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """(N, 3, T): start, end, middle."""
        heads = (self.start_head, self.end_head, self.middle_head)
        return torch.stack([head(part).squeeze(-1) for head, part in zip(heads, parts, strict=True)], dim=1)

    def _targets(self, batch: Batch, peak: float) -> tuple[Tensor, Tensor, Tensor]:
        targets = targets_of(batch)
        windows = windows_in_clips(targets, self.config.clips)
        return windows, *stage_targets(windows, targets.window_mask, self.config.clips, peak)

    def _near(self, batch: Batch) -> Cells:
        """List the cells that learn offsets; they do not depend on the peak, which lies above what is near."""
        windows, _, near = self._targets(batch, 1.0)
        return cells_near(windows, near)

    def _pooled(self, points: Tensor, words: Tensor, batch: Batch) -> Pooled:
        """Sum up the points inside the moments, and the words."""
        targets, official = targets_of(batch), self.config.behaviour == "official"
        windows = windows_in_clips(targets, self.config.clips)
        place = torch.arange(self.config.clips + 1, device=points.device)
        first, stop = windows.ceil()[..., None].unbind(2)
        inside = ((place >= first) & (place < stop) & targets.window_mask[..., None]).any(1)
        if not official:
            # A moment inside a clip has no point; the nearest one stands for it.
            nearest = windows[:, 0].mean(-1).round().clamp(max=self.config.clips).long()
            alone = nn.functional.one_hot(nearest, self.config.clips + 1).bool()
            inside = torch.where(inside.any(1, keepdim=True), inside, alone)
        valid = torch.ones_like(batch.words.mask[: batch.count]) if official else batch.words.mask[: batch.count]
        weight, word_weight = inside.to(points.dtype), valid.to(words.dtype)
        return Pooled(
            torch.einsum("nt,ntd->nd", weight, points),
            weight.sum(1, keepdim=True),
            torch.einsum("nw,nwd->nd", word_weight, words),
            word_weight.sum(1, keepdim=True),
        )

    def losses(
        self,
        output: MsatOutput,
        batch: Batch,
        weights: MsatLosses,
        share: Share = WHOLE,
        assigned: None = None,
    ) -> dict[str, Tensor]:
        """stage, offset, overlap, words where some are hidden, contrast in training with `vtc`, and `total`."""
        targets = targets_of(batch)
        windows, stages, near = self._targets(batch, weights.peak)
        if output.near is None:
            raise ValueError("losses need the output of a batch with targets")
        moments = moments_of_cells(output.cells[..., :2].detach(), self.grid.starts, self.grid.ends)
        truth = overlap_targets(moments, windows, targets.window_mask)
        used = moments[..., 0] < moments[..., 1]
        strict = self.config.behaviour == "official"
        losses = {
            "stage": stage_loss(output.stages, stages),
            "offset": offset_loss(output.near[:, :2], cells_near(windows, near), batch.count),
            "overlap": overlap_loss(output.cells[..., 2], truth, used, strict),
        }
        if output.words is not None:
            losses["words"] = self._word_loss(output.words, batch, share)
        if output.contrast is not None and self.contrast is not None:
            if batch.query_ids is None:
                raise ValueError("the contrast needs to know which queries of the split those of the batch are")
            losses["contrast"] = self.contrast.loss(output.contrast, batch.query_ids[: batch.count], share.gather)
        return add_total(losses, {name: getattr(weights, name) for name in losses}, share)

    def _word_loss(self, logits: Tensor, batch: Batch, share: Share) -> Tensor:
        """Cross-entropy of hidden words, its sum over all of them through the number of sentences that have one."""
        assert batch.word_mask is not None
        width = batch.words.vectors.shape[1]
        masked, labels = (x[: batch.count, :width] for x in (batch.word_mask.masked, batch.word_mask.labels))
        chosen = batch.plan.words.pack((masked & batch.words.mask[: batch.count])[..., None]).squeeze(1)
        labels = batch.plan.words.pack(labels[..., None]).squeeze(1)[chosen]
        total = nn.functional.cross_entropy(logits, labels, reduction="sum")
        sentences = share.gather(masked.any(1).sum()[None].to(total.dtype)).sum().clamp(min=1)
        # Each process's part is weighed by its share of the queries; this loss is one of sentences with a hidden word.
        return total / sentences / (share.queries or 1.0)

    def decode(self, output: MsatOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Take the best candidates that lie apart; where there are fewer than asked for, `counts` says so."""
        cells = output.cells.double()
        windows = moments_of_cells(cells[..., :2], self.grid.starts, self.grid.ends)
        possible = windows[..., 0] < windows[..., 1]
        best, counts = best_apart(windows, cells[..., 2], possible, self.config.nms, self.config.answers)
        chosen = windows.gather(1, best[..., None].expand(-1, -1, 2)) / self.config.clips
        scores = output.cells[..., 2].gather(1, best).sigmoid()
        layout = batch.plan.answered
        middle = at_rows(output.stages[:, 2], layout.position, layout.length_of_row, layout.sequence_of_row)
        return Answers(chosen, scores, layout.pad(middle[:, None]).squeeze(-1), counts)
