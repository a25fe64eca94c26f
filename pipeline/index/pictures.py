"""Thumbnails of films, taken from the frames that are decoded for the encoders anyway."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from mesm.extractors.contracts import FramePlan, FrameTransform, VideoInfo
from mesm.extractors.decoding.sampling import image_rows
from mesm.extractors.decoding.source_file import SourceFile
from mesm.pipeline.extract.lane import Stored
from mesm.pipeline.index.catalogue import Catalogue, Film

INTERVAL_S = 10.0
"""Seconds between thumbnails."""
WIDTH, TALLEST = 160, 160
"""Pixels of a thumbnail, at most."""
QUALITY = 70


class PictureChoice:
    """Which frames become thumbnails, and at what size."""

    name, clip_len_s = "thumbnails", INTERVAL_S

    def plan(self, info: VideoInfo) -> FramePlan:
        """Take the frame at the middle of every interval, the aspect kept."""
        scale = min(WIDTH / info.width, TALLEST / info.height, 1.0)
        size = (max(1, round(info.height * scale)), max(1, round(info.width * scale)))
        frames = image_rows(info, INTERVAL_S, "clean")
        return FramePlan(frames, FrameTransform("device", short_side=None, exact=size, crop=size))


@dataclass
class _Pictures:
    film: Film
    seconds: dict[int, float]
    """Of each frame that is wanted, by number."""
    taken: list[tuple[float, bytes]] = field(default_factory=list)


class PictureLane:
    """Takes frames beside the encoders' lanes, and enters each film into the catalogue when it was decoded."""

    encoder = PictureChoice()

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known = catalogue.known_films()
        self._open: dict[int, _Pictures] = {}

    def stored(self, film_id: str, source: SourceFile) -> Stored:
        """Tell whether the catalogue has this film, whose name is its content."""
        return Stored.ALL if film_id in self._known else Stored.NOTHING

    def holds(self, film_id: str, source: SourceFile, info: VideoInfo) -> bool:
        """Tell whether the catalogue has this film."""
        return film_id in self._known

    def renew(self, film_id: str, source: SourceFile) -> None:
        """Do nothing: files stand in the catalogue by themselves."""

    def open(self, job: int, film_id: str, info: VideoInfo, source: SourceFile, plan: FramePlan) -> None:
        """Expect the frames of a film."""
        wanted = np.unique(plan.frames)
        seconds = (info.timestamps[wanted] * float(info.time_base)).tolist()
        film = Film(film_id, source.size, info.duration_s, info.width, info.height)
        self._open[job] = _Pictures(film, dict(zip(wanted.tolist(), seconds, strict=True)))

    def add_frame(self, job: int, number: int, frame: torch.Tensor) -> None:
        """Take a (h, w, 3) uint8 frame of an open film, if it is one of the wanted."""
        pictures = self._open[job]
        if number in pictures.seconds:
            pictures.taken.append((pictures.seconds[number], jpeg(frame.cpu().numpy())))

    def drop(self, job: int) -> None:
        """Forget an open film."""
        self._open.pop(job, None)

    def complete(self, job: int, decoder: str, missing: int) -> None:
        """Enter a film of which all frames came into the catalogue."""
        pictures = self._open.pop(job, None)
        if pictures is not None:
            self._catalogue.add_film(pictures.film, pictures.taken)
            self._known.add(pictures.film.film_id)

    def publish(self) -> None:
        """Do nothing: every film was entered when it was complete."""

    def close(self) -> None:
        """Do nothing: the catalogue belongs to the index."""


def jpeg(picture: np.ndarray) -> bytes:
    """Encode a (height, width, 3) uint8 picture as JPEG."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
