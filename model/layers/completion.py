"""A token that reads a video and completes a sentence about it."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.batch import Batch
from mesm.model.layers.encoder import CrossLayer, EncoderLayer
from mesm.model.layouts import Layout, to_device


class SegmentSentence(nn.Module):
    """SS-MESM: a learnable token reads the video and completes the query.

    The published code puts the token among the other sentences of the video, but as these layers hold no attention
    between sentences, the others cannot reach it (also in the paper's own formula). One token a video is therefore
    exact. `with_context` gives the other sentences a path.
    """

    def __init__(
        self, layers: int, dim: int, heads: int, dim_hidden: int, dropout: float, with_context: bool = False
    ) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(dim))
        first = CrossLayer(dim, heads, dim_hidden, dropout)
        self.layers = nn.ModuleList([first])
        for _ in range(layers - 1):
            copy = CrossLayer(dim, heads, dim_hidden, dropout)
            copy.load_state_dict(first.state_dict())
            self.layers.append(copy)
        self.context = EncoderLayer(dim, heads, dim_hidden, dropout) if with_context else None

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


def frames_of_groups(batch: Batch, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The valid frames of all queries' videos of each group, one query after the other; video: (V, L, D).

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


def put_in_front(token: Tensor | None, words: Tensor, words_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Put a token (N, D), where there is one, in front of words (N, W, D) with their mask (N, W)."""
    if token is None:
        return words, words_mask
    visible = torch.ones_like(words_mask[:, :1])
    return torch.cat((token[:, None], words), dim=1), torch.cat((visible, words_mask), dim=1)
