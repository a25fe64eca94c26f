"""MESM: modal-enhanced semantic modelling for video moment retrieval (Liu et al., AAAI 2024).

frame and word features -> FW-MESM (words enhance frames) and SS-MESM (a token that completes the query) -> modality
aligner -> encoder -> decoder with learnable spans. The paper and its published code differ in places; where they do,
this follows the code that made the published numbers, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mesm.model.batch import Batch, Targets, in_float32
from mesm.model.bounds import AtLeastOne, Layers, Overlap, Positive, Probability, Weight, width_problems
from mesm.model.layers.completion import SegmentSentence, frames_of_groups, put_in_front
from mesm.model.layers.decoder import Decoder, decode_spans
from mesm.model.layers.encoder import CrossEncoder, EncoderLayer
from mesm.model.layers.global_token import agreement, encode_with_global
from mesm.model.layers.inputs import (
    InputBlock,
    Mlp,
    RecurrentLayer,
    initialise_by_xavier,
    input_projection,
    measure_scaling,
    scaling,
)
from mesm.model.layers.masks import cross_mask, misaligned_slot_mask
from mesm.model.layouts import Layout
from mesm.model.losses import (
    WHOLE,
    Share,
    add_total,
    assign_spans,
    covered_share,
    frame_loss,
    losses_of_layers,
    margin_loss,
    rank_loss,
    segment_sentence_loss,
    silence_loss,
    targets_of,
    word_loss,
)
from mesm.model.matcher import Pairs
from mesm.model.network import Answers, Network
from mesm.model.network_config import Draw, NetworkConfig, Sizes
from mesm.model.position import frame_positions
from mesm.model.ranking import moment_probability, overlap_with_frames
from mesm.model.spans import exact_windows


@dataclass(frozen=True)
class MesmConfig(NetworkConfig):
    """Sizes and switches of the network. The defaults are the published setting for Charades-STA (CLIP + SlowFast)."""

    network: Literal["mesm"] = "mesm"
    dim: AtLeastOne = 256
    heads: AtLeastOne = 8
    feed_forward_dim: AtLeastOne = 1024
    dropout: Probability = 0.1
    input_dropout: Probability = 0.5
    standardise: bool = False
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first. Features
    of CLIP's kind share a large constant part; the published code leaves it in."""
    queries: AtLeastOne = 10
    """Learnable spans, hence answers a query."""
    frame_word_layers: Layers = 2
    segment_sentence_layers: Layers = 4
    aligner_layers: Layers = 2
    encoder_layers: Layers = 2
    decoder_layers: Layers = 2
    frame_word: bool = True
    """FW-MESM; without it frames go to the aligner as they are and no words are rebuilt."""
    segment_sentence: bool = True
    """SS-MESM; without it no token completes the query."""
    separate_word_feed_forward: bool = False
    """Rebuilding of words with feed-forward weights of its own (TACoS)."""
    masks: Literal["fixed", "official"] = "fixed"
    """`official` reproduces two mask defects of the published code, to run released checkpoints exactly: the attention
    mask of the cross layers is laid out for other samples than it is used for, and the encoder hides its global token
    instead of the padding's complement."""
    segment_context: Literal["clip", "group"] = "clip"
    """What the token of SS-MESM sees: the query's own video, or the frames of all videos of its group one after the
    other (the published code on QVHighlights)."""
    context: Literal["none", "attention"] = "none"
    """`attention`: the sentences of a group attend to one another before they see the video. In the published code
    they cannot influence each other."""
    positions: Literal["attention", "frames"] = "attention"
    """Position codes join queries and keys of the attention only (published), or are added to the projected frames that
    go through FW-MESM, aligner and encoder as well."""
    recurrent_frames: bool = False
    """A bidirectional GRU between aligner and encoder reads each query's frames in order (not in the paper)."""
    recurrent_words: bool = False
    """A bidirectional GRU reads each query's projected words in order, so that they know of one another, as those of a
    text encoder do and GloVe's vectors do not (not in the paper)."""
    encoder_loss: Literal["saliency", "bce", "none"] = "saliency"
    """`saliency`: the published code's contrast of saliency scores; `bce`: a frame classifier, equation 6; `none`:
    neither, and no saliency (an ablation)."""

    def draws(self) -> Draw:
        """Negatives for the contrast of saliency scores; masked words; pairs of rows."""
        others = Draw.OTHER_QUERY if self.encoder_loss == "saliency" else Draw.NONE
        return others | Draw.MASKED_WORDS | Draw.ROW_PAIRS

    def rankings(self) -> tuple[str, ...]:
        """By the class head, and by the frame classifier where there is one."""
        return ("class", "frames") if self.encoder_loss == "bce" else ("class",)

    def ties(self) -> list[str]:
        """Name the options under which a query's answer depends on the other queries of its batch."""
        ties = {
            "model.masks=official": self.masks == "official",
            "model.context=attention": self.context == "attention",
            "model.segment_context=group": self.segment_context == "group",
        }
        return [name for name, tied in ties.items() if tied]

    def problems(self) -> list[str]:
        """Say which values cannot go together."""
        return width_problems(self.dim, self.heads)


