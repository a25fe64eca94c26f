"""Small test films whose frames carry their own number, and files that only look like films.

Every frame is painted with its number as eight black or white blocks, with the complement of these below as
a check, four greys and four colours. `read_number` gets the number back from a decoded frame of any size, or
None when the picture is turned, torn or too far off. So a test knows which frame it holds, whatever the
decoder says.

The files are made by ffmpeg's command line (the one that imageio-ffmpeg brings), not by the libraries under
test. `FILMS` are the readable ones with what must be read from them, `BROKEN` those that must be refused,
`DAMAGED` those that may be refused or read in part. To add one, add an entry; every test runs over all.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import numpy as np

BITS = 8
GREYS = (40, 100, 160, 215)
COLOURS = ((235, 20, 20), (20, 215, 20), (20, 20, 235), (225, 225, 20))
LEVELS = (10, 90, 165, 245)
"""Grey of frame number n % 4 in films too small for blocks."""

X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p", "-threads", "1")
MPEG4 = ("-c:v", "mpeg4", "-q:v", "2", "-g", "12", "-threads", "1")
VP9 = ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-cpu-used", "8", "-crf", "12", "-b:v", "0")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-crf", "14", "-pix_fmt", "yuv420p")
AV1 = ("-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-crf", "20", "-pix_fmt", "yuv420p")
B_FRAMES = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal"
OPEN_GOP = f"{B_FRAMES}:open-gop=1"
SECOND_GOP = 9
"""Packets before the second key frame of OPEN_GOP, whose leading B-frames need the first one's pictures."""

MP4_CLOCK = ("-video_track_timescale", "90000")
MILLISECOND = Fraction(1, 1000)
TICK_90K = Fraction(1, 90000)


@dataclass(frozen=True)
class Film:
    """One film: how to make it, and what must be read from it."""

    file: str
    codec: tuple[str, ...] = X264
    width: int = 96
    """Pixels as displayed, as is `height`."""
    height: int = 64
    frames: int = 50
    rate: Fraction = Fraction(25)
    clock: tuple[str, int, Callable[[int], int]] | None = None
    """Irregular times: ffmpeg expression of frame N in ticks, ticks per second, the same in Python."""
    tick: Fraction = TICK_90K
    """Coarsest step of a time in this file."""
    rotation: int = 0
    """Degrees counter-clockwise from the coded to the displayed picture."""
    stretch: Fraction = Fraction(1)
    """Width of a coded pixel over its height."""
    remux: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """Options before and after the input of a second run of ffmpeg over the encoded file."""
    inputs: tuple[str, ...] = ()
    """Further inputs of the encoding run."""
    first: int = 0
    """Number of the first frame that is displayed."""
    exact_colours: bool = True
    damaged: bool = False
    """Frames may be missing, or the file refused: those that come must be whole and at their times."""

    @property
    def regular(self) -> bool:
        """Whether the frames are equally far apart."""
        return self.clock is None

    @property
    def numbers(self) -> list[int]:
        """Numbers of the displayed frames, in order."""
        return list(range(self.first, self.frames))

    def time_of(self, number: int) -> Fraction:
        """Return the seconds from frame 0 to a frame."""
        if self.clock is None:
            return number / self.rate
        _, ticks_per_second, tick_of = self.clock
        return Fraction(tick_of(number) - tick_of(0), ticks_per_second)

    @property
    def times(self) -> list[Fraction]:
        """Seconds of the displayed frames since the first of them."""
        return [self.time_of(number) - self.time_of(self.first) for number in self.numbers]

    @property
    def coded_size(self) -> tuple[int, int]:
        """(width, height) before rotation and stretching."""
        width, height = (self.height, self.width) if self.rotation % 180 else (self.width, self.height)
        return int(width / self.stretch), height


