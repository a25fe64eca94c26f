"""The attacks find what a careless job loses, and nothing about a careful one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import careless_job
import pytest

from mesm.tools import torture
from mesm.tools.attacks.attacks import Target, fill_disk, flip_bits, kill_at_random, plan_kills, side_by_side
from mesm.tools.attacks.films import Material
from mesm.tools.attacks.processes import Forks, Kill, Task


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(["careless_job", "mesm.tools.attacks.full_disk"]) as forks:
        yield forks


@pytest.fixture
def draw() -> random.Random:
    return random.Random(1)


def target(job: str, place: Path, forks: Forks) -> Target:
    return Target(job, Material(place / "material"), place, forks)


def own_disk(forks: Forks) -> bool:
    return forks.run(Task("mesm.tools.attacks.full_disk:has_own_disk")).status == 0


@pytest.mark.slow
def test_a_careful_job_loses_nothing(tmp_path: Path, forks: Forks, draw: random.Random) -> None:
    careful = target("careful", tmp_path, forks)
    for tally in (
        kill_at_random(careful, 8, draw),
        fill_disk(careful, 2, draw, own_disk=False),
        side_by_side(careful, 1, draw),
        flip_bits(careful, 8, draw),
    ):
        assert tally.losses == []
        assert tally.counts.total() > 0
    assert set(tmp_path.glob("careful-*/out")) == {careful.undisturbed}


def test_a_careless_job_loses_by_kills_and_bits(tmp_path: Path, forks: Forks, draw: random.Random) -> None:
    careless = target("careless", tmp_path, forks)
    killed = kill_at_random(careless, 6, draw)
    assert "answer differs" in killed.losses[0]
    assert len(flip_bits(careless, 3, draw).losses) == 3
    assert fill_disk(careless, 3, draw, own_disk=False).losses
    assert "LOST" not in torture.table([careless_tally := side_by_side(careless, 1, draw)])
    assert careless_tally.job in torture.table([killed])


def test_a_small_disk_of_its_own_is_full_and_has_room_later(tmp_path: Path, forks: Forks) -> None:
    if not own_disk(forks):
        pytest.skip("this user cannot mount a file system of its own")
    careful = target("careful", tmp_path, forks)
    ended, said, found = careful.squeeze(careful.fresh(), 8)
    assert ended.status == 2
    assert "the disk is full" in said
    assert careful.differences(found) == ""
    careless = target("careless", tmp_path, forks)
    tally = fill_disk(careless, 2, random.Random(3), own_disk=True)
    assert len(tally.losses) == 2


def test_kills_are_spread_over_the_stages() -> None:
    passages = [("probe", 1.0), *((("step", 2.0 + number / 100)) for number in range(100)), ("end", 3.5)]
    kills = list(plan_kills(passages, 4.0, 40, random.Random(0)))
    assert Counter(kill.point for kill in kills) == {"": 10, "probe": 10, "step": 10, "end": 10}
    assert len({kill.passage for kill in kills if kill.point == "step"}) > 5
    assert all(0 <= kill.delay_s <= 1.0 for kill in kills)
    assert max(kill.delay_s for kill in kills if kill.point == "step") <= 0.52


def test_processes_die_where_they_are_told_to(tmp_path: Path, forks: Forks) -> None:
    arguments = ("careful", str(tmp_path), str(tmp_path / "out"))
    task = Task("mesm.tools.attacks.jobs:work", arguments, kill=Kill("number:written", 3))
    ended = forks.run(task)
    assert ended.status == -signal.SIGKILL
    assert 3 <= sum(name == "number:written" for name, _ in ended.passages) < careless_job.NUMBERS
    whole = forks.run(Task(task.call, arguments), copies=2)
    assert whole.statuses == [0, 0]
    assert len(whole.passages) == 2 * careless_job.NUMBERS


def test_who_outlives_its_parent_is_counted_and_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESM_TORTURE_PATIENCE_S", "0.2")
    note = tmp_path / "pid"
    with Forks([]) as forks:
        ended = forks.run(Task("os:system", (f"sleep 60 & echo $! > {note}",)))
    assert (ended.status, ended.orphans) == (0, 1)
    time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", ["extract", "train", "index"])
def test_the_stages_lose_nothing(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--kills", "5", "--full-disks", "2", "--side-by-side", "1", "--flips", "12", "--seed", "2"]
    assert torture.main([job, *few]) == 0, capsys.readouterr().out
