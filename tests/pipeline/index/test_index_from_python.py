"""An index from Python, and what notebooks show of answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from colours import BLUE, GREY, RED, colour_model, write_film

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.grounder import Grounder
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.video_index import VideoIndex


def test_add_search_ground_and_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    film = write_film(tmp_path / "a<b>.mp4", (8, GREY), (6, RED), (8, BLUE))
    index = VideoIndex.open(tmp_path / "index")
    assert index.add([film]).encoded == 1
    found = index.search("something <i>red</i>")
    shown = found._repr_html_()
    assert "a&lt;b&gt;.mp4" in shown
    assert "&lt;i&gt;red" in shown
    assert "data:image/jpeg;base64,/9j/" in shown
    video = index.encode_video(film)
    alone = index.ground(video, "something red")
    assert alone.moments == next(index.ground_many(video, ["something red"])).moments
    assert f"{alone.moments[0].start_s:.1f}" in alone._repr_html_()
    (tmp_path / "other.mp4").touch()
    with pytest.raises(PipelineError, match="add it first"):
        index.encode_video(tmp_path / "other.mp4")
    assert index.remove(film) == 1
    assert index.search("something red").moments == []
    index.close()


def test_what_answers_has_one_interface() -> None:
    grounder: Grounder = colour_model()
    assert (grounder.score_kind, grounder.untrained, grounder.method["name"]) == ("contrast", False, "zero-shot")
