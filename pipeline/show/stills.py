"""The best pictures of a moment: one from each fifth of it, sharp, and neither dark nor blown out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mesm.datasets.shards.publishing import replace_file, write_errors
from mesm.pipeline.show.ffmpeg_run import CutError
from mesm.pipeline.show.source import Source

STILLS = 5
TRIED = 12
"""Pictures that are looked at for each still."""
EDGE_SHARE = 0.05
"""Share of the moment at both ends from which nothing is taken: borders are where a film is often cut."""
QUALITY = 92


def quality(picture: np.ndarray) -> float:
    """Return how good a picture (height, width, 3) uint8 is: its sharpness, less where it is all dark or all bright.

    Sharpness is the mean size of differences of neighbours but one in brightness; it is 0 for a plain picture.
    """
    grey = picture.astype(np.float32).mean(2)
    across, down = np.abs(grey[:, 2:] - grey[:, :-2]), np.abs(grey[2:] - grey[:-2])
    sharpness = float(across.mean() if across.size else 0.0) + float(down.mean() if down.size else 0.0)
    lost = float(((grey < 8) | (grey > 247)).mean())
    return sharpness * (1.0 - lost)


def best_frames(source: Source, start_s: float, end_s: float, count: int = STILLS) -> list[tuple[int, np.ndarray]]:
    """Return (frame number, (height, width, 3) uint8) of the best pictures of a moment, ascending.

    One from each of `count` equal parts of it, so fewer when it has fewer frames. VideoError; PipelineError when the
    moment lies outside the film.
    """
    first, behind = source.frames(start_s, end_s)
    edge = int(EDGE_SHARE * (behind - first))
    first, behind = first + edge, behind - edge
    tried = np.unique(np.linspace(first, behind - 1, min(count * TRIED, behind - first)).round().astype(int))
    parts = ((tried - first) * count // (behind - first)).tolist()
    best: dict[int, tuple[float, int, np.ndarray]] = {}
    with source.open() as stream:
        part_of = dict(zip(tried.tolist(), parts, strict=True))
        for number, picture in stream.pictures_of(tried.tolist()):
            part, found = part_of[number], (quality(picture), number, picture)
            if part not in best or found[0] > best[part][0]:
                best[part] = found
    return [best[part][1:] for part in sorted(best)]


def write_stills(source: Source, start_s: float, end_s: float, folder: Path, stem: str, force: bool) -> list[Path]:
    """Write the best pictures of a moment as JPEG files named by their second, and return them.

    CutError when there is such a file and not `force`; FeatureError when the folder cannot be written.
    """
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, picture in best_frames(source, start_s, end_s):
        path = folder / f"{stem}_at_{source.seconds[number]:.2f}.jpg"
        if path.exists() and not force:
            raise CutError(f"{path} is there already; use --force to write it anew")
        replace_file(path, partial(_save, Image.fromarray(np.ascontiguousarray(picture))))
        written.append(path)
    return written


def _save(image: Image.Image, place: Path) -> None:
    image.save(place, format="JPEG", quality=QUALITY)