@dataclass(frozen=True)
class MesmLosses:
    """Weights and constants. The defaults are the published setting for Charades-STA."""

    span: Weight = 10.0
    giou: Weight = 1.0
    label: Weight = 4.0
    saliency: Weight = 4.0
    frame: Weight = 4.0
    """Weight of the frame classifier's loss (`encoder_loss: bce`)."""
    rank_divisor: Positive = 12.0
    triplet: bool = False
    rebuild_words: Weight = 0.1
    segment_sentence: Weight = 0.1
    background_weight: Weight = 0.1
    """Weight of spans that answer for no window in the classification."""
    contrast_iou: Overlap = 0.9
    """Queries of a group whose moments' generalised IoU reaches this are positives of each other."""
    temperature: Positive = 0.5
    margin: Weight = 0.2
    label_smoothing: Probability = 0.1


@dataclass
class MesmOutput:
    """What the network says about N queries; `spans` and `logits` for every decoder layer, the last one first."""

    logits: list[Tensor]
    """(N, Q, 2): class 0 is the moment, class 1 is not."""
    spans: list[Tensor]
    """(N, Q, 2): centre and width as fractions of the duration."""
    saliency: Tensor
    """(N, L): score of each frame, 0 at padding; the classifier's logit with `encoder_loss: bce`, 0 with `none`."""
    negative_saliency: Tensor | None
    """(N, L): score of each frame for the negative query."""
    frame_logits: Tensor | None
    """(N, L): logit of each frame being inside the moment (`encoder_loss: bce`)."""
    projected_video: Tensor
    """(V, L, D): frames after the input projection, zeros at padding."""
    enhanced_video: Tensor
    """(T, D): the valid frames of all queries, one query after the other, after FW-MESM."""
    segment_token: Tensor | None
    """(N, D): the token of SS-MESM, L2-normalised."""
    text: Tensor
    """(N, 1 + W, D): the token and the projected words, after their recurrence where there is one."""
    text_mask: Tensor
    """(N, 1 + W) bool."""
    word_logits: Tensor | None
    """(T, classes): the rebuilt valid words, one query after the other, when the batch holds a word mask."""

    def float(self) -> MesmOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)


