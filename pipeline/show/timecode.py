"""Numbers of frames as SMPTE timecode, with drop frame where the rate is a multiple of 29.97."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

DROPPED_PER_30 = 2
"""Frame numbers left out each minute, but for every tenth, for each 30 frames a second (SMPTE 12M)."""
STANDARD = (*(Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)), *(Fraction(n) for n in (24, 25, 30, 48, 50, 60)))
NEAR = 4e-4
"""Share by which a measured rate may differ from the standard one that it is taken for: below half of 1 in 1001."""


@dataclass(frozen=True)
class Timebase:
    """A film's rate and how its frames are named."""

    rate: Fraction
    """Frames per second."""

    @classmethod
    def of(cls, fps: Fraction) -> Timebase:
        """Take a measured rate for the standard one that it is, or as it is."""
        return cls(next((rate for rate in STANDARD if abs(fps - rate) <= NEAR * rate), fps))

    @property
    def frames_a_second(self) -> int:
        """Frames that one second of timecode counts."""
        return max(1, round(self.rate))

    @property
    def drop(self) -> bool:
        """Whether frame numbers are left out to keep timecode near the clock."""
        return self.rate.denominator == 1001 and self.frames_a_second % 30 == 0

    def frame_at(self, seconds: float) -> int:
        """Return the number of the frame that starts nearest to a time."""
        return round(Fraction(seconds) * self.rate)

    def text(self, frame: int) -> str:
        """Write a frame's number: hh:mm:ss:ff, or hh:mm:ss;ff with drop frame."""
        base = self.frames_a_second
        if self.drop:
            dropped = DROPPED_PER_30 * base // 30
            minute, ten = 60 * base - dropped, 600 * base - 9 * dropped
            tens, rest = divmod(frame, ten)
            frame += 9 * dropped * tens + dropped * max(0, (rest - dropped) // minute)
        seconds, frames = divmod(frame, base)
        mark = ";" if self.drop else ":"
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{frames:02d}"

    def frame(self, text: str) -> int | None:
        """Read timecode; None when it is none of this rate."""
        match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)[:;.](\d+)", text.strip(), re.ASCII)
        if match is None or int(match[4]) >= self.frames_a_second:
            return None
        hours, minutes, seconds, frames = map(int, match.groups())
        number = (3600 * hours + 60 * minutes + seconds) * self.frames_a_second + frames
        if self.drop:
            passed = 60 * hours + minutes
            number -= DROPPED_PER_30 * self.frames_a_second // 30 * (passed - passed // 10)
        return number
