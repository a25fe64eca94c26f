"""Line charts as inline SVG, whose colours follow the page's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mesm.pipeline.report.page import render

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 446, 12, 220
"""Edges of the part of a chart in which its curves run."""
SMALLEST_DOT, LARGEST_DOT = 3, 11
"""Radius."""
SPARK_WIDTH, SPARK_HEIGHT = 200, 56

Points = Sequence[tuple[float, float]]


def line_chart(title: str, x_name: str, series: Mapping[str, Points]) -> str:
    """Draw named series of (x, y) on common axes that hold y = 0; the key states each series' last value.

    Points that are not finite are left out, and so are series without any point. Returns Markup, "" without a series.
    """
    drawn = {name: finite for name, points in series.items() if len(finite := _finite(points))}
    if not drawn:
        return ""
    xs, ys = np.concatenate(list(drawn.values())).T
    x_low, x_high = xs.min(), max(xs.max(), xs.min() + 1)
    low, high = min(ys.min(), 0), max(ys.max(), 0)
    y_step = nice_step((high - low) or 1, 5)
    y_low, y_high = y_step * math.floor(low / y_step), y_step * math.ceil(high / y_step)

    def across(x: np.ndarray) -> np.ndarray:
        return np.interp(x, (x_low, x_high), (LEFT, RIGHT))

    def down(y: np.ndarray) -> np.ndarray:
        return np.interp(y, (y_low, max(y_high, y_low + y_step)), (BOTTOM, TOP))

    levels = multiples(y_step, y_low, y_high)
    places = multiples(max(1, nice_step(x_high - x_low, 8)), x_low, x_high)
    return render(
        "line_chart.html.j2",
        title=title,
        x_name=x_name,
        size=(WIDTH, HEIGHT),
        sides=(LEFT, RIGHT),
        levels=zip(down(levels), map(_number, levels), strict=True),
        places=zip(across(places), (f"{x:g}" for x in places), strict=True),
        curves=[_curve(name, points, across(points[:, 0]), down(points[:, 1])) for name, points in drawn.items()],
    )


def sparkline(name: str, points: Points) -> str:
    """Draw one small curve under its name and last value. Returns Markup, "" without a finite point."""
    finite = _finite(points)
    if not len(finite):
        return ""
    x, y = finite.T
    across = 2 + (SPARK_WIDTH - 8) * (x - x[0]) / (x[-1] - x[0] or 1)
    down = 4 + (SPARK_HEIGHT - 8) * (y.max() - y) / (y.max() - y.min() or 1)
    curve = _curve(name, finite, across, down)
    return render("sparkline.html.j2", size=(SPARK_WIDTH, SPARK_HEIGHT), curve=curve, first=_number(y[0]))


def share_chart(title: str, x_name: str, points: Sequence[tuple[float, float, int]]) -> str:
    """Draw shares over what was foretold, both 0 to 1, as dots whose area is their count; on the diagonal it is right.

    points: (foretold, share, count). Returns Markup.
    """
    largest = max((count for *_, count in points), default=1)

    def across(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * x

    def down(y: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * y

    def told(x: float, y: float, count: int) -> str:
        return f"{count} answers: {x:.0%} foretold, {y:.0%} right"

    dots = [
        (across(x), down(y), max(SMALLEST_DOT, LARGEST_DOT * math.sqrt(n / largest)), told(x, y, n))
        for x, y, n in points
    ]
    ticks = [n / 5 for n in range(6)]
    return render(
        "share_chart.html.j2",
        title=title,
        x_name=x_name,
        size=(WIDTH, HEIGHT),
        sides=(LEFT, RIGHT, TOP, BOTTOM),
        levels=[(down(level), f"{level:.0%}") for level in ticks],
        places=[(across(place), f"{place:.0%}") for place in ticks],
        dots=dots,
    )


def nice_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that cuts `span` into at most `most` parts."""
    if span <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(span / most))
    return float(next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= most + 1e-9))


def multiples(step: float, low: float, high: float) -> np.ndarray:
    """Return the multiples of `step` from `low` to `high`, both included."""
    return step * np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)


def points_text(x: np.ndarray, y: np.ndarray) -> str:
    """Return coordinates as SVG writes them in a polyline."""
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))


def _curve(name: str, points: np.ndarray, across: np.ndarray, down: np.ndarray) -> dict[str, Any]:
    """Return what the templates draw of points (N, 2), which stand at `across` and `down` in the picture."""
    end = (f"{across[-1]:.1f}", f"{down[-1]:.1f}")
    return {"name": name, "last": _number(points[-1, 1]), "points": points_text(across, down), "end": end}


def _finite(points: Points) -> np.ndarray:
    """Return the points (N, 2) whose y is finite."""
    return np.array([(x, y) for x, y in points if math.isfinite(y)])


def _number(value: float) -> str:
    return f"{value:.1f}" if 10 <= abs(value) < 1000 and value != round(value) else f"{value:.3g}"
