"""Films in object storage: the same features as of a folder, a spool of bounded size, faults of the network."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from tiny_extraction import BATCH_SIZE, FLUSH_ROWS, VIDEOS, SeededEncoder, make_videos

from mesm.datasets.shards.folder import FeatureFolder
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.films import SPOOL_PREFIX, SpooledFilms
from mesm.pipeline.extract.remote import RemoteStorage
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.videos import collect_videos
from mesm.pipeline.run.object_storage import TRIES, is_address

ROOM = 2**20


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_videos(folder)
    return folder


@pytest.fixture
def address(films: Path) -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.put(str(films), "/bucket", recursive=True)
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


class Watched(RemoteStorage):
    """Counts what is fetched, and fails when it is told to."""

    def __init__(self, address: str) -> None:
        self.pauses: list[float] = []
        super().__init__(address, self.pauses.append)
        self.fetched: list[str] = []
        self.most = 0
        self.spool: Any = None

    def fetch(self, item: Any, target: Path, stopped: Any) -> None:
        self.fetched.append(item.video_id)
        super().fetch(item, target, stopped)
        self.most = max(self.most, sum(file.stat().st_size for file in target.parent.iterdir()))


def extract(storage: Watched, place: Path, room: int = ROOM) -> ExtractionSummary:
    encoder = SeededEncoder("image", 1, 0.5, place / "log")
    folder = FeatureFolder.create_or_open(place / "features", encoder.name, encoder.spec)
    items = storage.list_videos()
    with SpooledFilms(storage, room, place) as spooled:
        summary = extract_videos(
            items, [encoder], [folder], workers=2, batch_size=BATCH_SIZE, flush_rows=FLUSH_ROWS, films=spooled
        )
    assert not list(place.glob(f"{SPOOL_PREFIX}*"))
    return summary


def features_of(place: Path) -> dict[str, np.ndarray]:
    (folder,) = FeatureFolder.all_in(place / "features")
    return {key: folder.read(key)["features"] for key in folder}


def test_features_are_those_of_a_folder(address: str, films: Path, tmp_path: Path) -> None:
    encoder = SeededEncoder("image", 1, 0.5, tmp_path / "log")
    (tmp_path / "local").mkdir()
    folder = FeatureFolder.create_or_open(tmp_path / "local" / "features", encoder.name, encoder.spec)
    extract_videos(collect_videos(films), [encoder], [folder], batch_size=BATCH_SIZE, flush_rows=FLUSH_ROWS)
    storage = Watched(address)
    summary = extract(storage, tmp_path)
    assert (summary.done, summary.failed) == (VIDEOS, [])
    assert storage.fetched == sorted(storage.fetched)
    ours, expected = features_of(tmp_path), features_of(tmp_path / "local")
    assert list(ours) == list(expected)
    assert all(np.array_equal(ours[key], expected[key]) for key in ours)
    again = Watched(address)
    assert extract(again, tmp_path).skipped == VIDEOS
    assert again.fetched == []


@pytest.mark.slow
def test_a_film_that_changed_is_fetched_again(address: str, films: Path, tmp_path: Path) -> None:
    extract(Watched(address), tmp_path)
    fsspec.filesystem("memory").put(str(films / "film7.mp4"), "/bucket/film2.mp4")
    storage = Watched(address)
    assert extract(storage, tmp_path).done == 1
    assert storage.fetched == ["film2"]


def test_the_spool_stays_within_its_room(address: str, films: Path, tmp_path: Path) -> None:
    sizes = [file.stat().st_size for file in films.iterdir()]
    storage = Watched(address)
    assert extract(storage, tmp_path, max(sizes)).done == VIDEOS
    assert storage.most <= max(sizes)


def test_a_film_beyond_the_spool_is_a_failure(address: str, films: Path, tmp_path: Path) -> None:
    sizes = sorted(file.stat().st_size for file in films.iterdir())
    summary = extract(Watched(address), tmp_path, sizes[-1] - 1)
    (failure,) = summary.failed
    assert (summary.done, failure.reason) == (VIDEOS - 1, "fetch")
    assert "set extract.spool_gib higher" in failure.message


def test_what_may_pass_is_tried_again(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Watched(address)
    real, faults = storage._place.system.open, iter([ConnectionError("reset"), TimeoutError("slow")])

    def sometimes(*arguments: Any, **options: Any) -> Any:
        for fault in faults:
            raise fault
        return real(*arguments, **options)

    monkeypatch.setattr(storage._place.system, "open", sometimes)
    assert extract(storage, tmp_path).done == VIDEOS
    assert storage.pauses[0] < storage.pauses[-1] or len(storage.pauses) == 2


@pytest.mark.slow
def test_a_film_that_comes_short_is_a_failure(address: str, tmp_path: Path) -> None:
    storage = Watched(address)
    items = storage.list_videos
    storage.list_videos = lambda: [  # type: ignore[method-assign]
        item if item.video_id != "film3" else type(item)(**{**vars(item), "size": item.size + 1}) for item in items()
    ]
    summary = extract(storage, tmp_path)
    (failure,) = summary.failed
    assert (failure.video_id, failure.reason, failure.path) == ("film3", "fetch", "memory://bucket/film3.mp4")
    assert len(storage.pauses) == TRIES - 1


def test_a_broken_film_is_named_by_its_address(address: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/text.mp4", b"no film at all " * 100)
    (failure,) = extract(Watched(address), tmp_path).failed
    assert "memory://bucket/text.mp4" in failure.message
    assert SPOOL_PREFIX not in failure.message


def test_places_that_are_not_there_are_refused(address: str) -> None:
    with pytest.raises(PipelineError, match="memory://nowhere: there is no such place"):
        RemoteStorage("memory://nowhere").list_videos()
    fsspec.filesystem("memory").pipe("/bucket/notes/a.txt", b"a")
    with pytest.raises(PipelineError, match="holds no video among its 1 files"):
        RemoteStorage(f"{address}/notes").list_videos()
    one = RemoteStorage(f"{address}/film1.mp4").list_videos()
    assert [(item.video_id, item.address) for item in one] == [("film1", f"{address}/film1.mp4")]


def test_what_dead_runs_left_is_removed(address: str, tmp_path: Path) -> None:
    dead = tmp_path / f"{SPOOL_PREFIX}dead"
    dead.mkdir()
    (dead / "film").write_bytes(b"x")
    storage = Watched(address)
    with SpooledFilms(storage, ROOM, tmp_path) as alive:
        assert not dead.exists()
        with SpooledFilms(storage, ROOM, tmp_path):
            assert alive.folder.exists()


def test_only_some_protocols_are_addresses() -> None:
    assert all(map(is_address, ("s3://a/b", "gs://a", "hf://datasets/a/b", "https://a.org/b")))
    assert not any(map(is_address, ("videos", "file:///etc", "rtsp://a", "concat:a|b", "a/b://c", "s3:/a")))


@pytest.mark.slow
def test_a_web_server_without_parts_gives_films_whole(films: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(films))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        summary = extract(Watched(f"http://127.0.0.1:{server.server_port}/"), tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert (summary.done, summary.failed) == (VIDEOS, [])


@pytest.mark.slow
def test_a_bucket_of_s3_by_the_command(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "MESM_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    command = ["extract", "--config", "charades-clip-slowfast", "--features", str(tmp_path / "features")]
    command += ["--set", 'features.video=[{"encoder": "clip", "clip_len": 1.0, "weights": "untrained:0"}]']
    try:
        system = fsspec.filesystem("s3")
        system.mkdir("films")
        system.put(str(films), "films/all", recursive=True)
        assert cli.run([*command, "--videos", "s3://nowhere/films"]) == 2
        assert "s3://nowhere/films: there is no such place" in capsys.readouterr().err
        assert cli.run([*command, "--videos", "s3://films/all", "--limit", "2"]) == 0
        assert "2 videos extracted" in capsys.readouterr().out
        assert cli.run([*command, "--videos", "s3://films/all", "--limit", "2"]) == 0
        assert "nothing to do: all 2 videos are there" in capsys.readouterr().out
    finally:
        server.stop()
