"""Lists of moments, read back by other programs to the frame: pysubs2, ffmpeg, OpenTimelineIO."""

from __future__ import annotations

import random
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import film, found
from media import ffmpeg

from mesm.pipeline import cli
from mesm.pipeline.ground.answer_lines import answer_line
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.clips import Sources
from mesm.pipeline.show.edit_lists import edl
from mesm.pipeline.show.lists import write_lists
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.timecode import Timebase
from mesm.pipeline.show.titles import chapters, srt

NTSC = Fraction(30000, 1001)
RATES = (Fraction(25), Fraction(24000, 1001), NTSC, Fraction(30), Fraction(50), Fraction(60000, 1001), Fraction(12))
HOSTILE = "<b>a\n\n2\n00:00:09,000 --> 00:00:10,000\nDog</b> {\\an8} = ; # \\ \x00\u2028[CHAPTER]\r\nSTART=9"


def moments_in(path: Path, count: int, length_s: float, query: str = "a dog") -> list[FoundMoment]:
    """Moments anywhere in a film."""
    draw = random.Random(3)
    edges = [sorted(draw.uniform(0, length_s) for _ in range(2)) for _ in range(count)]
    return [found(path, start, end + 0.1, query) for start, end in edges]


def wide_film(rate: Fraction, minutes: int = 130) -> Source:
    """What is known of a film of hours, which no test needs to write."""
    from mesm.extractors.contracts import VideoInfo

    count = int(minutes * 60 * rate)
    ticks = np.arange(count, dtype=np.int64) * rate.denominator
    tick, length_s = Fraction(1, rate.numerator), float(count / rate)
    info = VideoInfo(Path("hours.mp4"), 96, 64, rate, length_s, ticks, tick, "h264", "mov", 0, "pyav")
    return Source(info, np.array([0]), 0, 0, 0.0)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_timecode_is_read_back_as_the_frame_that_it_was_written_of(rate: Fraction) -> None:
    timebase = Timebase.of(rate)
    frames = [*range(5000), *range(17970, 18030), *random.Random(0).sample(range(24 * 3600 * 20), 2000)]
    texts = [timebase.text(frame) for frame in frames]
    assert [timebase.frame(text) for text in texts] == frames
    assert len(set(texts)) == len(set(frames))
    assert timebase.frame("00:00:00:99") is None


def test_drop_frame_leaves_out_the_numbers_that_smpte_says() -> None:
    timebase = Timebase.of(NTSC)
    assert [timebase.text(frame) for frame in (1799, 1800, 17981, 17982, 107892)] == [
        "00:00:59;29",
        "00:01:00;02",
        "00:09:59;29",
        "00:10:00;00",
        "01:00:00;00",
    ]
    assert Timebase.of(Fraction(60000, 1001)).text(3600) == "00:01:00;04"
    assert Timebase.of(Fraction(24000, 1001)).text(24 * 60) == "00:01:00:00"


def test_a_measured_rate_is_taken_for_the_standard_one() -> None:
    assert Timebase.of(Fraction(2997, 100)).rate == NTSC
    assert Timebase.of(Fraction(300003, 10000)).rate == 30
    assert Timebase.of(Fraction(131, 10)).rate == Fraction(131, 10)


@pytest.mark.parametrize("rate", RATES, ids=str)
def test_edit_lists_are_read_back_to_the_frame(rate: Fraction) -> None:
    otio = pytest.importorskip("opentimelineio")
    pytest.importorskip("otio_cmx3600_adapter")
    if float(rate) not in (23.976, 24, 25, 50) and rate not in (Fraction(24000, 1001), NTSC, Fraction(60000, 1001), 30):
        pytest.skip("OpenTimelineIO knows timecode at SMPTE's rates only")
    source = wide_film(rate)
    moments = moments_in(source.path, 40, 7200.0, "a dog; = # runs\nTITLE: no")
    text = edl(moments, source, "a\nFCM: DROP FRAME")
    read = otio.adapters.read_from_string(text, "cmx_3600", rate=float(rate))
    clips = list(read.find_clips())
    assert len(clips) == 40
    for clip, moment in zip(clips, moments, strict=True):
        first, behind = (int(np.abs(source.seconds - edge).argmin()) for edge in (moment.start_s, moment.end_s))
        assert clip.source_range.start_time.to_frames() == first
        assert clip.source_range.duration.to_frames() == behind - first
        assert clip.name == "hours.mp4"
    assert ("FCM: DROP FRAME" in text.splitlines()) is (rate in (NTSC, Fraction(60000, 1001)))


def test_edit_lists_count_from_the_cameras_timecode(tmp_path: Path) -> None:
    plain = film(tmp_path, rate=NTSC)
    with_code = tmp_path / "code.mp4"
    ffmpeg("-i", str(plain.path), "-c", "copy", "-timecode", "01:00:00;00", str(with_code))
    source = Source.of(with_code)
    assert source.timecode == "01:00:00;00"
    text = edl([found(with_code, 10 / NTSC, 20 / NTSC)], source, "x")
    assert "01:00:00;10 01:00:00;20 00:00:00;00 00:00:00;10" in text