class Mesm(Network):
    """The complete network."""

    config: MesmConfig

    def __init__(self, config: MesmConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim = config.dim
        layer = (dim, config.heads, config.feed_forward_dim, config.dropout)
        self.video_scaling = scaling(sizes.video_dim, config.standardise)
        self.text_scaling = scaling(sizes.text_dim, config.standardise)
        self.video_projection = input_projection(sizes.video_dim, dim, config.input_dropout)
        self.text_projection = input_projection(sizes.text_dim, dim, config.input_dropout)
        if config.frame_word:
            self.masked_word = nn.Parameter(torch.zeros(sizes.text_dim))
            self.unknown_word = nn.Parameter(torch.zeros(sizes.text_dim))
            self.frame_word = CrossEncoder(config.frame_word_layers, *layer, config.separate_word_feed_forward)
            self.word_head = nn.Sequential(
                InputBlock(dim, dim, config.input_dropout, relu=True), nn.Linear(dim, sizes.word_classes)
            )
        if config.segment_sentence:
            self.segment_sentence = SegmentSentence(
                config.segment_sentence_layers, *layer, with_context=config.context == "attention"
            )
        self.aligner = CrossEncoder(config.aligner_layers, *layer)
        if config.recurrent_frames:
            self.frame_recurrence = RecurrentLayer(dim)
        if config.recurrent_words:
            self.word_recurrence = RecurrentLayer(dim)
        self.global_token = nn.Parameter(torch.randn(dim))
        self.global_position = nn.Parameter(torch.randn(dim))
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.decoder = Decoder(*layer, config.decoder_layers)
        self.query_spans = nn.Parameter(torch.randn(config.queries, 2))
        self.span_head = Mlp(dim, dim, 2, 3)
        self.class_head = nn.Linear(dim, 2)
        if config.encoder_loss == "bce":
            self.frame_head = Mlp(dim, dim, 1, 2)
        elif config.encoder_loss == "saliency":
            self.saliency_frame = nn.Linear(dim, dim)
            self.saliency_global = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier for every matrix of the cross layers of FW-MESM and the aligner, of the encoder and the decoder."""
        frame_word = (self.frame_word,) if self.config.frame_word else ()
        initialise_by_xavier(self.aligner, self.encoder, self.decoder, *frame_word)
        nn.init.zeros_(cast(nn.Linear, self.decoder.refine_head.layers[-1]).bias)

    def fit(self, frames: Iterable[Tensor], words: Iterable[Tensor]) -> None:
        """Measure means and deviations with `standardise`."""
        measure_scaling(self.video_scaling, frames)
        measure_scaling(self.text_scaling, words)

    def forward(self, batch: Batch) -> MesmOutput:
        """Answer N queries; the negative branch and the rebuilding of words run when the batch asks for them."""
        n, frames, plan = batch.count, batch.frames, batch.plan
        projected = self.video_projection(self.video_scaling(batch.video))
        positions = frame_positions(frames, self.config.dim)
        words = self.text_projection(self.text_scaling(batch.words.vectors))
        if self.config.recurrent_words:
            words = plan.all_words.pad(self.word_recurrence(plan.all_words.pack(words), plan.all_words))
        padded = frames.pad(projected)
        token = self._segment_tokens(batch, padded, words) if self.config.segment_sentence else None
        text, text_mask = put_in_front(token, words, batch.words.mask)

        layout, rows, text_of_pair = plan.pairs, plan.rows, torch.arange(n, device=words.device)
        if batch.negative_query is not None:
            text_of_pair = torch.cat((text_of_pair, batch.negative_query))
        row_positions = positions.index_select(0, rows)
        if self.config.positions == "frames":
            projected = projected + positions
        enhanced = self._enhance(batch, projected, positions, words, text_of_pair, layout, rows)
        mask = self._cross_mask(layout.mask, text_mask[text_of_pair], n)
        aligned = self.aligner(enhanced, row_positions, layout, text, None, mask, y_rows=text_of_pair)
        if self.config.recurrent_frames:
            aligned = self.frame_recurrence(aligned, layout)
        layers, token_parts = cast("Iterable[EncoderLayer]", self.encoder), (self.global_token, self.global_position)
        hide = self.config.masks == "official"
        memory_global, memory = encode_with_global(layers, *token_parts, aligned, row_positions, plan, hide_token=hide)
        answered = plan.answered
        own = memory[: answered.index.shape[0]]
        frame_logits = None
        if self.config.encoder_loss == "bce":
            frame_logits = saliency = answered.pad(self.frame_head(own)).squeeze(-1)
        elif self.config.encoder_loss == "saliency":
            scores = agreement(self.saliency_frame, self.saliency_global, memory_global, memory, layout)
            saliency = layout.pad(scores).squeeze(-1)
        else:
            saliency = memory.new_zeros(layout.mask.shape)
        heads = (self.decoder, self.query_spans, self.span_head, self.class_head)
        logits, spans = decode_spans(*heads, own, row_positions[: own.shape[0]], answered)
        return MesmOutput(
            logits=logits,
            spans=spans,
            saliency=saliency[:n],
            negative_saliency=saliency[n:] if batch.negative_query is not None else None,
            frame_logits=frame_logits,
            projected_video=padded,
            enhanced_video=enhanced[: own.shape[0]],
            segment_token=None if token is None else token[:n],
            text=text[:n],
            text_mask=text_mask[:n],
            word_logits=self._rebuild_words(batch, padded, frames.pad(positions)),
        )

    def assign(self, output: MesmOutput, batch: Batch, weights: MesmLosses) -> Pairs:
        """Say which spans answer for which windows."""
        return assign_spans(output.logits, output.spans, batch, weights)

    def losses(
        self, output: MesmOutput, batch: Batch, weights: MesmLosses, share: Share = WHOLE, assigned: Pairs | None = None
    ) -> dict[str, Tensor]:
        """span, giou, label, saliency, frame, rebuild_words, segment_sentence (those that apply), and `total`."""
        pairs = self.assign(output, batch, weights) if assigned is None else assigned
        targets, mask = targets_of(batch), batch.query_mask()
        losses, factors = losses_of_layers(output.logits, output.spans, batch, pairs, weights)
        if output.negative_saliency is not None:
            losses["saliency"] = _saliency_loss(output.saliency, output.negative_saliency, mask, targets, weights)
        if output.frame_logits is not None:
            losses["frame"] = frame_loss(output.frame_logits, mask, covered_share(targets, mask))
        if output.word_logits is not None and batch.word_mask is not None:
            labels = batch.word_mask.labels
            losses["rebuild_words"] = word_loss(output.word_logits, labels, batch.plan.words, weights.label_smoothing)
        if output.segment_token is not None:
            parts = (output.projected_video, output.text, output.text_mask, batch)
            numbers = (weights.temperature, weights.contrast_iou)
            losses["segment_sentence"] = segment_sentence_loss(*parts, *numbers, share.gather)
        own = ("saliency", "frame", "rebuild_words", "segment_sentence")
        return add_total(losses, {**factors, **{name: getattr(weights, name) for name in own}}, share)

    def decode(self, output: MesmOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Read the spans of the last layer; `frames`: their probability times their overlap with the frames found."""
        scores = moment_probability(output.logits[0])
        if rank_by == "frames":
            if output.frame_logits is None:
                raise ValueError("ranking by frames needs a network with a frame classifier (encoder_loss: bce)")
            scores = scores * overlap_with_frames(output.spans[0], output.frame_logits, batch.query_mask())
        return Answers(exact_windows(output.spans[0]), scores, output.saliency)

    def _enhance(
        self,
        batch: Batch,
        projected: Tensor,
        positions: Tensor,
        words: Tensor,
        text_of_pair: Tensor,
        layout: Layout,
        rows: Tensor,
    ) -> Tensor:
        """FW-MESM: packed frames of each pair, enhanced by the words (N, W, D) that `text_of_pair` takes, (T, D)."""
        if not self.config.frame_word:
            return projected.index_select(0, rows)
        mask = self._cross_mask(layout.mask, batch.words.mask[text_of_pair], batch.count)
        return self.frame_word(projected, positions, layout, words, None, mask, x_rows=rows, y_rows=text_of_pair)

    def _cross_mask(self, query_mask: Tensor, key_mask: Tensor, n: int) -> Tensor:
        return cross_mask(query_mask, key_mask, n, self.config.heads, misaligned=self.config.masks == "official")

    def _segment_tokens(self, batch: Batch, video: Tensor, words: Tensor) -> Tensor:
        """SS-MESM: the token of each query, (N, D), from the projected video (V, L, D)."""
        frames, mask, rows, start = video, batch.frames.mask, batch.plan.video, None
        if self.config.context == "attention":
            weight = batch.words.mask[..., None].to(words.dtype)
            start = self.segment_sentence.start_in_context(
                (words * weight).sum(1) / weight.sum(1).clamp(min=1), batch.plan.group
            )
        if self.config.segment_context == "group":
            frames, mask, group_rows = frames_of_groups(batch, video)
            rows = group_rows
        if self.config.masks == "fixed" and start is None:
            return self.segment_sentence(frames, mask[:, None, :]).index_select(0, rows)
        frames, mask = frames.index_select(0, rows), mask[rows]
        visible = mask[:, None, :]
        if self.config.masks == "official":
            visible = visible & misaligned_slot_mask(batch.group_of_query, ~mask, self.config.heads)
        return self.segment_sentence(frames, visible, start)

    def _rebuild_words(self, batch: Batch, video: Tensor, positions: Tensor) -> Tensor | None:
        """Masked words, rebuilt from the frames inside the moment: (T, classes)."""
        hidden, targets = batch.word_mask, batch.targets
        if hidden is None or targets is None or not self.config.frame_word:
            return None
        # Unknown and masked words share one draw of the input dropout, as in the published code.
        unknown, masked = self.text_projection(self.unknown_word), self.text_projection(self.masked_word)
        n = batch.count
        words = self.text_projection(self.text_scaling(batch.words.vectors[:n]))
        words = torch.where(hidden.unknown[..., None], unknown, words)
        words = torch.where(hidden.masked[..., None], masked, words)
        layout, rows, inside = batch.plan.words, batch.plan.video[:n], targets.clip_mask
        if self.config.masks == "official":
            # The published code moves the frames of the moment to the front, where the misaligned mask meets them.
            order = inside.int().sort(dim=1, descending=True, stable=True).indices
            video, positions = (x[rows[:, None], order] for x in (video, positions))
            inside = inside.gather(1, order)[:, : int(inside.sum(1).max())]
            video, positions = video[:, : inside.shape[1]], positions[:, : inside.shape[1]]
            rows = torch.arange(n, device=words.device)
        mask = self._cross_mask(batch.words.mask[:n], inside, n)
        packed = layout.pack(words)
        if self.config.recurrent_words:
            packed = self.word_recurrence(packed, layout)
        rebuilt = self.frame_word(packed, None, layout, video, positions, mask, y_rows=rows, words=True)
        return self.word_head(rebuilt)


def _saliency_loss(score: Tensor, negative: Tensor, mask: Tensor, targets: Targets, weights: MesmLosses) -> Tensor:
    """Frames of the moment score high, all frames score low for a negative query; all tensors (N, L)."""
    loss = rank_loss(score, negative, mask, targets.saliency, weights.temperature) / weights.rank_divisor
    loss = loss + silence_loss(negative, mask)
    return loss + margin_loss(score, targets, weights.margin) if weights.triplet else loss
