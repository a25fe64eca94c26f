"""MESM: modal-enhanced semantic modelling for video moment retrieval (Liu et al., AAAI 2024).

frame and word features -> FW-MESM (words enhance frames) and SS-MESM (a token that completes the query) -> modality
aligner -> encoder -> decoder with learnable spans. The paper and its published code differ in places; where they do,
this follows the code that made the published numbers, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Batch, Plan
from mesm.model.kernels.packing import prepend
from mesm.model.layers.decoder import Decoder
from mesm.model.layers.encoder import CrossLayer, EncoderLayer
from mesm.model.layers.inputs import InputBlock, Mlp, RecurrentLayer, Standardise, input_projection
from mesm.model.layouts import Layout, to_device
from mesm.model.position import frame_positions
from mesm.model.spans import inverse_sigmoid


@dataclass(frozen=True)
class MesmConfig:
    """Sizes and switches of the network. The defaults are the published setting for Charades-STA (CLIP + SlowFast)."""

    video_dim: int = 2818
    """Width of the frame features, the two temporal endpoint columns included."""
    text_dim: int = 512
    word_classes: int = 1114
    """Classes of the rebuilding of masked words: the vocabulary, unknown, and start and end where the text has them."""
    dim: int = 256
    heads: int = 8
    feed_forward_dim: int = 1024
    dropout: float = 0.1
    input_dropout: float = 0.5
    standardise: bool = False
    """Give the features of frames and words mean 0 and deviation 1, as measured on the training split, first. Features
    of CLIP's kind share a large constant part; the published code leaves it in."""
    queries: int = 10
    """Learnable spans, hence answers a query."""
    frame_word_layers: int = 2
    segment_sentence_layers: int = 4
    aligner_layers: int = 2
    encoder_layers: int = 2
    decoder_layers: int = 2
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


@dataclass
class Output:
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

    def float(self) -> Output:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return Output(**{f.name: _to_float(getattr(self, f.name)) for f in fields(self)})


def _to_float(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_float(item) for item in value]
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def misaligned_mask(query_padding: Tensor, key_padding: Tensor, heads: int) -> Tensor:
    """(N, heads, Lq, Lk) bool, True = visible: the published code's attention mask.

    Keys at padding are hidden from queries at padding, but laid out batch-major where attention reads head-major: slot
    b * heads + h carries the mask of sample (b * heads + h) mod N.
    """
    n = query_padding.shape[0]
    hidden = query_padding[:, :, None] & key_padding[:, None, :]
    slots = torch.arange(n * heads, device=hidden.device) % n
    return ~hidden[slots].view(n, heads, *hidden.shape[1:])


class CrossEncoder(nn.Module):
    """A stack of cross layers whose keys and values stay the same."""

    def __init__(self, layers: int, config: MesmConfig, separate_words: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossLayer(config.dim, config.heads, config.feed_forward_dim, config.dropout, separate_words)
            for _ in range(layers)
        )

    def forward(
        self,
        x: Tensor,
        x_pos: Tensor | None,
        layout: Layout,
        y: Tensor,
        y_pos: Tensor | None,
        mask: Tensor,
        x_rows: Tensor | None = None,
        y_rows: Tensor | None = None,
        words: bool = False,
    ) -> Tensor:
        """Let packed x attend to padded y; what several sequences share is projected once.

        x, x_pos: (T, D) laid out by `layout`, or fewer rows of which `x_rows` (T,) repeats some; y, y_pos: (N, Lk, D),
        or fewer sequences of which `y_rows` (N,) repeats some; mask: (N, Lk), or what broadcasts to (N, heads, Lq, Lk),
        True = visible; words: use the words' feed-forward weights. Returns (T, D).
        """
        y_key = y if y_pos is None else y + y_pos
        for i, layer in enumerate(cast("list[CrossLayer]", self.layers)):
            for_queries, for_keys, for_values = layer.attention.projections()
            q = F.linear(x if x_pos is None else x + x_pos, *for_queries)
            if i == 0 and x_rows is not None:
                x, q = x.index_select(0, x_rows), q.index_select(0, x_rows)
                x_pos = None if x_pos is None else x_pos.index_select(0, x_rows)
            k, v = F.linear(y_key, *for_keys), F.linear(y, *for_values)
            if y_rows is not None:
                k, v = k.index_select(0, y_rows), v.index_select(0, y_rows)
            x = layer(x, q, layout, k, v, mask, words)
        return x


