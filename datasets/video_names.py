"""What a video is called: its file's name without the ending, in annotations, features and predictions alike."""

from __future__ import annotations

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "3gp",
        "asf",
        "avi",
        "flv",
        "gif",
        "m2ts",
        "m4v",
        "mkv",
        "mov",
        "mp4",
        "mpeg",
        "mpg",
        "mts",
        "ogv",
        "ts",
        "webm",
        "wmv",
    )
)
"""Endings of the names of video files, in lower case."""


def video_name(name: str) -> str:
    """Return the id of a video that a file calls by its name, with or without the ending of a video file."""
    stem, dot, ending = name.rpartition(".")
    return stem if stem and f"{dot}{ending.lower()}" in VIDEO_SUFFIXES else name
