"""Moment-DETR: a plain DETR over frames and words (Lei et al., NeurIPS 2021).

Frames and words form one sequence, which an encoder reads; learnable queries read it in a decoder, and each becomes a
span. Where the paper and its published code differ, this follows the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mesm.model.batch import Batch, in_float32
from mesm.model.bounds import AtLeastOne, Layers, Probability, Weight, width_problems
from mesm.model.layers.encoder import EncoderLayer
from mesm.model.layers.inputs import Mlp, initialise_by_xavier, input_projection, measure_scaling, scaling
from mesm.model.layers.query_decoder import QueryDecoder
from mesm.model.losses import WHOLE, Share, add_total, assign_spans, losses_of_layers, margin_loss, targets_of
from mesm.model.matcher import Pairs
from mesm.model.network import Answers, Network
from mesm.model.network_config import Draw, NetworkConfig, Sizes
from mesm.model.position import frame_positions
from mesm.model.ranking import moment_probability
from mesm.model.spans import exact_windows


@dataclass(frozen=True)
class MomentDetrConfig(NetworkConfig):
    """Sizes of the network. The defaults are the published setting for QVHighlights."""

    network: Literal["moment-detr"] = "moment-detr"
    dim: AtLeastOne = 256
    heads: AtLeastOne = 8
    feed_forward_dim: AtLeastOne = 1024
    dropout: Probability = 0.1
    input_dropout: Probability = 0.5
    standardise: bool = False
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first (not in
    the paper)."""
    queries: AtLeastOne = 10
    """Learnable queries, hence answers a query."""
    encoder_layers: Layers = 2
    decoder_layers: Layers = 2

    def draws(self) -> Draw:
        """Pairs of rows of which one should score higher."""
        return Draw.ROW_PAIRS

    def problems(self) -> list[str]:
        """Say which values cannot go together."""
        return width_problems(self.dim, self.heads)


@dataclass(frozen=True)
class MomentDetrLosses:
    """Weights and constants. The defaults are the published setting for QVHighlights."""

    span: Weight = 10.0
    giou: Weight = 1.0
    label: Weight = 4.0
    saliency: Weight = 1.0
    background_weight: Weight = 0.1
    """Weight of spans that answer for no window in the classification."""
    margin: Weight = 0.2


@dataclass
class MomentDetrOutput:
    """What the network says about N queries; `spans` and `logits` for every decoder layer, the last one first."""

    logits: list[Tensor]
    """(N, Q, 2): class 0 is the moment, class 1 is not."""
    spans: list[Tensor]
    """(N, Q, 2): centre and width as fractions of the duration."""
    saliency: Tensor
    """(N, L), 0 at padding."""

    def float(self) -> MomentDetrOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)


class MomentDetr(Network):
    """The complete network."""

    config: MomentDetrConfig

    def __init__(self, config: MomentDetrConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim = config.dim
        layer = (dim, config.heads, config.feed_forward_dim, config.dropout)
        self.video_scaling = scaling(sizes.video_dim, config.standardise)
        self.text_scaling = scaling(sizes.text_dim, config.standardise)
        self.video_projection = input_projection(sizes.video_dim, dim, config.input_dropout)
        self.text_projection = input_projection(sizes.text_dim, dim, config.input_dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*layer, rectified=True) for _ in range(config.encoder_layers))
        self.decoder = QueryDecoder(*layer, config.decoder_layers)
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.span_head = Mlp(dim, dim, 2, 3)
        self.class_head = nn.Linear(dim, 2)
        self.saliency = nn.Linear(dim, 1)
        initialise_by_xavier(self.encoder, self.decoder)

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure means and deviations with `standardise`."""
        measure_scaling(self.video_scaling, frames)
        measure_scaling(self.text_scaling, words)

    def prepare(self, batch: Batch) -> None:
        """Lay out frames and words as one sequence a query."""
        super().prepare(batch)
        _ = batch.joined

    def forward(self, batch: Batch) -> MomentDetrOutput:
        """Answer N queries."""
        plan, joined = batch.plan, batch.joined
        own = plan.answered.index.shape[0]
        rows = plan.rows[:own]
        frames = self.video_projection(self.video_scaling(batch.video)).index_select(0, rows)
        codes = frame_positions(batch.frames, self.config.dim).index_select(0, rows)
        words = self.text_projection(self.text_scaling(batch.words.vectors[: batch.count]))
        words = plan.words.pack(words)
        x = torch.cat((frames, words)).index_select(0, joined.order)
        positions = torch.cat((codes, torch.zeros_like(words))).index_select(0, joined.order)
        for layer in self.encoder:
            x = layer(x, positions, joined.layout)
        memory, places = joined.layout.pad(x), joined.layout.pad(positions)
        states = self.decoder(self.queries, memory, places, joined.layout.mask)
        saliency = plan.answered.pad(self.saliency(x.index_select(0, joined.frames))).squeeze(-1)
        return MomentDetrOutput(
            logits=[self.class_head(state) for state in reversed(states)],
            spans=[self.span_head(state).sigmoid() for state in reversed(states)],
            saliency=saliency,
        )

    def assign(self, output: MomentDetrOutput, batch: Batch, weights: MomentDetrLosses) -> Pairs:
        """Say which spans answer for which windows."""
        return assign_spans(output.logits, output.spans, batch, weights)

    def losses(
        self,
        output: MomentDetrOutput,
        batch: Batch,
        weights: MomentDetrLosses,
        share: Share = WHOLE,
        assigned: Pairs | None = None,
    ) -> dict[str, Tensor]:
        """span, giou and label of every layer, saliency (the margin between chosen frames), and `total`."""
        pairs = self.assign(output, batch, weights) if assigned is None else assigned
        losses, factors = losses_of_layers(output.logits, output.spans, batch, pairs, weights)
        losses["saliency"] = margin_loss(output.saliency, targets_of(batch), weights.margin)
        return add_total(losses, {**factors, "saliency": weights.saliency}, share)

    def decode(self, output: MomentDetrOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Read the spans of the last layer, scored by the class head."""
        return Answers(exact_windows(output.spans[0]), moment_probability(output.logits[0]), output.saliency)