class SegmentSentence(nn.Module):
    """SS-MESM: a learnable token reads the video and completes the query.

    The published code puts the token among the other sentences of the video, but as these layers hold no attention
    between sentences, the others cannot reach it (also in the paper's own formula). One token a video is therefore
    exact. `context: attention` gives the other sentences a path.
    """

    def __init__(self, config: MesmConfig) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(config.dim))
        first = CrossLayer(config.dim, config.heads, config.feed_forward_dim, config.dropout)
        self.layers = nn.ModuleList([first])
        for _ in range(config.segment_sentence_layers - 1):
            copy = CrossLayer(config.dim, config.heads, config.feed_forward_dim, config.dropout)
            copy.load_state_dict(first.state_dict())
            self.layers.append(copy)
        self.context = (
            EncoderLayer(config.dim, config.heads, config.feed_forward_dim, config.dropout)
            if config.context == "attention"
            else None
        )

    def forward(self, frames: Tensor, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """Read M videos.

        frames: (M, L, D) projected; mask: (M, heads or 1, L), True = visible; start: (M, D) the token after it has
        seen the context, or None. Returns (M, D), L2-normalised.
        """
        x = self.token.expand(frames.shape[0], -1) if start is None else start
        for layer in cast("list[CrossLayer]", self.layers):
            x = layer.finish(x, layer.attention.attend_from_one(x, frames, frames, mask))
        return F.normalize(x, dim=-1)

    def start_in_context(self, sentences: Tensor, groups: Tensor) -> Tensor:
        """Let the token stand in for each sentence among the others of its group (N,): (N, D) to (N, D)."""
        n, dim = sentences.shape
        same = groups[:, None] == groups[None, :]
        own = torch.eye(n, dtype=torch.bool, device=sentences.device)
        x = torch.where(own[..., None], self.token, sentences.expand(n, n, dim)).reshape(n * n, dim)
        layout = Layout([n] * n, sentences.device)
        assert self.context is not None
        x = self.context(x, torch.zeros_like(x), layout, same[:, None, None, :])
        return x.view(n, n, dim).diagonal(dim1=0, dim2=1).T


class Mesm(nn.Module):
    """The complete network."""

    def __init__(self, config: MesmConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.video_scaling = Standardise(config.video_dim) if config.standardise else nn.Identity()
        self.text_scaling = Standardise(config.text_dim) if config.standardise else nn.Identity()
        self.video_projection = input_projection(config.video_dim, dim, config.input_dropout)
        self.text_projection = input_projection(config.text_dim, dim, config.input_dropout)
        if config.frame_word:
            self.masked_word = nn.Parameter(torch.zeros(config.text_dim))
            self.unknown_word = nn.Parameter(torch.zeros(config.text_dim))
            self.frame_word = CrossEncoder(config.frame_word_layers, config, config.separate_word_feed_forward)
            self.word_head = nn.Sequential(
                InputBlock(dim, dim, config.input_dropout, relu=True), nn.Linear(dim, config.word_classes)
            )
        if config.segment_sentence:
            self.segment_sentence = SegmentSentence(config)
        self.aligner = CrossEncoder(config.aligner_layers, config)
        if config.recurrent_frames:
            self.frame_recurrence = RecurrentLayer(dim)
        if config.recurrent_words:
            self.word_recurrence = RecurrentLayer(dim)
        self.global_token = nn.Parameter(torch.randn(dim))
        self.global_position = nn.Parameter(torch.randn(dim))
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, config.heads, config.feed_forward_dim, config.dropout)
            for _ in range(config.encoder_layers)
        )
        self.decoder = Decoder(dim, config.heads, config.feed_forward_dim, config.dropout, config.decoder_layers)
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
        parts: list[nn.Module] = [self.aligner, self.encoder, self.decoder]
        if self.config.frame_word:
            parts.append(self.frame_word)
        for part in parts:
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        nn.init.zeros_(cast(nn.Linear, self.decoder.refine_head.layers[-1]).bias)

    def forward(self, batch: Batch) -> Output:
        """Answer N queries; the negative branch and the rebuilding of words run when the batch asks for them."""
        n, frames, plan = batch.count, batch.frames, batch.plan
        projected = self.video_projection(self.video_scaling(batch.video))
        positions = frame_positions(frames, self.config.dim)
        words = self.text_projection(self.text_scaling(batch.words))
        if self.config.recurrent_words:
            words = plan.all_words.pad(self.word_recurrence(plan.all_words.pack(words), plan.all_words))
        padded = frames.pad(projected)
        token = self._segment_tokens(batch, padded, words) if self.config.segment_sentence else None
        text, text_mask = _prepend(token, words, batch.words_mask)

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
        memory_global, memory = self._encode(aligned, row_positions, plan)
        answered = plan.answered
        own = memory[: answered.index.shape[0]]
        frame_logits = None
        if self.config.encoder_loss == "bce":
            frame_logits = saliency = answered.pad(self.frame_head(own)).squeeze(-1)
        elif self.config.encoder_loss == "saliency":
            saliency = layout.pad(self._saliency(memory_global, memory, layout)).squeeze(-1)
        else:
            saliency = memory.new_zeros(layout.mask.shape)
        logits, spans = self._decode(own, row_positions[: own.shape[0]], answered)
        return Output(
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
        mask = self._cross_mask(layout.mask, batch.words_mask[text_of_pair], batch.count)
        return self.frame_word(projected, positions, layout, words, None, mask, x_rows=rows, y_rows=text_of_pair)

    def _cross_mask(self, query_mask: Tensor, key_mask: Tensor, n: int) -> Tensor:
        """Mask of a cross layer, True = visible: (N, Lk), or (N, heads, Lq, Lk) with the published defect.

        The published code calls the layer for `n` samples at a time.
        """
        if self.config.masks == "fixed":
            return key_mask
        visible = key_mask[:, None, None, :]
        calls = zip(query_mask.split(n), key_mask.split(n), strict=True)
        return visible & torch.cat([misaligned_mask(~q, ~k, self.config.heads) for q, k in calls])

    def _segment_tokens(self, batch: Batch, video: Tensor, words: Tensor) -> Tensor:
        """SS-MESM: the token of each query, (N, D), from the projected video (V, L, D)."""
        frames, mask, rows, start = video, batch.frames.mask, batch.plan.video, None
        if self.config.context == "attention":
            weight = batch.words_mask[..., None].to(words.dtype)
            start = self.segment_sentence.start_in_context(
                (words * weight).sum(1) / weight.sum(1).clamp(min=1), batch.plan.group
            )
        if self.config.segment_context == "group":
            frames, mask, group_rows = self._frames_of_groups(batch, video)
            rows = group_rows
        if self.config.masks == "fixed" and start is None:
            return self.segment_sentence(frames, mask[:, None, :]).index_select(0, rows)
        frames, mask = frames.index_select(0, rows), mask[rows]
        visible = mask[:, None, :]
        if self.config.masks == "official":
            visible = visible & self._misaligned_slot_mask(batch, ~mask)
        return self.segment_sentence(frames, visible, start)

    def _misaligned_slot_mask(self, batch: Batch, padding: Tensor) -> Tensor:
        """(N, heads, L): the row of `misaligned_mask` that belongs to each query's own place among its group."""
        groups = batch.group_of_query
        place = [groups[:i].count(group) for i, group in enumerate(groups)]
        size = [groups.count(group) for group in groups]
        slots = torch.arange(max(size))
        slot_padding = (slots >= torch.tensor(size)[:, None]).to(padding.device)
        full = misaligned_mask(slot_padding, padding, self.config.heads)
        return full[torch.arange(len(groups)), :, torch.tensor(place)]

    @staticmethod
    def _frames_of_groups(batch: Batch, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The valid frames of all queries' videos of each group, one query after the other.

        Returns (G, L', D) frames, (G, L') mask and (N,) the group of each query.
        """
        order = {group: i for i, group in enumerate(dict.fromkeys(batch.group_of_query))}
        members: list[list[Tensor]] = [[] for _ in order]
        for group, v in zip(batch.group_of_query, batch.video_of_query, strict=True):
            members[order[group]].append(video[v, : batch.frames.lengths[v]])
        joined = [torch.cat(parts) for parts in members]
        layout = Layout([len(frames) for frames in joined], video.device)
        rows = to_device(np.array([order[group] for group in batch.group_of_query]), video.device)
        return layout.pad(torch.cat(joined)), layout.mask, rows

    def _encode(self, x: Tensor, positions: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Encode packed frames (T, D) with the global token in front of each pair's; returns (P, D) and (T, D)."""
        extended, first, others = plan.extended, plan.first, plan.others
        x = prepend(self.global_token, x, first, others)
        positions = prepend(self.global_position, positions, first, others)
        mask = None
        if self.config.masks == "official":
            mask = torch.cat((torch.zeros_like(extended.mask[:, :1]), extended.mask[:, 1:]), dim=1)[:, None, None]
        for layer in self.encoder:
            x = layer(x, positions, extended, mask)
        return x.index_select(0, first), x.index_select(0, others)

    def _saliency(self, memory_global: Tensor, memory: Tensor, layout: Layout) -> Tensor:
        """(T, 1): (W1 m_i + b1) . (W2 g + b2) / sqrt(D), with W1 moved to the global side.

        Every frame meets every query's g, which is a small product, and takes its own query's: no copy of g a frame.
        """
        u = self.saliency_global(memory_global)
        scores = F.linear(memory, u @ self.saliency_frame.weight, u @ self.saliency_frame.bias)
        return scores.gather(1, layout.sequence_of_row[:, None]) / self.config.dim**0.5

    def _decode(self, memory: Tensor, positions: Tensor, layout: Layout) -> tuple[list[Tensor], list[Tensor]]:
        """Logits (N, Q, 2) and spans (N, Q, 2) of every decoder layer, the last layer first.

        memory, positions: (T, D) packed frames of the queries and their codes.
        """
        frames, codes = layout.pad(memory), layout.pad(positions)
        states, references = self.decoder(self.query_spans, frames, codes, layout.mask)
        spans = [
            (self.span_head(state) + inverse_sigmoid(reference)).sigmoid()
            for state, reference in zip(states, references, strict=True)
        ]
        return [self.class_head(state) for state in reversed(states)], spans[::-1]

    def _rebuild_words(self, batch: Batch, video: Tensor, positions: Tensor) -> Tensor | None:
        """Masked words, rebuilt from the frames inside the moment: (T, classes)."""
        hidden, targets = batch.word_mask, batch.targets
        if hidden is None or targets is None or not self.config.frame_word:
            return None
        # Unknown and masked words share one draw of the input dropout, as in the published code.
        unknown, masked = self.text_projection(self.unknown_word), self.text_projection(self.masked_word)
        n = batch.count
        words = self.text_projection(self.text_scaling(batch.words[:n]))
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
        mask = self._cross_mask(batch.words_mask[:n], inside, n)
        packed = layout.pack(words)
        if self.config.recurrent_words:
            packed = self.word_recurrence(packed, layout)
        rebuilt = self.frame_word(packed, None, layout, video, positions, mask, y_rows=rows, words=True)
        return self.word_head(rebuilt)


def _prepend(token: Tensor | None, words: Tensor, words_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Put the token of SS-MESM, where there is one, in front of the words."""
    if token is None:
        return words, words_mask
    visible = torch.ones_like(words_mask[:, :1])
    return torch.cat((token[:, None], words), dim=1), torch.cat((visible, words_mask), dim=1)
