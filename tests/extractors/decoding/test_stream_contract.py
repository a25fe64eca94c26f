"""What every decoder must do with every file: the right frames at the right times, or a typed error.

A new decoder joins by its name in `BACKENDS`, a new kind of file by an entry in `media`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from media import (
    BROKEN,
    DAMAGED,
    FILMS,
    LATE_SOUND,
    Film,
    ffmpeg,
    late_sound,
    make_film,
    read_number,
    with_bad_frames,
)
from reading import Reading, ReadingProcess, read_film
from shared import ROOT as SHARED

from mesm.extractors.decoding import streams
from mesm.extractors.decoding.probing import probe
from mesm.extractors.decoding.streams import open_stream
from mesm.extractors.errors import DecodeError, VideoError

BACKENDS = ("decord", "pyav")

WHOLE = [name for name, film in FILMS.items() if not film.damaged]
CUT = [name for name, film in FILMS.items() if film.damaged]
ORDINARY = [
    "h264 closed gop",
    "h264 open gop",
    "h264 b-frames",
    "h264 vfr",
    "h264 mkv",
    "h264 bt.709",
    "hevc",
]
"""What decord is there for: should it take none of these, its tests would be empty."""

GREY_TOLERANCE = 8
"""Of 255. Taking full range for limited, or the reverse, moves some grey by 11 or more."""

COLOUR_TOLERANCE = 14
"""Of 255. Taking BT.601 for BT.709, or the reverse, moves some colour by 25 or more."""

SECOND_LIMIT_S = 20.0


@pytest.fixture(scope="session")
def film_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the maker of films by name; each is made once."""
    folder = tmp_path_factory.mktemp("films")
    made: dict[str, Path] = {}

    def path_of(name: str) -> Path:
        if name not in made:
            made[name] = make_film(FILMS[name], folder)
        return made[name]

    return path_of


@pytest.fixture(scope="module")
def reader() -> Iterator[ReadingProcess]:
    process = ReadingProcess()
    yield process
    process.end()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "decord" and importlib.util.find_spec("decord") is None:
        pytest.skip("decord is not installed")
    return name


def painted_numbers(film: Film) -> list[int]:
    return [number % 4 for number in film.numbers] if film.width < 16 else film.numbers


def assert_times(found: list[Fraction], expected: list[Fraction], tick: Fraction) -> None:
    """Compare times to a tick; the first of each may have been rounded, too."""
    assert len(found) == len(expected)
    worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    assert worst <= tick, f"a frame is off by {float(worst)} s"


@pytest.mark.parametrize("name", WHOLE)
def test_ffmpeg_itself_sees_the_film_as_described(name: str, film_path: Callable[[str], Path]) -> None:
    film = FILMS[name]
    size = (film.height, film.width)
    if film.stretch != 1:
        size = film.coded_size if film.rotation % 180 else film.coded_size[::-1]
    raw = ffmpeg(
        "-i",
        str(film_path(name)),
        "-map",
        "0:V:0",
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    )
    frames = np.frombuffer(raw, np.uint8).reshape(-1, *size, 3)
    assert [read_number(frame) for frame in frames] == painted_numbers(film)


@pytest.mark.parametrize("name", WHOLE)
def test_probe_tells_what_is_in_the_film(name: str, film_path: Callable[[str], Path]) -> None:
    film = FILMS[name]
    info = probe(film_path(name))
    assert info.path == film_path(name)
    assert info.frame_count == len(film.times)
    assert info.timestamps.dtype == np.int64
    assert info.timestamps[0] == 0
    assert (np.diff(info.timestamps) >= 0).all()
    assert_times([int(t) * info.time_base for t in info.timestamps], film.times, film.tick)
    assert info.rotation == film.rotation


@pytest.mark.parametrize("name", WHOLE)
def test_probe_tells_the_displayed_size(name: str, film_path: Callable[[str], Path]) -> None:
    film = FILMS[name]
    info = probe(film_path(name))
    if film.stretch == 1:
        assert (info.width, info.height) == (film.width, film.height)
    else:
        coded = film.coded_size
        assert info.width / info.height == pytest.approx(film.width / film.height, abs=0.02)
        assert info.width * info.height >= coded[0] * coded[1], "no pixel may be lost"


@pytest.mark.parametrize("name", WHOLE)
def test_probe_tells_duration_and_rate(name: str, film_path: Callable[[str], Path]) -> None:
    film = FILMS[name]
    info = probe(film_path(name))
    times = film.times
    if film.regular:
        assert info.duration_s == pytest.approx(len(times) / film.rate, abs=float(film.tick) + 1e-3)
        assert info.fps == film.rate
    else:
        longest = max(b - a for a, b in pairwise(times))
        assert times[-1] < info.duration_s <= times[-1] + longest
        assert float(info.fps) == pytest.approx((len(times) - 1) / times[-1], rel=1e-3)


