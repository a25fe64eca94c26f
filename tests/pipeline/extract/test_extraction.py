"""The extract stage: what it stores, skips, tries again and refuses, and that nothing but the videos decides it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kept_pool import kept_pools
from tiny_extraction import DIM, VIDEOS, SeededEncoder, make_videos

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.folder import FeatureFolder, text_key
from mesm.extractors.contracts import FramePlan, FrameTransform, TextFeatures, VideoEncoder, VideoInfo
from mesm.extractors.decoding.pool import DecodePool
from mesm.extractors.decoding.sampling import image_rows
from mesm.extractors.errors import EncoderError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.encoded_texts import extract_texts
from mesm.pipeline.data.stored import export_features
from mesm.pipeline.extract import lane as encoder_lane
from mesm.pipeline.extract import run as extraction
from mesm.pipeline.extract.failures import FAILURES_FILE, read_failures
from mesm.pipeline.extract.rows import RowAssembler, checked_plan, row_seconds
from mesm.pipeline.extract.run import extract_videos
from mesm.pipeline.extract.videos import VideoItem, collect_videos, select_videos


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_videos(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def processes_are_kept() -> Iterator[None]:
    with kept_pools():
        yield


@pytest.fixture
def some_films(films: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return the maker of a folder with copies of some films."""

    def copy(*numbers: int) -> Path:
        folder = tmp_path / "videos"
        folder.mkdir(exist_ok=True)
        for number in numbers:
            shutil.copy2(films / f"film{number}.mp4", folder)
        return folder

    return copy


def encoders(log: Path) -> list[VideoEncoder]:
    return [SeededEncoder("image", 1, 0.5, log), SeededEncoder("clip", 4, 1.0, log)]


def extract(videos: Path, root: Path, which: Sequence[VideoEncoder] | None = None, **options: Any) -> Any:
    """Extract a folder's videos with small batches and shards."""
    chosen = encoders(root.parent / "log") if which is None else which
    folders = [FeatureFolder.create_or_open(root, encoder.name, encoder.spec) for encoder in chosen]
    settings = {"batch_size": 4, "flush_rows": 12, **options}
    return extract_videos(collect_videos(videos), chosen, folders, **settings)


def stored(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("shard-*"))}


def folders(root: Path) -> dict[str, FeatureFolder]:
    return {folder.name: folder for folder in FeatureFolder.all_in(root)}


def encoded(log: Path, encoder: str) -> int:
    lines = log.read_text().splitlines() if log.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{encoder} "))


def test_features_are_those_of_the_frames_at_the_clips_centres(some_films: Callable[..., Path], tmp_path: Path) -> None:
    class Brightness(SeededEncoder):
        def encode(self, clips: torch.Tensor) -> torch.Tensor:
            return clips.float().mean(dim=(1, 2, 3)).repeat(1, 3)[:, :DIM]

    summary = extract(some_films(0, 1), tmp_path / "features", [Brightness("image", 1, 0.5, tmp_path / "log")])
    assert (summary.done, summary.skipped, summary.failed, summary.rows) == (2, 0, [], 4 + 5)
    folder = folders(tmp_path / "features")["image"]
    record = folder.record("film1")
    assert (record.rows, record.clip_len_s, record.duration_s, record.fps) == (5, 0.5, 2.3, Fraction(10))
    assert record.source_size == (tmp_path / "videos" / "film1.mp4").stat().st_size
    assert record.meta["decoder"] in ("decord", "pyav")
    features = folder.read("film1")["features"]
    assert features.dtype == np.float16
    assert features.shape == (5, DIM)
    assert 20 < features.astype(float).mean() < 235


def test_store_of_the_specification_decides_the_type(some_films: Callable[..., Path], tmp_path: Path) -> None:
    encoder = SeededEncoder("image", 1, 0.5, tmp_path / "log")
    encoder.spec = {**encoder.spec, "store": "float32"}
    extract(some_films(0), tmp_path / "features", [encoder])
    assert folders(tmp_path / "features")["image"].read("film0")["features"].dtype == np.float32


