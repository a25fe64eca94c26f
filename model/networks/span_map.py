"""Span map: every pair of a first and a last row is scored, and the answer is the window of the best expected overlap.

Convolutions over time read frames with the words that they attend to; small and without recurrence, for little data.
The scores of all pairs are one distribution, which learns to lie on the windows that overlap the moment: ranking and
overlap cannot disagree, and borders that annotators would not agree on cost little. Of the distribution that window is
answered whose overlap with the moment is the best one to expect (minimum Bayes risk). Scoring windows as pairs of rows
is from 2D-TAN (Zhang et al., AAAI 2020), which pools features for each pair; network, loss and answer are this
project's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Batch, in_float32
from mesm.model.bounds import AtLeastOne, Layers, Positive, Probability, Weight
from mesm.model.kernels import dropout as hide
from mesm.model.layers.convolution import GatedConvolution
from mesm.model.layers.inputs import measure_scaling, scaling
from mesm.model.layouts import Layout
from mesm.model.losses import WHOLE, Share, add_total, covered_share, targets_of
from mesm.model.network import Answers, Network
from mesm.model.network_config import NetworkConfig, Sizes
from mesm.model.span_pairs import best_windows, inside_probability, overlaps_of_pairs, pair_mask

POSITION_FEATURES = 12
ROWS_FAR = 30
"""Distances to the ends of the video, in rows, beyond which a row's place is known as a fraction only."""


@dataclass(frozen=True)
class SpanMapConfig(NetworkConfig):
    """Sizes of the network."""

    network: Literal["span-map"] = "span-map"
    dim: AtLeastOne = 128
    dropout: Probability = 0.3
    input_dropout: Probability = 0.0
    """Of the features of frames and words."""
    standardise: bool = True
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first."""
    word_scale: Positive = 0.3
    """Factor of the words' features: sentences are fewer than frames, and sooner learnt by heart."""
    frame_layers: Layers = 2
    """Convolutions that read a video before the words are known."""
    layers: Layers = 4
    """Convolutions that read frames and words together; each reaches twice as far as the one before."""
    pair_dim: AtLeastOne = 32
    """Width in which the first and the last row of a pair meet."""
    members: Layers = 1
    """Networks of these sizes that are trained side by side, each from its own start; probabilities are averaged."""
    answers: AtLeastOne = 10
    """Windows that are answered to a query."""
    separation: Probability = 0.7
    """Overlap (IoU) with a better answer above which a window is none."""


@dataclass(frozen=True)
class SpanMapLosses:
    """Weights and constants."""

    pair: Weight = 1.0
    frame: Weight = 1.0
    softness: Positive = 0.1
    """Loss of IoU by which a window is e times less wanted than the moment itself."""


@dataclass
class SpanMapOutput:
    """What the M members of the network say about N queries."""

    pairs: Tensor
    """(M, N, L, L): logit of the window from the first row to the last one, both in it."""
    frames: Tensor
    """(M, N, L): logit of each row's being inside the moment."""
    mask: Tensor
    """(N, L): the valid rows."""

    def float(self) -> SpanMapOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)


