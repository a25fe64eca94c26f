"""An extraction that is killed at any moment and started again ends with the same bytes as one that was not."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_extraction import FLUSH_ROWS, VIDEOS, Server, make_videos

from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.publishing import PUBLISH_STEPS

QUICK_POINTS = ["shard:half-written:3", "extract:batch-encoded:9"]
SLOW_POINTS = [
    "folder:created",
    "folder:synced:2",
    *(f"fingerprint:{step}" for step in PUBLISH_STEPS),
    *(f"shard:{step}:2" for step in PUBLISH_STEPS),
    "shard:published:5",
    "extract:probed",
    "extract:probed:5",
    "extract:batch-encoded",
    "extract:video-complete:4",
    "extract:shard-complete:3",
    "extract:shard-published:3",
]
RANDOM_KILLS = 20


@dataclass(frozen=True)
class Uninterrupted:
    """What an extraction leaves behind that nobody disturbed."""

    files: dict[str, bytes]
    rows: Counter[str]
    seconds: float


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    videos = tmp_path_factory.mktemp("videos")
    make_videos(videos)
    server = Server(videos)
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    place = tmp_path_factory.mktemp("uninterrupted")
    status, seconds = server.run(place / "features", place / "log")
    assert status == 0
    return Uninterrupted(files(place / "features"), encoded_rows(place / "log"), seconds)


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder but locks, by relative path."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def encoded_rows(log: Path) -> Counter[str]:
    """Rows that each encoder was given."""
    rows: Counter[str] = Counter()
    for line in log.read_text().splitlines() if log.exists() else []:
        encoder, count = line.split()
        rows[encoder] += int(count)
    return rows


def published(root: Path) -> Counter[str]:
    """Rows that each folder below `root` holds."""
    return Counter(
        {folder.name: sum(folder.record(key).rows for key in folder) for folder in FeatureFolder.all_in(root)}
    )


def continue_and_compare(server: Server, place: Path, expected: Uninterrupted) -> Counter[str]:
    """Start a killed extraction again; return how many rows were encoded twice, by encoder."""
    there = published(place / "features") if (place / "features").exists() else Counter()
    status, _ = server.run(place / "features", place / "log 2")
    assert status == 0
    assert files(place / "features") == expected.files
    again = encoded_rows(place / "log 2")
    assert again + there == expected.rows, "a row that was published is not encoded again"
    for folder in FeatureFolder.all_in(place / "features"):
        assert folder.verify() == []
        assert len(folder) == VIDEOS
    return encoded_rows(place / "log") + again - expected.rows


def assert_few_twice(twice: Counter[str]) -> None:
    # A flush interval ends with the video that fills it, of at most nine rows; of the next ones, whole batches may
    # have been encoded ahead.
    assert all(rows <= FLUSH_ROWS + 2 * 9 for rows in twice.values()), twice


def kill_at(server: Server, place: Path, expected: Uninterrupted, point: str) -> None:
    status, _ = server.run(place / "features", place / "log", fault=point)
    assert status == -signal.SIGKILL, f"{point} was not passed"
    assert_few_twice(continue_and_compare(server, place, expected))


def test_an_uninterrupted_extraction_makes_several_shards(uninterrupted: Uninterrupted) -> None:
    shards = Counter(name.split("-")[0] for name in uninterrupted.files if name.endswith(".safetensors"))
    assert shards == {"image": 4, "clip": 2}


@pytest.mark.parametrize("point", QUICK_POINTS)
def test_killed_at_a_write_point(server: Server, tmp_path: Path, uninterrupted: Uninterrupted, point: str) -> None:
    kill_at(server, tmp_path, uninterrupted, point)


@pytest.mark.slow
@pytest.mark.parametrize("point", SLOW_POINTS)
def test_killed_at_every_write_point(server: Server, tmp_path: Path, uninterrupted: Uninterrupted, point: str) -> None:
    kill_at(server, tmp_path, uninterrupted, point)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_times(server: Server, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    generator = random.Random(0)
    halfway = 0
    for number in range(RANDOM_KILLS):
        place = tmp_path / str(number)
        place.mkdir()
        kill_after_s = generator.uniform(0.01, 1.0) * uninterrupted.seconds
        server.run(place / "features", place / "log", kill_after_s=kill_after_s)
        halfway += Counter() < published(place / "features") < uninterrupted.rows
        assert_few_twice(continue_and_compare(server, place, uninterrupted))
    assert halfway >= RANDOM_KILLS / 3, "most kills came before the first shard or after the last one"


@pytest.mark.slow
def test_killed_again_and_again_until_it_is_done(server: Server, tmp_path: Path, uninterrupted: Uninterrupted) -> None:
    deadline = time.monotonic() + 240
    status = -signal.SIGKILL
    while status != 0 and time.monotonic() < deadline:
        status, _ = server.run(tmp_path / "features", tmp_path / "log", fault="extract:shard-published")
    assert status == 0
    assert files(tmp_path / "features") == uninterrupted.files
    assert encoded_rows(tmp_path / "log")["image"] < 2 * uninterrupted.rows["image"]
