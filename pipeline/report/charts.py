"""Line charts as inline SVG, whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from mesm.pipeline.report.page import nice_step, points_text

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 30
SPARK_WIDTH, SPARK_HEIGHT = 200, 56
SERIES_COLOURS = 5
DASHES = ("none", "7 4", "2 4", "10 4 2 4", "4 2")

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 1.1rem; }
.sparks { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: .8rem 1.1rem; }
.chart { margin: 0; }
.chart svg, .spark svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); stroke-width: 1; }
.series { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.mark { stroke: var(--card); stroke-width: 1.5; }
.keys {
  display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; margin: .5rem 0 0; padding: 0;
  font-size: .85rem;
}
.chart .keys svg { width: 1.6rem; height: .6rem; display: inline-block; margin-right: .4rem; }
.keys b, .spark b { font-variant-numeric: tabular-nums; }
.spark span { color: var(--soft); font-size: .85rem; }
.spark b { float: right; font-size: .9rem; }
"""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axes:
    """Value ranges of a chart; both axes grow away from its lower left corner."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    y_step: float

    @classmethod
    def around(cls, curves: Sequence[Points]) -> _Axes:
        """Hold all points, and 0 on the y axis, with round numbers at its ends."""
        xs = [x for points in curves for x, _ in points]
        ys = [0.0, *(y for points in curves for _, y in points)]
        step = nice_step((max(ys) - min(ys)) or 1, 5)
        return cls(
            min(xs),
            max(max(xs), min(xs) + 1),
            step * math.floor(min(ys) / step),
            step * math.ceil(max(ys) / step),
            step,
        )

    def across(self, x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - self.x_low) / (self.x_high - self.x_low)

    def down(self, y: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y_high - y) / ((self.y_high - self.y_low) or 1)


def line_chart(title: str, x_name: str, series: Mapping[str, Points]) -> str:
    """Draw named series of (x, y) on common axes; the key states each series' last value.

    Points that are not finite are left out, and so are series without any point; without a series nothing is drawn.
    """
    drawn = {name: points for name, raw in series.items() if (points := _finite(raw))}
    if not drawn:
        return ""
    axes = _Axes.around(list(drawn.values()))
    curves = "".join(_curve(axes, points, number) for number, points in enumerate(drawn.values()))
    spoken = ", ".join(f"{name} ends at {_number(points[-1][1])}" for name, points in drawn.items())
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title} by {x_name}: {spoken}")}">'
        f"{_grid(axes)}{curves}</svg>{_keys(drawn)}</figure>"
    )


def sparkline(name: str, points: Points) -> str:
    """Draw one small curve under its name and last value; nothing without a finite point."""
    finite = _finite(points)
    if not finite:
        return ""
    x, y = (np.array(column) for column in zip(*finite, strict=True))
    across = 2 + (SPARK_WIDTH - 8) * (x - x[0]) / ((x[-1] - x[0]) or 1)
    levels = 4 + (SPARK_HEIGHT - 8) * (y.max() - y) / ((y.max() - y.min()) or 1)
    first, last = _number(float(y[0])), _number(float(y[-1]))
    return (
        f'<div class="spark"><span>{escape(name)}</span><b>{last}</b>'
        f'<svg viewBox="0 0 {SPARK_WIDTH} {SPARK_HEIGHT}" role="img" '
        f'aria-label="{escape(name)}: from {first} to {last}">'
        f'<polyline class="series" style="stroke:var(--series-2)" points="{points_text(across, levels)}"/>'
        f"{_mark(float(across[-1]), float(levels[-1]), 2)}</svg></div>"
    )


def _grid(axes: _Axes) -> str:
    shapes = []
    for y in np.arange(axes.y_low, axes.y_high + axes.y_step / 2, axes.y_step):
        level = axes.down(float(y))
        shapes.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        shapes.append(f'<text x="{LEFT - 7}" y="{level + 4:.1f}" text-anchor="end">{_number(float(y))}</text>')
    step = max(1.0, nice_step(axes.x_high - axes.x_low, 8))
    for x in np.arange(math.ceil(axes.x_low / step) * step, axes.x_high + 1e-6, step):
        place = axes.across(float(x))
        shapes.append(f'<text x="{place:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{x:g}</text>')
    return "".join(shapes)


def _curve(axes: _Axes, points: Points, number: int) -> str:
    across, levels = [axes.across(x) for x, _ in points], [axes.down(y) for _, y in points]
    line = f'<polyline class="series" style="{_look(number)}" points="{points_text(across, levels)}"/>'
    return line + _mark(across[-1], levels[-1], number % SERIES_COLOURS)


def _mark(x: float, y: float, colour: int) -> str:
    return f'<circle class="mark" style="fill:var(--series-{colour})" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _look(number: int) -> str:
    """Tell series apart by colour and by dashes."""
    return f"stroke:var(--series-{number % SERIES_COLOURS});stroke-dasharray:{DASHES[number % len(DASHES)]}"


def _keys(drawn: Mapping[str, Points]) -> str:
    items = []
    for number, (name, points) in enumerate(drawn.items()):
        path = f'<path class="series" style="{_look(number)}" d="M0 5H32"/>'
        line = f'<svg viewBox="0 0 32 10" aria-hidden="true">{path}</svg>'
        items.append(f"<li>{line}{escape(name)} <b>{_number(points[-1][1])}</b></li>")
    return f'<ul class="keys">{"".join(items)}</ul>'


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _number(value: float) -> str:
    return f"{value:.1f}" if 10 <= abs(value) < 1000 and value != round(value) else f"{value:.3g}"
