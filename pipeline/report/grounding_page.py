"""The page that shows answers: frames along a time line, the windows found, the truth, the saliency curve."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mesm.pipeline.report.charts import multiples, nice_step, points_text
from mesm.pipeline.report.page import render, seconds_text
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.text_files import publish_text

Window = Sequence[float]
"""(start s, end s, ...)."""
SHOWN_WINDOWS = 5
SHOWN_TICKS = 8
FRAME_HEIGHT, JPEG_QUALITY = 160, 82
ROOM_FOR_TEXT = 0.25
"""Share of the time line that the text of a bar needs beside it."""


@dataclass(frozen=True, eq=False)
class GroundingFigure:
    """One query and what was found, ready to be drawn."""

    query: str
    duration_s: float
    windows: Sequence[tuple[float, float, float]]
    """(start s, end s, score), best first."""
    truth: Sequence[tuple[float, float]] | None
    """(start s, end s) of the annotated moments, when they are known."""
    saliency: tuple[Sequence[float], Sequence[float]] | None
    """Times in seconds, ascending, and how relevant the video is there, in any unit."""
    thumbnails: Sequence[tuple[float, np.ndarray]]
    """(time s, picture (height, width, 3) uint8 RGB), ascending."""
    video: str = ""
    """Name of the video, for the heading."""
    overlap: float | None = None
    """IoU of the first window with the best fitting annotated moment, when there are both."""


def write_grounding_page(
    out_html: Path,
    title: str,
    subtitle: str,
    figures: Sequence[GroundingFigure],
    metrics_table: MetricsTable | None = None,
    caption: str = "All queries",
) -> None:
    """Write `render_page` to a file in one step; raises FeatureError when that is impossible."""
    publish_text(out_html, render_page(title, subtitle, figures, metrics_table, caption))


def render_page(
    title: str,
    subtitle: str,
    figures: Sequence[GroundingFigure],
    metrics_table: MetricsTable | None = None,
    caption: str = "All queries",
) -> str:
    """Return a self-contained HTML page: a time line for each query and, when given, a table under its caption."""
    page = render(
        "grounding_page.html.j2",
        title=title,
        subtitle=subtitle,
        figures=[(figure, TimeLine(figure.duration_s)) for figure in figures],
        shown_windows=SHOWN_WINDOWS,
        table=metrics_table,
        caption=caption,
    )
    return str(page)


@dataclass(frozen=True)
class TimeLine:
    """Where things stand along the time of a video, as CSS and SVG write it."""

    duration_s: float

    def place(self, window: Window) -> str:
        """Return the place of a bar."""
        start, end = self._edges(window)
        return f"left:{start:.3%};width:{max(end - start, 0):.3%}"

    def place_beside(self, window: Window) -> tuple[str, str]:
        """Return classes and place of a text right of a bar, left of it, or inside a bar that leaves no room."""
        start, end = self._edges(window)
        if max(1 - end, start) < ROOM_FOR_TEXT:
            return "text inside", f"left:{start:.3%}"
        return "text", f"left:{end:.3%}" if 1 - end >= start else f"right:{1 - start:.3%}"

    def frames(self, thumbnails: Sequence[tuple[float, np.ndarray | str]]) -> Iterator[tuple[str, float, str]]:
        """Yield (per cent of the width, time s, picture); a frame reaches half way to its neighbours."""
        times = np.array([time for time, _ in thumbnails])
        edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [self.duration_s]])
        for (time, picture), width in zip(thumbnails, np.diff(edges), strict=True):
            yield f"{100 * width / self.duration_s:.3f}", time, data_uri(picture)

    def curve(self, times_s: Sequence[float], values: Sequence[float]) -> tuple[float, str, str]:
        """Return the time of the highest value, the line in a picture of 1000 by 100, and the area below it."""
        x, levels = 1000 * np.asarray(times_s, float) / self.duration_s, np.asarray(values, float)
        line = points_text(x, 92 - 84 * (levels - levels.min()) / (np.ptp(levels) or 1))
        return times_s[int(levels.argmax())], line, f"{x[0]:.2f},100 {line} {x[-1]:.2f},100"

    def ticks(self) -> Iterator[tuple[str, str, str]]:
        """Yield (class, place, text) at round times, and at the end unless a round time is near."""
        step = nice_step(self.duration_s, SHOWN_TICKS)
        times = multiples(step, 0, self.duration_s).tolist()
        if self.duration_s - times[-1] > step / 2:
            times.append(self.duration_s)
        for time in times:
            edge = "first" if time == 0 else "last" if self.duration_s - time < step / 4 else ""
            text = f"{time:g} s" if time < 60 and time == round(time) else seconds_text(time)
            yield edge, f"left:{time / self.duration_s:.3%}", text

    def _edges(self, window: Window) -> tuple[float, float]:
        """Return start and end as fractions of the duration, inside the video."""
        start, end = (min(max(edge / self.duration_s, 0), 1) for edge in window[:2])
        return start, end


def data_uri(picture: np.ndarray | str) -> str:
    """Return a picture (height, width, 3) uint8, shrunk, as a JPEG in an address of its own; an address as it is."""
    if isinstance(picture, str):
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.height > FRAME_HEIGHT:
        image = image.resize((max(1, round(image.width * FRAME_HEIGHT / image.height)), FRAME_HEIGHT))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