@pytest.mark.parametrize("name", WHOLE)
def test_every_frame_comes_once_in_order_and_upright(
    name: str, backend: str, film_path: Callable[[str], Path], reader: ReadingProcess
) -> None:
    film = FILMS[name]
    reading = read_if_claimed(reader, film_path(name), backend)
    assert reading.error is None
    assert reading.info is not None
    assert reading.frames == list(range(len(film.numbers)))
    assert reading.painted == painted_numbers(film)
    assert reading.shapes == {(reading.info.height, reading.info.width, 3)}
    assert reading.kinds == {"uint8"}
    assert reading.missing == 0
    if film.exact_colours:
        assert reading.grey_error <= GREY_TOLERANCE
        assert reading.colour_error <= COLOUR_TOLERANCE


def read_if_claimed(reader: ReadingProcess, path: Path, backend: str) -> Reading:
    """Read a file with a decoder, or skip when the probe or the decoder itself declines it."""
    if backend != "pyav":
        claim = reader.read(path)
        if claim.error is None and claim.decoder != backend:
            pytest.skip(f"{backend} declines this file")
        return claim
    return reader.read(path, backend)


@pytest.mark.parametrize("name", ORDINARY)
def test_decord_takes_ordinary_films(name: str, film_path: Callable[[str], Path], reader: ReadingProcess) -> None:
    pytest.importorskip("decord")
    assert reader.read(film_path(name)).decoder == "decord"


@pytest.mark.parametrize("name", WHOLE)
def test_decoders_agree_on_every_pixel(name: str, film_path: Callable[[str], Path], reader: ReadingProcess) -> None:
    chosen = reader.read(film_path(name))
    if chosen.decoder == "pyav":
        pytest.skip("only PyAV reads this file")
    assert chosen.checksum == reader.read(film_path(name), "pyav").checksum


@pytest.mark.parametrize("width", [2, 6, 16, 24, 32, 48, 72, 94, 96])
def test_narrow_films_are_whole(width: int, tmp_path: Path, reader: ReadingProcess) -> None:
    path = make_film(Film("narrow.mp4", width=width, height=98, frames=3), tmp_path)
    chosen, pyav = reader.read(path), reader.read(path, "pyav")
    assert chosen.error is None
    assert chosen.shapes == {(98, width, 3)}
    assert chosen.checksum == pyav.checksum


@pytest.mark.parametrize("name", CUT)
def test_cut_film_gives_frames_at_their_times_or_a_typed_error(
    name: str, backend: str, film_path: Callable[[str], Path], reader: ReadingProcess
) -> None:
    film = FILMS[name]
    reading = read_if_claimed(reader, film_path(name), backend)
    assert_honest(reading)
    if reading.error is None:
        assert misplaced(reading, film) <= reading.missing


def misplaced(reading: Reading, film: Film) -> int:
    """Return how many frames are unreadable, or not at the time that the film gives their painted number.

    Where the film's first frames are gone, its times begin later: the usual offset counts as none.
    """
    assert reading.info is not None
    times = reading.info.timestamps * float(reading.info.time_base)
    painted = [float("nan") if number is None else float(film.time_of(number)) for number in reading.painted]
    offsets = np.array(painted) - times[reading.frames]
    usual = np.nanmedian(offsets)
    return int(np.sum(~(np.abs(offsets - usual) <= float(film.tick) + 1e-6)))


def assert_honest(reading: Reading) -> None:
    """Either a typed error that names the file, or exactly the frames that the probe promised."""
    if reading.error is not None:
        assert isinstance(reading.error, VideoError)
        assert type(reading.error) is not VideoError, "an error of a kind that lists can name"
        assert len(str(reading.error)) > 20
        return
    assert reading.info is not None
    assert reading.frames == list(range(reading.info.frame_count))
    assert reading.shapes == {(reading.info.height, reading.info.width, 3)}
    assert (np.diff(reading.info.timestamps) >= 0).all()
    assert reading.info.duration_s > 0
    assert reading.info.fps > 0


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused_with_its_name_and_a_reason(name: str, tmp_path: Path, reader: ReadingProcess) -> None:
    path = BROKEN[name](tmp_path)
    reading = reader.read(path, timeout_s=SECOND_LIMIT_S)
    assert reading.error is not None, f"{len(reading.frames)} frames were read"
    assert_honest(reading)
    assert path.name in str(reading.error)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file_gives_what_was_promised_or_a_typed_error(
    name: str, backend: str, tmp_path: Path, reader: ReadingProcess
) -> None:
    reading = read_if_claimed(reader, DAMAGED[name](tmp_path), backend)
    assert_honest(reading)
    if name.startswith("corrupt") and "tables" not in name and reading.error is None:
        assert reading.painted[:8] == list(range(8)), "frames before the damage"


