"""Sentences that the answers without a checkpoint compare with: fixed, as another list gives other answers."""

from __future__ import annotations

TEMPLATES = ("{}", "a photo of {}", "a video of {}")
"""A query is asked in these forms, whose vectors are averaged."""

_PICTURES = ("a photo", "a picture", "an image", "a video", "a film", "a scene", "a video frame", "a snapshot")
_CONTENTS = ("", " of something", " of someone", " of a place", " of an object")

GENERIC = tuple(picture + content for picture in _PICTURES for content in _CONTENTS)
"""40 sentences that fit any picture."""
