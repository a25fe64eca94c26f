"""The attacks: each is tried so often, and each time what is left is compared with what an undisturbed run leaves."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mesm.tools.attacks.films import Material
from mesm.tools.attacks.processes import Ended, Forks, Kill, Task

REFUSED_BESIDE = {"train"}
"""Jobs that work alone: a second process in the same place is refused."""
SHOWN = 5
LONGEST_AFTER_S = 0.3
"""The longest that a kill waits after the last write point."""


@dataclass
class Tally:
    """What came of an attack."""

    job: str
    attack: str
    counts: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)

    def note(self, outcome: str, loss: str = "") -> None:
        """Count an outcome; loss: what went wrong, if anything did."""
        self.counts["LOST" if loss else outcome] += 1
        lost = loss and f": LOST: {loss}"
        print(f"{self.job}, {self.attack} {self.counts.total()}: {outcome}{lost}", file=sys.stderr, flush=True)
        if loss:
            self.losses.append(f"{self.job}, {self.attack}: {outcome}: {loss}")


class Target:
    """A job, where it works, and what it leaves when nobody disturbs it."""

    def __init__(self, job: str, material: Material, place: Path, forks: Forks) -> None:
        """Do the job once, undisturbed; RuntimeError when that fails."""
        self.job, self.place = job, place
        self._material, self._forks = material, forks
        self._number = 0
        self.undisturbed = self.fresh()
        ended = self.work(self.undisturbed)
        if ended.status:
            raise RuntimeError(f"{job} fails undisturbed: {self.said()}")
        self.passages, self.seconds = ended.passages, ended.seconds
        self.expected = self.judge(self.undisturbed)
        if self.expected["problems"] or self.expected["refused"] or not self.expected["answer"]:
            raise RuntimeError(f"{job} leaves damage undisturbed: {self.expected}")

    def fresh(self) -> Path:
        """A place for one more run."""
        self._number += 1
        return self.place / f"{self.job}-{self._number}" / "out"

    def work(self, out: Path, copies: int = 1, **more: Any) -> Ended:
        """Do the job there."""
        out.parent.mkdir(parents=True, exist_ok=True)
        task = Task("mesm.tools.attacks.jobs:work", (self.job, str(self._material.place), str(out)), str(self._output))
        return self._forks.run(replace(task, **more), copies)

    def squeeze(self, out: Path, kibibytes: int) -> tuple[Ended, str, dict[str, Any]]:
        """Do the job on a small disk of its own; how it ended, what it printed, and what the second try left."""
        out.parent.mkdir(parents=True, exist_ok=True)
        arguments = (self.job, str(self._material.place), str(out), kibibytes, str(out.parent))
        ended = self._forks.run(Task("mesm.tools.attacks.full_disk:squeeze", arguments, str(self._output)))
        first, found = out.parent / "first.txt", out.parent / "found.json"
        return (
            ended,
            first.read_text("utf-8", "replace") if first.exists() else self.said(),
            json.loads(found.read_text()) if found.exists() else {},
        )

    def judge(self, out: Path) -> dict[str, Any]:
        """What readers find there; `crashed` when they end otherwise than with a message."""
        result = self.place / "found.json"
        result.unlink(missing_ok=True)
        ended = self._forks.run(
            Task("mesm.tools.attacks.jobs:judge", (self.job, str(out), str(result)), str(self._output))
        )
        if ended.status:
            return {"crashed": f"{ended.status}: {self.said()[-300:]}"}
        return dict(json.loads(result.read_text()))

    def finish(self, out: Path) -> str:
        """Do the job again where it was stopped; what is wrong then, empty when nothing is."""
        ended = self.work(out)
        if ended.status:
            return f"the same command again ended with {ended.status}: {self.said()[-300:]}"
        return self.differences(self.judge(out))

    def differences(self, found: dict[str, Any], identical: bool = True) -> str:
        """Say how what was left differs from what an undisturbed run leaves; empty when it does not."""
        if "crashed" in found:
            return f"reading ended with {found['crashed']}"
        wrong = [name for name in ("problems", "refused", "left") if found[name]]
        if wrong:
            return "; ".join(f"{name}: {found[name]}" for name in wrong)
        for what in ("answer", "identical") if identical else ("answer",):
            wanted, seen = self.expected[what], found[what]
            names = sorted(name for name in wanted | seen if wanted.get(name) != seen.get(name))
            if names:
                first = f"{names[0]} was {wanted.get(names[0])}, is {seen.get(names[0])}"
                return f"{what} differs: {', '.join(names[:SHOWN])}; {first}"
        return ""

    def said(self) -> str:
        """What the last process printed."""
        return self._output.read_text("utf-8", "replace") if self._output.exists() else ""

    @property
    def _output(self) -> Path:
        return self.place / "output.txt"


def plan_kills(
    passages: Sequence[tuple[str, float]], seconds: float, count: int, draw: random.Random
) -> Iterator[Kill]:
    """Yield so many moments, as many in each stage: between each kind of write point and whatever comes after it.

    passages: the write points of an undisturbed run and when they were passed, seconds: how long it took.
    """
    moments = [("", 0.0), *passages]
    ends = [at for _, at in passages] + [seconds]
    stages = list(dict.fromkeys(name for name, _ in moments))
    order: list[str] = []
    for _ in range(count):
        if not order:
            order = draw.sample(stages, len(stages))
        point = order.pop()
        numbers = [number for number, (name, _) in enumerate(moments) if name == point]
        passage = draw.randrange(len(numbers))
        number = numbers[passage]
        gap = ends[number] - moments[number][1]
        yield Kill(point, passage + 1, draw.uniform(0.0, gap if not point else min(gap, LONGEST_AFTER_S)))


def kill_at_random(target: Target, count: int, draw: random.Random) -> Tally:
    """Kill -9 at random moments of every stage; the same command again has to end as if nothing had been."""
    tally = Tally(target.job, "kill -9")
    for kill in plan_kills(target.passages, target.seconds, count, draw):
        out = target.fresh()
        ended = target.work(out, kill=kill)
        stage = kill.point or "before the first write"
        loss = f"{ended.orphans} of its processes were left running" if ended.orphans else target.finish(out)
        if ended.status == 0:
            stage = "ended before the kill"
        elif ended.status > 0:
            loss = loss or f"ended with {ended.status}"
        tally.note(stage, loss and f"{kill}: {loss}")
        shutil.rmtree(out.parent)
    return tally


def fill_disk(target: Target, count: int, draw: random.Random, own_disk: bool) -> Tally:
    """Let the disk be full at a random fill; that has to be said, and with more room all has to be well."""
    tally = Tally(target.job, "full disk (tmpfs)" if own_disk else "files cut short (no tmpfs)")
    files = [path.stat().st_size for path in target.undisturbed.rglob("*") if path.is_file()]
    for _ in range(count):
        out = target.fresh()
        if own_disk:
            ended, said, found = target.squeeze(out, int(draw.uniform(0.0, 1.0) * sum(files) / 1024) + 4)
            loss = target.differences(found) if found else f"not done with more room: {said[-300:]}"
        else:
            ended = target.work(out, file_bytes=int(draw.uniform(0.02, 1.0) * max(files)))
            said = target.said()
            loss = target.finish(out)
        if ended.status not in (0, 2):
            loss = loss or f"ended with {ended.status}: {said[-300:]}"
        elif ended.status == 2 and ("error: " not in said or "Traceback" in said):
            loss = loss or f"says {said[-300:]}"
        tally.note("refused" if ended.status else "had room", loss)
        shutil.rmtree(out.parent)
    return tally


def side_by_side(target: Target, count: int, draw: random.Random) -> Tally:
    """Start several processes in one place at once: they share the work, or all but one are refused."""
    tally = Tally(target.job, "side by side")
    for _ in range(count):
        out = target.fresh()
        copies = draw.randrange(2, 4)
        ended = target.work(out, copies)
        refused = sum(status == 2 for status in ended.statuses)
        bad = [status for status in ended.statuses if status not in (0, 2)]
        loss = f"ended with {ended.statuses}: {target.said()[-300:]}" if bad or refused == copies else ""
        if refused and target.job not in REFUSED_BESIDE:
            loss = f"{refused} were refused: {target.said()[-300:]}"
        loss = loss or target.differences(target.judge(out), identical=False)
        tally.note(f"{copies} processes", loss)
        shutil.rmtree(out.parent)
    return tally


def flip_bits(target: Target, count: int, draw: random.Random) -> Tally:
    """Flip one bit of one file: verifying or reading has to find it, or all that is read has to be the same."""
    tally = Tally(target.job, "flipped bit")
    files = [p for p in sorted(target.undisturbed.rglob("*")) if p.is_file() and p.stat().st_size]
    for number in range(count):
        file = files[number % len(files)].relative_to(target.undisturbed)
        copy = target.fresh()
        shutil.copytree(target.undisturbed, copy)
        content = bytearray((copy / file).read_bytes())
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        content[place] ^= 1 << bit
        (copy / file).write_bytes(content)
        found = target.judge(copy)
        shutil.rmtree(copy.parent)
        loss = ""
        if "crashed" in found:
            loss = found["crashed"]
        elif not (found["problems"] or found["refused"]):
            loss = target.differences(found, identical=False)
        seen = "found" if loss == "" and (found.get("problems") or found.get("refused")) else "harmless"
        tally.note(seen, loss and f"{file}, bit {bit} of byte {place}: {loss}")
    return tally
