"""The shell of a report page: one HTML file without scripts or external resources, for light and dark screens."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image

from mesm.pipeline.report.table import MetricsTable

THUMBNAIL_HEIGHT = 160
JPEG_QUALITY = 82

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --text: #1c1d20; --soft: #5d6068; --line: #dedcd6; --lane: #f0eeea;
  --answer: #c2410c; --answer-wash: rgba(234, 88, 12, .16); --truth: #0b6b7f;
  --curve: #6d28d9; --curve-wash: rgba(109, 40, 217, .14);
  --series-0: #c2410c; --series-1: #0b6b7f; --series-2: #6d28d9; --series-3: #4d7c0f; --series-4: #be185d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131417; --card: #1c1e22; --text: #eceae5; --soft: #a4a7ae; --line: #34373d; --lane: #26292e;
    --answer: #fb923c; --answer-wash: rgba(251, 146, 60, .2); --truth: #22d3ee;
    --curve: #c4b5fd; --curve-wash: rgba(196, 181, 253, .16);
    --series-0: #fb923c; --series-1: #22d3ee; --series-2: #c4b5fd; --series-3: #a3e635; --series-4: #f472b6;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.2rem 3.5rem; }
header { margin-bottom: 1.6rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .3rem; text-wrap: balance; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .5rem; text-wrap: balance; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
p { margin: .3rem 0; }
header p, .note, figcaption { color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 1.2rem 1.3rem; margin: 0 0 1.1rem;
}
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { color: var(--text); font-weight: 400; font-size: 1rem; }
tbody tr.ours th, tbody tr.ours td { font-weight: 700; }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0; }
details { margin-top: .9rem; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
pre { overflow-x: auto; background: var(--lane); border-radius: 8px; padding: .9rem; font-size: .82rem; }
footer { color: var(--soft); font-size: .85rem; }
@media (max-width: 620px) {
  main { padding: 1.3rem .7rem 2rem; }
  section { padding: 1rem .9rem; border-radius: 10px; }
  h1 { font-size: 1.4rem; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, sections: Iterable[str], style: str) -> str:
    """Return a whole page; `sections` is HTML, title and subtitle are text, `style` is CSS beside STYLE."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
<p>{escape(subtitle)}</p>
</header>
{"".join(sections)}
</main>
</body>
</html>
"""


def table_html(table: MetricsTable, caption: str) -> str:
    """Return figures as a table; the first row, which is ours, stands out."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = []
    for number, (name, *figures) in enumerate(table.cells()):
        cells = "".join(f"<td>{escape(figure)}</td>" for figure in figures)
        mark = ' class="ours"' if number == 0 else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<section><h2>{escape(caption)}</h2><div class="scroll"><table>'
        f'<thead><tr><th scope="col"><span>per cent</span></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def image_tag(picture: np.ndarray, alternative: str) -> str:
    """Return an img element that holds the picture (height, width, 3) uint8 itself, shrunk, as a JPEG."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.height > THUMBNAIL_HEIGHT:
        image = image.resize((max(1, round(image.width * THUMBNAIL_HEIGHT / image.height)), THUMBNAIL_HEIGHT))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=JPEG_QUALITY)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f'<img alt="{escape(alternative)}" src="data:image/jpeg;base64,{encoded}">'


def seconds_text(seconds: float) -> str:
    """Return a time as people write it: 7.4 s, or 2:05.3 from a minute on."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{rest:.1f} s" if minutes < 1 else f"{minutes:.0f}:{rest:04.1f}"


def nice_step(span: float, most: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that cuts `span` into at most `most` parts."""
    if span <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(span / most))
    return float(next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= most + 1e-9))


def points_text(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> str:
    """Return coordinates as SVG writes them in a polyline."""
    return " ".join(f"{a:.2f},{b:.2f}" for a, b in zip(x, y, strict=True))
