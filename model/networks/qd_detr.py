"""QD-DETR: query-dependent DETR for video moment retrieval (Moon et al., CVPR 2023).

frame and word features -> cross layers in which frames read words -> encoder with a global token -> decoder with
learnable spans. Frames should agree with the global token of their own query, and not with that of another one. Where
the paper and its published code differ, this follows the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mesm.model.batch import Batch, in_float32
from mesm.model.bounds import AtLeastOne, Layers, Positive, Probability, Weight, width_problems
from mesm.model.layers.decoder import Decoder, decode_spans
from mesm.model.layers.encoder import CrossEncoder, EncoderLayer
from mesm.model.layers.global_token import agreement, encode_with_global
from mesm.model.layers.inputs import Mlp, initialise_by_xavier, input_projection, measure_scaling, scaling
from mesm.model.layers.masks import cross_mask
from mesm.model.losses import (
    WHOLE,
    Share,
    add_total,
    assign_spans,
    losses_of_layers,
    margin_loss,
    rank_loss,
    silence_loss,
    targets_of,
)
from mesm.model.matcher import Pairs
from mesm.model.network import Answers, Network
from mesm.model.network_config import Draw, NetworkConfig, Sizes
from mesm.model.position import frame_positions
from mesm.model.ranking import moment_probability
from mesm.model.spans import exact_windows


@dataclass(frozen=True)
class QdDetrConfig(NetworkConfig):
    """Sizes and switches of the network. The defaults are the published setting for QVHighlights."""

    network: Literal["qd-detr"] = "qd-detr"
    dim: AtLeastOne = 256
    heads: AtLeastOne = 8
    feed_forward_dim: AtLeastOne = 1024
    dropout: Probability = 0.1
    input_dropout: Probability = 0.5
    standardise: bool = False
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first (not in
    the paper)."""
    queries: AtLeastOne = 10
    """Learnable spans, hence answers a query."""
    aligner_layers: Layers = 2
    encoder_layers: Layers = 2
    decoder_layers: Layers = 2
    masks: Literal["fixed", "official"] = "fixed"
    """`official` reproduces a mask defect of the published code, to run released checkpoints exactly: the attention
    mask of the cross layers is laid out for other samples of the batch than it is used for."""

    def draws(self) -> Draw:
        """The next query of the batch as the negative one; pairs of rows."""
        return Draw.NEXT_QUERY | Draw.ROW_PAIRS

    def ties(self) -> list[str]:
        """Name the option under which a query's answer depends on the other queries of its batch."""
        return ["model.masks=official"] if self.masks == "official" else []

    def reads_in_file_order(self) -> bool:
        """The defect of `official` makes figures depend on who meets whom, which is the file's order as published."""
        return self.masks == "official"

    def problems(self) -> list[str]:
        """Say which values cannot go together."""
        return width_problems(self.dim, self.heads)


@dataclass(frozen=True)
class QdDetrLosses:
    """Weights and constants. The defaults are the published setting for QVHighlights."""

    span: Weight = 10.0
    giou: Weight = 1.0
    label: Weight = 4.0
    saliency: Weight = 1.0
    rank_divisor: Positive = 12.0
    background_weight: Weight = 0.1
    """Weight of spans that answer for no window in the classification."""
    temperature: Positive = 0.5
    margin: Weight = 0.2


@dataclass
class QdDetrOutput:
    """What the network says about N queries; `spans` and `logits` for every decoder layer, the last one first."""

    logits: list[Tensor]
    """(N, Q, 2): class 0 is the moment, class 1 is not."""
    spans: list[Tensor]
    """(N, Q, 2): centre and width as fractions of the duration."""
    saliency: Tensor
    """(N, L): how much each frame agrees with the query's token, 0 at padding."""
    negative_saliency: Tensor | None
    """(N, L): the same for the negative query; None without negatives."""

    def float(self) -> QdDetrOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)


