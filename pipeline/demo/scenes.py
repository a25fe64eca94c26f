"""Plan the scenes of the demo corpus: which shape does what and when, and the sentences that say so.

Nothing is drawn here. A scene follows from (seed, index) alone, so annotations exist without any video file.
Every query of a video names exactly one interval of it: no two actors of a scene share colour and shape, and
a sentence that leaves the shape out is only used for a colour that occurs once. Everything that is asked for
happens in the square at the centre of the picture, which is what an image encoder of CLIP's kind looks at.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

SHAPES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle", "wedge"),
    "star": ("star",),
    "cross": ("cross", "plus sign"),
}
COLOURS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    "red": ((225, 25, 30), ("red", "crimson")),
    "green": ((25, 185, 45), ("green", "emerald")),
    "blue": ((30, 60, 235), ("blue",)),
    "yellow": ((250, 225, 20), ("yellow", "golden")),
    "purple": ((165, 30, 215), ("purple", "violet")),
    "cyan": ((20, 215, 230), ("cyan", "turquoise")),
    "white": ((250, 250, 250), ("white",)),
}
DISTRACTOR_COLOURS: dict[str, tuple[int, int, int]] = {"grey": (120, 120, 120), "black": (20, 20, 20)}
PRESENCE = "presence"
MOVES: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
VERBS: dict[str, tuple[str, ...]] = {
    PRESENCE: ("appears", "shows up", "enters the scene", "comes into view", "is on screen", "can be seen"),
    "left": ("moves left", "slides to the left", "travels from right to left", "drifts toward the left"),
    "right": ("moves right", "slides to the right", "travels from left to right", "drifts toward the right"),
    "up": ("moves up", "rises", "climbs to the top", "floats upward"),
    "down": ("moves down", "falls", "sinks to the bottom", "drops downward"),
    "grow": ("grows", "gets bigger", "becomes larger", "expands"),
    "shrink": ("shrinks", "gets smaller", "becomes smaller", "contracts"),
    "blink": ("blinks", "flashes", "flickers on and off"),
    "spin": ("spins", "rotates", "turns around"),
}
OPENINGS = ("", "", "", "", "in the video ", "at some point ", "here ", "now ")
ACTIONS = tuple(kind for kind in VERBS if kind != PRESENCE)

SIZES: tuple[tuple[int, int], ...] = ((160, 120), (192, 108), (128, 128), (144, 176), (176, 144), (108, 192))
"""(width, height) in pixels."""
RATES: tuple[Fraction, ...] = (Fraction(8), Fraction(10), Fraction(12), Fraction(25, 2), Fraction(15))
SPLIT_PATTERN = ("train",) * 4 + ("test",) + ("train",) * 3 + ("val", "test")
"""Split of video i is entry i modulo 10, so that a larger corpus keeps the splits of a smaller one."""

MAX_AT_ONCE = 2
MAX_QUERIES = 6
TWIN_CHANCE = 0.1
SEQUEL_CHANCE = 0.2
EDGE_S = 0.3
START_BETA = (0.7, 0.7)
"""Starts crowd towards both ends, so that no fixed window in the middle fits many moments."""


@dataclass(frozen=True)
class Phase:
    """One thing that an actor does, from start to end in seconds."""

    kind: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Actor:
    """A coloured shape and its track; it is visible from its first waypoint to its last."""

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    phases: tuple[Phase, ...]
    waypoints: tuple[tuple[float, float, float, float, float], ...]
    """(time s, x, y, radius, angle rad); lengths in short sides of the picture, x and y from its centre."""

    @property
    def window(self) -> tuple[float, float]:
        """First and last second on screen."""
        return self.waypoints[0][0], self.waypoints[-1][0]

    def track(self, times: np.ndarray) -> np.ndarray:
        """Interpolate (x, y, radius, angle) at the given seconds: (n,) -> (n, 4)."""
        points = np.asarray(self.waypoints)
        return np.stack([np.interp(times, points[:, 0], points[:, i]) for i in range(1, 5)], axis=1)


@dataclass(frozen=True)
class SceneQuery:
    """A sentence, the interval that it describes, and which kind of event that is."""

    text: str
    kind: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Scene:
    """Everything about one video of the corpus."""

    video_id: str
    split: str
    width: int
    height: int
    fps: Fraction
    frame_count: int
    actors: tuple[Actor, ...]
    distractors: tuple[Actor, ...]
    queries: tuple[SceneQuery, ...]
    background_seed: tuple[int, int]

    @property
    def duration_s(self) -> float:
        """Seconds, from frame count and frame rate."""
        return float(self.frame_count / self.fps)


def plan_scene(index: int, seed: int) -> Scene:
    """Plan video `index` of the corpus with this seed."""
    rng = np.random.default_rng([seed, index])
    width, height = SIZES[rng.integers(len(SIZES))]
    fps = RATES[rng.integers(len(RATES))]
    frame_count = round(rng.uniform(15, 45) * fps)
    duration_s = float(frame_count / fps)
    wanted = 3 if duration_s < 21 else 4 if duration_s < 31 else 5
    looks = _choose_looks(rng, wanted)
    actors: list[Actor] = []
    for phases, (colour, shape) in zip(draw_schedule(rng, wanted, duration_s), looks, strict=False):
        actors.append(place_actor(rng, colour, shape, phases, actors))
    distractors = _distractors(rng, duration_s, {actor.colour for actor in actors})
    return Scene(
        video_id=f"demo-{index:04d}",
        split=SPLIT_PATTERN[index % len(SPLIT_PATTERN)],
        width=width,
        height=height,
        fps=fps,
        frame_count=frame_count,
        actors=tuple(actors),
        distractors=distractors,
        queries=_write_queries(rng, actors),
        background_seed=(seed, index),
    )


def _choose_looks(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """Draw (colour, shape) pairs of distinct colours; now and then two of one colour in different shapes."""
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:count]]
    shapes = [str(shape) for shape in rng.choice(list(SHAPES), count)]
    if rng.random() < TWIN_CHANCE:
        colours[-1] = colours[0]
        shapes[-1] = str(rng.choice([shape for shape in SHAPES if shape != shapes[0]]))
    return list(zip(colours, shapes, strict=True))


def draw_schedule(rng: np.random.Generator, count: int, duration_s: float) -> list[tuple[Phase, ...]]:
    """Draw the phases of each actor, at most MAX_AT_ONCE actors on screen at any time; ordered by start."""
    busy = np.zeros(int(duration_s * 10) + 1, dtype=np.int64)
    schedule: list[tuple[Phase, ...]] = []
    for _ in range(count * 40):
        kinds, lengths = _draw_kinds(rng)
        room = duration_s - 2 * EDGE_S - sum(lengths)
        if room <= 0:
            continue
        start = EDGE_S + room * rng.beta(*START_BETA)
        bounds = np.round(np.cumsum([start, *lengths]), 1)
        taken = slice(int(bounds[0] * 10), int(bounds[-1] * 10) + 1)
        if busy[taken].max() >= MAX_AT_ONCE:
            continue
        busy[taken] += 1
        edges = [float(bound) for bound in bounds]
        schedule.append(tuple(Phase(k, s, e) for k, s, e in zip(kinds, edges, edges[1:], strict=False)))
        if len(schedule) == count:
            break
    return sorted(schedule, key=lambda phases: phases[0].start_s)


def _draw_kinds(rng: np.random.Generator) -> tuple[list[str], list[float]]:
    """Draw what an actor does and for how long: one action, or two in a row with at most one move."""
    if rng.random() >= SEQUEL_CHANCE:
        kind = str(rng.choice([PRESENCE, *ACTIONS]))
        return [kind], [float(rng.uniform(3, 10))]
    resting = [kind for kind in ACTIONS if kind not in MOVES]
    first = str(rng.choice(ACTIONS))
    second = str(rng.choice([kind for kind in resting if kind != first]))
    kinds = [first, second] if rng.random() < 0.5 else [second, first]
    return kinds, [float(length) for length in rng.uniform(3, 6, 2)]


def place_actor(
    rng: np.random.Generator, colour: str, shape: str, phases: tuple[Phase, ...], others: list[Actor]
) -> Actor:
    """Of several random tracks take the one that is least in the way of the other actors."""
    candidates = [_random_actor(rng, colour, shape, phases) for _ in range(8)]
    return min(candidates, key=lambda actor: sum(_crowding(actor, other) for other in others))


def _crowding(one: Actor, other: Actor) -> float:
    """Mean overlap of two discs around the actors, over the time that they share."""
    start, end = max(one.window[0], other.window[0]), min(one.window[1], other.window[1])
    if start >= end:
        return 0.0
    times = np.linspace(start, end, 16)
    a, b = one.track(times), other.track(times)
    distance = np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1])
    return float(np.maximum(0, a[:, 2] + b[:, 2] - distance).mean())


def _random_actor(rng: np.random.Generator, colour: str, shape: str, phases: tuple[Phase, ...]) -> Actor:
    x, y = rng.uniform(-0.24, 0.24, 2)
    radius = rng.uniform(0.22, 0.3) * {"grow": 0.6, "shrink": 1.2}.get(phases[0].kind, 1.0)
    for phase in phases:
        dx, dy = MOVES.get(phase.kind, (0, 0))
        x = -0.34 * dx if dx else x
        y = -0.34 * dy if dy else y
    angle = rng.uniform(-0.25, 0.25)
    points = [(phases[0].start_s, x, y, radius, angle)]
    for phase in phases:
        dx, dy = MOVES.get(phase.kind, (0, 0))
        x, y = x + 0.68 * dx, y + 0.68 * dy
        radius *= {"grow": 2.0, "shrink": 0.5}.get(phase.kind, 1.0)
        if phase.kind == "spin":
            angle += 2.0 * (phase.end_s - phase.start_s)
        points.append((phase.end_s, x, y, radius, angle))
    waypoints = tuple(tuple(float(value) for value in point) for point in points)
    return Actor(colour, shape, COLOURS[colour][0], phases, waypoints)  # type: ignore[arg-type]


def _distractors(rng: np.random.Generator, duration_s: float, used: set[str]) -> tuple[Actor, ...]:
    """Up to two smaller shapes that nobody asks for and that stay on screen all the time."""
    free = [colour for colour in COLOURS if colour not in used]
    colours = [str(rng.choice(free)), str(rng.choice(list(DISTRACTOR_COLOURS)))]
    return small_distractors(rng, duration_s, colours)


def small_distractors(rng: np.random.Generator, duration_s: float, colours: list[str]) -> tuple[Actor, ...]:
    """Draw how many of the colours there are, from none to all, each as a small shape that drifts all the time."""
    found = []
    for colour in colours[: rng.integers(0, len(colours) + 1)]:
        x, y, x_end, y_end = rng.uniform(-0.4, 0.4, 4)
        radius = rng.uniform(0.08, 0.12)
        points = ((0.0, x, y, radius, 0.0), (duration_s, x_end, y_end, radius, 1.0))
        rgb = COLOURS[colour][0] if colour in COLOURS else DISTRACTOR_COLOURS[colour]
        found.append(Actor(colour, str(rng.choice(list(SHAPES))), rgb, (), points))
    return tuple(found)


def _write_queries(rng: np.random.Generator, actors: list[Actor]) -> tuple[SceneQuery, ...]:
    """One sentence an event, then other wordings of random events until the video has at least four."""
    colours = [actor.colour for actor in actors]
    events: list[tuple[Actor, str, float, float]] = []
    for actor in actors:
        if len(actor.phases) > 1 or actor.phases[0].kind == PRESENCE or rng.random() < 0.3:
            events.append((actor, PRESENCE, *actor.window))
        else:
            events.append((actor, actor.phases[0].kind, *actor.window))
        if len(actor.phases) > 1:
            events.extend((actor, phase.kind, phase.start_s, phase.end_s) for phase in actor.phases)
    kept = [events[i] for i in sorted(rng.permutation(len(events))[:MAX_QUERIES])]
    kept += [events[i] for i in rng.integers(0, len(events), max(0, 4 - len(kept)))]
    queries: dict[str, SceneQuery] = {}
    for actor, kind, start_s, end_s in kept:
        text = sentence(rng, actor, kind, alone=colours.count(actor.colour) == 1)
        queries.setdefault(text, SceneQuery(text, kind, start_s, end_s))
    return tuple(queries.values())


def sentence(rng: np.random.Generator, actor: Actor, kind: str, *, alone: bool) -> str:
    """Say in words what an actor does; alone: no other one has its colour, so that its shape may be left out."""
    colour = str(rng.choice(COLOURS[actor.colour][1]))
    shape = str(rng.choice(SHAPES[actor.shape]))
    form = rng.random()
    if alone and form < 0.12:
        subject = f"something {colour}"
    elif form < 0.24:
        subject = f"a {shape} in {colour}"
    else:
        subject = f"{rng.choice(['a', 'the', 'the'])} {colour} {shape}"
    if subject.startswith("a emerald"):
        subject = "an" + subject[1:]
    return f"{rng.choice(OPENINGS)}{subject} {rng.choice(VERBS[kind])}"
