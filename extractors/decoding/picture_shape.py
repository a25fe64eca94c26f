"""How a coded picture is turned, mirrored and stretched for display, as ffmpeg and players do it."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

Filters = tuple[tuple[str, str], ...]

_MAX_PIXEL_ASPECT = 10

PLAIN_TURNS: frozenset[Filters] = frozenset(
    {(), (("transpose", "clock"),), (("hflip", ""), ("vflip", "")), (("transpose", "cclock"),)}
)
"""Filters of pictures that are turned by quarters and not mirrored."""


def display_matrix(frame: Any) -> np.ndarray | None:
    """Return the (2, 2) part of a decoded PyAV frame's display matrix; None without one, or when it shows nothing.

    A picture's point (x, y) is displayed at (x, y) @ matrix.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    matrix = np.frombuffer(data, np.int32).reshape(3, 3)[:2, :2].astype(float)
    return matrix if np.linalg.det(matrix) else None


def upright(matrix: np.ndarray | None) -> tuple[int, Filters]:
    """Return the quarter turns counter-clockwise, in degrees, and the filters by which ffmpeg displays a picture.

    A mirror is a quarter turn (or none) and a flip. What is turned by another angle keeps its size, as with ffmpeg.
    """
    if matrix is None:
        return 0, ()
    (a, b), (c, d) = matrix
    # ffmpeg's own rule: the angle of the first row, each column scaled to length 1.
    clockwise = round(math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c)))) % 360
    if clockwise == 90:
        return 270, (("transpose", "cclock_flip" if c > 0 else "clock"),)
    if clockwise == 270:
        return 90, (("transpose", "clock_flip" if c < 0 else "cclock"),)
    if clockwise not in (0, 180):
        return 0, (("rotate", f"{clockwise}*PI/180"),)
    across, down = clockwise == 180 and a < 0, d < 0
    flips = ((across, ("hflip", "")), (down, ("vflip", "")))
    return 180 if across and down else 0, tuple(flip for is_so, flip in flips if is_so)


def display_size(width: int, height: int, pixel_aspect: Fraction | None, rotation: int) -> tuple[int, int]:
    """Return (width, height) in square pixels after rotation; no side is ever scaled down."""
    if pixel_aspect and 1 / _MAX_PIXEL_ASPECT <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        if pixel_aspect > 1:
            width = round(width * pixel_aspect)
        else:
            height = round(height / pixel_aspect)
    return (height, width) if rotation % 180 else (width, height)
