"""Pages from the templates beside this module: one HTML file each, without scripts or external resources."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from mesm.pipeline.run.shown_text import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """Fill in a template of this package; text in `values` is escaped, Markup from another template is not."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mesm.pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"seconds": seconds_text, "window": window_text, "ordinal": ordinal}
    return environment


def seconds_text(seconds: float) -> str:
    """Return a time as people write it: 7.4 s, or 2:05.3 from a minute on."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{rest:.1f} s" if minutes < 1 else f"{minutes:.0f}:{rest:04.1f}"


def window_text(window: Sequence[float]) -> str:
    """Return (start s, end s, ...) as narrow as it goes: 3.2–7.5 s, or 0:58.0–1:04.5."""
    if window[1] < 60:
        return f"{window[0]:.1f}–{window[1]:.1f} s"
    return "–".join(f"{edge // 60:.0f}:{edge % 60:04.1f}" for edge in window[:2])


def ordinal(rank: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, and so on."""
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"
