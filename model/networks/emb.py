"""EMB (elastic moment bounding), and TEA, which reads a narrative of the video beside its frames.

Source of EMB: Huang et al., ECCV 2022, and its code, `Raymond-sci/EMB` at a81e57a. Of TEA (text-enhanced alignment,
2024) there is no code; what its paper leaves open is marked as ours where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from mesm.model.batch import Batch, in_float32
from mesm.model.bounds import AtLeastOne, Probability, Weight, width_problems
from mesm.model.elastic import (
    best_pairs,
    highlight_sum,
    highlighted,
    location_loss,
    pseudo_rows,
    ranking_sum,
    rows_of_windows,
    threshold_of,
)
from mesm.model.kernels import dropout
from mesm.model.layers.boundaries import BoundaryPredictor, Fuser
from mesm.model.layers.guided import HIDDEN, PlainLayer, sine_table
from mesm.model.layers.proposals import LIFTED, Proposals, Ranker, lay_out, proposal_features, proposal_guides
from mesm.model.layers.sides import Asked, FrameSide, Paragraph, ProposalSide, Size, initialise
from mesm.model.losses import WHOLE, Share, hull_windows, targets_of
from mesm.model.network import Answers, Network
from mesm.model.network_config import TEMPORAL_COLUMNS, NetworkConfig, Sizes


@dataclass(frozen=True)
class EmbOptions(NetworkConfig):
    """Sizes and switches that both networks have. The defaults are the published ones."""

    dim: AtLeastOne = 128
    heads: AtLeastOne = 8
    dropout: Probability = 0.2
    answers: AtLeastOne = 5
    """Answers a query: the likeliest pairs of rows of which none overlaps a better one by more than half."""
    behaviour: Literal["fixed", "official"] = "fixed"
    """`official`: as the published code, to the last defect: padding reaches the proposals, the last candidate of the
    end lies one row too far, highlights end early, and probabilities underflow."""

    @property
    def size(self) -> Size:
        """Width, heads and dropout of every layer."""
        return self.dim, self.heads, self.dropout

    def ties(self) -> list[str]:
        """Name the option under which a proposal's score depends on the longest video of the batch; no answer does."""
        return ["model.behaviour=official"] if self.behaviour == "official" else []

    def compiles(self) -> bool:
        """Starts and ends are read in order, for which the host has to know lengths."""
        return False

    def problems(self) -> list[str]:
        """Say which values cannot go together."""
        return width_problems(self.dim, self.heads)


@dataclass(frozen=True)
class EmbConfig(EmbOptions):
    """EMB."""

    network: Literal["emb"] = "emb"


@dataclass(frozen=True)
class TeaConfig(EmbOptions):
    """TEA: EMB with a narrative. Without `narrative` and `paragraph` it is EMB, bit for bit."""

    network: Literal["tea"] = "tea"
    narrative: Literal["none", "add", "attention", "concat_mlp"] = "concat_mlp"
    """How frames and narrative become one (equation 4). The depth of the MLP is ours."""
    paragraph: bool = True
    """A second branch asks the narrative alone (equations 12 and 13)."""
    paragraph_guided: bool = True
    """Its layers are those of the frames; false: without guides. The paper's equation 12 names attention alone."""
    alpha: Annotated[float, Ge(0), Le(100)] = 0.5
    """Weight of that branch's probabilities (equation 14)."""
    supervise_paragraph: bool = False
    """That branch's highlights are trained, too (not in the paper)."""

    def reads_narration(self) -> bool:
        """Without a merging and without the branch, the narrative is not read."""
        return self.narrative != "none" or self.paragraph


@dataclass(frozen=True)
class EmbLosses:
    """Weights of the losses."""

    location: Weight = 1.0
    highlight: Weight = 5.0
    ranking: Weight = 1.0


