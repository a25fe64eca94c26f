"""Films and queries of any name through the page and the JSON of an answer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment
from mesm.pipeline.ground.page import grounding_figure
from mesm.pipeline.report.grounding_page import write_grounding_page

NAMES = [
    os.fsdecode(b"caf\xe9.mp4"),
    "<script>alert(1)</script>.mp4",
    "\N{RIGHT-TO-LEFT OVERRIDE}4pm.exe",
    'quo"te\n\x1b[31m.mp4',
    "-x.mp4",
    "\N{ARABIC LETTER ALEF}\N{ARABIC LETTER BEH}.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_utf_8_and_show_names_as_text(tmp_path: Path, name: str) -> None:
    video = EncodedVideo(Path(name), 20.0, (np.zeros((20, 3), np.float32),))
    result = GroundingResult(name, [Moment(2.0, 4.0, 0.9)], np.zeros(20, np.float32), 1.0, words_cut=False)
    figure = grounding_figure(video, result, [], [(2.0, 4.0)])
    write_grounding_page(tmp_path / "page.html", name, name, [figure])
    page = (tmp_path / "page.html").read_bytes().decode("utf-8")
    assert "<script>" not in page
    assert not {"\N{RIGHT-TO-LEFT OVERRIDE}", "\x1b"} & set(page)
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if name.startswith("\N{ARABIC LETTER ALEF}"):
        assert shown in page
