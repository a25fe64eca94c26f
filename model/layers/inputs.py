"""Layers between features and the network's width."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mesm.model.kernels import dropout
from mesm.model.layouts import Layout

FLOOR = 0.01
"""Least deviation of a feature's column, as a share of the columns' root mean square deviation."""


class InputBlock(nn.Module):
    """LayerNorm, dropout, linear, optional ReLU: one step of an input projection."""

    def __init__(self, dim_in: int, dim_out: int, dropout: float, relu: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.linear = nn.Linear(dim_in, dim_out)
        self.dropout, self.relu = dropout, relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        x = self.linear(dropout(self.norm(x), self.dropout, self.training))
        return F.relu(x) if self.relu else x


class Standardise(nn.Module):
    """Subtract a mean and divide by a deviation, both measured on the training features and kept with the weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    @torch.no_grad()
    def measure(self, parts: Iterable[Tensor]) -> None:
        """Take both from all rows of some tensors (rows, dim); columns that hardly vary are not blown up."""
        count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for part in parts:
            rows = part.detach().double().cpu()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / max(count, 1)
        deviation = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
        floor = FLOOR * deviation.square().mean().sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp(min=float(floor) or 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return (x - self.mean) / self.deviation


def input_projection(dim_in: int, dim: int, dropout: float) -> nn.Sequential:
    """Two input blocks, ReLU between them: the projection of frame or word features to the network's width."""
    return nn.Sequential(InputBlock(dim_in, dim, dropout, relu=True), InputBlock(dim, dim, dropout, relu=False))


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, dim_in: int, dim_hidden: int, dim_out: int, layers: int) -> None:
        super().__init__()
        dims = [dim_in] + [dim_hidden] * (layers - 1) + [dim_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim_in) to (..., dim_out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class RecurrentLayer(nn.Module):
    """A bidirectional GRU reads each sequence in order; what it says is added to the input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(T, D) packed to (T, D)."""
        # Autocast would turn to float16 on GPUs, whose gradients need scaling.
        with torch.autocast(x.device.type, enabled=False):
            sequences = pack_padded_sequence(
                layout.pad(x.float()), torch.tensor(layout.lengths), batch_first=True, enforce_sorted=False
            )
            read, _ = pad_packed_sequence(self.gru(sequences)[0], batch_first=True, total_length=layout.width)
        return x + layout.pack(read).to(x.dtype)


def scaling(dim: int, standardise: bool) -> nn.Module:
    """Return what standardises features of width `dim`, or leaves them as they are."""
    return Standardise(dim) if standardise else nn.Identity()


def measure_scaling(layer: nn.Module, parts: Iterable[Tensor]) -> None:
    """Let a layer of `scaling` measure the training features (rows, dim), if it standardises them."""
    if isinstance(layer, Standardise):
        layer.measure(parts)


def initialise_by_xavier(*parts: nn.Module) -> None:
    """Draw every matrix of some modules by Xavier's uniform rule (DETR)."""
    for part in parts:
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
