"""The page of a comparison shows every cell and note as text, needs nothing but itself, and favours no network."""

from __future__ import annotations

from pathlib import Path

from test_report import HOSTILE, Outline

from mesm.pipeline.report.comparison import write_comparison_page
from mesm.pipeline.report.table import MISSING, TextTable, render_rich, render_text

TABLE = TextTable(("one", HOSTILE), (("R1@0.5", ("30.00 ± 1.50", MISSING)), ("parameters", ("1,234", "7"))), "per cent")


def page(folder: Path) -> str:
    file = folder / "compare.html"
    settings = {"one": {"model": {"dim": 4}}, HOSTILE: {"model": {"name": HOSTILE}}}
    write_comparison_page(file, {"setting": HOSTILE, "epochs": "3"}, ["Mean of 2 seeds."], {"test": TABLE}, settings)
    return file.read_text(encoding="utf-8")


def test_everything_stands_on_the_page_as_text(tmp_path: Path) -> None:
    outline = Outline(page(tmp_path))
    for part in ("Comparison of 2 networks", "30.00 ± 1.50", "1,234", "per cent", "Mean of 2 seeds.", '"dim": 4'):
        assert part in outline.text
    assert outline.shown.count(HOSTILE) == 3
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in outline.elements}


def test_no_row_of_a_comparison_stands_out(tmp_path: Path) -> None:
    assert not Outline(page(tmp_path)).with_class("ours")
    assert [row.style for row in render_rich(TABLE).rows] == [None, None]


def test_texts_are_aligned() -> None:
    lines = render_text(TextTable(("a", "b"), (("long name", ("1", "22")), ("x", ("333", "4"))), "")).splitlines()
    assert lines == ["             a   b", "long name    1  22", "x          333   4"]
