"""EMB written down plainly, for benchmarks: the published form, with our weights.

Every query has its own copy of its video, everything is padded, guides are looked for among all pairs of rows, all
blocks squared are proposals, and these are ranked whether they are trained or not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mesm.model.batch import Batch
from mesm.model.elastic import threshold_of
from mesm.model.layers.boundaries import Fuser, OrderedReader
from mesm.model.layers.guided import HIDDEN, GuidedLayer, PlainLayer
from mesm.model.networks.emb import Emb, EmbLosses, EmbOutput

BLOCK = 8


class ReferenceEmb(nn.Module):
    """The plain form; holds the parameters of our network and none of its ways."""

    def __init__(self, network: Emb) -> None:
        super().__init__()
        self.net = network

    def drop(self, x: Tensor) -> Tensor:
        """Torch's dropout."""
        return F.dropout(x, self.net.config.dropout, self.training)

    def forward(self, batch: Batch) -> EmbOutput:
        """Answer N queries and rank all proposals."""
        net, videos = self.net, list(batch.video_of_query)
        mask, word_mask = batch.frames.mask[videos], batch.words.mask
        video = batch.frames.pad(batch.video[:, :-2])[videos]
        unknown = word_mask & ~batch.words.vectors.any(-1)
        words = torch.where(unknown[..., None], net.unknown_word, batch.words.vectors)
        q = net.word_projection(self.drop(words)) + self.positions(words.shape[1])
        v = net.video_projection(self.drop(video)) + self.positions(video.shape[1])
        sides, proposals = net.frame_side, net.proposal_side
        p, p_mask, bounds = self.proposals(v, mask)
        p1 = self.layer(proposals.p2p, p, p_mask, guides=self.ends(v, mask, bounds, p_mask))
        v1 = self.layer(sides.f2f, v * mask[..., None], mask, guides=self.around(v, mask))
        q1 = self.layer(sides.w2w, q, word_mask)
        p2 = self.layer(
            proposals.p2w, p1 * p_mask[..., None], p_mask, q1, word_mask, self.ends(v1, mask, bounds, p_mask)
        )
        pq = self.layer(proposals.w2p, q1, word_mask, p1, p_mask)
        v2 = self.layer(sides.f2w, v1 * mask[..., None], mask, q1, word_mask, self.around(v1, mask))
        vq = self.layer(sides.w2f, q1, word_mask, v1, mask)
        p3 = self.layer(proposals.s2s, p2 * p_mask[..., None], p_mask, guides=self.ends(v2, mask, bounds, p_mask))
        pq = self.layer(proposals.pq2q, pq, word_mask)
        v3 = self.layer(sides.v2v, v2 * mask[..., None], mask, guides=self.around(v2, mask))
        vq = self.layer(sides.vq2q, vq, word_mask)
        x = self.fuse(net.frame_fuser, v3, vq, mask, word_mask)
        highlight = net.highlight_head(x).squeeze(-1).masked_fill(~mask, HIDDEN).sigmoid()
        x = x * highlight[..., None]
        start = self.read(net.predictor.start_encoder, x, mask)
        end = self.read(net.predictor.end_encoder, start, mask)
        hidden = (~mask).float() * HIDDEN
        first, last = (
            head(torch.cat((read, x), dim=-1)).squeeze(-1) + hidden
            for head, read in ((net.predictor.start_head, start), (net.predictor.end_head, end))
        )
        scores = self.rank(self.fuse(net.proposal_fuser, p3, pq, p_mask, word_mask), p_mask)
        return EmbOutput(highlight, first, last, scores, bounds, p_mask)

    def positions(self, length: int) -> Tensor:
        """The fixed table."""
        dim = self.net.config.dim
        angle = torch.arange(length).float()[:, None] * torch.exp(
            torch.arange(0, dim, 2).float() * -(torch.log(torch.tensor(10000.0)) / dim)
        )
        table = torch.zeros(length, dim)
        table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
        return table

    def layer(
        self,
        layer: PlainLayer,
        x: Tensor,
        mask: Tensor,
        y: Tensor | None = None,
        y_mask: Tensor | None = None,
        guides: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """A layer, guided or not."""
        asking, attention, heads = x, layer.attention, self.net.config.heads
        if guides is not None:
            assert isinstance(layer, GuidedLayer)
            stacked = torch.stack((*guides, x), dim=-1).transpose(1, 2)
            width = layer.guide.near.shape[2]
            mixed = F.conv2d(stacked, layer.guide.near, padding=(width // 2, 0), groups=x.shape[-1])
            mixed = self.drop(layer.guide.mix(mixed.squeeze(-1).transpose(1, 2)))
            asking = F.relu(layer.guide.layer_norm(mixed))
        seen = asking if y is None else y
        shown = mask[:, None] if y is None or y_mask is None else y_mask[:, None] & mask[..., None]
        query, key, value = (
            part.view(*part.shape[:2], heads, -1).permute(0, 2, 1, 3)
            for part in (attention.query(asking), attention.key(seen), attention.value(seen))
        )
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + (~shown).float()[:, None] * HIDDEN
        context = (self.drop(scores.softmax(-1)) @ value).permute(0, 2, 1, 3).flatten(2)
        x = layer.norm1(x + self.drop(context))
        return layer.norm2(x + self.drop(layer.outer(F.relu(layer.inner(x)))))

    def around(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima before and after each row, among all pairs of rows (N, L, L, D)."""
        length = x.shape[1]
        before = torch.ones(length, length, dtype=torch.bool).tril(-1)
        pairs = mask[:, None] & mask[..., None]
        found = []
        for triangle in (before, before.T):
            shown = triangle & pairs
            values = x[:, None].masked_fill(~shown[..., None], HIDDEN).amax(2)
            found.append(values.masked_fill(~shown.any(2)[..., None], 0.0))
        return found[0], found[1]

    def blocks(self, x: Tensor, mask: Tensor) -> Tensor:
        """Maxima of blocks of 8 valid rows, (N, D, blocks)."""
        padded = F.pad(x.masked_fill(~mask[..., None], HIDDEN), (0, 0, 0, -x.shape[1] % BLOCK), value=HIDDEN)
        return F.max_pool1d(padded.transpose(1, 2), BLOCK)

    def proposals(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, mask and bounds of all blocks squared."""
        pooled = self.blocks(x, mask)
        count, rows = pooled.shape[2], mask.sum(1)
        grid = pooled.new_zeros(*pooled.shape, count)
        running = pooled
        for run in range(count):
            if run:
                running = F.max_pool1d(running, 2, 1)
            first = torch.arange(count - run)
            grid[:, :, first, first + run] = running
        i, j = torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
        valid = (i <= j).flatten() & (j.flatten() * BLOCK < rows[:, None])
        bounds = torch.stack((i.flatten() * BLOCK, j.flatten() * BLOCK + BLOCK - 1), dim=-1)
        bounds = torch.minimum(bounds, rows[:, None, None] - 1) * valid[..., None]
        return grid.flatten(2).transpose(1, 2) * valid[..., None], valid, bounds

    def ends(self, x: Tensor, mask: Tensor, bounds: Tensor, p_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Maxima of the blocks in which proposals begin and end."""
        pooled = self.blocks(x, mask).transpose(1, 2)
        found = [
            pooled.gather(1, (bounds[..., side] // BLOCK)[..., None].expand(-1, -1, pooled.shape[-1]))
            * p_mask[..., None]
            for side in (0, 1)
        ]
        return found[0], found[1]

    def fuse(self, fuser: Fuser, context: Tensor, query: Tensor, mask: Tensor, word_mask: Tensor) -> Tensor:
        """Context-query attention and the query as a whole."""
        c, q = self.drop(context), self.drop(query)
        scores = c @ fuser.context_weight + (q @ fuser.query_weight).transpose(1, 2)
        scores = scores + (c * fuser.product_weight) @ q.transpose(1, 2)
        over_words = (scores + (~word_mask).float()[:, None] * HIDDEN).softmax(2)
        over_rows = (scores + (~mask).float()[..., None] * HIDDEN).softmax(1)
        a = over_words @ query
        b = (over_words @ over_rows.transpose(1, 2)) @ context
        joined = fuser.attended(torch.cat((context, a, context * a, context * b), dim=-1))
        weight = (query @ fuser.pool_weight + (~word_mask).float()[..., None] * HIDDEN).softmax(1)
        pooled = (query.transpose(1, 2) @ weight).transpose(1, 2).repeat(1, context.shape[1], 1)
        return F.relu(fuser.joined(torch.cat((joined, pooled), dim=-1)))

    def read(self, reader: OrderedReader, x: Tensor, mask: Tensor) -> Tensor:
        """Rows in order, both ways."""
        packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(reader.rnn(packed)[0], batch_first=True, total_length=x.shape[1])
        return reader.output(read)

    def rank(self, x: Tensor, p_mask: Tensor) -> Tensor:
        """One convolution over the map."""
        count = round(x.shape[1] ** 0.5)
        valid = p_mask.view(-1, 1, count, count).float()
        grid = (x * p_mask[..., None]).transpose(1, 2).reshape(len(x), -1, count, count)
        around = F.conv2d(valid, torch.ones(1, 1, 3, 3), padding=1)
        found = F.relu(self.net.ranker.convolution(grid)) / around.clamp(min=1.0)
        return self.net.ranker.head(found.flatten(2).transpose(1, 2)).squeeze(-1).sigmoid()

    def losses(self, output: EmbOutput, batch: Batch, weights: EmbLosses) -> dict[str, Tensor]:
        """The losses are the same functions of the output."""
        return self.net.losses_at(threshold_of(batch.progress, batch.video.device), output, batch, weights)