class QdDetr(Network):
    """The complete network."""

    config: QdDetrConfig

    def __init__(self, config: QdDetrConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim = config.dim
        layer = (dim, config.heads, config.feed_forward_dim, config.dropout)
        self.video_scaling = scaling(sizes.video_dim, config.standardise)
        self.text_scaling = scaling(sizes.text_dim, config.standardise)
        self.video_projection = input_projection(sizes.video_dim, dim, config.input_dropout)
        self.text_projection = input_projection(sizes.text_dim, dim, config.input_dropout)
        self.aligner = CrossEncoder(config.aligner_layers, *layer)
        self.global_token = nn.Parameter(torch.randn(dim))
        self.global_position = nn.Parameter(torch.randn(dim))
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.decoder = Decoder(*layer, config.decoder_layers)
        self.query_spans = nn.Parameter(torch.randn(config.queries, 2))
        self.span_head = Mlp(dim, dim, 2, 3)
        self.class_head = nn.Linear(dim, 2)
        self.saliency_frame = nn.Linear(dim, dim)
        self.saliency_global = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for every matrix of the transformer; biases of attention and of the spans' refinement begin at 0."""
        initialise_by_xavier(self.aligner, self.encoder, self.decoder)
        nn.init.zeros_(cast(nn.Linear, self.decoder.refine_head.layers[-1]).bias)
        for block in self.decoder.layers:
            for projection in (block.self_out, block.cross_out):
                nn.init.zeros_(cast(nn.Linear, projection).bias)

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure means and deviations with `standardise`."""
        measure_scaling(self.video_scaling, frames)
        measure_scaling(self.text_scaling, words)

    def forward(self, batch: Batch) -> QdDetrOutput:
        """Answer N queries; the frames meet the negative queries too when the batch has some."""
        n, plan = batch.count, batch.plan
        projected = self.video_projection(self.video_scaling(batch.video))
        words = self.text_projection(self.text_scaling(batch.words.vectors))
        positions = frame_positions(batch.frames, self.config.dim)
        text_of_pair = torch.arange(n, device=words.device)
        if batch.negative_query is not None:
            text_of_pair = torch.cat((text_of_pair, batch.negative_query))
        defect = self.config.masks == "official"
        mask = cross_mask(plan.pairs.mask, batch.words.mask[text_of_pair], n, self.config.heads, misaligned=defect)
        aligned = self.aligner(
            projected, positions, plan.pairs, words, None, mask, x_rows=plan.rows, y_rows=text_of_pair
        )
        row_positions = positions.index_select(0, plan.rows)
        layers, token = cast("Iterable[EncoderLayer]", self.encoder), (self.global_token, self.global_position)
        tokens, memory = encode_with_global(layers, *token, aligned, row_positions, plan)
        scores = agreement(self.saliency_frame, self.saliency_global, tokens, memory, plan.pairs)
        saliency = plan.pairs.pad(scores).squeeze(-1)
        own = plan.answered.index.shape[0]
        heads = (self.decoder, self.query_spans, self.span_head, self.class_head)
        logits, spans = decode_spans(*heads, memory[:own], row_positions[:own], plan.answered)
        negative = saliency[n:] if batch.negative_query is not None else None
        return QdDetrOutput(logits, spans, saliency[:n], negative)

    def assign(self, output: QdDetrOutput, batch: Batch, weights: QdDetrLosses) -> Pairs:
        """Say which spans answer for which windows."""
        return assign_spans(output.logits, output.spans, batch, weights)

    def losses(
        self,
        output: QdDetrOutput,
        batch: Batch,
        weights: QdDetrLosses,
        share: Share = WHOLE,
        assigned: Pairs | None = None,
    ) -> dict[str, Tensor]:
        """span, giou and label of every layer, saliency where the batch has negatives, and `total`.

        saliency: margin between chosen frames + contrast of frames by their labels / rank_divisor + silence for the
        negative query.
        """
        pairs = self.assign(output, batch, weights) if assigned is None else assigned
        targets, mask = targets_of(batch), batch.query_mask()
        losses, factors = losses_of_layers(output.logits, output.spans, batch, pairs, weights)
        if output.negative_saliency is not None:
            score, negative = output.saliency, output.negative_saliency
            rank = rank_loss(score, negative, mask, targets.saliency, weights.temperature) / weights.rank_divisor
            losses["saliency"] = margin_loss(score, targets, weights.margin) + rank + silence_loss(negative, mask)
        return add_total(losses, {**factors, "saliency": weights.saliency}, share)

    def decode(self, output: QdDetrOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Read the spans of the last layer, scored by the class head."""
        return Answers(exact_windows(output.spans[0]), moment_probability(output.logits[0]), output.saliency)
