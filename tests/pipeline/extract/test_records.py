"""What a record says of its film decides whether that is decoded again, looked at again, or passed over."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kept_pool import kept_pools
from tiny_extraction import SeededEncoder, make_videos

from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import READING_RULE
from mesm.extractors.decoding.pool import DecodePool
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.source_file import SourceFile
from mesm.extractors.errors import ExtractorError
from mesm.pipeline.data.stored import compact_features, verify_features
from mesm.pipeline.extract.failures import FAILURES_FILE, Failure, read_failures
from mesm.pipeline.extract.run import ExtractionSummary, extract_videos
from mesm.pipeline.extract.stage import describe_failures
from mesm.pipeline.extract.videos import collect_videos

LARGE = 3 * 2**20
"""Bytes of a film of which the quick hash reads a third."""


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_videos(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def processes_are_kept() -> Iterator[None]:
    with kept_pools():
        yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the videos that are decoded from now on."""
    names: list[str] = []
    plain = DecodePool.decode

    def decode(self: Any, probed: Any, outputs: Sequence[Any]) -> None:
        names.append(probed.info.path.stem)
        plain(self, probed, outputs)

    monkeypatch.setattr(DecodePool, "decode", decode)
    return names


def a_film(films: Path, folder: Path, number: int, size: int = 0) -> Path:
    """Copy a film, made longer by a box that players pass over."""
    content = (films / f"film{number}.mp4").read_bytes()
    if size:
        rest = size - len(content)
        content += struct.pack(">I4s", rest, b"free") + bytes(rest - 8)
    folder.mkdir(exist_ok=True)
    path = folder / f"film{number}.mp4"
    path.write_bytes(content)
    return path


def extract(videos: Path, root: Path) -> ExtractionSummary:
    encoder = SeededEncoder("image", 1, 0.5, root.parent / "log")
    folder = FeatureFolder.create_or_open(root, encoder.name, encoder.spec)
    return extract_videos(collect_videos(videos), [encoder], [folder])


def stored(root: Path) -> FeatureFolder:
    return FeatureFolder.all_in(root)[0]


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.rglob("shard-*"))}


def forget(root: Path, *facts: str, **others: Any) -> None:
    """Write each record as an earlier version did: without some facts, with others."""
    folder = stored(root)
    with folder.writer() as writer:
        for key in folder:
            record = folder.record(key)
            meta = {name: value for name, value in record.meta.items() if name not in facts}
            writer.add(
                key,
                folder.read(key),
                clip_len_s=record.clip_len_s,
                duration_s=record.duration_s,
                fps=record.fps,
                source_size=record.source_size,
                source_hash=record.source_hash,
                meta={**meta, **others},
            )


def test_record_tells_rule_time_and_hash(films: Path, tmp_path: Path) -> None:
    path = a_film(films, tmp_path / "videos", 0, LARGE)
    extract(tmp_path / "videos", tmp_path / "features")
    source = SourceFile.of(path).hashed()
    meta = stored(tmp_path / "features").record("film0").meta
    assert (meta["rule"], meta["modified_ns"]) == (READING_RULE, path.stat().st_mtime_ns)
    assert meta["sha256"] == source.whole_hash != source.quick_hash
    assert "start_s" not in meta


def test_film_edited_between_the_sampled_blocks_is_extracted_again(
    films: Path, tmp_path: Path, decoded: list[str]
) -> None:
    path = a_film(films, tmp_path / "videos", 0, LARGE)
    extract(tmp_path / "videos", tmp_path / "features")
    content = bytearray(path.read_bytes())
    content[300_000:300_200] = b"x" * 200
    before = SourceFile.of(path)
    path.write_bytes(content)
    os.utime(path, ns=(0, 1))
    assert SourceFile.of(path).quick_hash == before.quick_hash, "or the test tests nothing"
    assert extract(tmp_path / "videos", tmp_path / "features").done == 1
    assert decoded == ["film0", "film0"]
    assert extract(tmp_path / "videos", tmp_path / "features").skipped == 1


def test_film_that_was_only_touched_is_hashed_once_and_not_decoded(
    films: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_film(films, tmp_path / "videos", 0, LARGE)
    extract(tmp_path / "videos", tmp_path / "features")
    features = stored(tmp_path / "features").read("film0")["features"]
    os.utime(path, ns=(0, 7))
    summary = extract(tmp_path / "videos", tmp_path / "features")
    assert (summary.done, summary.skipped, summary.failed) == (0, 1, [])
    assert decoded == ["film0"]
    assert stored(tmp_path / "features").record("film0").meta["modified_ns"] == 7
    assert np.array_equal(stored(tmp_path / "features").read("film0")["features"], features)
    before = shards(tmp_path / "features")
    monkeypatch.setattr(DecodePool, "start", lambda *_: pytest.fail("it is looked at again"))
    assert extract(tmp_path / "videos", tmp_path / "features").skipped == 1
    assert shards(tmp_path / "features") == before


def test_small_film_that_was_touched_is_known_by_its_quick_hash(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_film(films, tmp_path / "videos", 0)
    extract(tmp_path / "videos", tmp_path / "features")
    os.utime(path, ns=(0, 7))
    monkeypatch.setattr(DecodePool, "start", lambda *_: pytest.fail("it is looked at"))
    assert extract(tmp_path / "videos", tmp_path / "features").skipped == 1


def late_film(films: Path, folder: Path) -> Path:
    """Move the pictures of a film by an empty edit, behind a start that another track keeps."""
    import av

    folder.mkdir(exist_ok=True)
    path = folder / "late.mkv"
    with av.open(str(films / "film1.mp4")) as source, av.open(str(path), "w") as target:
        (pictures,) = source.streams.video
        video = target.add_stream_from_template(pictures)
        sound = target.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 40_000), np.int16), "s16", "mono")
        silence.rate = 8000
        for packet in sound.encode(silence):
            target.mux(packet)
        for packet in source.demux(pictures):
            if packet.dts is not None:
                packet.pts += round(1.5 / packet.time_base)
                packet.dts += round(1.5 / packet.time_base)
                packet.stream = video
                target.mux(packet)
    return path


