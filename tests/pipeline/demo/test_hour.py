"""An hour in which each object is shown once, and what is counted of answers about it."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mesm.pipeline.demo.hour import plan_hour
from mesm.pipeline.demo.long import ask_hour, film_of, overlap
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment

PARTS = plan_hour(0)
HOUR = EncodedVideo(Path("hour.mp4"), 3600.0, (np.arange(3600, dtype=np.float32)[:, None],))


@pytest.mark.parametrize("seed", range(3))
def test_each_object_that_is_asked_for_is_shown_once(seed: int) -> None:
    parts = plan_hour(seed)
    shown = Counter((actor.colour, actor.shape) for part in parts for actor in part.scene.actors)
    rare = {look for look in shown if look[0] != "white"}
    assert len(rare) == 30
    assert all(shown[look] == 1 for look in rare)
    asked = [part for part in parts if part.asked is not None]
    assert len(asked) == 30
    for part in asked:
        assert part.asked is not None
        look = next((a.colour, a.shape) for a in part.scene.actors if (a.colour, a.shape) in rare)
        assert look in rare
        assert 0 <= part.asked.start_s < part.asked.end_s <= part.scene.duration_s
    small = {actor.colour for part in parts for actor in part.scene.distractors}
    assert small <= {"grey", "black"}


def test_films_follow_one_another_in_whole_seconds() -> None:
    assert PARTS[0].start_s == 0
    assert PARTS[-1].end_s == 3600
    assert all(one.end_s == other.start_s for one, other in itertools.pairwise(PARTS))
    assert all(12 <= part.scene.duration_s == part.end_s - part.start_s <= 50 for part in PARTS)
    assert plan_hour(0) == PARTS
    assert plan_hour(1) != PARTS


def test_a_film_of_the_hour_has_its_own_rows() -> None:
    film = film_of(HOUR, PARTS[7])
    assert film.streams[0][:, 0].tolist() == list(range(PARTS[7].start_s, PARTS[7].end_s))
    assert film.row_s == 1.0
    assert film.path.name == "hour-007"


class Knowing:
    """Answers as it is told: right, in the right film only, or always at the hour's first second."""

    model, method = "knowing", {}

    def __init__(self, shift_s: float = 0.0, everywhere: bool = False) -> None:
        self.shift_s, self.everywhere = shift_s, everywhere

    def ground(self, video: EncodedVideo, query: str, top_k: int = 5) -> GroundingResult:
        part = next(part for part in PARTS if part.asked is not None and part.asked.text == query)
        assert part.asked is not None
        first = int(video.streams[0][0, 0])
        start, end = (part.start_s - first + s for s in (part.asked.start_s, part.asked.end_s))
        saliency = np.zeros(video.rows, np.float32)
        inside = start >= 0 and end <= video.rows
        if inside and not self.everywhere:
            saliency[int(start) : int(end)] = 1
        if not inside or self.everywhere:
            start, end = 0.0, 5.0
        return GroundingResult(query, [Moment(start + self.shift_s, end + self.shift_s, 0.9)], saliency, 1.0, False)


def test_right_answers_are_counted_and_wrong_ones_are_not() -> None:
    right = ask_hour(Knowing(), HOUR, PARTS)
    assert (right.questions, right.short, right.long, right.long_of_five, right.part, right.film) == (30, 1, 1, 1, 1, 1)
    late = ask_hour(Knowing(shift_s=20.0), HOUR, PARTS)
    assert (late.short, late.long, late.long_of_five) == (0, 0, 0)
    blind = ask_hour(Knowing(everywhere=True), HOUR, PARTS)
    assert max(blind.long, blind.part, blind.film) <= 1 / 30
    assert "100% of that" in right.lines(120)[2]


def test_overlap_of_spans() -> None:
    assert overlap((0, 10), (5, 15)) == pytest.approx(1 / 3)
    assert overlap((0, 1), (2, 3)) == 0
