"""Cuts hold what was asked for: every frame by its painted number, sound in step, upright, of the same shape."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from films import SPOKEN, film, found, numbers_in, onsets_s
from media import B_FRAMES, FILMS, X264, Film, ffmpeg, make_film, x264

from mesm.extractors.decoding.probing import probe
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answer_lines import answer_line
from mesm.pipeline.show import cutting
from mesm.pipeline.show.clips import Sources, cut_moments
from mesm.pipeline.show.cutting import cut, suffix_of
from mesm.pipeline.show.ffmpeg_run import CutError
from mesm.pipeline.show.joining import join
from mesm.pipeline.show.source import Source

CUT = (
    "h264 closed gop",
    "h264 open gop",
    "h264 one key frame",
    "h264 fragmented",
    "h264 ntsc",
    "h264 vfr",
    "h264 vfr mkv",
    "h264 rotated 90",
    "h264 rotated 270",
    "h264 ts",
    "h264 open gop ts",
    "mpeg2 ts",
    "h264 delayed mp4",
    "h264 edit list",
    "h264 avi",
    "h264 times wrap ts",
    "h264 wide pixels rotated",
    "h264 two video tracks",
    "h264 with cover picture",
    "hevc rotated mkv",
    "vp9 webm",
    "mpeg4 b-frames avi",
    "h263 3gp",
)


@pytest.fixture(scope="module", params=CUT)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Film, Source]:
    kind = FILMS[request.param]
    return kind, Source.of(make_film(kind, tmp_path_factory.mktemp("film")))


def test_encoded_anew_it_has_exactly_the_frames_of_the_moment(subject: tuple[Film, Source], tmp_path: Path) -> None:
    kind, source = subject
    start, end = 0.37 * source.info.duration_s, 0.81 * source.info.duration_s
    made = cut(source, start, end, tmp_path / "cut.mp4", reencode=True)
    first, behind = source.frames(start, end)
    assert numbers_in(made.path) == kind.numbers[first:behind]
    step = float(np.diff(source.seconds).max())
    info = probe(made.path)
    assert abs(info.duration_s - (end - start)) <= step
    assert abs(made.early_s) <= step / 2 + 1e-3
    assert abs(made.late_s) <= step / 2 + 1e-3
    assert (info.width, info.height) == (source.info.width, source.info.height)


def test_a_copy_begins_at_a_key_frame_and_says_where(subject: tuple[Film, Source], tmp_path: Path) -> None:
    kind, source = subject
    start, end = 0.37 * source.info.duration_s, 0.81 * source.info.duration_s
    made = cut(source, start, end, tmp_path / f"cut{suffix_of(source, reencode=False)}")
    numbers = numbers_in(made.path)
    first, behind = source.frames(start, end)
    assert numbers[0] == kind.numbers[source.edge(made.start_s)]
    assert made.start_s <= start + 1e-6
    assert made.early_s == pytest.approx(start - made.start_s)
    assert set(kind.numbers[first : behind - 1]) <= set(numbers)
    assert numbers == sorted(numbers)
    info = probe(made.path)
    assert (info.width, info.height, info.rotation) == (source.info.width, source.info.height, source.info.rotation)
    if info.codec in {"h264", "hevc"}:
        decord = pytest.importorskip("decord")
        assert len(decord.VideoReader(str(made.path))) == info.frame_count


@pytest.mark.parametrize("reencode", [True, False])
def test_sound_stays_in_step(reencode: bool, tmp_path: Path) -> None:
    source = Source.of(make_film(SPOKEN, tmp_path))
    assert onsets_s(source.path) == pytest.approx([0, 1, 2, 3, 4, 5], abs=0.01)
    made = cut(source, 2.3, 4.7, tmp_path / "cut.mp4", reencode)
    shown = numbers_in(made.path)
    expected = [shown.index(25 * second) / 25 for second in range(1, 6) if 25 * second in shown]
    heard = [onset for onset in onsets_s(made.path) if 0 <= onset <= len(shown) / 25 - 0.02]
    assert len(expected) >= 2
    assert heard == pytest.approx(expected, abs=0.012)


def test_sound_of_a_film_without_times_stays_in_step(tmp_path: Path) -> None:
    """AVI: its frames are counted from the first one on, and its sound is cut by the same clock."""
    codec = (*x264("keyint=12:bframes=0"), "-c:a", "pcm_s16le", "-map", "0:v", "-map", "1:a")
    source = Source.of(make_film(Film("sound.avi", codec, frames=150, inputs=SPOKEN.inputs), tmp_path))
    made = cut(source, 2.3, 4.7, tmp_path / "cut.mp4", reencode=True)
    shown = numbers_in(made.path)
    assert onsets_s(made.path) == pytest.approx([shown.index(75) / 25, shown.index(100) / 25], abs=0.045)


HOSTILE = ("-i.mp4", "a'b\".mp4", "line\nbreak.mp4", "file:x.mp4", "%d%3d.mp4", b"\xff\xfe.mp4", "ä" * 125 + ".mp4")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_only_names(name: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = film(tmp_path).path
    hostile = Path(os.fsdecode(name))
    monkeypatch.chdir(tmp_path)
    plain.rename(hostile)
    for reencode in (True, False):
        (clip,) = cut_moments([found(hostile, 0.5, 1.5)], tmp_path / "clips", Sources(), reencode, force=True)
        assert clip.cut is not None, clip.problem
        made = clip.cut.path.name
        assert made.isprintable()
        assert not set(made) & set("-'\"\n:%\\/") - {"-"}
        assert not made.startswith("-")
        assert len(os.fsencode(made)) < 256
        assert len(numbers_in(clip.cut.path)) >= 25
    assert sorted(os.listdir(tmp_path)) == sorted(["clips", os.fsdecode(name)])


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    source = film(tmp_path)
    out = tmp_path / "cut.mp4"
    out.write_text("mine")
    with pytest.raises(CutError, match="--force"):
        cut(source, 0, 1, out)
    assert out.read_text() == "mine"
    cut(source, 0, 1, out, force=True)
    assert numbers_in(out)[:25] == list(range(25))


def test_a_cut_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path)
    monkeypatch.setitem(cutting.MUXERS, ".mp4", "no-such-muxer")
    with pytest.raises(CutError, match=r"film\.mp4: ffmpeg could not write this moment: .*Invalid argument"):
        cut(source, 0, 1, tmp_path / "cut.mp4", reencode=True)
    assert os.listdir(tmp_path) == ["film.mp4"]


def started_in(folder: Path) -> list[str]:
    """Processes that name a folder, after those that are ending have had a moment to."""
    for _ in range(50):
        lines = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        found = [line for line in lines if str(folder) in line]
        if not found:
            break
        time.sleep(0.02)
    return found


def test_a_cut_that_is_killed_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    long, clips = tmp_path / "long.mp4", tmp_path / "clips"
    # So detailed that it takes seconds to encode.
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x360:r=30:d=6,noise=alls=40:allf=t", *X264, str(long))
    command = [sys.executable, "-m", "mesm.pipeline", "cut", str(long), "0", "6", "--reencode", "--out", str(clips)]
    started = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(clips.glob(".tmp-*")) and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    assert [path.name for path in clips.iterdir() if not path.name.startswith(".tmp-")] == []
    assert not started_in(clips), "ffmpeg goes on without whom it works for"
    # The next cut into the folder clears what the killed one left.
    assert cli.run(["cut", str(long), "0", "1", "--out", str(clips)]) == 0
    assert [path.name for path in clips.iterdir()] == ["long_0.00-1.00.mp4"]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(3.0, 4.0, "ends at 2.000 s"), (1.0, 1.0, "start before its end"), (-1.0, 1.0, "cannot be")],
)
def test_moments_that_cannot_be_are_refused(start: float, end: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=message):
        cut(film(tmp_path), start, end, tmp_path / "cut.mp4")


def test_a_moment_that_reaches_past_the_end_is_cut_to_the_end(tmp_path: Path) -> None:
    made = cut(film(tmp_path), 1.0, 99.0, tmp_path / "cut.mp4", reencode=True)
    assert numbers_in(made.path) == list(range(25, 50))
    assert made.end_s == pytest.approx(2.0, abs=0.001)


def test_some_films_fail_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = film(tmp_path).path
    (tmp_path / "text.mp4").write_text("no film")
    moments = [
        found(tmp_path / "text.mp4", 0, 1),
        found(tmp_path / "gone.mp4", 0, 1),
        found(good, 0, 1, notes=("changed",)),
        found(good, 0.4, 1.2, score=0.1),
        found(good, 0.4, 1.2, "the same moment"),
        found(good, 1.0, 1.6),
    ]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(answer_line(moment) + "\n" for moment in moments))
    assert cli.run(["cut", str(answers), str(tmp_path / "clips"), "--reencode"]) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[1:] for line in printed.out.splitlines()] == [["0.400", "1.200"], ["1.000", "1.600"]]
    assert "text.mp4 is not a video" in printed.err
    assert "gone.mp4: expected a video file" in printed.err
    assert "another one than was searched" in printed.err
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["film_0.40-1.20.mp4", "film_1.00-1.60.mp4"]
    assert cli.run(["cut", str(answers), str(tmp_path / "best"), "--min-score", ".2", "--pad", "0.2"]) == 1
    assert "film_0.20-1.40.mp4" in os.listdir(tmp_path / "best")


def test_films_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        film(tmp_path / folder)
    moments = [found(tmp_path / folder / "film.mp4", 0, 1) for folder in ("a", "b")]
    names = [clip.cut.path.name for clip in cut_moments(moments, tmp_path / "out", Sources()) if clip.cut is not None]
    assert names == ["film_0.00-1.00.mp4", "film_0.00-1.00_2.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["film.mp4", "1", "x"], "'x' is no time"),
        (["film.mp4", "5", "2"], "start before its end"),
        (["film.mp4", "1", "2", "3"], "expected ANSWERS.jsonl DIR, or FILE START END"),
        (["answers.jsonl", "clips", "--out", "x"], "--out is for"),
        (["none.jsonl", "clips"], "none.jsonl"),
    ],
)
def test_wrong_use_is_told(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.jsonl").write_text("")
    assert cli.run(["cut", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_times_may_be_written_as_clocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = film(tmp_path)
    assert cli.run(["cut", str(source.path), "0:00:00.4", "0:1.2", "--reencode", "--out", str(tmp_path / "c")]) == 0
    assert capsys.readouterr().out.split("\t")[1:] == ["0.400", "1.200\n"]


def test_joined_films_have_one_shape_and_keep_their_order(tmp_path: Path) -> None:
    spoken = Source.of(make_film(SPOKEN, tmp_path))
    silent = Source.of(
        make_film(Film("tall.mp4", x264(B_FRAMES), width=64, height=96, frames=60, rate=Fraction(30)), tmp_path)
    )
    out = tmp_path / "all.mp4"
    join([(spoken, 1.0, 2.0), (silent, 0.5, 1.5), (spoken, 3.0, 4.0)], out)
    info = probe(out)
    assert (info.width, info.height, info.fps) == (96, 64, 25)
    assert info.duration_s == pytest.approx(3.0, abs=0.05)
    numbers = numbers_in(out)
    assert numbers[:25] == list(range(25, 50))
    assert numbers[-25:] == list(range(75, 100))
    assert onsets_s(out) == pytest.approx([0, 2], abs=0.03)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.mp4", "sound.mp4", "tall.mp4"]
    with pytest.raises(CutError, match="--force"):
        join([(spoken, 1.0, 2.0)], out)
    with pytest.raises(CutError, match=r"an \.mp4"):
        join([(spoken, 1.0, 2.0)], tmp_path / "all.mkv")
    with pytest.raises(CutError, match="no moment"):
        join([], tmp_path / "none.mp4")


def test_a_folder_whose_name_is_no_unicode_is_printed(tmp_path: Path) -> None:
    source, folder = film(tmp_path), os.fsdecode(b"d\xfd")
    command = [sys.executable, "-m", "mesm.pipeline", "cut", str(source.path), "0", "1", "--out", folder]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=strict, check=True)
    assert done.stdout.startswith(b"d\\udcfd/film_0.00-1.00.mp4\t0.000\t")
    assert (tmp_path / folder / "film_0.00-1.00.mp4").is_file()
