"""An image-text model that anyone can follow: frames are their mean colour, sentences the colour that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from mesm.extractors.contracts import FramePlan, FrameTransform, TextFeatures, VideoInfo
from mesm.extractors.decoding.sampling import image_rows
from mesm.pipeline.ground.zero_shot import ZeroShot

GREY, RED, GREEN, BLUE = (120, 120, 120), (200, 60, 60), (60, 200, 60), (60, 60, 200)


class ColourFrames:
    """Mean colour of the frame at each row's centre."""

    name, dim, clip_len_s = "colour", 3, 1.0
    spec: dict[str, Any] = {"encoder": "colour", "weights": "colours"}  # noqa: RUF012

    def plan(self, info: VideoInfo) -> FramePlan:
        frames = image_rows(info, self.clip_len_s, "clean")
        return FramePlan(frames, FrameTransform("device", short_side=32, exact=None, crop=(32, 32)))

    def encode(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.float().mean((1, 2, 3)) / 255


class ColourSentences:
    """The colour that a sentence names; every other sentence is grey."""

    name, dim, max_tokens, special_tokens = "colour-text", 3, 12, 0
    spec: dict[str, Any] = {"encoder": "colour-text", "weights": "colours"}  # noqa: RUF012
    colours = ("red", "green", "blue")

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> TextFeatures:
        vector = np.full(3, 0.3, np.float32) + np.array([colour in text for colour in self.colours], np.float32)
        said = len(text.split())
        words = min(said, self.max_tokens)
        return TextFeatures(np.zeros((words, 3), np.float32), np.zeros(words, np.int64), vector, said > words)


def colour_model() -> ZeroShot:
    return ZeroShot(ColourFrames(), ColourSentences(), model="colours")


def write_film(path: Path, *parts: tuple[int, tuple[int, int, int]], subtitles: str = "") -> Path:
    """Write parts of so many seconds in a colour each; subtitles: SRT, which become a track of the film."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for seconds, colour in parts:
            picture = np.full((48, 64, 3), colour, np.uint8)
            for _ in range(10 * seconds):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    if subtitles:
        _add_track(path, subtitles)
    return path


def _add_track(path: Path, subtitles: str) -> None:
    """Put an SRT text into a Matroska film as a track, by copying packets."""
    text = path.with_suffix(".srt")
    text.write_text(subtitles)
    plain = path.with_name(f"plain-{path.name}")
    path.rename(plain)
    with av.open(str(plain)) as film, av.open(str(text)) as words, av.open(str(path), "w", format="matroska") as out:
        pairs = [(film, film.streams.video[0]), (words, words.streams.subtitles[0])]
        tracks = [out.add_stream_from_template(stream) for _, stream in pairs]
        for (source, stream), track in zip(pairs, tracks, strict=True):
            for packet in source.demux(stream):
                if packet.pts is not None:
                    packet.stream = track
                    out.mux(packet)
    plain.unlink()
    text.unlink()
