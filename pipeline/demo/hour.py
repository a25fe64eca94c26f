"""One hour of the demo's kind of films, in which each of 30 objects is shown once, and questions about them.

Six colours in five shapes are shown in one film each; everything else in the hour is white. So every question has one
answer, and an object has four others of its colour and five of its shape beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from mesm.pipeline.demo.scenes import (
    COLOURS,
    DISTRACTOR_COLOURS,
    PRESENCE,
    SHAPES,
    Actor,
    Phase,
    Scene,
    SceneQuery,
    draw_schedule,
    place_actor,
    sentence,
    small_distractors,
)

FILMS = 120
HOUR_S = 3600
SHORTEST_S, LONGEST_S = 15, 45
COMMON = "white"
WIDTH, HEIGHT, RATE = 160, 120, Fraction(10)
_STREAM = 3600
"""Keeps the numbers that an hour draws from those of the corpus of the same seed."""


@dataclass(frozen=True)
class PartOfHour:
    """One film of the hour."""

    start_s: int
    scene: Scene
    asked: SceneQuery | None
    """What is asked of it; its seconds count from the film's start."""

    @property
    def end_s(self) -> int:
        """Seconds of the hour."""
        return self.start_s + round(self.scene.duration_s)


def plan_hour(seed: int, films: int = FILMS, hour_s: int = HOUR_S) -> list[PartOfHour]:
    """Plan the films of an hour, one after the other; at least as many as there are objects to ask for."""
    rng = np.random.default_rng([seed, _STREAM])
    rare = [(colour, shape) for colour in COLOURS if colour != COMMON for shape in SHAPES]
    looks: list[tuple[str, str] | None] = [*rare, *[None] * (films - len(rare))]
    looks = [looks[number] for number in rng.permutation(films)]
    ends = _ends(rng, films, hour_s)
    starts = [0, *ends[:-1]]
    return [
        _plan_part(np.random.default_rng([seed, _STREAM, number]), number, start, end - start, look)
        for number, (start, end, look) in enumerate(zip(starts, ends, looks, strict=True))
    ]


def _ends(rng: np.random.Generator, films: int, hour_s: int) -> list[int]:
    """Draw where films end, in whole seconds."""
    lengths = rng.uniform(SHORTEST_S, LONGEST_S, films)
    return [int(end) for end in np.round(np.cumsum(lengths) * hour_s / lengths.sum())]


def _plan_part(
    rng: np.random.Generator, number: int, start_s: int, duration_s: int, look: tuple[str, str] | None
) -> PartOfHour:
    wanted = 3 if duration_s < 21 else 4 if duration_s < 31 else 5
    shapes = [str(shape) for shape in rng.permutation(list(SHAPES))]
    looks = [(COMMON, shape) for shape in shapes[:wanted]]
    if look is not None:
        looks[int(rng.integers(wanted))] = look
    actors: list[Actor] = []
    for phases, (colour, shape) in zip(_whole_schedule(rng, wanted, duration_s), looks, strict=True):
        actors.append(place_actor(rng, colour, shape, phases, actors))
    asked = next((_ask(rng, actor) for actor in actors if (actor.colour, actor.shape) == look), None)
    scene = Scene(
        video_id=f"hour-{number:03d}",
        split="test",
        width=WIDTH,
        height=HEIGHT,
        fps=RATE,
        frame_count=int(duration_s * RATE),
        actors=tuple(actors),
        distractors=small_distractors(rng, float(duration_s), list(DISTRACTOR_COLOURS)),
        queries=() if asked is None else (asked,),
        background_seed=(_STREAM, number),
    )
    return PartOfHour(start_s, scene, asked)


def _whole_schedule(rng: np.random.Generator, wanted: int, duration_s: float) -> list[tuple[Phase, ...]]:
    """Draw until there is room for all actors."""
    while len(schedule := draw_schedule(rng, wanted, duration_s)) < wanted:
        continue
    return schedule


def _ask(rng: np.random.Generator, actor: Actor) -> SceneQuery:
    """Ask for an object by what it does all the time that it is shown."""
    kind = actor.phases[0].kind if len(actor.phases) == 1 else PRESENCE
    return SceneQuery(sentence(rng, actor, kind, alone=False), kind, *actor.window)