@pytest.mark.parametrize("unknown", [("rule", "modified_ns", "sha256", "start_s"), ("rule",)])
def test_features_of_an_earlier_rule_stay_where_that_read_the_film_alike(
    unknown: tuple[str, ...], films: Path, tmp_path: Path, decoded: list[str]
) -> None:
    videos, root = tmp_path / "videos", tmp_path / "features"
    a_film(films, videos, 0)
    a_film(films, videos, 1, LARGE)
    late = late_film(films, videos)
    assert float(probe(late).start_s) == pytest.approx(1.5, abs=0.01)
    assert extract(videos, root).done == 3
    assert stored(root).record("late").meta["start_s"] == pytest.approx(1.5, abs=0.01)
    fingerprint = stored(root).fingerprint
    forget(root, *unknown)
    kept = {name: stored(root).read(name)["features"] for name in ("film0", "film1", "late")}
    decoded.clear()

    summary = extract(videos, root)
    assert (summary.done, summary.skipped, summary.failed) == (1, 2, [])
    assert decoded == ["late"]
    folder = stored(root)
    assert folder.fingerprint == fingerprint
    assert all(np.array_equal(folder.read(name)["features"], kept[name]) for name in kept)
    assert {folder.record(name).meta["rule"] for name in folder} == {READING_RULE}
    assert folder.verify() == []

    decoded.clear()
    assert extract(videos, root).skipped == 3
    assert decoded == []


def test_folder_that_cannot_be_written_is_read_all_the_same(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, root = tmp_path / "videos", tmp_path / "features"
    a_film(films, videos, 0)
    extract(videos, root)
    forget(root, "rule")
    before = shards(root)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(FeatureFolder, "writer", lambda self: pytest.fail("it wants to write"))
    assert extract(videos, root).skipped == 1
    assert shards(root) == before


def test_rows_of_a_late_film_begin_with_its_first_picture(films: Path, tmp_path: Path) -> None:
    videos, root = tmp_path / "videos", tmp_path / "features"
    late_film(films, videos)
    extract(videos, root)
    features = stored(root).read("late")["features"]
    record = stored(root).record("late")
    assert record.duration_s == pytest.approx(1.5 + 2.3, abs=0.01)
    assert record.rows == 8
    assert all(np.array_equal(features[0], features[row]) for row in (1, 2))
    assert not np.array_equal(features[0], features[5])


def test_what_dead_writers_left_beside_the_features_is_removed(films: Path, tmp_path: Path) -> None:
    videos, root = tmp_path / "videos", tmp_path / "features"
    a_film(films, videos, 0)
    extract(videos, root)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = root / f".tmp-{os.uname().nodename}@{dead.pid}-{'0' * 16}"
    for tidy in (lambda: extract(videos, root), lambda: verify_features(root), lambda: compact_features(root)):
        left.write_bytes(b"half")
        tidy()
        assert not left.exists()


def test_error_in_the_middle_keeps_what_is_complete(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, root = tmp_path / "videos", tmp_path / "features"
    for number in range(4):
        a_film(films, videos, number)
    (videos / "film0a.mp4").write_bytes(b"no film")
    plain = DecodePool.start

    def start(self: Any, job: int, path: Path) -> None:
        if path.stem == "film3":
            raise ExtractorError("no process can be started")
        plain(self, job, path)

    monkeypatch.setattr(DecodePool, "start", start)
    with pytest.raises(ExtractorError, match="no process"):
        extract(videos, root)
    assert "film0" in stored(root)
    assert [entry["video_id"] for entry in read_failures(root / FAILURES_FILE)] == ["film0a"]


def test_many_failures_are_summed_up(tmp_path: Path) -> None:
    failed = [Failure(f"v{n}", f"v{n}.mp4", "probe" if n % 2 else "decode", "torn") for n in range(100_000)]
    lines = describe_failures(failed, tuple(f"w{n}" for n in range(100_000)), Path("features"))
    assert len(lines) <= 12
    assert lines[0] == "v0: decode: torn"
    assert lines[10] == ("99990 more videos (decode 49995, probe 49995); features/failures.json lists all of them")
    assert describe_failures(failed[:3], (), Path("features")) == [f"v{n}: {failed[n].reason}: torn" for n in range(3)]
