"""Report pages are self-contained, say in text what they draw, and put everything at its time."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.report.charts import line_chart, multiples, nice_step, sparkline
from mesm.pipeline.report.grounding_page import GroundingFigure, data_uri, render_page, write_grounding_page
from mesm.pipeline.report.page import ordinal, seconds_text, window_text
from mesm.pipeline.report.run import write_run_report
from mesm.pipeline.report.table import MetricsTable

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "<script>alert(1)</script>\"'&.mp4"
SPOKEN = ("alt", "title", "aria-label")
VOID = {"meta", "img", "br", "line", "circle", "path", "polyline", "polygon"}
TABLE = MetricsTable(("R1@0.5", "mIoU"), (("ours", (61.234, 50.0)), ("whole <video>", (4.0, None))))


class Outline(HTMLParser):
    """Collects elements and text, and fails on elements that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.shown: list[str] = []
        """Texts as they follow one another, and attributes that are shown or read aloud."""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.shown += [f"{name}: {value}" for name, value in attrs if name in SPOKEN]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if data.strip() and self.open[-1] != "style":
            self.shown.append(" ".join(data.split()))

    def skeleton(self) -> list[tuple[str, list[str]]]:
        """Return the elements with the names of their attributes."""
        return [(tag, list(attrs)) for tag, attrs in self.elements]

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


def figure(**changes: Any) -> GroundingFigure:
    picture = np.full((90, 120, 3), 200, np.uint8)
    parts: dict[str, Any] = {
        "query": "a dog & <b>a cat</b>",
        "duration_s": 40.0,
        "windows": [(10.0, 20.0, 0.91), (0.0, 40.0, 0.2)],
        "truth": [(12.0, 20.0)],
        "saliency": ([1.0, 15.0, 39.0], [-1.0, 3.0, 0.5]),
        "thumbnails": [(10.0, picture), (30.0, picture)],
        "video": "kitchen.mp4",
        "overlap": 0.8,
    }
    return GroundingFigure(**{**parts, **changes})


def test_a_page_needs_nothing_but_itself() -> None:
    html = render_page("A <title>", "and more", [figure()], TABLE)
    outline = Outline(html)
    for _, attrs in outline.elements:
        for name in ("src", "href"):
            assert (attrs.get(name) or "data:").startswith("data:")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in outline.elements}
    assert "url(" not in html
    assert "http" not in html


def test_everything_that_was_given_is_on_the_page() -> None:
    text = Outline(render_page("A <title>", "and more", [figure()], TABLE, "Test split")).text
    for part in ("A <title>", "and more", "“a dog & <b>a cat</b>”", "kitchen.mp4", "10.0 s to 20.0 s", "0.91"):
        assert part in text
    for part in ("80% overlap", "Test split", "whole <video>", "61.23", "annotated moment"):
        assert part in text


def some_figures(name: str) -> list[GroundingFigure]:
    return [
        figure(query=name, video=name),
        figure(windows=[(60.0, 100.0, 0.9), (2.0, 5.0, 0.1)], duration_s=125.0, truth=[(5.0, 9.0), (60.0, 92.0)]),
        figure(windows=[(rank, rank + 2.0, 1 / rank) for rank in range(1, 8)], truth=None, overlap=None, video=""),
        figure(windows=[], truth=None, saliency=None, thumbnails=[], duration_s=7.4, overlap=None),
    ]


def some_table(name: str) -> MetricsTable:
    return MetricsTable(("R1@0.5", name), ((name, (61.234, 50.0)), ("whole video", (4.0, None))))


def a_grounding_page(name: str) -> str:
    return render_page(name, f"below {name}", some_figures(name), some_table(name), f"Split {name}")


