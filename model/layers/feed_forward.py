"""The feed-forward part of a layer."""

from __future__ import annotations

from torch import Tensor, nn

from mesm.model.kernels import feed_forward


class FeedForward(nn.Module):
    """The feed-forward weights of a layer: linear1, PReLU with one learnable slope (owned by the layer), linear2."""

    def __init__(self, dim: int, dim_hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim_hidden)
        self.linear2 = nn.Linear(dim_hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, residual: Tensor, x: Tensor, slope: Tensor, p: float) -> Tensor:
        """residual + Drop(W2 Drop(PReLU(W1 x))), without the norms.

        residual, x: (..., D); slope: (1,); p: probability of both dropouts. Returns (..., D).
        """
        first, second = self.linear1, self.linear2
        weights = (first.weight, first.bias, second.weight, second.bias)
        return feed_forward(residual, x, weights, slope, p, self.training)
