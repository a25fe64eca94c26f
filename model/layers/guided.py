"""Attention layers of EMB, plain and guided, on padded sequences.

Source: EMB (Huang et al., ECCV 2022), `Raymond-sci/EMB` at a81e57a. A guided layer asks with what a sequence and two
guides say together, such as the maxima of what comes before and after each row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import dropout

HIDDEN = -1e30
"""Added to scores that count for nothing. Half precision has no such number; bfloat16 has."""
NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention with biases and without a projection of its output."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """Ask y (N, M, D) for each row of x (N, L, D); mask: (N, 1 or L, M) bool, what may be seen."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query(x), self.key(y), self.value(y))
        )
        hidden = torch.zeros(mask.shape, dtype=query.dtype, device=x.device).masked_fill_(~mask, HIDDEN)
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(2, 3)) + hidden[:, None]
        weights = dropout(scores.softmax(-1), self.dropout, self.training)
        return torch.matmul(weights, value).transpose(1, 2).flatten(2)


class PlainLayer(nn.Module):
    """Attention and a feed-forward block of the same width, each with a residual and a norm behind it."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(dim, heads, dropout)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim, NORM_EPS), nn.LayerNorm(dim, NORM_EPS)
        self.dropout = dropout

    def forward(self, x: Tensor, x_mask: Tensor, y: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
        """(N, L, D) to the same; y: (N, M, D) what is asked, None: x itself; masks: (N, L) and (N, M) bool."""
        if y is None or y_mask is None:
            return self.finish(x, self.attention(x, x, x_mask[:, None]))
        return self.finish(x, self.attention(x, y, y_mask[:, None] & x_mask[:, :, None]))

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """Add what was found to x (N, L, D), and let the feed-forward block work on it."""
        x = self.norm1(x + dropout(context, self.dropout, self.training))
        fed = self.outer(F.relu(self.inner(x)))
        return self.norm2(x + dropout(fed, self.dropout, self.training))


class Guide(nn.Module):
    """Two guides and the sequence itself are mixed, channel by channel, over `width` neighbouring rows."""

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.near = nn.Parameter(torch.empty(dim, 1, width, 3))
        nn.init.xavier_uniform_(self.near)
        self.mix, self.layer_norm = nn.Linear(dim, dim), nn.LayerNorm(dim, NORM_EPS)
        self.dropout = dropout

    def forward(self, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Three tensors (N, L, D) to one."""
        weight = self.near.squeeze(1)
        width = weight.shape[1]
        if width == 1:
            mixed = sum(part * weight[:, 0, i] for i, part in enumerate(parts))
        else:
            # Channel d of all three next to one another: a convolution in groups of three.
            stacked = torch.stack(parts, dim=-1).flatten(2).transpose(1, 2)
            mixed = F.conv1d(stacked, weight.transpose(1, 2), padding=width // 2, groups=len(weight)).transpose(1, 2)
        mixed = dropout(self.mix(mixed), self.dropout, self.training)
        return F.relu(self.layer_norm(mixed))


class GuidedLayer(PlainLayer):
    """A layer that asks with what guides and sequence say together; the residual is the sequence."""

    def __init__(self, dim: int, heads: int, dropout: float, width: int) -> None:
        super().__init__(dim, heads, dropout)
        self.guide = Guide(dim, width, dropout)

    def guided(
        self,
        x: Tensor,
        x_mask: Tensor,
        guides: tuple[Tensor, Tensor],
        y: Tensor | None = None,
        y_mask: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, with two guides (N, L, D); x must be 0 at padding."""
        asking = self.guide((*guides, x))
        if y is None or y_mask is None:
            return self.finish(x, self.attention(asking, asking, x_mask[:, None]))
        return self.finish(x, self.attention(asking, y, y_mask[:, None] & x_mask[:, :, None]))


class FrameLayer(GuidedLayer):
    """A guided layer whose guides are the maxima of the valid rows before and after each row."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__(dim, heads, dropout, width=7)

    def forward(self, x: Tensor, x_mask: Tensor, y: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
        """(N, L, D) to the same; what stands at padding is taken for 0."""
        x = x * x_mask[..., None]
        return self.guided(x, x_mask, before_and_after(x, x_mask), y, y_mask)


def before_and_after(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima over the valid rows before each row and after it; 0 where there are none, and at padding.

    x: (N, L, D); mask: (N, L) bool. The published code makes all (N, L, L, D) values; running maxima are the same.
    """
    seen = x.masked_fill(~mask[..., None], HIDDEN)
    nothing = torch.full_like(seen[:, :1], HIDDEN)
    before = torch.cat((nothing, seen[:, :-1].cummax(1).values), dim=1)
    after = torch.cat((seen[:, 1:].flip(1).cummax(1).values.flip(1), nothing), dim=1)
    first, last = (value.masked_fill((value <= HIDDEN / 10) | ~mask[..., None], 0.0) for value in (before, after))
    return first, last


def sine_table(length: int, dim: int, device: torch.device) -> Tensor:
    """(length, dim) codes of places: sines at even and cosines at odd columns (Vaswani et al., 2017)."""
    place = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=device).float() * -(torch.log(torch.tensor(10000.0)) / dim))
    angle = place * rate
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