def a_run_report(name: str, folder: Path) -> str:
    run = folder / name.replace("/", "")
    run.mkdir()
    for row in (rows := write_run(run, epochs=6)):
        row["loss"][name] = 2.0 - 0.1 * row["epoch"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(f"name: {name}\n")
    return write_run_report(run, {f"Split {name}": some_table(name)}, [f"Note {name}"]).read_text()


def test_pages_say_this_word_for_word_whatever_the_names(tmp_path: Path) -> None:
    for kind, html in (("grounding", a_grounding_page(HOSTILE)), ("run", a_run_report(HOSTILE, tmp_path))):
        assert Outline(html).shown == (GOLDEN / f"{kind}.txt").read_text().splitlines()


def test_names_change_nothing_but_text(tmp_path: Path) -> None:
    assert Outline(a_grounding_page(HOSTILE)).skeleton() == Outline(a_grounding_page("a")).skeleton()
    assert Outline(a_run_report(HOSTILE, tmp_path)).skeleton() == Outline(a_run_report("a", tmp_path)).skeleton()


def test_templates_cost_nothing_before_a_page_is_written() -> None:
    code = "import sys, mesm.pipeline.cli as cli, mesm.pipeline.report.grounding_page, mesm.pipeline.report.run"
    check = "assert cli.run(['--help']) == 0; assert 'jinja2' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True, stdout=subprocess.DEVNULL)


def test_bars_stand_at_their_times() -> None:
    outline = Outline(render_page("t", "s", [figure()]))
    styles = {kind: outline.with_class(kind)[0]["style"] for kind in ("truth", "best", "other")}
    assert styles == {
        "truth": "left:30.000%;width:20.000%",
        "best": "left:25.000%;width:25.000%",
        "other": "left:0.000%;width:100.000%",
    }


def test_windows_that_leave_the_video_stay_on_the_time_line() -> None:
    outline = Outline(render_page("t", "s", [figure(windows=[(-5.0, 100.0, 0.5)])]))
    assert outline.with_class("best")[0]["style"] == "left:0.000%;width:100.000%"


def test_frames_are_pictures_with_words_for_those_who_cannot_see_them() -> None:
    pictures = [attrs for tag, attrs in Outline(render_page("t", "s", [figure()])).elements if tag == "img"]
    assert [attrs["alt"] for attrs in pictures] == ["frame at 10.0 s", "frame at 30.0 s"]
    source = pictures[0]["src"]
    assert source is not None
    image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
    assert (image.format, image.size) == ("JPEG", (120, 90))


def test_frames_are_as_wide_as_the_time_that_they_stand_for() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    html = render_page("t", "s", [figure(thumbnails=[(5.0, picture), (15.0, picture), (35.0, picture)])])
    assert re.findall(r"flex:([\d.]+)", html) == ["25.000", "37.500", "37.500"]


@pytest.mark.parametrize(
    "changes",
    [
        {"windows": []},
        {"truth": None},
        {"saliency": None},
        {"saliency": ([], [])},
        {"saliency": ([3.0], [1.0])},
        {"thumbnails": []},
        {"windows": [], "truth": None, "saliency": None, "thumbnails": [], "video": ""},
        {"truth": [(1.0, 2.0), (5.0, 9.0)]},
        {"duration_s": 0.4},
        {"duration_s": 7300.0},
    ],
)
def test_any_part_may_be_absent_or_odd(changes: dict[str, Any]) -> None:
    html = render_page("t", "s", [figure(**changes)])
    Outline(html)
    assert "nan" not in html


def test_overlap_is_said_where_it_is_known() -> None:
    assert "80% overlap (IoU) with the annotated moment" in render_page("t", "s", [figure()])
    assert "overlap (IoU)" not in render_page("t", "s", [figure(overlap=None)])
    assert "0% overlap (IoU)" in render_page("t", "s", [figure(overlap=0.0)])


def test_large_frames_are_shrunk() -> None:
    content = base64.b64decode(data_uri(np.zeros((720, 1280, 3), np.uint8)).split("base64,")[1])
    assert Image.open(io.BytesIO(content)).size == (284, 160)


def test_the_page_is_written_with_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    write_grounding_page(out, "t", "s", [figure()])
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    Outline(out.read_text())


def write_run(folder: Path, epochs: int) -> list[dict[str, Any]]:
    rows = [
        {
            "epoch": epoch,
            "steps": 42,
            "learning_rate": 1e-4,
            "seconds": 7.5,
            "loss": {"total": 20.0 - epoch, "span": 1 / (epoch + 1)},
            "validation": {"MR-full-R1@0.5": 10.0 * (3 - abs(epoch - 3)), "MR-full-miou": 20.0, "MR-long-mAP": None},
        }
        for epoch in range(epochs)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("name: <demo>\n")
    return rows


def test_a_run_report_shows_curves_tables_and_configuration(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=6)
    path = write_run_report(tmp_path, {"Test split": TABLE}, ["Selected on test."])
    assert path == tmp_path / "report.html"
    outline = Outline(path.read_text())
    for part in (
        "6 epochs, 45.0 s",
        "best R1@0.5, epoch 4",
        "30.00",
        "Test split",
        "Selected on test.",
        "name: <demo>",
    ):
        assert part in outline.text
    spoken = [attrs["aria-label"] for tag, attrs in outline.elements if attrs.get("role") == "img"]
    assert spoken == [
        "Recall and mean IoU, per cent by epoch: R1@0.5 ends at 10, mIoU ends at 20",
        "Total loss by epoch: total ends at 15",
        "span: from 1 to 0.167",
        "learning rate: from 0.0001 to 0.0001",
    ]


def test_a_run_that_was_killed_while_writing_can_be_reported(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert "2 epochs" in write_run_report(tmp_path).read_text()


def test_epochs_without_validation_are_left_out_of_its_curves(tmp_path: Path) -> None:
    rows = write_run(tmp_path, epochs=2)
    del rows[0]["validation"]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "R1@0.5 ends at 10" in write_run_report(tmp_path).read_text()


def test_a_folder_without_metrics_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="train first"):
        write_run_report(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(PipelineError, match="at least one epoch"):
        write_run_report(tmp_path)


def test_a_damaged_line_of_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, epochs=1)
    content = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text("what\n" + content)
    write_run_report(tmp_path)
    assert "no figures of an epoch in line 1" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("what\n")
    with pytest.raises(PipelineError, match=r"metrics\.jsonl: expected the metrics of at least one epoch"):
        write_run_report(tmp_path)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-2.0, 3.0], [1e-9, 2e-9], [5.0, math.nan, 7.0], [1e6, 3e6]])
