"""Moments of several films, joined into one."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from mesm.datasets.shards.publishing import replace_file
from mesm.pipeline.show.cutting import QUALITY, encode, to_file
from mesm.pipeline.show.ffmpeg_run import CutError, file_argument, open_input, run
from mesm.pipeline.show.source import Source

SOUND_RATE = 48_000
NEARLY_WHOLE = {"c:v": "libx264", "crf": 4, "preset": "ultrafast", "c:a": "pcm_s16le"}
"""Of the pieces before they are made alike: nothing that the eye could miss is lost."""
FASTEST = Fraction(60)

Part = tuple[Source, float, float]
"""A film, and a start and an end in it, in seconds."""


def join(parts: Sequence[Part], out: Path, force: bool = False) -> None:
    """Write parts of films, one after the other, as one film in H.264 and AAC, with the size and rate of the first.

    Pictures of another shape get black bars, films without sound silence. CutError when there is nothing to join, when
    there is such a file and not `force`, or when a part cannot be read.
    """
    if not parts:
        raise CutError(f"there is no moment that could be joined into {out}")
    if out.suffix.lower() != ".mp4":
        raise CutError(f"{out}: a joined film is an .mp4; give such a name")
    if out.exists() and not force:
        raise CutError(f"{out} is there already; use --force to write it anew")
    first = parts[0][0].info
    size = (first.width + first.width % 2, first.height + first.height % 2)
    rate = min(first.fps, FASTEST)
    # Beside the result: the pieces may be larger than the system's folder for temporary files.
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-join-", dir=out.parent) as folder:
        pieces = [_piece(part, Path(folder), number, size, rate) for number, part in enumerate(parts)]
        index = Path(folder) / "pieces.txt"
        index.write_text("".join(f"file {piece.name}\n" for piece in pieces))
        film = ffmpeg.input(file_argument(index), f="concat", safe=1, protocol_whitelist="file")
        options: dict[str, Any] = {"c:v": "copy", "c:a": QUALITY["c:a"], "b:a": QUALITY["b:a"]}
        replace_file(out, lambda place: run(to_file([film["v"], film["a"]], place, "mp4", **options), out))


def _piece(part: Part, folder: Path, number: int, size: tuple[int, int], rate: Fraction) -> Path:
    """Encode one part in the common size, rate and sound."""
    source, start_s, end_s = part
    whole, piece = folder / "whole.mkv", folder / f"piece{number}.mkv"
    begin, end = encode(source, *source.frames(start_s, end_s), whole, "matroska", NEARLY_WHOLE)
    film, length = open_input(whole), f"{end - begin:.6f}"
    width, height = size
    picture = (
        film["v:0"]
        .filter("scale", "iw*sar", "ih")
        .filter("scale", width, height, force_original_aspect_ratio="decrease")
        .filter("pad", width, height, "(ow-iw)/2", "(oh-ih)/2")
        .filter("setsar", 1)
        .filter("fps", str(rate))
    )
    silence = ffmpeg.input(f"anullsrc=r={SOUND_RATE}:cl=stereo", f="lavfi")
    sound = film["a:0"] if source.sounds else silence["a:0"]
    sound = sound.filter("aresample", SOUND_RATE, **{"async": 1, "first_pts": 0}).filter("apad")
    sound = sound.filter("aformat", channel_layouts="stereo")
    options = {**QUALITY, "c:a": "pcm_s16le", "t": length}
    options.pop("b:a")
    run(to_file([picture, sound], piece, "matroska", **options), source.path)
    whole.unlink()
    return piece
