"""The page that shows answers: frames along a time line, the windows found, the truth, the saliency curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from mesm.pipeline.evaluate.postprocessing import temporal_iou
from mesm.pipeline.report.page import image_tag, nice_step, page, points_text, seconds_text, table_html
from mesm.pipeline.report.table import MetricsTable
from mesm.pipeline.run.text_files import publish_text

Window = tuple[float, float]
SHOWN_WINDOWS = 5
SHOWN_TICKS = 8
ROOM_FOR_TEXT = 0.25
"""Share of the time line that the text of a bar needs beside it."""

STYLE = """
h2 .note { font-weight: 400; font-size: .95rem; }
.answer { font-size: 1.05rem; margin: 0 0 1rem; }
.answer strong { color: var(--answer); }
.answer span { color: var(--soft); }
.timeline { display: grid; grid-template-columns: 6.2rem minmax(0, 1fr); row-gap: .5rem; column-gap: .9rem; }
.label { grid-column: 1; align-self: center; text-align: right; font-size: .85rem; line-height: 1.2; }
.label, .axis { color: var(--soft); }
.lane { grid-column: 2; position: relative; min-height: 1.5rem; overflow: hidden; }
.lane.axis { overflow: visible; }
.bands { grid-column: 2; position: relative; pointer-events: none; z-index: 2; }
.band { position: absolute; top: 0; bottom: 0; }
.band.answer-band { border: solid var(--answer); border-width: 0 2px; }
.band.truth-band { border: dashed var(--truth); border-width: 0 2px; }
.strip { display: flex; height: 5.4rem; border-radius: 8px; overflow: hidden; background: var(--lane); }
.strip img { display: block; min-width: 0; width: 0; height: 100%; object-fit: cover; }
.strip img + img { border-left: 1px solid var(--card); }
.curve { height: 4.2rem; background: var(--lane); border-radius: 8px; overflow: hidden; }
.curve svg { display: block; width: 100%; height: 100%; }
.curve .line { fill: none; stroke: var(--curve); stroke-width: 2; vector-effect: non-scaling-stroke; }
.curve .area { fill: var(--curve-wash); }
.bars { background: var(--lane); border-radius: 6px; }
.bar { position: absolute; top: .2rem; bottom: .2rem; border-radius: 4px; min-width: 3px; }
.bar.truth {
  background: repeating-linear-gradient(-45deg, var(--truth) 0 6px, transparent 6px 9px);
  border: 2px solid var(--truth);
}
.bar.best { background: var(--answer); }
.bar.best + .inside, .bar.truth + .inside { color: var(--card); font-weight: 600; }
.bar.other { background: var(--answer-wash); border: 1.5px solid var(--answer); }
.text {
  position: absolute; top: 0; bottom: 0; display: flex; align-items: center; white-space: nowrap;
  font-size: .78rem; font-variant-numeric: tabular-nums; padding: 0 .5rem; z-index: 3;
}
.text:not(.inside) {
  background: var(--lane); top: .25rem; bottom: .25rem; padding: 0 .35rem; margin: 0 .2rem; border-radius: 4px;
}
.axis { height: 1.6rem; border-top: 1px solid var(--line); font-size: .78rem; }
.tick {
  position: absolute; top: 0; transform: translateX(-50%); padding-top: .35rem; white-space: nowrap;
  font-variant-numeric: tabular-nums;
}
.tick::before {
  content: ""; position: absolute; left: 50%; top: 0; height: .35rem; border-left: 1px solid var(--soft);
}
.tick.first { transform: none; } .tick.first::before { left: 0; }
.tick.last { transform: translateX(-100%); } .tick.last::before { left: 100%; }
.legend {
  display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; list-style: none; margin: .8rem 0 0; padding: 0;
  font-size: .85rem; color: var(--soft);
}
.legend i {
  display: inline-block; width: 1.3rem; height: .75rem; border-radius: 3px; margin-right: .45rem;
  vertical-align: -.05rem;
}
@media (max-width: 620px) {
  .timeline { grid-template-columns: 4.2rem minmax(0, 1fr); column-gap: .5rem; }
  .label { font-size: .75rem; } .strip { height: 3.6rem; } .curve { height: 3.2rem; }
  .strip img:nth-child(even) { display: none; }
  .text { font-size: .7rem; padding: 0 .3rem; }
}
"""


@dataclass(frozen=True, eq=False)
class GroundingFigure:
    """One query and what was found, ready to be drawn."""

    query: str
    duration_s: float
    windows: Sequence[tuple[float, float, float]]
    """(start s, end s, score), best first."""
    truth: Sequence[Window] | None
    """(start s, end s) of the annotated moments, when they are known."""
    saliency: tuple[Sequence[float], Sequence[float]] | None
    """Times in seconds, ascending, and how relevant the video is there, in any unit."""
    thumbnails: Sequence[tuple[float, np.ndarray]]
    """(time s, picture (height, width, 3) uint8 RGB), ascending."""
    video: str = ""
    """Name of the video, for the heading."""


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
    sections = [_figure_html(figure, number) for number, figure in enumerate(figures)]
    if metrics_table is not None:
        sections.append(table_html(metrics_table, caption))
    return page(title, subtitle, sections, STYLE)


def best_iou(figure: GroundingFigure) -> float | None:
    """IoU of the first window with the best fitting moment; None without windows or truth."""
    if not figure.windows or not figure.truth:
        return None
    return float(temporal_iou(np.array(figure.windows[0][:2]), np.array(figure.truth, float)).max())


def _figure_html(figure: GroundingFigure, number: int) -> str:
    lanes = _lanes(figure)
    rows = "".join(
        f'<div class="label" style="grid-row:{row}">{label}</div>'
        f'<div class="lane {kind}" style="grid-row:{row}">{content}</div>'
        for row, (label, kind, content) in enumerate(lanes, start=1)
    )
    others = max(0, min(SHOWN_WINDOWS, len(figure.windows)) - 1)
    bands = f'<div class="bands" style="grid-row:1/{len(lanes) - others}">{_bands(figure)}</div>'
    where = f' <span class="note">in {escape(figure.video)}</span>' if figure.video else ""
    return (
        f'<section aria-labelledby="query-{number}">'
        f'<h2 id="query-{number}">“{escape(figure.query)}”{where}</h2>{_summary(figure)}'
        f'<div class="timeline">{rows}{bands}</div>{_legend(figure)}{_numbers(figure)}</section>'
    )


def _lanes(figure: GroundingFigure) -> list[tuple[str, str, str]]:
    """Return (label, CSS classes, HTML) of each row, all on one time scale."""
    lanes = []
    if figure.thumbnails:
        lanes.append(("frames", "strip", _strip(figure)))
    if figure.saliency is not None and len(figure.saliency[0]):
        lanes.append(("saliency", "curve", _curve(figure)))
    if figure.truth is not None:
        bars = "".join(_bar(figure, window, "truth", "") for window in figure.truth)
        label = _beside(figure, figure.truth[0], _short_text(figure.truth[0])) if len(figure.truth) == 1 else ""
        lanes.append(("truth", "bars", bars + label))
    for rank, (start, end, score) in enumerate(figure.windows[:SHOWN_WINDOWS], start=1):
        kind = "best" if rank == 1 else "other"
        text = f"{_short_text((start, end))} · {score:.2f}"
        bar = _bar(figure, (start, end), kind, text) + _beside(figure, (start, end), text)
        lanes.append(("best" if rank == 1 else _ordinal(rank), "bars", bar))
    lanes.append(("", "axis", _axis(figure.duration_s)))
    return lanes


def _summary(figure: GroundingFigure) -> str:
    if not figure.windows:
        return '<p class="answer">No answer.</p>'
    start, end, score = figure.windows[0]
    parts = [f"score {score:.2f}"]
    overlap = best_iou(figure)
    if overlap is not None:
        parts.append(f"{overlap:.0%} overlap (IoU) with the annotated moment")
    parts.append(f"video of {seconds_text(figure.duration_s)}")
    return f'<p class="answer"><strong>{_window_text((start, end))}</strong> <span>{" · ".join(parts)}</span></p>'


def _strip(figure: GroundingFigure) -> str:
    """Frames as wide as the time that they stand for: up to half way to their neighbours."""
    times = np.array([time for time, _ in figure.thumbnails])
    edges = np.concatenate([[0.0], (times[1:] + times[:-1]) / 2, [figure.duration_s]])
    return "".join(
        image_tag(picture, f"frame at {seconds_text(time)}").replace(
            "<img ",
            f'<img style="flex:{100 * width / figure.duration_s:.3f} 1 0" title="{seconds_text(time)}" ',
        )
        for (time, picture), width in zip(figure.thumbnails, np.diff(edges), strict=True)
    )


def _curve(figure: GroundingFigure) -> str:
    assert figure.saliency is not None
    x = 1000 * np.asarray(figure.saliency[0], float) / figure.duration_s
    values = np.asarray(figure.saliency[1], float)
    low, high = float(values.min()), float(values.max())
    y = 92 - 84 * (values - low) / (high - low or 1)
    line = points_text(x, y)
    top = seconds_text(float(figure.saliency[0][int(values.argmax())]))
    return (
        '<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="saliency along the video, highest at {top}">'
        f'<polygon class="area" points="{x[0]:.2f},100 {line} {x[-1]:.2f},100"/>'
        f'<polyline class="line" points="{line}"/></svg>'
    )


def _bands(figure: GroundingFigure) -> str:
    """Carry the best answer and the truth through all rows."""
    bands = [(window, "truth-band") for window in figure.truth or ()]
    bands += [((start, end), "answer-band") for start, end, _ in figure.windows[:1]]
    return "".join(f'<div class="band {kind}" style="{_place(figure, window)}"></div>' for window, kind in bands)


def _bar(figure: GroundingFigure, window: Window, kind: str, text: str) -> str:
    title = escape(text or _window_text(window))
    return f'<div class="bar {kind}" style="{_place(figure, window)}" title="{title}"></div>'


def _beside(figure: GroundingFigure, window: Window, text: str) -> str:
    """Write a text right of a bar, left of it when there is more room, or inside a bar that leaves no room."""
    start, end = (min(max(edge / figure.duration_s, 0), 1) for edge in window)
    side = f"left:{_percent(end)}" if 1 - end >= start else f"right:{_percent(1 - start)}"
    if max(1 - end, start) < ROOM_FOR_TEXT:
        return f'<div class="text inside" style="left:{_percent(start)}">{escape(text)}</div>'
    return f'<div class="text" style="{side}">{escape(text)}</div>'


def _axis(duration_s: float) -> str:
    step = nice_step(duration_s, SHOWN_TICKS)
    times = [float(time) for time in np.arange(0, duration_s + 1e-6, step)]
    if duration_s - times[-1] > step / 2:
        times.append(duration_s)
    ticks = []
    for number, time in enumerate(times):
        edge = " first" if number == 0 else " last" if duration_s - time < step / 4 else ""
        text = f"{time:g} s" if time < 60 and time == round(time) else seconds_text(time)
        ticks.append(f'<span class="tick{edge}" style="left:{_percent(time / duration_s)}">{text}</span>')
    return "".join(ticks)


def _legend(figure: GroundingFigure) -> str:
    entries = [("background:var(--answer)", "best answer")] if figure.windows else []
    if len(figure.windows) > 1:
        entries.append(("background:var(--answer-wash);border:1.5px solid var(--answer)", "other answers"))
    if figure.truth is not None:
        stripes = "repeating-linear-gradient(-45deg,var(--truth) 0 4px,transparent 4px 6px)"
        entries.append((f"background:{stripes};border:1.5px solid var(--truth)", "annotated moment"))
    if figure.saliency is not None:
        entries.append(("background:var(--curve-wash);border-top:2px solid var(--curve)", "saliency"))
    items = "".join(f'<li><i style="{style}"></i>{name}</li>' for style, name in entries)
    return f'<ul class="legend" aria-hidden="true">{items}</ul>'


def _numbers(figure: GroundingFigure) -> str:
    """List everything that the bars show as text, for those who cannot see them."""
    rows = [("annotated moment", start, end, "") for start, end in figure.truth or ()]
    rows += [
        (f"{_ordinal(rank)} answer", start, end, f"{score:.4f}")
        for rank, (start, end, score) in enumerate(figure.windows, start=1)
    ]
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{start:.2f}</td><td>{end:.2f}</td><td>{score}</td></tr>'
        for name, start, end, score in rows
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("", "start, s", "end, s", "score"))
    return (
        '<details><summary>All windows as numbers</summary><div class="scroll"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _place(figure: GroundingFigure, window: Window) -> str:
    start, end = (min(max(edge / figure.duration_s, 0), 1) for edge in window)
    return f"left:{_percent(start)};width:{_percent(max(end - start, 0))}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3f}%"


def _window_text(window: Window) -> str:
    return f"{seconds_text(window[0])} to {seconds_text(window[1])}"


def _short_text(window: Window) -> str:
    """Write a window as narrow as it goes: 3.2–7.5 s, or 0:58.0–1:04.5."""
    if window[1] < 60:
        return f"{window[0]:.1f}–{window[1]:.1f} s"
    return "–".join(f"{edge // 60:.0f}:{edge % 60:04.1f}" for edge in window)


def _ordinal(rank: int) -> str:
    return f"{rank}{({1: 'st', 2: 'nd', 3: 'rd'}).get(rank, 'th')}"