class SpanMap(Network):
    """The complete network: features are scaled once, and read by each member."""

    config: SpanMapConfig

    def __init__(self, config: SpanMapConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.video_scaling = scaling(sizes.video_dim, config.standardise)
        self.text_scaling = scaling(sizes.text_dim, config.standardise)
        self.members = nn.ModuleList(Member(config, sizes) for _ in range(config.members))

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure means and deviations with `standardise`."""
        measure_scaling(self.video_scaling, frames)
        measure_scaling(self.text_scaling, words)

    def forward(self, batch: Batch) -> SpanMapOutput:
        """Answer N queries."""
        layout = batch.plan.answered
        video = self.video_scaling(batch.video)
        words = self.text_scaling(batch.plan.words.pack(batch.words.vectors[: batch.count])) * self.config.word_scale
        found = [member(video, words, batch) for member in self.members]
        pairs, frames = (torch.stack(x) for x in zip(*found, strict=True))
        return SpanMapOutput(pairs, frames, layout.mask)

    def losses(
        self,
        output: SpanMapOutput,
        batch: Batch,
        weights: SpanMapLosses,
        share: Share = WHOLE,
        assigned: Any = None,
    ) -> dict[str, Tensor]:
        """pair (cross-entropy against the overlaps), frame (against the covered share of each row), and `total`.

        Means over the members. pair: the wanted probability of a window goes with exp((IoU - 1) / softness), summed
        over the moments.
        """
        targets = targets_of(batch)
        wanted = torch.exp((overlaps_of_pairs(targets.windows, output.mask) - 1) / weights.softness)
        valid = pair_mask(output.mask)
        wanted = (wanted * targets.window_mask[:, :, None, None]).sum(1) * valid
        wanted = wanted / wanted.sum((1, 2), keepdim=True)
        log_probability = output.pairs.flatten(2).log_softmax(2).view_as(output.pairs).masked_fill(~valid, 0.0)
        covered = covered_share(targets, output.mask).expand_as(output.frames)
        frame = F.binary_cross_entropy_with_logits(output.frames, covered, reduction="none") * output.mask
        losses = {
            "pair": -(wanted * log_probability).sum((2, 3)).mean(),
            "frame": (frame.sum(2) / output.mask.sum(1)).mean(),
        }
        return add_total(losses, {"pair": weights.pair, "frame": weights.frame}, share)

    def decode(self, output: SpanMapOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Answer the windows of the best expected overlap, scored by it; saliency: the probability of being inside."""
        probability = output.pairs.flatten(2).softmax(2).mean(0).view_as(output.pairs[0])
        windows, scores = best_windows(probability, output.mask, self.config.answers, self.config.separation)
        return Answers(windows, scores, inside_probability(probability) * output.mask)


class Member(nn.Module):
    """From scaled features to the map of pairs."""

    def __init__(self, config: SpanMapConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.video_projection = nn.Linear(sizes.video_dim, dim)
        self.text_projection = nn.Linear(sizes.text_dim, dim)
        self.position = nn.Linear(POSITION_FEATURES, dim)
        self.frame_layers = nn.ModuleList(
            GatedConvolution(dim, 2**i, config.dropout) for i in range(config.frame_layers)
        )
        self.word_layer = GatedConvolution(dim, 1, config.dropout)
        self.word_weight = nn.Linear(dim, 2)
        self.sentence = nn.Linear(2 * dim, dim)
        self.ask = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.meet = nn.Linear(4 * dim, dim)
        self.layers = nn.ModuleList(
            GatedConvolution(dim, 2**i, config.dropout, conditioned=True) for i in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.row_head = nn.Linear(dim, 3)
        self.first_head = nn.Linear(dim, config.pair_dim)
        self.last_head = nn.Linear(dim, config.pair_dim)

    def forward(self, features: Tensor, vectors: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Score the pairs (N, L, L) and the rows (N, L); features: packed frames; vectors: packed words."""
        layout = batch.plan.answered
        words, sentence = self._read_words(vectors, batch.plan.words)
        places = self._places(batch.frames)
        video = batch.frames.pad(self.video_projection(hide(features, self.config.input_dropout, self.training)))
        frames = hide(video, self.config.dropout, self.training) + places
        for layer in self.frame_layers:
            frames = layer(frames, batch.frames.mask)
        own = batch.plan.video[: batch.count]
        frames, places = frames.index_select(0, own), places.index_select(0, own)
        likeness = self.ask(frames) @ self.key(words).transpose(1, 2) / math.sqrt(self.config.dim)
        heard = likeness.masked_fill(~batch.plan.words.mask[:, None], -math.inf).softmax(-1) @ words
        met = torch.cat((frames, heard, frames * heard, frames * sentence[:, None]), dim=-1)
        state = self.meet(met) + places
        condition = hide(sentence, self.config.dropout, self.training)
        for layer in self.layers:
            state = layer(state, layout.mask, condition)
        return self._map(hide(self.norm(state), self.config.dropout, self.training), layout)

    def _read_words(self, vectors: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Return the words (N, W, D) and the sentences (N, D)."""
        read = self.text_projection(hide(vectors, self.config.input_dropout, self.training))
        words = hide(layout.pad(read), self.config.dropout, self.training)
        words = self.word_layer(words, layout.mask)
        weight = self.word_weight(words).masked_fill(~layout.mask[..., None], -math.inf).softmax(1)
        return words, F.relu(self.sentence((weight.transpose(1, 2) @ words).flatten(1)))

    def _places(self, layout: Layout) -> Tensor:
        """(V, L, D): where each row lies, as fractions and in rows from either end."""
        rows = layout.length_of_row.to(self.position.weight.dtype)
        at = layout.position - 0.5
        share = at / rows
        waves = [wave(math.pi * k * share) for wave in (torch.sin, torch.cos) for k in (1, 2, 3, 4)]
        ends = [x.clamp(max=ROWS_FAR) / 10 for x in (at, rows - at)]
        return layout.pad(self.position(torch.stack([share, 1 - share, *ends, *waves], dim=-1)))

    def _map(self, state: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Score every pair: its first row, its last row, how they fit, and the rows between them."""
        inside, first, last = self.row_head(state).unbind(-1)
        total = F.pad((inside * layout.mask).cumsum(1), (1, 0))
        between = total[:, None, 1:] - total[:, :-1, None]
        fit = self.first_head(state) @ self.last_head(state).transpose(1, 2) / math.sqrt(self.config.pair_dim)
        pairs = first[:, :, None] + last[:, None, :] + fit + between / 2
        return pairs.float().masked_fill(~pair_mask(layout.mask), -math.inf), inside