@pytest.mark.parametrize("name", [name for name in DAMAGED if name.startswith("corrupt mp4")])
def test_frames_after_the_damage_are_at_their_times(
    name: str, backend: str, tmp_path: Path, reader: ReadingProcess
) -> None:
    reading = read_if_claimed(reader, DAMAGED[name](tmp_path), backend)
    if reading.error is None:
        assert reading.info is not None
        assert reading.painted[-3:] == [72, 73, 74]
        assert reading.info.timestamps[-3:] * float(reading.info.time_base) == pytest.approx([2.88, 2.92, 2.96])


@pytest.mark.parametrize(("bad", "held"), [(0, 1), (50, 49), (99, 98)])
def test_a_frame_that_cannot_be_decoded_leaves_its_neighbour_standing(
    bad: int, held: int, tmp_path: Path, reader: ReadingProcess
) -> None:
    reading = reader.read(make_film(with_bad_frames(bad), tmp_path), "pyav")
    assert reading.error is None
    assert reading.painted == [held if number == bad else number for number in range(100)]
    assert reading.missing == 1


def test_more_than_one_percent_of_bad_frames_is_an_error(backend: str, tmp_path: Path, reader: ReadingProcess) -> None:
    reading = reader.read(make_film(with_bad_frames(50, 60), tmp_path), backend)
    assert isinstance(reading.error, DecodeError)


def test_sound_that_begins_later_does_not_disturb(tmp_path: Path, reader: ReadingProcess) -> None:
    reading = reader.read(late_sound(tmp_path))
    assert reading.error is None
    assert reading.painted == LATE_SOUND.numbers


def test_spliced_streams_keep_their_pictures_in_time_or_are_refused(tmp_path: Path, reader: ReadingProcess) -> None:
    reading = reader.read(DAMAGED["spliced"](tmp_path))
    assert_honest(reading)
    if reading.error is None:
        assert reading.info is not None
        one_after_the_other = [*range(20), *range(20)]
        merged = sorted(one_after_the_other)
        assert reading.painted in (one_after_the_other, merged)
        if reading.painted == one_after_the_other:
            assert (np.diff(reading.info.timestamps) > 0).all()


