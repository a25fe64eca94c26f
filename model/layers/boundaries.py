"""Layers that join frames with a query and say at which row a moment begins and ends.

Source: EMB, `Raymond-sci/EMB` at a81e57a, which has them of VSLNet (Zhang et al., ACL 2020).
"""

from __future__ import annotations

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
        with torch.autocast(x.device.type, enabled=False):
            packed = pack_padded_sequence(x.float(), torch.tensor(lengths), batch_first=True, enforce_sorted=False)
            read, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.output(read.to(x.dtype))


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
