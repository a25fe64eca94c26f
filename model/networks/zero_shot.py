"""Zero-shot: the curve of similarities of frames and sentence in an image-text model, and spans read from it.

It has no parameters. Everything is done on the host in float64 by `mesm.model.curves`, the code that answers without a
checkpoint, so that its figures are those of such answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from mesm.model.batch import Batch, Sentences
from mesm.model.curves.decoders import DEFAULT, make_decoder
from mesm.model.curves.video import ALIKE, ALIKE_S, SMOOTHED_S, Reading, find_spans, in_seconds, similarity
from mesm.model.losses import WHOLE, Share
from mesm.model.network import Answers, Network
from mesm.model.network_config import Asked, NetworkConfig


@dataclass(frozen=True)
class ZeroShotConfig(NetworkConfig):
    """How the curve is made, and how spans are read from it."""

    network: Literal["zero-shot"] = "zero-shot"
    decoder: str = DEFAULT
    """Procedure, a name of `mesm.model.curves.decoders`."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Other constants of the procedure than its own."""
    smoothed_s: Annotated[float, Ge(0)] = SMOOTHED_S
    """Seconds over which the curve is averaged."""
    alike_s: Annotated[float, Ge(0)] = ALIKE_S
    """Seconds on either side from which a row takes the values of rows that look like it."""
    alike: Annotated[float, Ge(0.01)] = ALIKE
    """Difference of cosines by which a row counts e times less."""
    row_offset: Annotated[float, Ge(-0.5), Le(0.5)] = 0.0
    """Where row 0 begins, in rows: -0.5 where row t is the picture at t and not the one in the middle of its time."""
    prompts: bool = True
    """A query is asked in several forms, less what sentences that fit any picture give; false: the query as it is, less
    the mean of all queries that are asked."""

    def sentences(self) -> Asked:
        """It reads nothing else of a query."""
        return Asked.IN_FORMS if self.prompts else Asked.PLAIN

    def problems(self) -> list[str]:
        """Name a procedure, or a constant, that there is not."""
        try:
            self.reading()
        except ValueError as error:
            return [str(error)]
        return []

    def reading(self) -> Reading:
        """Return how curves are read; ValueError for a procedure, or a constant, that there is not."""
        decoder = make_decoder(self.decoder, self.constants)
        return Reading(decoder, smoothed_s=self.smoothed_s, alike_s=self.alike_s, alike=self.alike)


@dataclass(frozen=True)
class ZeroShotLosses:
    """There are none."""


@dataclass
class ZeroShotOutput:
    """What is known of N queries."""

    curves: list[np.ndarray]
    """Of each query: how well each row fits it, (rows,) float64."""
    spans: list[np.ndarray]
    """Of each query: (k, 3) float64, start and end as fractions of the duration, and score, best first."""

    def float(self) -> ZeroShotOutput:
        """Return the same: all of it is float64, whatever the batch was in."""
        return self


class ZeroShotNetwork(Network):
    """The whole of it: curves, and the reading of them."""

    config: ZeroShotConfig

    @cached_property
    def reading(self) -> Reading:
        """How curves are read."""
        return self.config.reading()

    @torch.no_grad()
    def forward(self, batch: Batch) -> ZeroShotOutput:
        """Answer N queries; ValueError for a batch without sentences."""
        found = batch.sentences
        if found is None:
            raise ValueError("the batch has no sentences; expected those of an image-text model")
        vectors, generic = found.vectors.cpu().numpy(), found.generic.cpu().numpy()
        videos = [frames.numpy() for frames in _frames(batch, found)]
        output = ZeroShotOutput([], [])
        for query, video in enumerate(batch.video_of_query[: batch.count]):
            rows, row_s = videos[video], found.row_s[query]
            curve = similarity(rows, vectors[query], generic)
            spans = find_spans(curve, row_s, self.reading, rows)
            length = len(rows) * row_s
            spans = in_seconds(spans, row_s, length, self.config.row_offset)
            spans[:, :2] /= length
            output.curves.append(curve)
            output.spans.append(spans)
        return output

    def losses(
        self,
        output: ZeroShotOutput,
        batch: Batch,
        weights: ZeroShotLosses,
        share: Share = WHOLE,
        assigned: Any = None,
    ) -> NoReturn:
        """Raise ValueError: nothing can be learnt."""
        raise ValueError("this network has no parameters and no losses; it cannot be trained")

    def decode(self, output: ZeroShotOutput, batch: Batch, rank_by: str = "class") -> Answers:
        """Put the spans together: where there are fewer of a query than of another one, its worst stands repeatedly.

        A procedure's scores have no bounds; their logistic keeps their order. They rank the spans of one query.
        """
        most = max(map(len, output.spans))
        spans = np.stack([span[np.minimum(np.arange(most), len(span) - 1)] for span in output.spans])
        saliency = np.zeros((len(output.curves), batch.frames.width), np.float32)
        for row, curve in zip(saliency, output.curves, strict=True):
            row[: len(curve)] = curve
        device = batch.video.device
        return Answers(
            torch.from_numpy(np.ascontiguousarray(spans[..., :2])).to(device),
            torch.from_numpy(spans[..., 2].copy()).sigmoid().to(device),
            torch.from_numpy(saliency).to(device),
        )


def _frames(batch: Batch, sentences: Sentences) -> tuple[Tensor, ...]:
    """Return the frames of each video that lie in the sentences' space, on the host: (rows, D) float32 each."""
    first, stop = sentences.columns
    return batch.video[:, first:stop].float().cpu().split(list(batch.frames.lengths))
