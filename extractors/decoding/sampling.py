"""Which frames make each row: index tables, computed exactly, from presentation times alone.

Two families. `clean` tables take every row from its own stretch of time, whatever the frame rate. `parity`
tables repeat what the released CLIP and SlowFast features did, quirks included: frames resampled by ffmpeg's
`fps` filter, then indexed as the code that made those features does (HERO_Video_Feature_Extractor,
github.com/linjieli222/HERO_Video_Feature_Extractor).

Row n stands for the seconds [n * clip_len, (n + 1) * clip_len), counted from the file's start as a player shows
it. The frame of a time t is the last one presented before t, or frame 0 when there is none: where pictures begin
later than the file, the rows before show the first picture, as a constant-rate output of ffmpeg does. All
arithmetic is in integers and rationals, so that a table never depends on rounding; a clip length given as a float
is taken for the nearest fraction with a denominator up to 10^6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mesm.extractors.contracts import SamplingMode, VideoInfo
from mesm.extractors.errors import EncoderError

PARITY_RATE = 30
"""Frames per second to which the released SlowFast features resampled every video."""

SLOWFAST_FRAMES = 32
"""Frames of one SlowFast 8x8 clip on the fast pathway."""

SLOWFAST_STRIDE = 2
"""Frames at 30 fps between two frames of a SlowFast 8x8 clip."""

_SHORT_VIDEO_SLACK = Fraction(1, 10)
_ROWS_AT_A_TIME = 8192


def exact_seconds(seconds: float | Fraction) -> Fraction:
    """Return a length of time as the fraction that was meant, 0.1666... as 1/6; EncoderError if <= 0."""
    exact = seconds if isinstance(seconds, Fraction) else Fraction(seconds).limit_denominator(10**6)
    if exact <= 0:
        raise EncoderError(f"a clip length or span of {seconds} s; expected more than 0")
    return exact


def exact_duration(info: VideoInfo) -> Fraction:
    """Return the video's duration in seconds: its start and a whole number of its time base's ticks."""
    return info.start_s + round((Fraction(info.duration_s) - info.start_s) / info.time_base) * info.time_base


def row_count(info: VideoInfo, clip_len_s: float | Fraction) -> int:
    """Return how many rows a clean table has: duration / clip_len rounded half up, at least 1.

    So every clip's centre lies inside the video, and encoders of one clip length have equally many rows.
    """
    return max(1, _round_half_up(exact_duration(info) / exact_seconds(clip_len_s)))


def image_rows(info: VideoInfo, clip_len_s: float, mode: SamplingMode = "clean") -> np.ndarray:
    """Return the (rows, 1) int64 table of encoders that look at one frame per clip.

    `clean`: the frame at the clip's centre. `parity`: the frames that ffmpeg's `fps=1/clip_len` passes on;
    HERO takes rate 2 / max(int(duration), 1) where the duration is below clip_len + 0.1 s, so that a row of
    such a short video stands for less than clip_len seconds.
    """
    clip_len = exact_seconds(clip_len_s)
    if mode == "clean":
        return frames_before(info, _centres(info, clip_len))[:, None]
    frames = resampled_frames(info, 1 / parity_row_length(info, clip_len_s))
    return _at_least_one(frames)[:, None]


def parity_row_length(info: VideoInfo, clip_len_s: float) -> Fraction:
    """Return the seconds that a row of a `parity` image table stands for: below clip_len in a short video."""
    duration = exact_duration(info)
    clip_len = exact_seconds(clip_len_s)
    if duration < clip_len + _SHORT_VIDEO_SLACK:
        return Fraction(max(int(duration), 1), 2)
    return clip_len


def clip_rows(info: VideoInfo, clip_len_s: float, frames_per_row: int, span_s: float | Fraction) -> np.ndarray:
    """Return the (rows, frames_per_row) int64 clean table of encoders that see several frames of a clip.

    The frames of a row are those at the middles of `frames_per_row` equal parts of `span_s` seconds around
    the clip's centre: for SlowFast 8x8, 32 frames over 64/30 s, which at 30 fps is every second frame. Times
    outside the video give its first or last frame.
    """
    clip_len, span = exact_seconds(clip_len_s), exact_seconds(span_s)
    half_parts = range(1 - frames_per_row, frames_per_row, 2)
    offsets = [span * part / (2 * frames_per_row) for part in half_parts]
    return _table(info, _centres(info, clip_len), offsets)


def window_rows(info: VideoInfo, clip_len_s: float, frames_per_row: int) -> np.ndarray:
    """Return the (rows, frames_per_row) int64 clean table of windows of one clip: I3D's 24 frames at 24 fps.

    The frames are those at the middles of `frames_per_row` equal parts of the clip. A last window that would
    reach beyond the end is shifted back to fit.
    """
    clip_len = exact_seconds(clip_len_s)
    last_start = max(exact_duration(info) - clip_len, Fraction(0))
    starts = [min(row * clip_len, last_start) for row in range(row_count(info, clip_len_s))]
    offsets = [clip_len * (2 * part + 1) / (2 * frames_per_row) for part in range(frames_per_row)]
    return _table(info, starts, offsets)


def interval_rows(info: VideoInfo, clip_len_s: float, frames_per_row: int) -> np.ndarray:
    """Return the (rows, frames_per_row) int64 clean table of consecutive frames: C3D's intervals of 128.

    An interval lies around the clip's centre, shifted to stay inside the video. A shorter video repeats its
    last frame. Before the first picture there are as many of it as its start holds at the video's rate.
    """
    lead = _round_half_up(info.start_s * info.fps)
    centres = lead + image_rows(info, clip_len_s)
    if lead:
        for row, time in enumerate(_centres(info, exact_seconds(clip_len_s))):
            if time > info.start_s:
                break
            centres[row] = max(_ceil(time * lead / info.start_s) - 1, 0)
    starts = np.clip(centres - (frames_per_row - 1) // 2, 0, max(lead + info.frame_count - frames_per_row, 0))
    return np.clip(starts + np.arange(frames_per_row) - lead, 0, info.frame_count - 1)


def slowfast_parity_rows(info: VideoInfo, clip_len_s: float) -> np.ndarray:
    """Return the (rows, 32) int64 table of source frames that the released SlowFast 8x8 features used.

    HERO's way: resample to 30 fps; repeat the last frame up to whole seconds and the last second up to whole
    clips; take 32 indices of each clip by `slowfast_parity_indices`. Rows = ceil(duration / clip_len). Raises
    EncoderError unless clip_len is a whole number of seconds.
    """
    clip_len = exact_seconds(clip_len_s)
    if clip_len.denominator != 1:
        raise EncoderError(f"parity SlowFast features group whole seconds, but clip_len_s is {clip_len_s}")
    frames = _at_least_one(resampled_frames(info, Fraction(PARITY_RATE)))
    seconds = _ceil(Fraction(len(frames), PARITY_RATE))
    frames = np.pad(frames, (0, seconds * PARITY_RATE - len(frames)), mode="edge")
    missing = -seconds % int(clip_len)
    frames = np.concatenate([frames, np.tile(frames[-PARITY_RATE:], missing)])
    clips = frames.reshape(-1, PARITY_RATE * int(clip_len))
    return clips[:, slowfast_parity_indices(info.fps, int(clip_len))]


def slowfast_parity_indices(fps: Fraction, clip_len_s: int) -> np.ndarray:
    """Return the (32,) int64 indices inside a clip of 30 * clip_len frames, as HERO computes them.

    The quirk of the released features: the span is 64 * floor(rate of the original file) / 30 although the
    frames are already at 30 fps, and what lies beyond the clip is its last frame. index_i = floor(i *
    (span-1) / 31).
    """
    span = Fraction(SLOWFAST_FRAMES * SLOWFAST_STRIDE * int(fps), PARITY_RATE)
    last = PARITY_RATE * clip_len_s - 1
    steps = [int(i * (span - 1) / (SLOWFAST_FRAMES - 1)) for i in range(SLOWFAST_FRAMES)]
    return np.clip(np.array(steps, dtype=np.int64), 0, last)


def resampled_frames(info: VideoInfo, rate: Fraction) -> np.ndarray:
    """Return the (n,) int64 source frame of each frame that ffmpeg's `fps=rate` filter puts out; n may be 0.

    The filter rounds each presentation time half up to a tick of the new rate and holds the last frame of
    each tick; it ends at the duration, rounded likewise. Where frames begin later than the file, a constant-rate
    output repeats the filter's first frame for the ticks before.
    """
    factor, start = info.time_base * rate, info.start_s * rate
    denominator = math.lcm(factor.denominator, start.denominator)
    numerator, offset = int(factor * denominator), int(start * denominator)
    ticks = info.timestamps.astype(object) * (2 * numerator) + (2 * offset + denominator)
    slots = (ticks // (2 * denominator)).astype(np.int64)
    count = _round_half_up(exact_duration(info) * rate)
    first = int(np.searchsorted(slots, slots[0], side="right")) - 1
    return np.maximum(np.searchsorted(slots, np.arange(count), side="right").astype(np.int64) - 1, first)


def frames_before(info: VideoInfo, times: Sequence[Fraction]) -> np.ndarray:
    """Return the (n,) int64 frame of each time in seconds: the last one presented before it, or frame 0."""
    return _table(info, times, [Fraction(0)])[:, 0]


def _centres(info: VideoInfo, clip_len: Fraction) -> list[Fraction]:
    """Return the centre of every clip in seconds; of a video shorter than a clip, its own centre."""
    length = min(clip_len, exact_duration(info))
    return [row * clip_len + length / 2 for row in range(row_count(info, clip_len))]


def _table(info: VideoInfo, starts: Sequence[Fraction], offsets: Sequence[Fraction]) -> np.ndarray:
    """Return the (starts, offsets) frames presented before start + offset, in integer arithmetic."""
    starts = [start - info.start_s for start in starts]
    shared = math.lcm(*(time.denominator for time in (*starts, *offsets)))
    parts = _over(offsets, shared)
    table = np.empty((len(starts), len(offsets)), np.int64)
    # Integers without a bound take much memory: some rows at a time.
    for first in range(0, len(starts), _ROWS_AT_A_TIME):
        some = slice(first, first + _ROWS_AT_A_TIME)
        numerators = np.add.outer(_over(starts[some], shared), parts) * info.time_base.denominator
        ticks = -(-numerators // (shared * info.time_base.numerator))
        table[some] = np.searchsorted(info.timestamps, ticks.astype(np.int64), side="left") - 1
    return np.maximum(table, 0)


def _over(times: Sequence[Fraction], denominator: int) -> np.ndarray:
    return np.array([time.numerator * (denominator // time.denominator) for time in times], dtype=object)


def _at_least_one(frames: np.ndarray) -> np.ndarray:
    return frames if len(frames) else np.zeros(1, dtype=np.int64)


def _round_half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
