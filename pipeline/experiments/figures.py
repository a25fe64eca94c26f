"""The figures of a comparison: from what was measured of every run to a table, and what its reader must know."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mesm.pipeline.evaluate.grounding_gap import EXCHANGES, GAP_FIGURES
from mesm.pipeline.experiments.measure import ANSWERS, Brief, Measurement
from mesm.pipeline.experiments.seeds import FIGURES
from mesm.pipeline.report.table import MISSING, Estimate, TextTable

CONTROLS = ("R1@0.5", "mIoU")
"""Figures that are shown without the video and with the wrong one, too."""
UNIT = "per cent, or as named"


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of one seed."""
    seeds: list[float]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Sum up the values of all seeds; None where there are none."""
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        return cls(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None, known)


@dataclass(frozen=True)
class NetworkFigures:
    """What is known of one network on one split."""

    scores: dict[str, Spread | None]
    """Per cent, by the name of the table's row."""
    gaps: dict[str, Estimate | None]
    """Means over the seeds of the gap to the wrong video and of its standard error, by the name of the table's row."""
    parameters: int
    epoch_seconds: float | None
    """Median over all epochs of all seeds."""
    answer_ms: float
    """Median over the seeds."""
    peak_memory_bytes: int | None
    """Largest of all seeds."""

    @classmethod
    def of(
        cls, measured: Sequence[Measurement], epoch_seconds: Sequence[float], memory: Sequence[int | None]
    ) -> NetworkFigures:
        """Sum up the measurements of all seeds, the seconds of all epochs, and each training's memory."""
        scores = {name: Spread.of([m.figures.get(key) for m in measured]) for name, key in FIGURES.items()}
        for name in CONTROLS:
            scores[f"{name}, no video"] = Spread.of([m.without_video.get(FIGURES[name]) for m in measured])
        for name in CONTROLS:
            scores[f"{name}, wrong video"] = Spread.of([_mean(m.other_video, FIGURES[name]) for m in measured])
        for name in CONTROLS:
            others = [m.other_sentence for m in measured]
            scores[f"{name}, other sentence"] = Spread.of([None if o is None else o.get(FIGURES[name]) for o in others])
        return cls(
            scores,
            {f"grounding gap, {name}": _mean_gap([m.gap.get(name) for m in measured]) for name in GAP_FIGURES},
            parameters=measured[0].parameters,
            epoch_seconds=statistics.median(epoch_seconds) if epoch_seconds else None,
            answer_ms=statistics.median(m.answer_ms for m in measured),
            peak_memory_bytes=max((m for m in memory if m is not None), default=None),
        )

    def as_record(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    def column(self) -> dict[str, str]:
        """Return the texts of the table by the names of its rows."""
        return {
            **{name: _spread_text(spread) for name, spread in self.scores.items()},
            **{name: MISSING if gap is None else str(gap) for name, gap in self.gaps.items()},
            "parameters": f"{self.parameters:,}",
            "seconds an epoch": _text(self.epoch_seconds, "{:.2f}"),
            "milliseconds an answer": f"{self.answer_ms:.2f}",
            "peak memory, MiB": _text(
                None if self.peak_memory_bytes is None else self.peak_memory_bytes / 2**20, "{:,.0f}"
            ),
        }


def table_of(networks: Mapping[str, NetworkFigures], baseline: str, brief: Brief) -> TextTable:
    """Set networks side by side, one a column, and the figures `brief` of a baseline, which needs none."""
    columns = {name: figures.column() for name, figures in networks.items()}
    columns[baseline] = {row: _text(brief.get(key), "{:.2f}") for row, key in FIGURES.items()}
    rows = list(next(iter(columns.values())))
    texts = [(row, tuple(column.get(row, MISSING) for column in columns.values())) for row in rows]
    return TextTable(tuple(columns), tuple(texts), UNIT)


def notes_of(seeds: Sequence[int], device: str) -> list[str]:
    """Say what the rows of a table are."""
    spread = (
        f"Mean and standard deviation of {len(seeds)} seeds; the error from the choice of queries comes on top."
        if len(seeds) > 1
        else "One seed: how much the figures differ between seeds is not known."
    )
    memory = (
        "the most that a training's tensors took of the GPU (torch.cuda.max_memory_allocated)"
        if device == "cuda"
        else "the largest resident size of a process that does nothing but train, libraries and features included"
    )
    return [
        spread,
        "No video: every frame is zero, which is like nothing in training. Wrong video: each video is exchanged for "
        f"another one of the split; mean of {EXCHANGES} exchanges, as single ones differ by points. "
        "Other sentence: each query is exchanged for another one about its video, where there is one.",
        "Grounding gap: the figure minus that with the wrong video, what a network gets from looking, ± its standard "
        "error from the choice of videos (bootstrap), mean over the seeds. Judge it beside the figure itself: answers "
        "that are nonsense for a wrong video have a large gap.",
        "Seconds an epoch: median of the epochs' training steps, without validation. Milliseconds an answer: median "
        f"of {ANSWERS} single queries, from a batch of features to windows. Both depend on what else the machine did.",
        f"Peak memory: {memory}; the largest of all seeds.",
    ]


def _mean(briefs: Sequence[Brief], key: str) -> float | None:
    values = [value for brief in briefs if (value := brief.get(key)) is not None]
    return statistics.mean(values) if values else None


def _mean_gap(gaps: Sequence[tuple[float, float | None] | None]) -> Estimate | None:
    known = [gap for gap in gaps if gap is not None]
    if not known or len(known) < len(gaps):
        return None
    errors = [error for _, error in known if error is not None]
    return Estimate(statistics.mean(value for value, _ in known), statistics.mean(errors) if errors else None)


def _text(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    return f"{spread.mean:.2f}" if spread.deviation is None else f"{spread.mean:.2f} ± {spread.deviation:.2f}"
