"""MESM written plainly: the oracle of the equality tests, and what the benchmarks compare with.

Nothing is shared or saved here. A video is copied for each of its queries and projected twice; attention is a product,
a softmax and a product over padded sequences; every query completes all the sentences of its group; the negative pairs
go through the whole network, at inference too; windows are assigned one query after the other. Parameters carry the
names of the published code, so a golden file of that code checks this network without any mapping.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import MesmConfig
from mesm.tools.reference_batch import PlainBatch


class Parts(nn.Module):
    """A module whose parts are made under published names."""

    def __getattr__(self, name: str) -> Any:
        """Return a part."""
        return super().__getattr__(name)


class LinearLayer(nn.Module):
    """LayerNorm, dropout, linear, optional ReLU."""

    def __init__(self, dim_in: int, dim_out: int, dropout: float, relu: bool) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(dim_in)
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim_in, dim_out))
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        x = self.net(self.LayerNorm(x))
        return F.relu(x) if self.relu else x


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, dim: int, dim_out: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim if i + 1 < layers else dim_out) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim_out)."""
        for i, layer in enumerate(self.layers):
            x = layer(x) if i + 1 == len(self.layers) else F.relu(layer(x))
        return x


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, heads: int, drop: nn.Module) -> Tensor:
    """Multi-head attention of projected q (N, Lq, E), k (N, Lk, E) and v (N, Lk, D); visible: (N, heads, Lq, Lk)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return (drop(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Holds the weights under the published names."""

    def __init__(self, dim: int, with_input: bool = True) -> None:
        super().__init__()
        if with_input:
            self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * dim, dim)))
            self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def project(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each through its third of the input weights."""
        parts = zip((q, k, v), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        return tuple(F.linear(x, w, b) for x, w, b in parts)


class CrossLayer(nn.Module):
    """Frames attend to words, or words to frames; with `separate`, words have feed-forward weights of their own."""

    def __init__(self, config: MesmConfig, separate: bool = False) -> None:
        super().__init__()
        dim, hidden = config.dim, config.feed_forward_dim
        self.heads = config.heads
        self.self_attn = SelfAttention(dim)
        for suffix in ("", "_1") if separate else ("",):
            setattr(self, f"linear1{suffix}", nn.Linear(dim, hidden))
            setattr(self, f"linear2{suffix}", nn.Linear(hidden, dim))
            setattr(self, f"norm1{suffix}", nn.LayerNorm(dim))
            setattr(self, f"norm2{suffix}", nn.LayerNorm(dim))
        self.separate = separate
        self.activation = nn.PReLU()
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, x_pos: Tensor, y: Tensor, y_pos: Tensor, visible: Tensor, words: bool) -> Tensor:
        """x (N, Lx, D), y (N, Ly, D), codes added to queries and keys, to (N, Lx, D)."""
        suffix = "_1" if words and self.separate else ""
        linear1, linear2, norm1, norm2 = (
            getattr(self, f"{name}{suffix}") for name in ("linear1", "linear2", "norm1", "norm2")
        )
        q, k, v = self.self_attn.project(x + x_pos, y + y_pos, y)
        h = x + self.drop(self.self_attn.out_proj(attend(q, k, v, visible, self.heads, self.drop)))
        return norm2(h + self.drop(linear2(self.drop(self.activation(linear1(norm1(h)))))))


class CrossEncoder(Parts):
    """Layers with or without the two mask defects of the published code."""

    def __init__(self, layers: int, config: MesmConfig, separate: bool = False) -> None:
        super().__init__()
        self.t2v_encoder = Parts()
        self.t2v_encoder.layers = nn.ModuleList(CrossLayer(config, separate) for _ in range(layers))
        self.heads, self.masks = config.heads, config.masks

    def forward(
        self, x: Tensor, x_mask: Tensor, x_pos: Tensor, y: Tensor, y_mask: Tensor, y_pos: Tensor, words: bool = False
    ) -> Tensor:
        """x (N, Lx, D) reads y (N, Ly, D); the masks are (N, Lx) and (N, Ly)."""
        visible = cross_mask(x_mask, y_mask, self.heads, self.masks)
        for layer in self.t2v_encoder.layers:
            x = layer(x, x_pos, y, y_pos, visible, words)
        return x


def cross_mask(x_mask: Tensor, y_mask: Tensor, heads: int, masks: str) -> Tensor:
    """(N, 1 or heads, Lx or 1, Ly): keys that are seen. Published: slot n * heads + h has the mask of sample % N."""
    visible = y_mask[:, None, None, :]
    if masks == "fixed":
        return visible
    n = len(x_mask)
    hidden = (~x_mask)[:, :, None] & (~y_mask)[:, None, :]
    slots = torch.arange(n * heads, device=x_mask.device) % n
    return visible & ~hidden[slots].unflatten(0, (n, heads))


class EncoderLayer(nn.Module):
    """A self-attention layer."""

    def __init__(self, config: MesmConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.feed_forward_dim
        self.heads = config.heads
        self.self_attn = SelfAttention(dim)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.activation = nn.PReLU()
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, pos: Tensor, mask: Tensor) -> Tensor:
        """(N, L, D), its codes and its mask (N, L) to (N, L, D)."""
        q, k, v = self.self_attn.project(x + pos, x + pos, x)
        attended = attend(q, k, v, mask[:, None, None], self.heads, self.drop)
        x = self.norm1(x + self.drop(self.self_attn.out_proj(attended)))
        return self.norm2(x + self.drop(self.linear2(self.drop(self.activation(self.linear1(x))))))


class DecoderLayer(Parts):
    """Spans attend to one another and to the frames."""

    def __init__(self, config: MesmConfig, first: bool) -> None:
        super().__init__()
        dim, hidden = config.dim, config.feed_forward_dim
        self.heads, self.first = config.heads, first
        for name in ("qcontent", "qpos", "kcontent", "kpos", "v"):
            setattr(self, f"sa_{name}_proj", nn.Linear(dim, dim))
        for name in ("qcontent", "qpos", "kcontent", "kpos", "v", "qpos_sine"):
            if first or name != "qpos":
                setattr(self, f"ca_{name}_proj", nn.Linear(dim, dim))
        self.self_attn, self.cross_attn = SelfAttention(dim, False), SelfAttention(dim, False)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.activation = nn.PReLU()
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor, pos: Tensor, query_pos: Tensor, query_sine: Tensor
    ) -> Tensor:
        """x (N, Q, D) reads memory (N, L, D); query_pos and query_sine are (N, Q, D)."""
        q = self.sa_qcontent_proj(x) + self.sa_qpos_proj(query_pos)
        k = self.sa_kcontent_proj(x) + self.sa_kpos_proj(query_pos)
        attended = attend(q, k, self.sa_v_proj(x), None, self.heads, self.drop)
        x = self.norm1(x + self.drop(self.self_attn.out_proj(attended)))
        q, k, k_pos = self.ca_qcontent_proj(x), self.ca_kcontent_proj(memory), self.ca_kpos_proj(pos)
        if self.first:
            q, k = q + self.ca_qpos_proj(query_pos), k + k_pos
        q = self._beside(q, self.ca_qpos_sine_proj(query_sine))
        k = self._beside(k, k_pos)
        attended = attend(q, k, self.ca_v_proj(memory), mask[:, None, None], self.heads, self.drop)
        x = self.norm2(x + self.drop(self.cross_attn.out_proj(attended)))
        return self.norm3(x + self.drop(self.linear2(self.drop(self.activation(self.linear1(x))))))

    def _beside(self, a: Tensor, b: Tensor) -> Tensor:
        """Put content and position of each head side by side."""
        heads = (x.unflatten(-1, (self.heads, -1)) for x in (a, b))
        return torch.cat(tuple(heads), dim=-1).flatten(-2)


def sine(value: Tensor, dim: int) -> Tensor:
    """(...) fractions to (..., dim) codes."""
    i = torch.arange(dim, device=value.device)
    angle = value[..., None] * 2 * math.pi / 10000 ** (2 * (i // 2) / dim)
    return torch.where(i % 2 == 0, angle.sin(), angle.cos())


def frame_positions(mask: Tensor, dim: int) -> Tensor:
    """(N, L) mask to (N, L, dim) codes of the place in the video."""
    count = mask.cumsum(1).float()
    return sine(count / (count[:, -1:] + 1e-6), dim)


def logit(x: Tensor) -> Tensor:
    """Inverse of the sigmoid, x and 1 - x clamped at 0.001."""
    return torch.log(x.clamp(1e-3, 1) / (1 - x.clamp(0, 1)).clamp(min=1e-3))


class ReferenceMesm(Parts):
    """The whole network, with the published behaviour (`masks: official`) or without the two mask defects."""

    def __init__(self, config: MesmConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        dim, drop = config.dim, config.input_dropout

        def projection(dim_in: int) -> nn.Sequential:
            return nn.Sequential(LinearLayer(dim_in, dim, drop, True), LinearLayer(dim, dim, drop, False))

        self.global_rep_token, self.global_rep_pos = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))
        self.masked_token = nn.Parameter(torch.zeros(sizes.text_dim))
        self.unknown_token = nn.Parameter(torch.zeros(sizes.text_dim))
        self.enhance_encoder = CrossEncoder(config.frame_word_layers, config, config.separate_word_feed_forward)
        self.t2v_encoder = CrossEncoder(config.aligner_layers, config)
        self.transformer = Parts()
        self.transformer.encoder = Parts()
        self.transformer.encoder.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        decoder = self.transformer.decoder = Parts()
        decoder.layers = nn.ModuleList(DecoderLayer(config, i == 0) for i in range(config.decoder_layers))
        decoder.norm = nn.LayerNorm(dim)
        decoder.query_scale, decoder.ref_point_head = Perceptron(dim, dim, 2), Perceptron(dim, dim, 2)
        decoder.bbox_embed, decoder.ref_anchor_head = Perceptron(dim, 2, 3), Perceptron(dim, 1, 2)
        self.span_embed, self.class_embed = Perceptron(dim, 2, 3), nn.Linear(dim, 2)
        self.query_embed = nn.Embedding(config.queries, 2)
        self.input_txt_proj, self.input_vid_proj = projection(sizes.text_dim), projection(sizes.video_dim)
        self.saliency_proj1, self.saliency_proj2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.output_txt_proj = nn.Sequential(LinearLayer(dim, dim, drop, True), nn.Linear(dim, sizes.word_classes))
        self.ss_reconstructor = Parts()
        self.ss_reconstructor.masked_sent_token = nn.Parameter(torch.zeros(dim))
        self.ss_reconstructor.recon_trans = Parts()
        self.ss_reconstructor.recon_trans.layers = nn.ModuleList(
            CrossLayer(config) for _ in range(config.segment_sentence_layers)
        )

    def forward(self, batch: PlainBatch) -> dict[str, Tensor]:
        """Answer N queries and their negatives; keys are the published names of the outputs."""
        video = self.input_vid_proj(batch.video)
        words = self.input_txt_proj(batch.words)
        pos = frame_positions(batch.video_mask, self.config.dim)
        recon = self._complete_sentences(batch, words)
        text = torch.cat((recon[:, None], words), dim=1)
        text_mask = torch.cat((torch.ones_like(batch.words_mask[:, :1]), batch.words_mask), dim=1)
        out = self._answer(batch, video, pos, words, text, text_mask, list(range(len(words))))
        negative = self._answer(batch, video, pos, words, text, text_mask, batch.negative)
        out["neg_saliency_scores"] = negative["saliency_scores"]
        out |= {"recon_feat": recon, "projected_video": video, "text": text, "text_mask": text_mask}
        if batch.masked is not None:
            out["recfw_words_logit"] = self._rebuild_words(batch, video, pos)
        return out

    def _complete_sentences(self, batch: PlainBatch, words: Tensor) -> Tensor:
        """SS-MESM: each query's place among the sentences of its group is filled in, (N, D)."""
        video = self.input_vid_proj(batch.video)
        n, dim, groups = len(words), self.config.dim, batch.groups
        weight = batch.words_mask[..., None].to(words.dtype)
        sentence = (words * weight).sum(1) / weight.sum(1)
        most = max(groups.count(group) for group in groups)
        slots, slot_mask = words.new_zeros(n, most, dim), torch.zeros(n, most, dtype=torch.bool, device=words.device)
        place = [groups[:i].count(group) for i, group in enumerate(groups)]
        for i, group in enumerate(groups):
            members = [j for j in range(n) if groups[j] == group]
            slots[i, : len(members)] = sentence[members]
            slots[i, place[i]] = self.ss_reconstructor.masked_sent_token
            slot_mask[i, : len(members)] = True
        frames, mask = video, batch.video_mask
        if self.config.segment_context == "group":
            joined = [
                torch.cat([video[j][batch.video_mask[j]] for j in range(n) if groups[j] == group]) for group in groups
            ]
            frames = nn.utils.rnn.pad_sequence(joined, batch_first=True)
            lengths = torch.tensor([len(x) for x in joined], device=video.device)
            mask = torch.arange(frames.shape[1], device=video.device) < lengths[:, None]
        visible = cross_mask(slot_mask, mask, self.config.heads, self.config.masks)
        none = words.new_zeros(())
        for layer in self.ss_reconstructor.recon_trans.layers:
            slots = layer(slots, none, frames, none, visible, words=False)
        return F.normalize(slots[torch.arange(n), place], dim=-1)

    def _answer(
        self,
        batch: PlainBatch,
        video: Tensor,
        pos: Tensor,
        words: Tensor,
        text: Tensor,
        text_mask: Tensor,
        pick: list[int],
    ) -> dict[str, Tensor]:
        n, mask, none = len(video), batch.video_mask, video.new_zeros(())
        enhanced = self.enhance_encoder(video, mask, pos, words[pick], batch.words_mask[pick], none)
        x = self.t2v_encoder(enhanced, mask, pos, text[pick], text_mask[pick], none)
        x = torch.cat((self.global_rep_token.expand(n, 1, -1), x), dim=1)
        long_pos = torch.cat((self.global_rep_pos.expand(n, 1, -1), pos), dim=1)
        sees_global = torch.full_like(mask[:, :1], self.config.masks == "fixed")
        for layer in self.transformer.encoder.layers:
            x = layer(x, long_pos, torch.cat((sees_global, mask), dim=1))
        memory_global, memory = x[:, 0], x[:, 1:]
        scores = (self.saliency_proj1(memory) * self.saliency_proj2(memory_global)[:, None]).sum(-1)
        out = self._decode(memory, mask, pos)
        out["saliency_scores"] = scores / math.sqrt(self.config.dim)
        out["enhanced_video_feat"] = enhanced
        return out

    def _decode(self, memory: Tensor, mask: Tensor, pos: Tensor) -> dict[str, Tensor]:
        decoder, dim = self.transformer.decoder, self.config.dim
        reference = self.query_embed.weight.sigmoid().expand(len(memory), -1, -1)
        x = memory.new_zeros(*reference.shape[:2], dim)
        layers = []
        for i, layer in enumerate(decoder.layers):
            read = reference if i == 0 else reference.detach()
            code = torch.cat([sine(read[..., j], dim // 2) for j in (0, 1)], dim=-1)
            scale = decoder.query_scale(x) if i else 1
            query_sine = code * scale * decoder.ref_anchor_head(x).sigmoid() / read[..., 1:]
            x = layer(x, memory, mask, pos, decoder.ref_point_head(code), query_sine)
            state = decoder.norm(x)
            layers.append((self.class_embed(state), (self.span_embed(state) + logit(reference)).sigmoid()))
            reference = (decoder.bbox_embed(x) + logit(read)).sigmoid()
        out = {"pred_logits": layers[-1][0], "pred_spans": layers[-1][1]}
        for i, (logits, spans) in enumerate(layers[:-1]):
            out |= {f"aux_outputs/{i}/pred_logits": logits, f"aux_outputs/{i}/pred_spans": spans}
        return out

    def _rebuild_words(self, batch: PlainBatch, video: Tensor, pos: Tensor) -> Tensor:
        assert batch.masked is not None
        assert batch.unknown is not None
        words = self.input_txt_proj(batch.words).clone()
        unknown, masked = self.input_txt_proj(self.unknown_token), self.input_txt_proj(self.masked_token)
        clips, clip_pos = [], []
        for i in range(len(words)):
            words[i][batch.unknown[i]] = unknown
            words[i][batch.masked[i]] = masked
            clips.append(video[i][batch.clip_mask[i]])
            clip_pos.append(pos[i][batch.clip_mask[i]])
        y, y_pos = (nn.utils.rnn.pad_sequence(x, batch_first=True) for x in (clips, clip_pos))
        lengths = torch.tensor([len(x) for x in clips], device=video.device)
        y_mask = torch.arange(y.shape[1], device=video.device) < lengths[:, None]
        rebuilt = self.enhance_encoder(words, batch.words_mask, video.new_zeros(()), y, y_mask, y_pos, words=True)
        return self.output_txt_proj(rebuilt)