@dataclass
class EmbOutput:
    """What the network says about N queries."""

    highlight: Tensor
    """(N, L): how likely each row is of the moment, 0 at padding."""
    start_logits: Tensor
    """(N, L), below -1e29 at padding."""
    end_logits: Tensor
    """(N, L), below -1e29 at padding."""
    proposal_scores: Tensor | None = None
    """(N, P), of batches to train on alone: no answer needs them."""
    proposal_bounds: Tensor | None = None
    """(N, P, 2) int64, first and last row."""
    proposal_mask: Tensor | None = None
    """(N, P) bool."""

    def float(self) -> EmbOutput:
        """Return the same in float32: losses are computed in full precision, whatever the network ran in."""
        return in_float32(self)

    def log_chances(self) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of start and end, (N, L) each."""
        return self.start_logits.log_softmax(1), self.end_logits.log_softmax(1)


@dataclass
class TeaOutput(EmbOutput):
    """What the network says about N queries, and its second branch."""

    paragraph_highlight: Tensor | None = None
    """(N, L); this and the following are None without the branch."""
    paragraph_start_logits: Tensor | None = None
    """(N, L), below -1e29 at padding."""
    paragraph_end_logits: Tensor | None = None
    """(N, L), below -1e29 at padding."""
    alpha: float = 0.0
    """Weight of the branch."""

    def log_chances(self) -> tuple[Tensor, Tensor]:
        """Logarithms of p + alpha * p of the branch, for start and end; the sum of each is 1 + alpha (equation 14)."""
        own = super().log_chances()
        others = (self.paragraph_start_logits, self.paragraph_end_logits)
        if self.alpha == 0 or others[0] is None or others[1] is None:
            return own
        shift = math.log(self.alpha)
        first, last = (
            torch.logaddexp(mine, logits.log_softmax(1) + shift)
            for mine, logits in zip(own, others, strict=True)
            if logits is not None
        )
        return first, last


class Emb(Network):
    """EMB."""

    config: EmbOptions

    def __init__(self, config: EmbOptions, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim = config.dim
        self.unknown_word = nn.Parameter(torch.empty(1, sizes.text_dim))
        self.word_projection = nn.Linear(sizes.text_dim, dim)
        self.video_projection = nn.Linear(sizes.video_dim - TEMPORAL_COLUMNS, dim)
        self.frame_side, self.proposal_side = FrameSide(config.size), ProposalSide(config.size)
        self.frame_fuser, self.proposal_fuser = Fuser(dim, config.dropout), Fuser(dim, config.dropout)
        self.highlight_head, self.predictor = nn.Linear(dim, 1), BoundaryPredictor(dim)
        self.ranker = Ranker(dim)
        nn.init.xavier_uniform_(self.unknown_word)
        initialise(self)

    @property
    def official(self) -> bool:
        """Whether the published code's defects are wanted."""
        return self.config.behaviour == "official"

    def forward(self, batch: Batch) -> EmbOutput:
        """Answer N queries; proposals are ranked only where there are targets to learn that from."""
        asked = self._asked(batch)
        frames = self._frames(batch)
        seen = self.frame_side.f2f(frames, batch.frames.mask)
        asking = self.frame_side.w2w(asked.words, asked.word_mask)
        highlight, start, end, half = self._locate(
            self.frame_side, (self.frame_fuser, self.highlight_head, self.predictor), seen, asking, asked
        )
        output = EmbOutput(highlight, start, end)
        if batch.targets is not None:
            self._rank(output, batch, asked, (frames, seen, half), asking)
        return output

    def _asked(self, batch: Batch) -> Asked:
        """Project the words; one that has no vector, but zeros, gets the learnt vector."""
        n, videos = batch.count, batch.plan.video[: batch.count]
        vectors, mask = batch.words.vectors[:n], batch.words.mask[:n]
        unknown = mask & ~vectors.any(-1)
        vectors = torch.where(unknown[..., None], self.unknown_word.to(vectors.dtype), vectors)
        words = self.projected_words(vectors) + sine_table(vectors.shape[1], self.config.dim, vectors.device)
        lengths = tuple(batch.frames.lengths[video] for video in batch.video_of_query[:n])
        return Asked(words, mask, videos, batch.frames.mask.index_select(0, videos), lengths)

    def projected_words(self, vectors: Tensor) -> Tensor:
        """(..., D_text) to (..., D)."""
        return self.word_projection(dropout(vectors, self.config.dropout, self.training))

    def _projected_frames(self, batch: Batch) -> Tensor:
        """(V, L, D), without positions."""
        rows = dropout(batch.video[:, :-TEMPORAL_COLUMNS], self.config.dropout, self.training)
        if self.official:
            return self.video_projection(batch.frames.pad(rows))
        return batch.frames.pad(self.video_projection(rows))

    def _frames(self, batch: Batch) -> Tensor:
        """What the frames of the V videos are to the layers, (V, L, D), with positions."""
        frames = self._projected_frames(batch)
        return frames + sine_table(frames.shape[1], self.config.dim, frames.device)

    @staticmethod
    def _locate(
        side: FrameSide, heads: tuple[nn.Module, nn.Module, nn.Module], seen: Tensor, asking: Tensor, asked: Asked
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Let frames (V, L, D) and words (N, W, D) meet: highlights, start and end logits (N, L), frames half way."""
        fuser, highlight_head, predictor = heads
        mask, word_mask = asked.mask, asked.word_mask
        own = seen.index_select(0, asked.videos)
        half = side.f2w(own, mask, asking, word_mask)
        told = side.w2f(asking, word_mask, own, mask)
        whole, told = side.v2v(half, mask), side.vq2q(told, word_mask)
        joined = fuser(whole, told, mask, word_mask)
        highlight = highlight_head(joined).squeeze(-1).masked_fill(~mask, HIDDEN).sigmoid()
        start, end = predictor(joined * highlight[..., None], mask, asked.lengths)
        return highlight, start, end, half

    def _rank(
        self, output: EmbOutput, batch: Batch, asked: Asked, frames: tuple[Tensor, Tensor, Tensor], asking: Tensor
    ) -> None:
        """Score the proposals of each query and put them into the output.

        frames: with positions and after f2f, both (V, L, D), and of each query after f2w, (N, L, D).
        """
        side, fill = self.proposal_side, LIFTED if self.official else HIDDEN
        video_mask, mask = (None, None) if self.official else (batch.frames.mask, asked.mask)
        plain, seen, half = frames
        of_video = lay_out(batch.frames.mask)
        features = proposal_features(plain, batch.frames.mask, of_video, fill)
        first = side.p2p.guided(features, of_video.mask, proposal_guides(plain, video_mask, of_video, fill))
        of_query: Proposals = of_video.select(asked.videos)
        first, seen = (x.index_select(0, asked.videos) for x in (first, seen))
        first = first * of_query.mask[..., None]
        guides = proposal_guides(seen, mask, of_query, fill)
        second = side.p2w.guided(first, of_query.mask, guides, asking, asked.word_mask)
        told = side.pq2q(side.w2p(asking, asked.word_mask, first, of_query.mask), asked.word_mask)
        second = second * of_query.mask[..., None]
        third = side.s2s.guided(second, of_query.mask, proposal_guides(half, mask, of_query, fill))
        joined = self.proposal_fuser(third, told, of_query.mask, asked.word_mask)
        output.proposal_scores = self.ranker(joined, of_query)
        output.proposal_bounds, output.proposal_mask = of_query.bounds, of_query.mask

    def losses(
        self,
        output: EmbOutput,
        batch: Batch,
        weights: EmbLosses,
        share: Share = WHOLE,
        assigned: None = None,
    ) -> dict[str, Tensor]:
        """location, highlight and ranking, and `total`, by how far training is (`Batch.progress`)."""
        threshold = threshold_of(batch.progress, output.highlight.device)
        return self.losses_at(threshold, output, batch, weights, share)

    def losses_at(
        self, threshold: Tensor, output: EmbOutput, batch: Batch, weights: EmbLosses, share: Share = WHOLE
    ) -> dict[str, Tensor]:
        """Compute the losses with pseudo moments that overlap the moment by `threshold`, () float64."""
        mask = batch.query_mask()
        rows, pseudo = self.moments(threshold, output, batch)
        scores, bounds, valid = _ranked(output)
        label = highlighted(rows, pseudo, mask, self.official)
        log_start, log_end = output.log_chances()
        # Means over the rows, and the proposals, of the whole batch: other processes have some of them.
        have = 1.0 if share.queries else 0.0
        losses = {
            "location": location_loss(log_start, log_end, rows, pseudo, self.official) * share.queries,
            "highlight": have * self._highlight(output, label, mask) / _of_all(mask, share),
            "ranking": have * ranking_sum(scores, bounds, rows, valid) / _of_all(valid, share),
        }
        factors: Mapping[str, float] = {name: getattr(weights, name) for name in losses}
        total = torch.stack([factors[name] * value for name, value in losses.items()]).sum()
        return {**losses, "total": total}

    def _highlight(self, output: EmbOutput, label: Tensor, mask: Tensor) -> Tensor:
        return highlight_sum(output.highlight, label, mask)

    @staticmethod
    def moments(threshold: Tensor, output: EmbOutput, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rows of each query's moment, from the first start to the last end, and of its pseudo moment: (N, 2) each."""
        mask = batch.query_mask()
        scores, bounds, valid = _ranked(output)
        rows = rows_of_windows(hull_windows(targets_of(batch)), mask.sum(1), mask.shape[1])
        return rows, pseudo_rows(rows, bounds, scores, valid, threshold)

    def decode(self, output: EmbOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Read the likeliest pairs of rows."""
        mask = batch.query_mask()
        log_start, log_end = output.log_chances()
        pairs, scores = best_pairs(log_start, log_end, mask, self.config.answers, self.official)
        bounds = torch.stack((pairs[..., 0], pairs[..., 1] + 1), dim=-1).double()
        return Answers(bounds / mask.sum(1)[:, None, None], scores / self._most(), output.highlight)

    def _most(self) -> float:
        """The largest score that a pair of rows can have."""
        return 1.0


class Tea(Emb):
    """TEA."""

    config: TeaConfig

    def __init__(self, config: TeaConfig, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        dim = config.dim
        # After all that EMB has, so that both draw the same numbers for it.
        if config.narrative == "concat_mlp":
            self.narrative_mlp = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
            initialise(self.narrative_mlp)
        if config.narrative == "attention":
            self.narrative_attention = PlainLayer(*config.size)
            initialise(self.narrative_attention)
        if config.paragraph:
            self.paragraph = Paragraph(config.size, config.paragraph_guided)
            initialise(self.paragraph)

    def forward(self, batch: Batch) -> EmbOutput:
        """Answer N queries by frames and narrative; ValueError for a batch without one that is to be read."""
        output = super().forward(batch)
        if not self.config.paragraph:
            return output
        told, side, asked = self._narrated(batch), self.paragraph.frame_side, self._asked(batch)
        told = told + sine_table(told.shape[1], self.config.dim, told.device)
        seen, asking = side.f2f(told, batch.frames.mask), side.w2w(asked.words, asked.word_mask)
        heads = (self.paragraph.fuser, self.paragraph.highlight_head, self.paragraph.predictor)
        found = self._locate(side, heads, seen, asking, asked)[:3]
        own = {f.name: getattr(output, f.name) for f in fields(output)}
        return TeaOutput(**own, **dict(zip(_PARAGRAPH, found, strict=True)), alpha=self.config.alpha)

    def _narrated(self, batch: Batch) -> Tensor:
        """Project the narrative as the words are, into the same space (ours): (V, L, D)."""
        if batch.narration is None:
            raise ValueError("the batch has no narration; expected what a narrator says of each row")
        return self.projected_words(batch.frames.pad(batch.narration))

    def _frames(self, batch: Batch) -> Tensor:
        """Merge frames and narrative, (V, L, D), with positions."""
        if self.config.narrative == "none":
            return super()._frames(batch)
        frames, told = self._projected_frames(batch), self._narrated(batch)
        places = sine_table(frames.shape[1], self.config.dim, frames.device)
        if self.config.narrative == "add":
            return frames + told + places
        if self.config.narrative == "attention":
            mask = batch.frames.mask
            return self.narrative_attention(frames + places, mask, told + places, mask)
        return self.narrative_mlp(torch.cat((frames, told), dim=-1)) + places

    def _highlight(self, output: EmbOutput, label: Tensor, mask: Tensor) -> Tensor:
        total = super()._highlight(output, label, mask)
        if self.config.supervise_paragraph and isinstance(output, TeaOutput):
            assert output.paragraph_highlight is not None
            total = total + highlight_sum(output.paragraph_highlight, label, mask)
        return total

    def _most(self) -> float:
        return (1 + self.config.alpha) ** 2 if self.config.paragraph else 1.0


_PARAGRAPH = ("paragraph_highlight", "paragraph_start_logits", "paragraph_end_logits")


def _ranked(output: EmbOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, bounds and mask of the proposals; ValueError when none were ranked."""
    scores, bounds, mask = output.proposal_scores, output.proposal_bounds, output.proposal_mask
    if scores is None or bounds is None or mask is None:
        raise ValueError("losses need a batch with targets, for which proposals are ranked")
    return scores, bounds, mask


def _of_all(mask: Tensor, share: Share) -> Tensor:
    """Count what is valid in the whole batch."""
    return share.gather(mask.sum()[None]).sum()