def test_workers_change_no_byte(films: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        summary = extract(films, tmp_path / str(workers), workers=workers)
        assert summary.done == VIDEOS
    assert stored(tmp_path / "1") == stored(tmp_path / "3")
    assert len(stored(tmp_path / "1")) == 6


def test_one_encoder_or_two_in_a_run_change_no_byte(films: Path, tmp_path: Path) -> None:
    both = encoders(tmp_path / "log")
    extract(films, tmp_path / "together", both, workers=2)
    for encoder in both:
        extract(films, tmp_path / "alone", [encoder], workers=2)
    assert stored(tmp_path / "together") == stored(tmp_path / "alone")


def test_accelerators_get_full_frames_and_the_same_features(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an accelerator would scale is scaled in the main process here, by the same function."""
    extract(films, tmp_path / "scaled while decoding")
    monkeypatch.setattr(extraction._Extraction, "_divide", lambda self, transform: (None, transform))
    extract(films, tmp_path / "scaled afterwards")
    assert stored(tmp_path / "scaled afterwards") == stored(tmp_path / "scaled while decoding")


def test_broken_videos_are_listed_and_change_nothing_for_the_others(
    films: Path, some_films: Callable[..., Path], tmp_path: Path
) -> None:
    videos = some_films(*range(VIDEOS))
    (videos / "film2a.mp4").write_bytes(b"")
    (videos / "film3a.mp4").write_bytes((films / "film3.mp4").read_bytes()[:3000])
    os.mkfifo(videos / "film4a.mp4")
    summary = extract(videos, tmp_path / "broken", workers=2)
    extract(films, tmp_path / "sound", workers=1)
    assert stored(tmp_path / "broken") == stored(tmp_path / "sound")
    assert summary.done == VIDEOS
    assert [(one.video_id, one.reason) for one in summary.failed] == [
        ("film2a", "probe"),
        ("film3a", "probe"),
        ("film4a", "probe"),
    ]
    listed = read_failures(tmp_path / "broken" / FAILURES_FILE)
    assert [entry["video_id"] for entry in listed] == ["film2a", "film3a", "film4a"]
    assert all(entry["message"] and entry["reason"] for entry in listed)
    assert not (tmp_path / "sound" / FAILURES_FILE).exists()


def test_video_that_fails_halfway_has_touched_no_batch_of_its_neighbours(
    films: Path, some_films: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes after its first rows were encoded, between two whose rows fill batches together."""
    videos = some_films(*range(VIDEOS))
    shutil.copy2(films / "film7.mp4", videos / "film2a.mp4")
    monkeypatch.setattr("mesm.extractors.decoding.frame_ring.MAX_SLOTS", 2)
    complete = extraction._Extraction._route

    def change(self: Any, event: Any) -> None:
        if self._items[event.job].video_id == "film2a":
            os.utime(videos / "film2a.mp4", ns=(0, 0))
        complete(self, event)

    monkeypatch.setattr(extraction._Extraction, "_route", change)
    summary = extract(videos, tmp_path / "changed", workers=2)
    assert [(one.video_id, one.reason) for one in summary.failed] == [("film2a", "changed during reading")]
    monkeypatch.undo()
    extract(films, tmp_path / "sound")
    assert stored(tmp_path / "changed") == stored(tmp_path / "sound")


def test_second_run_does_only_what_is_new_or_failed(some_films: Callable[..., Path], tmp_path: Path) -> None:
    root, log = tmp_path / "features", tmp_path / "log"
    videos = some_films(0, 2)
    (videos / "film1.mp4").write_bytes(b"no film")
    assert extract(videos, root).done == 2
    rows = encoded(log, "image")
    again = extract(videos, root)
    assert (again.done, again.skipped, len(again.failed), again.rows) == (0, 2, 1, 0)
    assert encoded(log, "image") == rows
    some_films(1, 3)
    mended = extract(videos, root)
    assert (mended.done, mended.skipped, mended.failed) == (2, 2, [])
    assert encoded(log, "image") == rows + 5 + 6
    assert read_failures(root / FAILURES_FILE) == []
    assert sorted(folders(root)["clip"].keys()) == ["film0", "film1", "film2", "film3"]


def test_failures_of_videos_that_this_run_left_out_stay_listed(some_films: Callable[..., Path], tmp_path: Path) -> None:
    root, videos = tmp_path / "features", some_films(0)
    (videos / "broken.mp4").write_bytes(b"no film")
    extract(videos, root)
    (videos / "broken.mp4").unlink()
    (videos / "other.mp4").write_bytes(b"no film")
    extract(videos, root)
    assert [entry["video_id"] for entry in read_failures(root / FAILURES_FILE)] == ["broken", "other"]


def test_a_file_name_that_is_no_utf_8_stays_listed(some_films: Callable[..., Path], tmp_path: Path) -> None:
    root, videos = tmp_path / "features", some_films(0)
    name = os.fsdecode(b"film\xff")
    (videos / f"{name}.mp4").write_bytes(b"no film")
    for done in (1, 0):
        summary = extract(videos, root)
        assert (summary.done, [one.video_id for one in summary.failed]) == (done, [name])
    assert [entry["path"] for entry in read_failures(root / FAILURES_FILE)] == [str(videos / f"{name}.mp4")]


def test_changed_file_of_the_same_name_is_extracted_again(
    films: Path, some_films: Callable[..., Path], tmp_path: Path
) -> None:
    root, videos = tmp_path / "features", some_films(0, 1)
    extract(videos, root)
    before = folders(root)["image"].record("film0")
    shutil.copy(films / "film5.mp4", videos / "film0.mp4")
    summary = extract(videos, root)
    assert (summary.done, summary.skipped) == (1, 1)
    after = folders(root)["image"].record("film0")
    assert after.source_hash != before.source_hash
    assert after.rows == 7


def test_one_changed_byte_is_noticed_whatever_the_clock_says(some_films: Callable[..., Path], tmp_path: Path) -> None:
    root, videos = tmp_path / "features", some_films(0)
    extract(videos, root)
    path = videos / "film0.mp4"
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert extract(videos, root).skipped == 0
    os.utime(path, ns=(0, 0))
    assert extract(videos, root).skipped == 1


def test_encoder_that_joins_later_is_caught_up_without_repeating_the_others(
    some_films: Callable[..., Path], tmp_path: Path
) -> None:
    root, log = tmp_path / "features", tmp_path / "log"
    image, clip = encoders(log)
    videos = some_films(0, 1)
    extract(videos, root, [image])
    rows = encoded(log, "image")
    assert extract(videos, root, [image, clip]).done == 2
    assert encoded(log, "image") == rows
    assert sorted(folders(root)["clip"].keys()) == ["film0", "film1"]


def test_clip_length_that_disagrees_with_the_duration_is_an_error(
    some_films: Callable[..., Path], tmp_path: Path
) -> None:
    class Mistaken(SeededEncoder):
        def plan(self, info: VideoInfo) -> FramePlan:
            return FramePlan(image_rows(info, 2 * self.clip_len_s), super().plan(info).transform)

    summary = extract(some_films(7), tmp_path / "features", [Mistaken("image", 1, 0.5, tmp_path / "log")])
    assert [one.reason for one in summary.failed] == ["plan"]
    assert "4 rows of 0.5 s" in summary.failed[0].message


@pytest.mark.parametrize(
    ("rows", "clip_len", "duration", "expected"),
    [(10, 2.0, 19.3, 2.0), (20, 1.0, 19.3, 1.0), (2, 2.0, 0.98, 0.49), (1, 2.0, 0.1, 2.0), (2, 2.0, 2.05, 2.0)],
)
def test_seconds_of_a_row(rows: int, clip_len: float, duration: float, expected: float) -> None:
    assert row_seconds(rows, clip_len, duration) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "clip_len", "duration"), [(30, 1.0, 60.0), (30, 2.0, 30.0), (7, 1.0, 8.5)])