ADDRESSES = (
    "http://127.0.0.1:{port}/film.mp4",
    "https://127.0.0.1:{port}/film.mp4",
    "tcp://127.0.0.1:{port}",
    "rtmp://127.0.0.1:{port}/film",
    "ftp://127.0.0.1:{port}/film.mp4",
    "concat:{film}",
    "subfile,,start,0,end,0,,:{film}",
    "file:{film}",
    "crypto:{film}",
    "async:{film}",
    "data:video/mp4;base64,AAAA",
    "pipe:0",
    "fd:0",
    "/dev/zero",
    "lavfi:testsrc",
)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def assert_nobody_called(listener: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_unopened(
    address: str, listener: socket.socket, film_path: Callable[[str], Path], reader: ReadingProcess
) -> None:
    name = address.format(port=listener.getsockname()[1], film=film_path("h264 closed gop"))
    reading = reader.read(Path(name), timeout_s=SECOND_LIMIT_S)
    assert reading.error is not None
    assert_honest(reading)
    assert_nobody_called(listener)


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".mpd", ".ffconcat", ".sdp", ".asx"])
def test_playlist_of_addresses_calls_nobody(
    suffix: str, listener: socket.socket, tmp_path: Path, reader: ReadingProcess
) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}/film.ts"
    texts = {
        ".ffconcat": f"ffconcat version 1.0\nfile 'http://{address}'\n",
        ".sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\na=control:rtsp://{address}\nm=video 0 RTP/AVP 33\n",
        ".mpd": MPD.format(address=address),
        ".asx": f'<asx version="3.0"><entry><ref href="http://{address}"/></entry></asx>',
    }
    text = texts.get(suffix, f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://{address}\n#EXT-X-ENDLIST\n")
    path = tmp_path / f"list{suffix}"
    path.write_text(text)
    reading = reader.read(path, timeout_s=SECOND_LIMIT_S)
    assert reading.error is not None
    assert_honest(reading)
    assert_nobody_called(listener)


MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S" minBufferTime="PT1S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">
 <Representation id="1" bandwidth="1000" codecs="avc1.42c00a" width="96" height="64">
 <BaseURL>http://{address}</BaseURL></Representation></AdaptationSet></Period></MPD>
"""


@pytest.mark.parametrize("name", ["http:film.mp4", "-i.mp4", "concat:a|b.mp4", "%03d.mp4", "file:film.mp4"])
def test_relative_path_that_looks_like_something_else_is_a_path(
    name: str,
    backend: str,
    film_path: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(film_path("h264 two frames"), tmp_path / name)
    reading = read_film(Path(name), backend)
    assert reading.error is None
    assert reading.decoder == backend
    assert reading.painted == [0, 1]


def test_name_that_is_no_text_is_read_or_refused(
    film_path: Callable[[str], Path], tmp_path: Path, reader: ReadingProcess
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(film_path("h264 two frames"), path)
    reading = reader.read(path)
    if reading.error is None:
        assert reading.painted == [0, 1]


def test_reading_again_gives_the_same(backend: str, film_path: Callable[[str], Path], reader: ReadingProcess) -> None:
    path = film_path("h264 b-frames")
    assert reader.read(path, backend).checksum == reader.read(path, backend).checksum


def test_only_wanted_frames_are_handed_out(backend: str, film_path: Callable[[str], Path]) -> None:
    info = replace(probe(film_path("h264 b-frames")), decoder=backend)
    wanted = {0, 3, 17, 49}
    with open_stream(info) as stream:
        shown = {number: picture for number, picture in stream.pictures(wanted) if picture is not None}
        assert {number: read_number(picture.rgb()) for number, picture in shown.items()} == {n: n for n in wanted}


def test_stream_can_be_left_early(backend: str, film_path: Callable[[str], Path]) -> None:
    info = replace(probe(film_path("h264 b-frames")), decoder=backend)
    for _ in range(20):
        with open_stream(info) as stream:
            number, rgb = next(iter(stream))
            assert (number, read_number(rgb)) == (0, 0)


def test_more_threads_give_the_same_frames(backend: str, film_path: Callable[[str], Path]) -> None:
    info = replace(probe(film_path("h264 open gop")), decoder=backend)
    for threads in (1, 2, 4):
        with open_stream(info, threads=threads) as stream:
            assert [read_number(rgb) for _, rgb in stream] == list(range(50))


def test_frame_survives_the_next_one(backend: str, film_path: Callable[[str], Path]) -> None:
    info = replace(probe(film_path("h264 b-frames")), decoder=backend)
    with open_stream(info) as stream:
        kept = [rgb for _, rgb in stream]
    assert [read_number(rgb) for rgb in kept] == list(range(50))


@pytest.mark.parametrize("replacement", ["h264 two frames", "h264 ntsc", "audio", "nothing", "text"])
def test_file_that_changed_since_it_was_probed_is_noticed(
    replacement: str, backend: str, film_path: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "film.mp4"
    shutil.copy(film_path("h264 b-frames"), path)
    info = replace(probe(path), decoder=backend)
    path.unlink()
    if replacement in FILMS:
        shutil.copy(film_path(replacement), path)
    elif replacement == "audio":
        shutil.copy(BROKEN["audio only mp4"](tmp_path), path)
    elif replacement == "text":
        path.write_text("no film")
    with pytest.raises(VideoError), open_stream(info) as stream:
        for _ in stream:
            pass


@pytest.mark.parametrize("threads", [1, 2])
def test_pyav_stream_releases_its_files(threads: int, film_path: Callable[[str], Path]) -> None:
    info = replace(probe(film_path("h264 b-frames")), decoder="pyav")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with open_stream(info, threads=threads) as stream:
            next(iter(stream))
    assert len(os.listdir("/proc/self/fd")) <= before


def shared_media(folder: str) -> list[object]:
    """Return the files of a folder of reference media as parameters; one that skips when there are none."""
    files = sorted(path for path in (SHARED / "media" / folder).glob("*") if path.is_file())
    absent = pytest.param(None, marks=pytest.mark.skip(reason="reference media are not here (set MESM_SHARED)"))
    return [pytest.param(path, id=path.name) for path in files] or [absent]


@pytest.mark.parametrize("path", shared_media("odd"))
def test_odd_files_from_elsewhere_are_read_whole_or_refused(path: Path, backend: str, reader: ReadingProcess) -> None:
    assert_honest(read_if_claimed(reader, path, backend))


@pytest.mark.slow
@pytest.mark.parametrize("path", shared_media("real"))
def test_real_videos_are_read_whole_by_both_decoders_alike(path: Path, reader: ReadingProcess) -> None:
    chosen, pyav = reader.read(path), reader.read(path, "pyav")
    for reading in (chosen, pyav):
        assert reading.error is None
        assert reading.missing == 0
        assert_honest(reading)
    assert chosen.checksum == pyav.checksum


def test_film_whose_frames_fill_the_memory_is_not_given_to_decord(
    film_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("decord")
    info = probe(film_path("h264 closed gop"))
    size = 3 * info.width * info.height * info.frame_count
    monkeypatch.setattr(streams, "DECORD_BYTES", size)
    with open_stream(info) as stream:
        assert stream.decoder == "decord"
    monkeypatch.setattr(streams, "DECORD_BYTES", size - 1)
    with open_stream(info) as stream:
        assert stream.decoder == "pyav"