def paint(number: int, width: int, height: int) -> np.ndarray:
    """Return the (height, width, 3) uint8 picture of a frame number below 256."""
    if width < 2 * BITS:
        return np.full((height, width, 3), LEVELS[number % len(LEVELS)], np.uint8)
    bits = np.array([number >> bit & 1 for bit in reversed(range(BITS))], np.uint8) * 255
    rows = [np.repeat(blocks[:, None], 3, axis=1) for blocks in (bits, 255 - bits)]
    rows += [np.repeat(np.array(GREYS)[:, None], 3, axis=1), np.array(COLOURS)]
    picture = np.zeros((height, width, 3), np.uint8)
    bands = np.arange(height) * len(rows) // height
    for band, row in enumerate(rows):
        picture[bands == band] = row[np.arange(width) * len(row) // width].astype(np.uint8)
    return picture


def read_number(rgb: np.ndarray) -> int | None:
    """Return the number painted on an (H, W, 3) uint8 frame, or None when it cannot be read for certain."""
    if rgb.shape[1] < 2 * BITS:
        return int(np.abs(np.array(LEVELS) - rgb.mean()).argmin())
    value, check = (band_colours(rgb, band, BITS).mean(axis=1) for band in (0, 1))
    if np.abs(value - check).min() < 30 or ((value > check) != (value > 127)).any():
        return None
    return int(sum(1 << bit for bit, level in enumerate(reversed(value)) if level > 127))


def band_colours(rgb: np.ndarray, band: int, parts: int) -> np.ndarray:
    """Return the (parts, 3) mean colours at the middles of the blocks of one of the four bands of a frame."""
    height, width = rgb.shape[:2]
    y = int((band + 0.5) * height / 4)
    columns = [int((part + 0.5) * width / parts) for part in range(parts)]
    return np.array([rgb[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0) for x in columns])


def ffmpeg(*arguments: str, stdin: bytes | None = None) -> bytes:
    """Run ffmpeg and return its standard output; fails with its messages."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-nostdin", *arguments]
    quiet = {**os.environ, "SVT_LOG": "-2"}
    done = subprocess.run(command, input=stdin, capture_output=True, env=quiet, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def make_film(film: Film, folder: Path) -> Path:
    """Encode a film into a folder and return its path."""
    target = folder / film.file
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "{}x{}".format(*film.coded_size))
    turned = ("-display_rotation", str(film.rotation), "-noautorotate") if film.rotation else ()
    source = (*turned, *raw, "-r", str(film.rate), "-i", "-", *film.inputs)
    encoded = folder / f"encoded-{film.file}" if film.remux else target
    ffmpeg(*source, *film_filters(film), *film.codec, str(encoded), stdin=raw_frames(film))
    if film.remux:
        before, after = film.remux
        ffmpeg(*before, "-i", str(encoded), *after, str(target))
        encoded.unlink()
    return target


def raw_frames(film: Film) -> bytes:
    """Return the pictures of a film as coded, one after the other."""
    width, height = film.coded_size
    upright = (height, width) if film.rotation % 180 else (width, height)
    pictures = (np.rot90(paint(n, *upright), -film.rotation // 90) for n in range(film.frames))
    return b"".join(picture.tobytes() for picture in pictures)


def film_filters(film: Film) -> tuple[str, ...]:
    """Return the options that give a film its times and the shape of its pixels."""
    filters: list[str] = []
    options: tuple[str, ...] = ()
    if film.clock is not None:
        expression, ticks_per_second, _ = film.clock
        filters += [f"settb=1/{ticks_per_second}", f"setpts={expression}"]
        options = ("-fps_mode", "passthrough", "-enc_time_base", f"1:{ticks_per_second}")
    if film.stretch != 1:
        filters += [f"setsar={film.stretch}"]
    return (*options, "-vf", ",".join(filters)) if filters else ()


def x264(parameters: str, *more: str) -> tuple[str, ...]:
    """Return the options of an H.264 encoding with parameters of x264."""
    return (*X264, "-x264-params", parameters, *more)


def x265(parameters: str) -> tuple[str, ...]:
    """Return the options of an HEVC encoding with parameters of x265."""
    return (*X265, "-x265-params", f"log-level=none:pools=none:frame-threads=1:{parameters}")


def after_packets(count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the remuxing that drops the first packets of a film, like a recording begun in the middle."""
    return (), ("-c", "copy", "-bsf:v", f"noise=drop=lt(n\\,{count})")


JITTER = ("40*N+15*mod(N\\,3)", 1000, lambda n: 40 * n + 15 * (n % 3))
"""Intervals of 55, 55 and 10 ms."""

PAUSE = ("20*N+700*gte(N\\,10)", 1000, lambda n: 20 * n + 700 * (n >= 10))
"""Fifty frames a second, but for a pause of 0.72 s after the tenth."""

NTSC = Fraction(30000, 1001)

FILMS: dict[str, Film] = {
    "h264 closed gop": Film("closed.mp4", x264("keyint=12:min-keyint=12:scenecut=0", *MP4_CLOCK)),
    "h264 open gop": Film("open.mp4", x264(OPEN_GOP, *MP4_CLOCK)),
    "h264 b-frames": Film("b-frames.mp4", x264(B_FRAMES, *MP4_CLOCK)),
    "h264 one key frame": Film("one-key.mp4", x264("keyint=300:bframes=2", *MP4_CLOCK), frames=90),
    "h264 moov in front": Film("faststart.mp4", (*x264(B_FRAMES), "-movflags", "+faststart")),
    "h264 fragmented": Film("fragmented.mp4", (*x264(B_FRAMES), "-movflags", "frag_keyframe+empty_moov")),
    "h264 without edit list": Film("no-edit-list.mp4", (*x264(B_FRAMES), "-use_editlist", "0")),
    "h264 ntsc": Film("ntsc.mp4", x264(B_FRAMES), rate=NTSC),
    "h264 2 fps": Film("slow.mp4", x264(B_FRAMES), rate=Fraction(2), frames=8),
    "h264 60 fps": Film("fast.mp4", x264(B_FRAMES), rate=Fraction(60), frames=120),
    "h264 vfr": Film("vfr.mp4", x264(B_FRAMES, *MP4_CLOCK), clock=JITTER, tick=MILLISECOND),
    "h264 pause": Film("pause.mp4", x264(B_FRAMES, *MP4_CLOCK), clock=PAUSE, tick=MILLISECOND),
    "h264 vfr mkv": Film("vfr.mkv", x264(B_FRAMES), clock=JITTER, tick=MILLISECOND),
    "h264 rotated 90": Film("rotated90.mp4", x264(B_FRAMES), rotation=90),
    "h264 rotated 180": Film("rotated180.mp4", x264(B_FRAMES), rotation=180),
    "h264 rotated 270": Film("rotated270.mp4", x264(B_FRAMES), rotation=270),
    "h264 rotated 90 mov": Film("rotated90.mov", x264(B_FRAMES), rotation=90, width=64, height=96),
    "h264 ts": Film("stream.ts", x264(B_FRAMES), frames=60),
    "h264 open gop ts": Film("open.ts", x264(OPEN_GOP), frames=60),
    "mpeg2 ts": Film("mpeg2.ts", ("-c:v", "mpeg2video", "-q:v", "2", "-bf", "2", "-g", "12")),
    "h264 mkv": Film("film.mkv", x264(B_FRAMES), tick=MILLISECOND),
    "h264 30 fps mkv": Film("thirty.mkv", x264(B_FRAMES), tick=MILLISECOND, rate=Fraction(30), frames=60),
    "h264 delayed mkv": Film("delayed.mkv", (*x264(B_FRAMES), "-output_ts_offset", "1.5"), tick=MILLISECOND),
    "h264 delayed mp4": Film("delayed.mp4", (*x264(B_FRAMES), "-output_ts_offset", "1.5")),
    "h264 avi": Film("h264.avi", x264("keyint=12:bframes=0"), tick=Fraction(1, 25)),
    "h264 flv": Film("film.flv", x264(B_FRAMES), tick=MILLISECOND),
    "h264 edit list": Film(
        "edit-list.mp4",
        x264(B_FRAMES, *MP4_CLOCK),
        first=17,
        remux=(("-ss", "0.68"), ("-c", "copy")),
    ),
    "h264 10 bit": Film("h264-10.mp4", (*X264, "-pix_fmt", "yuv420p10le")),
    "h264 4:2:2": Film("h264-422.mp4", (*X264, "-pix_fmt", "yuv422p")),
    "h264 4:4:4": Film("h264-444.mp4", (*X264, "-pix_fmt", "yuv444p")),
    "h264 rgb": Film("h264-rgb.mp4", ("-c:v", "libx264rgb", "-preset", "ultrafast", "-crf", "12")),
    "h264 full range": Film("full.mp4", (*X264, "-vf", "scale=out_range=full", "-color_range", "pc")),
    "h264 full range 4:4:4": Film(
        "full-444.mp4",
        (*X264, "-vf", "scale=out_range=full", "-pix_fmt", "yuv444p", "-color_range", "pc"),
    ),
    "h264 bt.709": Film(
        "bt709.mp4",
        (*X264, "-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709", "-color_trc", "bt709"),
    ),
    "h264 wide pixels": Film("wide-pixels.mp4", X264, stretch=Fraction(4, 3)),
    "h264 tall pixels": Film("tall-pixels.mp4", X264, stretch=Fraction(3, 4)),
    "h264 wide pixels rotated": Film("wide-rotated.mp4", X264, stretch=Fraction(4, 3), rotation=90, height=48),
    "h264 odd size": Film("odd-size.mp4", (*X264, "-pix_fmt", "yuv444p"), width=127, height=63),
    "h264 one frame": Film("one-frame.mp4", X264, frames=1),
    "h264 two frames": Film("two-frames.mp4", X264, frames=2),
    "h264 2x2 pixels": Film("tiny.mp4", X264, width=2, height=2, frames=4, exact_colours=False),
    "h264 with sound": Film(
        "sound.mp4",
        (*x264(B_FRAMES), "-c:a", "aac", "-map", "1:a", "-map", "0:v"),
        inputs=("-f", "lavfi", "-t", "3.5", "-i", "sine"),
    ),
    "h264 with cover picture": Film(
        "cover.mp4",
        (*X264, "-map", "0:v", "-map", "1:v", "-c:v:1", "mjpeg", "-disposition:v:1", "attached_pic"),
        inputs=("-f", "lavfi", "-i", "testsrc=s=320x240:r=1:d=1"),
    ),
    "h264 two video tracks": Film(
        "two-tracks.mp4",
        (*X264, "-map", "0:v", "-map", "1:v", "-disposition:v:1", "0"),
        inputs=("-f", "lavfi", "-i", "testsrc=s=320x240:r=25:d=2"),
    ),
    "h264 two video tracks mkv": Film(
        "two-tracks.mkv",
        (*X264, "-map", "0:v", "-map", "1:v", "-disposition:v:0", "0", "-disposition:v:1", "0"),
        inputs=("-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=2"),
        tick=MILLISECOND,
    ),
    "h264 interlaced": Film("interlaced.mp4", (*X264, "-flags", "+ildct+ilme", "-preset", "fast")),
    "h264 times wrap ts": Film("wrap.ts", (*x264(B_FRAMES), "-output_ts_offset", "95441.5")),
    "h264 duplicate times": Film("twins.mkv", (*X264, "-g", "1"), rate=Fraction(1500), tick=MILLISECOND),
    "h264 without times": Film("elementary.h264", x264(B_FRAMES), damaged=True),
    "h264 cut at open gop": Film("cut-open.ts", x264(OPEN_GOP), remux=after_packets(SECOND_GOP), damaged=True),
    "h264 cut between key frames": Film(
        "cut-between.ts", x264(OPEN_GOP), remux=after_packets(SECOND_GOP + 3), damaged=True
    ),
    "h264 cut at open gop mkv": Film(
        "cut-open.mkv", x264(OPEN_GOP), remux=after_packets(SECOND_GOP), tick=MILLISECOND, damaged=True
    ),
    "hevc cut at open gop": Film(
        "cut-open-hevc.mkv", x265(OPEN_GOP), remux=after_packets(SECOND_GOP), tick=MILLISECOND, damaged=True
    ),
    "hevc": Film("hevc.mp4", x265("bframes=3:keyint=12:open-gop=1")),
    "hevc 10 bit": Film("hevc-10.mp4", (*x265("bframes=3"), "-pix_fmt", "yuv420p10le")),
    "hevc rotated mkv": Film("hevc.mkv", x265("bframes=3"), rotation=90, tick=MILLISECOND),
    "vp8 webm": Film("vp8.webm", ("-c:v", "libvpx", "-deadline", "realtime", "-crf", "8"), tick=MILLISECOND),
    "vp8 alt-ref webm": Film(
        "vp8-altref.webm",
        ("-c:v", "libvpx", "-cpu-used", "5", "-crf", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
        tick=MILLISECOND,
    ),
    "vp9 webm": Film("vp9.webm", (*VP9, "-deadline", "realtime"), tick=MILLISECOND),
    "vp9 alt-ref webm": Film(
        "vp9-altref.webm",
        (*VP9, "-cpu-used", "5", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
        tick=MILLISECOND,
    ),
    "vp9 odd size": Film("vp9-odd.webm", VP9, width=127, height=63, tick=MILLISECOND),
    "vp9 vfr": Film("vp9-vfr.webm", VP9, clock=JITTER, tick=MILLISECOND),
    "av1 mkv": Film("av1.mkv", AV1, tick=MILLISECOND),
    "av1 mp4": Film("av1.mp4", AV1),
    "mpeg4 avi": Film("mpeg4.avi", MPEG4, tick=Fraction(1, 25)),
    "mpeg4 b-frames avi": Film("mpeg4-b.avi", (*MPEG4, "-bf", "2"), tick=Fraction(1, 25)),
    "h264 b-frames avi": Film("h264-b.avi", x264(B_FRAMES), tick=Fraction(1, 25)),
    "wmv": Film("film.wmv", ("-c:v", "wmv2", "-q:v", "2"), tick=MILLISECOND),
    "h263 3gp": Film(
        "film.3gp", ("-c:v", "h263", "-q:v", "2"), width=192, height=144, stretch=Fraction(12, 11), rate=NTSC
    ),
    "theora ogg": Film("film.ogv", ("-c:v", "libtheora", "-q:v", "10"), tick=MILLISECOND),
    "mpeg1 program stream": Film("film.mpg", ("-c:v", "mpeg1video", "-q:v", "2", "-bf", "2", "-g", "12")),
    "prores mov": Film("prores.mov", ("-c:v", "prores_ks", "-pix_fmt", "yuv422p10le")),
    "mpeg4 mp4": Film("mpeg4.mp4", (*MPEG4, "-bf", "2")),
    "mjpeg mov": Film("mjpeg.mov", ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")),
    "gif": Film("film.gif", ("-c:v", "gif"), tick=Fraction(1, 100), exact_colours=False),
    "name with odd characters": Film("Tür: 100%03d [a] 'b' \n.mp4"),
}
"""Readable films, by what is peculiar about them."""


def write(content: bytes, path: Path) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def detailed(file: str, *more: str) -> Film:
    """Return an H.264 film whose pictures outweigh its tables."""
    return Film(file, (*x264(B_FRAMES), "-crf", "1", *more), width=160, height=120, frames=75)


def cut_short(film: Film, folder: Path, keep: float) -> Path:
    """Make a film that lacks its end."""
    path = make_film(film, folder)
    os.truncate(path, int(path.stat().st_size * keep))
    return path


def hit(film: Film, folder: Path, *, seed: int, region: tuple[float, float], hits: int = 40) -> Path:
    """Make a film and overwrite random bytes in a region of the file, given as fractions of its size."""
    path = make_film(film, folder)
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    generator = np.random.default_rng(seed)
    start, end = (int(len(content) * edge) for edge in region)
    content[generator.integers(start, end, hits)] = generator.integers(0, 256, hits)
    return write(content.tobytes(), path)


def sound(file: str, *more: str) -> Callable[[Path], Path]:
    """Return the maker of a file with two seconds of sound and nothing to see."""

    def make(folder: Path) -> Path:
        ffmpeg("-f", "lavfi", "-t", "2", "-i", "sine", *more, str(folder / file))
        return folder / file

    return make


def playlist(file: str, text: str) -> Callable[[Path], Path]:
    """Return the maker of a text that points to a readable film beside it."""

    def make(folder: Path) -> Path:
        film = make_film(Film("target.ts", X264, frames=5), folder)
        return write(text.format(film=film.name, path=film).encode(), folder / file)

    return make


def renamed_codec(folder: Path) -> Path:
    """Make a film that names a codec that nobody knows."""
    path = make_film(Film("unknown-codec.mp4"), folder)
    return write(path.read_bytes().replace(b"avc1", b"zz9z"), path)


def directory(folder: Path) -> Path:
    """Make a folder with the name of a film."""
    (folder / "folder.mp4").mkdir()
    return folder / "folder.mp4"


def named_pipe(folder: Path) -> Path:
    """Make a pipe that nobody writes into: whoever opens it to read waits for ever."""
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def dangling_link(folder: Path) -> Path:
    """Make a link to a file that is gone."""
    (folder / "link.mp4").symlink_to(folder / "gone.mp4")
    return folder / "link.mp4"


def picture_pattern(folder: Path) -> Path:
    """Make pictures 1 to 5 and return the pattern of their names, which is no file."""
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=96x64:r=5:d=1", str(folder / "picture%02d.png"))
    return folder / "picture%02d.png"


def with_bad_frames(*numbers: int) -> Film:
    """Return a film of 100 key frames, some of which cannot be decoded, though the file has them in its tables."""
    chosen = "+".join(f"eq(n\\,{number})" for number in numbers)
    return Film(
        "bad-frames.mp4",
        (*X264, "-g", "1"),
        frames=100,
        remux=((), ("-c", "copy", "-bsf:v", f"noise=amount={chosen}")),
    )


def spliced(*widths: int) -> Callable[[Path], Path]:
    """Return the maker of one stream of several films of 20 frames, each beginning its times anew."""

    def make(folder: Path) -> Path:
        parts = [Film(f"part{part}.ts", width=width, frames=20) for part, width in enumerate(widths)]
        streams = [make_film(part, folder).read_bytes() for part in parts]
        return write(b"".join(streams), folder / "spliced.ts")

    return make


LATE_SOUND = Film(
    "late-sound.ts",
    (*x264("keyint=25:bframes=0"), "-c:a", "aac", "-shortest"),
    frames=250,
    inputs=("-f", "lavfi", "-i", "sine"),
)


def late_sound(folder: Path) -> Path:
    """Make the film LATE_SOUND such that its sound is first mentioned after nine seconds, in the stream itself."""
    whole = make_film(LATE_SOUND, folder)
    keep_times = (
        "-copyts",
        "-c",
        "copy",
        "-muxdelay",
        "0",
        "-muxpreload",
        "0",
        "-avoid_negative_ts",
        "disabled",
    )
    silent, loud = folder / "silent.ts", folder / "loud.ts"
    ffmpeg("-i", str(whole), *keep_times, "-an", "-frames:v", "225", str(silent))
    ffmpeg("-i", str(whole), *keep_times, "-bsf:v", "noise=drop=lt(n\\,225)", str(loud))
    return write(silent.read_bytes() + loud.read_bytes(), folder / LATE_SOUND.file)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:0.2,\n{film}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{film}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45454 RTP/AVP 33\n"

BROKEN: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "missing.mp4",
    "empty": lambda folder: write(b"", folder / "empty.mp4"),
    "text": lambda folder: write(b"This is not a film.\n" * 500, folder / "text.mp4"),
    "zeros": lambda folder: write(bytes(50_000), folder / "zeros.mp4"),
    "noise": lambda folder: write(np.random.default_rng(0).bytes(50_000), folder / "noise.mp4"),
    "directory": directory,
    "dangling link": dangling_link,
    "named pipe": named_pipe,
    "audio only m4a": sound("sound.m4a"),
    "audio only mp4": sound("sound.mp4"),
    "audio only mkv": sound("sound.mkv"),
    "audio only wav": sound("sound.wav"),
    "audio with cover picture": sound(
        "cover.m4a",
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=96x64:r=1:d=1",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "mjpeg",
        "-disposition:v:0",
        "attached_pic",
    ),
    "no frames": lambda folder: make_film(Film("no-frames.mp4", frames=0), folder),
    "unknown codec": renamed_codec,
    "m3u8 playlist": playlist("list.m3u8", HLS),
    "m3u8 playlist named mp4": playlist("m3u8.mp4", HLS),
    "m3u8 playlist with absolute path": playlist("absolute.m3u8", HLS.replace("{film}", "file:{path}")),
    "concat script": playlist("list.ffconcat", CONCAT),
    "concat script named mp4": playlist("concat.mp4", CONCAT),
    "network session": playlist("session.sdp", SDP),
    "network session named mp4": playlist("sdp.mp4", SDP),
    "pattern of pictures": picture_pattern,
    "truncated without moov": lambda folder: cut_short(detailed("no-moov.mp4"), folder, 0.6),
    "truncated with moov": lambda folder: cut_short(detailed("cut-moov.mp4", "-movflags", "+faststart"), folder, 0.6),
    "truncated within moov": lambda folder: cut_short(
        detailed("inside-moov.mp4", "-movflags", "+faststart"), folder, 0.004
    ),
    "truncated mkv": lambda folder: cut_short(detailed("cut.mkv"), folder, 0.6),
}
"""Makers of what must be refused with a typed error, by what is wrong. Each gets an empty folder."""

DAMAGED: dict[str, Callable[[Path], Path]] = {
    "changing size": spliced(96, 128),
    "spliced": spliced(96, 96),
    "xvid with placeholders": partial(
        make_film, Film("xvid.avi", ("-c:v", "libxvid", "-q:v", "2", "-bf", "2"), frames=220)
    ),
    "truncated avi": lambda folder: cut_short(detailed("cut.avi", "-bf", "0"), folder, 0.6),
    "truncated ts": lambda folder: cut_short(detailed("cut.ts"), folder, 0.6),
    "truncated fragments": lambda folder: cut_short(
        detailed("cut-fragments.mp4", "-movflags", "frag_keyframe+empty_moov"), folder, 0.6
    ),
    "picture named mp4": lambda folder: write(
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=96x64:r=1:d=1", "-f", "mjpeg", "-"), folder / "picture.mp4"
    ),
    **{
        f"corrupt {film.file[4:]} {seed}": partial(hit, film, seed=seed, region=(0.45, 0.8))
        for film in (
            detailed("hit.mp4"),
            detailed("hit.ts"),
            detailed("hit.mkv"),
            detailed("hit.avi", "-bf", "0"),
        )
        for seed in (1, 2, 3)
    },
    **{
        f"corrupt tables {seed}": partial(hit, FILMS["h264 moov in front"], seed=seed, region=(0.01, 0.2), hits=4)
        for seed in range(6)
    },
}
"""Makers of files that may be read in part or refused, but must not be lied about."""