def test_rows_that_cannot_be(rows: int, clip_len: float, duration: float) -> None:
    with pytest.raises(EncoderError, match="the video lasts"):
        row_seconds(rows, clip_len, duration)


@pytest.mark.parametrize("frames", [[[-1]], [[99]], [0, 1], np.zeros((0, 1), dtype=np.int64)])
def test_plan_that_cannot_be_followed_is_an_error(frames: Any, tmp_path: Path) -> None:
    class Impossible(SeededEncoder):
        def plan(self, info: VideoInfo) -> FramePlan:
            return FramePlan(np.array(frames), FrameTransform("none", None, None, (8, 8)))

    ticks = np.arange(10, dtype=np.int64)
    info = VideoInfo(Path("film"), 64, 48, Fraction(10), 1.0, ticks, Fraction(1, 10), "h264", "mov", 0, "pyav")
    with pytest.raises(EncoderError, match="asks for frames"):
        checked_plan(Impossible("image", 1, 1.0, tmp_path / "log"), info)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_numbers_that_cannot_be_stored_stop_the_run(
    value: float, some_films: Callable[..., Path], tmp_path: Path
) -> None:
    class Overflowing(SeededEncoder):
        def encode(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.full((len(clips), DIM), value)

    with pytest.raises(PipelineError, match="film0 cannot be stored as float16"):
        extract(some_films(0), tmp_path / "features", [Overflowing("image", 1, 0.5, tmp_path / "log")])


def test_encoder_that_gives_another_shape_stops_the_run(some_films: Callable[..., Path], tmp_path: Path) -> None:
    class Narrow(SeededEncoder):
        def encode(self, clips: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(clips), DIM - 1)

    with pytest.raises(PipelineError, match=r"expected \(4, 8\)"):
        extract(some_films(0), tmp_path / "features", [Narrow("image", 1, 0.5, tmp_path / "log")])


def test_interrupt_keeps_what_is_complete_and_ends_the_children(
    some_films: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes while a batch is encoded, the worst moment: no row of zeros may be stored."""
    pools: list[DecodePool] = []
    start = DecodePool.start

    def remember(self: DecodePool, *arguments: Any) -> None:
        pools.append(self)
        start(self, *arguments)

    class Interrupted(SeededEncoder):
        batches = 0

        def encode(self, clips: torch.Tensor) -> torch.Tensor:
            Interrupted.batches += 1
            if Interrupted.batches == 5:
                raise KeyboardInterrupt
            return super().encode(clips)

    monkeypatch.setattr(DecodePool, "start", remember)
    root = tmp_path / "features"
    with pytest.raises(KeyboardInterrupt):
        extract(some_films(0, 1, 2, 3, 4), root, [Interrupted("image", 1, 0.5, tmp_path / "log")], flush_rows=1000)
    assert pools[0].pids == []
    folder = folders(root)["image"]
    kept = sorted(folder.keys())
    assert kept
    assert kept == [f"film{number}" for number in range(len(kept))]
    assert all(np.abs(folder.read(key)["features"]).max(axis=1).min() > 0 for key in kept)
    again = extract(tmp_path / "videos", root, [SeededEncoder("image", 1, 0.5, tmp_path / "log")])
    assert (again.done, again.skipped) == (5 - len(kept), len(kept))


def test_full_disk_stops_the_run_and_leaves_what_was_published(
    some_films: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = 0
    write = os.write

    def write_until_full(descriptor: int, content: Any) -> int:
        if published >= 2:
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    publish = encoder_lane.EncoderLane.publish

    def count(self: encoder_lane.EncoderLane) -> None:
        nonlocal published
        publish(self)
        published += 1

    monkeypatch.setattr(encoder_lane.EncoderLane, "publish", count)
    monkeypatch.setattr("mesm.datasets.shards.publishing.os.write", write_until_full)
    image = [SeededEncoder("image", 1, 0.5, tmp_path / "log")]
    videos = some_films(*range(VIDEOS))
    with pytest.raises(FeatureError, match="the disk is full"):
        extract(videos, tmp_path / "features", image)
    monkeypatch.undo()
    folder = folders(tmp_path / "features")["image"]
    assert len(folder.shards()) == 2
    assert folder.verify() == []
    extract(videos, tmp_path / "features", image)
    extract(videos, tmp_path / "undisturbed", image)
    assert stored(tmp_path / "features") == stored(tmp_path / "undisturbed")


def test_progress_counts_every_video_in_order(some_films: Callable[..., Path], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    videos = some_films(0, 1)
    (videos / "broken.mp4").write_bytes(b"no film")
    extract(videos, tmp_path / "features", on_progress=lambda settled, total: told.append((settled, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


class UnevenEncoder(SeededEncoder):
    """Asks for more frames a row from every other video."""

    plans = 0

    def plan(self, info: VideoInfo) -> FramePlan:
        plan = super().plan(info)
        self.plans += 1
        return FramePlan(np.repeat(plan.frames, 1 + 2 * (self.plans % 2), axis=1), plan.transform)


def test_rows_of_different_numbers_of_frames_are_refused(films: Path, tmp_path: Path) -> None:
    encoder = UnevenEncoder("uneven", 1, 0.5, tmp_path / "log")
    folder = FeatureFolder.create_or_open(tmp_path / "features", encoder.name, encoder.spec)
    items = [VideoItem(name, films / "film0.mp4") for name in "ab"]
    with pytest.raises(PipelineError, match="uneven asks for rows of 1, 3 frames"):
        extract_videos(items, [encoder], [folder], batch_size=64)


def test_ids_must_differ_and_stay_inside_their_folder(films: Path, tmp_path: Path) -> None:
    encoder = SeededEncoder("image", 1, 0.5, tmp_path / "log")
    folder = FeatureFolder.create_or_open(tmp_path / "features", encoder.name, encoder.spec)
    film = films / "film0.mp4"
    with pytest.raises(PipelineError, match="more than one video: a"):
        extract_videos([VideoItem("a", film), VideoItem("a", film)], [encoder], [folder])
    bad = ["", "..", "../a", "a//b", "a/../../b", "a\0b", "a\nb"]
    summary = extract_videos([VideoItem(name, film) for name in bad], [encoder], [folder])
    assert {one.video_id: one.reason for one in summary.failed} == dict.fromkeys(bad, "name")
    assert list(folder.keys()) == []


def test_collecting_goes_by_suffix_and_refuses_what_is_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such folder"):
        collect_videos(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("no film")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / ".hidden.mp4").write_bytes(b"")
    with pytest.raises(PipelineError, match="holds no video among its 1 files"):
        collect_videos(tmp_path)
    for name in ("b.mp4", "a.v1.MKV", "c.webm"):
        (tmp_path / name).write_bytes(b"")
    assert [item.video_id for item in collect_videos(tmp_path)] == ["a.v1", "b", "c"]
    (tmp_path / "b.avi").write_bytes(b"")
    items = collect_videos(tmp_path)
    assert [item.video_id for item in items if not item.problem] == ["a.v1", "c"]
    assert "share one: b.avi, b.mp4" in items[1].problem


def test_films_of_subfolders_have_their_path_as_id(films: Path, tmp_path: Path) -> None:
    (tmp_path / "videos" / "sub" / "deep.mp4").mkdir(parents=True)
    (tmp_path / "videos" / ".hidden").mkdir()
    (tmp_path / "videos" / "sub" / "loop").symlink_to(tmp_path / "videos")
    for name in ("a", "sub/a", "sub/deep.mp4/b", ".hidden/c"):
        shutil.copy(films / "film0.mp4", tmp_path / "videos" / f"{name}.mp4")
    summary = extract(tmp_path / "videos", tmp_path / "features")
    assert (summary.done, summary.failed) == (3, [])
    folder = FeatureFolder.all_in(tmp_path / "features")[0]
    assert list(folder.keys()) == ["a", "sub/a", "sub/deep.mp4/b"]
    assert folder.verify() == []
    assert export_features(folder.path, tmp_path / "npz", "npz") == 3
    assert (tmp_path / "npz" / "sub" / "a.npz").exists()
    assert export_features(folder.path, tmp_path / "all.h5", "hdf5") == 3
    with folder.writer() as writer:
        writer.add("a/below", folder.read("a"))
    with pytest.raises(PipelineError, match="a is an id and a folder of ids"):
        export_features(folder.path, tmp_path / "both.h5", "hdf5")


def test_two_films_of_one_id_stop_no_other(films: Path, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4", "b.mov"):
        shutil.copy(films / "film0.mp4", tmp_path / "videos" / name)
    summary = extract(tmp_path / "videos", tmp_path / "features")
    assert summary.done == 1
    assert [(one.video_id, one.reason) for one in summary.failed] == [("b", "name")]
    assert "b.mov, b.mp4" in summary.failed[0].message


def test_selections_share_the_videos_out() -> None:
    items = [VideoItem(name, Path(name)) for name in "edcba"]
    names = ["".join(item.video_id for item in select_videos(items, shard=f"{i}/2")) for i in range(2)]
    assert names == ["ace", "bd"]
    assert [item.video_id for item in select_videos(items, limit=2)] == ["a", "b"]
    assert [item.video_id for item in select_videos(items, limit=1, shard="1/2")] == ["b"]
    for shard in ("2/2", "1", "a/b", "-1/2", "1/0", "/"):
        with pytest.raises(PipelineError, match="I/N"):
            select_videos(items, shard=shard)


def test_assembler_holds_no_more_frames_than_rows_overlap() -> None:
    rows = np.arange(0, 10_000, 8)[:, None] + np.arange(0, 32, 2)
    assembler = RowAssembler(FramePlan(rows, FrameTransform("none", None, None, (1, 1))))
    clips: list[list[torch.Tensor]] = []
    most = 0
    for number in np.unique(rows).tolist():
        clips += assembler.add(number, torch.full((1, 1, 3), number % 251, dtype=torch.uint8))
        most = max(most, assembler.held)
    assert most <= 16
    assert assembler.held == 0
    assert [[int(frame[0, 0, 0]) for frame in clip] for clip in clips] == (rows % 251).tolist()


def test_assembler_gives_rows_in_order_with_repeated_frames() -> None:
    rows = np.array([[0, 5, 5], [1, 2, 2], [2, 6, 9]])
    assembler = RowAssembler(FramePlan(rows, FrameTransform("none", None, None, (1, 1))))
    came = [
        (number, [int(frame[0, 0, 0]) for frame in clip])
        for number in (0, 1, 2, 5, 6, 9)
        for clip in assembler.add(number, torch.full((1, 1, 3), number, dtype=torch.uint8))
    ]
    assert came == [(5, [0, 5, 5]), (5, [1, 2, 2]), (9, [2, 6, 9])]


class CountingTexts:
    name = "texts"
    dim = 4
    spec: dict[str, Any] = {"encoder": "texts"}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        self.seen += texts
        return [
            TextFeatures(np.full((len(text), 4), len(text), np.float32), np.arange(len(text)), np.ones(2, np.float32))
            for text in texts
        ]


def test_texts_are_encoded_once(tmp_path: Path) -> None:
    encoder = CountingTexts()
    folder = FeatureFolder.create_or_open(tmp_path, encoder.name, encoder.spec)
    assert extract_texts(["a door", "a cup", "a door"], encoder, folder) == 2
    assert extract_texts(["a cup", "a chair"], encoder, folder) == 1
    assert sorted(encoder.seen) == ["a chair", "a cup", "a door"]
    arrays = folder.read(text_key("a cup"))
    assert arrays["tokens"].shape == (5, 4)
    assert arrays["token_ids"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["pooled"].tolist() == [1, 1]
    assert folder.record(text_key("a cup")).meta == {"text": "a cup"}