def test_subtitles_are_read_back_to_the_frame() -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    moments = moments_in(Path("a.mp4"), 50, 7200.0, "who <i>opens</i> the fridge?")
    read = pysubs2.SSAFile.from_string(srt(moments))
    ordered = sorted(moments, key=lambda moment: (moment.start_s, moment.end_s))
    assert [event.start for event in read] == [round(1000 * moment.start_s) for moment in ordered]
    assert [event.end for event in read] == [round(1000 * moment.end_s) for moment in ordered]
    assert {event.plaintext for event in read} == {"who ‹i›opens‹/i› the fridge?"}


def test_a_query_cannot_break_out_of_its_subtitle() -> None:
    pysubs2 = pytest.importorskip("pysubs2")
    read = pysubs2.SSAFile.from_string(
        srt([found(Path("a.mp4"), 1.0, 2.0, HOSTILE), found(Path("a.mp4"), 3, 4, " \n")])
    )
    assert [(event.start, event.end) for event in read] == [(1000, 2000), (3000, 4000)]
    assert read[0].plaintext.startswith("‹b›a 2 00∶00∶09,000 --› 00∶00∶10,000 Dog‹/b›")
    assert read[1].plaintext == "from 3.00 s"


def chapters_of(path: Path, text: str, folder: Path) -> list[tuple[float, float, str]]:
    """Chapters that ffmpeg puts into a film, as PyAV reads them."""
    lines, out = folder / "chapters.txt", folder / "with.mkv"
    lines.write_text(text, encoding="utf-8")
    ffmpeg("-i", str(path), "-i", str(lines), "-map", "0:v", "-map_chapters", "1", "-c", "copy", str(out))
    with av.open(str(out)) as container:
        return [
            (float(one["start"] * one["time_base"]), float(one["end"] * one["time_base"]), one["metadata"]["title"])
            for one in container.chapters()
        ]


def test_chapters_are_read_back_to_the_frame(tmp_path: Path) -> None:
    source = film(tmp_path, frames=200)
    moments = [found(source.path, 0.48, 1.96, "a=b;c#d\\e"), found(source.path, 2.04, 2.52, "ä 'x' \"y\"")]
    read = chapters_of(source.path, chapters(moments), tmp_path)
    assert [title for _, _, title in read] == ["a=b;c#d\\e", "ä 'x' \"y\""]
    assert [source.edge(edge) for chapter in read for edge in chapter[:2]] == [12, 49, 51, 63]


def test_a_query_cannot_break_out_of_its_chapter(tmp_path: Path) -> None:
    source = film(tmp_path)
    ((start, end, title),) = chapters_of(source.path, chapters([found(source.path, 0.4, 0.8, HOSTILE)]), tmp_path)
    assert (start, end) == (0.4, 0.8)
    assert title.endswith("{\\an8} = ; # \\ [CHAPTER] START=9")


def test_several_films_have_a_list_each(tmp_path: Path) -> None:
    one, two = film(tmp_path, "one.mp4"), film(tmp_path, "two.mp4")
    moments = [found(one.path, 0, 1), found(two.path, 0.5, 1), found(one.path, 1, 1.5)]
    moments += [found(tmp_path / "gone.mp4", 0, 1), found(two.path, 5, 6)]
    written, problems = write_lists("srt", moments, tmp_path / "out.srt", Sources())
    assert [path.name for path in written] == ["out-one.srt", "out-two.srt"]
    assert written[0].read_text().count("-->") == 2
    starts = [problem.rpartition("/")[2][:20] for problem in problems]
    assert starts == ["two.mp4 ends at 2.00", "gone.mp4: expected a"]


def test_time_lines_are_read_back_to_the_frame(tmp_path: Path) -> None:
    otio = pytest.importorskip("opentimelineio")
    slow, fast = film(tmp_path, "slow <&>.mp4"), film(tmp_path, "fast.mp4", frames=120, rate=NTSC)
    moments = [
        found(slow.path, 0.48, 1.0, "a\n<dog>"),
        found(fast.path, float(31 / NTSC), float(95 / NTSC)),
        found(slow.path, 1.2, 1.4),
    ]
    answers, out = tmp_path / "answers.jsonl", tmp_path / "out.otio"
    answers.write_text("".join(answer_line(moment) + "\n" for moment in moments))
    assert cli.run(["show", str(answers), "--otio", str(out)]) == 0
    clips = list(otio.adapters.read_from_file(str(out)).find_clips())
    spans = [(clip.source_range.start_time.to_frames(), clip.source_range.duration.to_frames()) for clip in clips]
    assert spans == [(12, 13), (31, 64), (30, 5)]
    assert [clip.source_range.start_time.rate for clip in clips] == pytest.approx([25, float(NTSC), 25])
    assert clips[0].name == "a <dog>"
    assert clips[0].media_reference.target_url.endswith("/slow%20%3C%26%3E.mp4")
    assert clips[1].media_reference.available_range.duration.to_frames() == 120
    assert clips[1].metadata["mesm"]["score"] == 0.5


def test_time_lines_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    answers = tmp_path / "answers.jsonl"
    answers.write_text(answer_line(found(film(tmp_path).path, 0, 1)) + "\n")
    assert cli.run(["show", str(answers), "--otio", str(tmp_path / "out.otio")]) == 2
    assert 'pip install "mesm-pipeline[otio]"' in capsys.readouterr().err
