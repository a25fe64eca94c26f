"""Layers that join frames with a query and say at which row a moment begins and ends.

Source: EMB, `Raymond-sci/EMB` at a81e57a, which has them of VSLNet (Zhang et al., ACL 2020).
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mesm.model.kernels import dropout
from mesm.model.layers.guided import HIDDEN


class Fuser(nn.Module):
    """Context-query attention: every row of the context with the words that fit it, and the query as a whole."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.context_weight, self.query_weight = nn.Parameter(torch.empty(dim, 1)), nn.Parameter(torch.empty(dim, 1))
        self.product_weight, self.pool_weight = nn.Parameter(torch.empty(1, 1, dim)), nn.Parameter(torch.empty(dim, 1))
        for weight in (self.context_weight, self.query_weight, self.product_weight, self.pool_weight):
            nn.init.xavier_uniform_(weight)
        self.attended, self.joined = nn.Linear(4 * dim, dim), nn.Linear(2 * dim, dim)
        self.dropout = dropout

    def forward(self, context: Tensor, query: Tensor, context_mask: Tensor, query_mask: Tensor) -> Tensor:
        """(N, L, D) and (N, W, D) to (N, L, D); masks (N, L) and (N, W) bool."""
        asked, asking = (dropout(x, self.dropout, self.training) for x in (context, query))
        scores = asked @ self.context_weight + (asking @ self.query_weight).transpose(1, 2)
        scores = scores + (asked * self.product_weight) @ asking.transpose(1, 2)
        over_words = scores.masked_fill(~query_mask[:, None], HIDDEN).softmax(2)
        over_rows = scores.masked_fill(~context_mask[..., None], HIDDEN).softmax(1)
        words = over_words @ query
        rows = over_words @ (over_rows.transpose(1, 2) @ context)
        attended = self.attended(torch.cat((context, words, context * words, context * rows), dim=-1))
        weight = (query @ self.pool_weight).masked_fill(~query_mask[..., None], HIDDEN).softmax(1)
        pooled = (query * weight).sum(1, keepdim=True).expand_as(attended)
        return F.relu(self.joined(torch.cat((attended, pooled), dim=-1)))


class OrderedReader(nn.Module):
    """A bidirectional LSTM and a linear layer. The host has to know the lengths."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(N, L, D) to the same; lengths: valid rows of each."""
        # Autocast would turn to float16 on GPUs, whose gradients need scaling.
        with contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            read = self.packed(x.float(), lengths) if x.is_cuda else self.both_ways(x.float(), lengths)
        return self.output(read.to(x.dtype))

    def packed(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """(N, L, D) to (N, L, 2 D), zeros at padding, as torch reads packed sequences."""
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        return read

    def both_ways(self, x: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """The same, padding read along: on a CPU each step's gradient would fill a tensor of all packed rows anew."""
        size, place = torch.tensor(lengths, device=x.device)[:, None], torch.arange(x.shape[1], device=x.device)
        turned = torch.where(place < size, size - 1 - place, place)[..., None].expand_as(x)
        weights = [getattr(self.rnn, name) for names in self.rnn._all_weights for name in names]
        start = x.new_zeros(1, len(x), x.shape[2])
        ahead, back = (
            torch.lstm(one, (start, start), own, True, 1, 0.0, self.training, False, True)[0]
            for one, own in ((x, weights[:4]), (x.gather(1, turned), weights[4:]))
        )
        return torch.cat((ahead, back.gather(1, turned)), dim=-1) * (place < size)[..., None]


class BoundaryPredictor(nn.Module):
    """Rows read in order say where the moment starts; read again, where it ends."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.start_encoder, self.end_encoder = OrderedReader(dim), OrderedReader(dim)
        self.start_head, self.end_head = (
            nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1)) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """(N, L, D) to the logits of start and end, (N, L) each, far below any at padding."""
        start = self.start_encoder(x, lengths)
        end = self.end_encoder(start, lengths)
        hidden = torch.zeros(mask.shape, device=x.device).masked_fill_(~mask, HIDDEN)
        heads = ((self.start_head, start), (self.end_head, end))
        first, last = (head(torch.cat((read, x), dim=-1)).squeeze(-1) + hidden for head, read in heads)
        return first, last
