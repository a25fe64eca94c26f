"""`demo --long`: what the demo's network finds in an hour, beside what it finds in the films that make it up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mesm.pipeline.demo.hour import PartOfHour, plan_hour
from mesm.pipeline.demo.videos import write_scenes
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.index.network_search import rank_films
from mesm.pipeline.run.console import ProgressBar, say

OVERLAP = 0.5
"""IoU from which an answer is right."""
ANSWERS = 5


@dataclass(frozen=True)
class LongFigures:
    """Shares of the questions."""

    questions: int
    short: float
    """Right when the film that shows the object is asked alone."""
    long: float
    """Right when the hour is asked."""
    long_of_five: float
    """One of five answers of the hour is right."""
    part: float
    """The first answer of the hour lies in the film that shows the object."""
    film: float
    """The right film is first when the films are searched one by one."""
    question_s: float
    """Seconds that a question to the hour takes."""

    def lines(self, films: int) -> list[str]:
        """Say the figures."""
        kept = f", {self.long / self.short:.0%} of that" if self.short else ""
        return [
            f"an hour of {films} films, {self.questions} questions about objects that are shown once",
            f"  R1@0.5 in the short film alone   {100 * self.short:5.1f}",
            f"  R1@0.5 in the hour               {100 * self.long:5.1f}{kept}",
            f"  one of five answers in the hour  {100 * self.long_of_five:5.1f}",
            f"  first answer in the right film   {100 * self.part:5.1f}; by chance {100 / films:.1f}",
            f"  right film first, films apart    {100 * self.film:5.1f}",
            f"  seconds a question to the hour   {self.question_s:5.2f}",
        ]


def run_long(out: Path, seed: int, device: torch.device) -> LongFigures:
    """Write an hour of films, encode it as one file, ask the demo's network, and print what comes of it."""
    parts, path = plan_hour(seed), out / "hour" / f"hour-{seed}.mp4"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        say("--- draw an hour")
        with ProgressBar("films", len(parts)) as bar:
            write_scenes([part.scene for part in parts], path, lambda done, _: bar.update(done))
    say("--- encode the hour")
    retriever = MomentRetriever.from_checkpoint(out / "run", device)
    hour = retriever.encode_video(path, cache=out / "hour" / "features")
    say("--- ask the hour")
    figures = ask_hour(retriever, hour, parts)
    for line in figures.lines(len(parts)):
        print(line)
    return figures


def ask_hour(retriever: MomentRetriever, hour: EncodedVideo, parts: Sequence[PartOfHour]) -> LongFigures:
    """Ask about every object that is shown once: its film alone, the whole hour, and all films one by one."""
    films = [film_of(hour, part) for part in parts]
    asked = [(number, part) for number, part in enumerate(parts) if part.asked is not None]
    counts, seconds = np.zeros(5), 0.0
    with ProgressBar("questions", len(asked)) as bar:
        for done, (number, part) in enumerate(asked, start=1):
            assert part.asked is not None
            truth = (part.asked.start_s, part.asked.end_s)
            short = retriever.ground(films[number], part.asked.text, 1).moments
            started = time.monotonic()
            found = retriever.ground(hour, part.asked.text, ANSWERS).moments
            seconds += time.monotonic() - started
            right = [overlap((m.start_s - part.start_s, m.end_s - part.start_s), truth) >= OVERLAP for m in found]
            middle = (found[0].start_s + found[0].end_s) / 2 if found else -1.0
            ranked, _ = rank_films(((film, ()) for film in films), retriever, Question(part.asked.text), 1)
            counts += (
                bool(short) and overlap((short[0].start_s, short[0].end_s), truth) >= OVERLAP,
                bool(right) and right[0],
                any(right),
                part.start_s <= middle < part.end_s,
                bool(ranked) and ranked[0].file == films[number].path,
            )
            bar.update(done)
    short_alone, first, of_five, part_found, film_found = (counts / max(len(asked), 1)).tolist()
    question_s = seconds / max(len(asked), 1)
    return LongFigures(len(asked), short_alone, first, of_five, part_found, film_found, question_s)


def film_of(hour: EncodedVideo, part: PartOfHour) -> EncodedVideo:
    """Return one film's rows of an encoded hour, whose rows are seconds."""
    rows = slice(part.start_s, part.end_s)
    path = hour.path.with_name(part.scene.video_id)
    return replace(hour, path=path, duration_s=part.scene.duration_s, streams=tuple(s[rows] for s in hour.streams))


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the IoU of two spans."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return max(0.0, shared) / (max(one[1], other[1]) - min(one[0], other[0]))