def test_curves_of_any_size_stay_in_their_chart(values: list[float]) -> None:
    html = line_chart("t", "epoch", {"a": list(enumerate(values, start=1))})
    Outline(html)
    (points,) = re.findall(r'<polyline class="series"[^>]*points="([^"]*)"', html)
    for pair in points.split():
        x, y = map(float, pair.split(","))
        assert 46 <= x <= 446
        assert 12 <= y <= 220


def test_a_curve_that_is_always_zero_lies_on_the_ground() -> None:
    html = line_chart("t", "epoch", {"a": [(1.0, 0.0), (2.0, 0.0)]})
    assert 'points="46.00,220.00 446.00,220.00"' in html
    assert '<text x="39" y="224.0" text-anchor="end">0</text>' in html


def test_nothing_is_drawn_of_nothing() -> None:
    assert line_chart("t", "epoch", {"a": [], "b": [(1.0, math.inf)]}) == ""
    assert sparkline("a", []) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0 s"), (7.44, "7.4 s"), (59.97, "1:00.0"), (125.3, "2:05.3")])
def test_times_are_written_as_people_do(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("window", "text"),
    [((3.2, 7.46), "3.2–7.5 s"), ((58.0, 64.5, 0.9), "0:58.0–1:04.5"), ((3599.0, 3661.0), "59:59.0–61:01.0")],
)
def test_windows_are_written_short(window: tuple[float, ...], text: str) -> None:
    assert window_text(window) == text


def test_ranks_are_counted_as_in_english() -> None:
    counted = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 111: "111th"}
    assert {rank: ordinal(rank) for rank in counted} == counted


@pytest.mark.parametrize(("span", "step"), [(21.9, 5), (44, 10), (8, 1), (0.3, 0.05), (3600, 500), (0, 1)])
def test_ticks_are_round_numbers(span: float, step: float) -> None:
    assert nice_step(span, 8) == pytest.approx(step)


def test_ticks_lie_inside_their_range() -> None:
    assert multiples(5, 1, 21).tolist() == [5, 10, 15, 20]
    assert multiples(0.1, -0.3, 0.3) == pytest.approx([-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3])
    assert multiples(0.1, -0.3, 0.3)[3] == 0
