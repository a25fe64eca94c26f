"""Convolutions over time that read nothing of padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mesm.model.kernels import dropout as hide


class GatedConvolution(nn.Module):
    """Norm, convolution over three rows `reach` apart with a gate (GLU, Dauphin et al., ICML 2017), linear; residual.

    conditioned: a vector a sequence scales and shifts what is read (FiLM, Perez et al., AAAI 2018).
    """

    def __init__(self, dim: int, reach: int, dropout: float, conditioned: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.convolution = nn.Conv1d(dim, 2 * dim, 3, padding=reach, dilation=reach)
        self.out = nn.Linear(dim, dim)
        self.dropout = dropout
        self.condition = nn.Linear(dim, 2 * dim) if conditioned else None
        if self.condition is not None:
            nn.init.zeros_(self.condition.weight)
            nn.init.zeros_(self.condition.bias)

    def forward(self, x: Tensor, mask: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, L, D) to (N, L, D); mask: (N, L), the valid rows; condition: (N, D)."""
        read = self.norm(x)
        if self.condition is not None and condition is not None:
            scale, shift = self.condition(condition)[:, None].chunk(2, dim=-1)
            read = torch.addcmul(shift, read, 1 + scale)
        read = self.convolution((read * mask[..., None]).transpose(1, 2))
        return x + hide(self.out(F.glu(read, dim=1).transpose(1, 2)), self.dropout, self.training)
