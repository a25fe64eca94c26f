"""What browsers play: which films as they are, and previews of those that they do not."""

from __future__ import annotations

from pathlib import Path

from mesm.datasets.shards.publishing import replace_file
from mesm.extractors.decoding.containers import open_container
from mesm.extractors.decoding.packets import video_streams
from mesm.pipeline.show.cutting import encode, to_file
from mesm.pipeline.show.ffmpeg_run import CutError, open_input, run
from mesm.pipeline.show.source import Source

PLAYED = {"mov": {"h264", "av1", "vp9"}, "matroska": {"vp8", "vp9", "av1"}}
"""Codecs that every browser plays in a container."""
PLAIN = frozenset({"yuv420p", "yuvj420p"})
"""Formats of pictures that every browser shows."""
PREVIEW = {"c:v": "libx264", "crf": 26, "preset": "veryfast", "pix_fmt": "yuv420p", "c:a": "aac", "b:a": "96k"}
PREVIEW_SIDE, STILL_SIDE = 640, 320
"""Pixels of the longer side, at most."""


def in_every_browser(container: str, codec: str, path: Path) -> bool:
    """Tell whether every browser plays such a file."""
    return codec in PLAYED.get(container, set()) and not (container == "matroska" and path.suffix.lower() == ".mkv")


def plays(path: Path) -> bool:
    """Tell by its content whether browsers play a film as it is; ProbeError when it is none."""
    with open_container(path) as container:
        names = {stream.codec_context.name: stream.codec_context.pix_fmt for stream in video_streams(container, path)}
        kind = container.format.name.split(",")[0]
    return all(in_every_browser(kind, codec, path) and colours in PLAIN for codec, colours in names.items())


def write_preview(source: Source, start_s: float, end_s: float, out: Path, timeout_s: float | None = None) -> float:
    """Write a part of a film, small, as every browser plays it, and return its true start in seconds.

    CutError when ffmpeg cannot, or takes longer than `timeout_s`; PipelineError when the part lies outside the film.
    """
    first, behind = source.frames(start_s, end_s)
    starts: list[float] = []

    def write(temporary: Path) -> None:
        begin, _ = encode(source, first, behind, temporary, "mp4", PREVIEW, PREVIEW_SIDE, timeout_s)
        starts.append(begin)

    replace_file(out, write)
    return starts[0]


def write_still(film: Path, second: float, out: Path, timeout_s: float | None = None) -> None:
    """Write the picture that a film shows at a second as a small JPEG; CutError when there is none."""
    picture = open_input(film, ss=f"{second:.3f}")["v:0"]
    bounds = (f"min({STILL_SIDE},iw)", f"min({STILL_SIDE},ih)")
    # Square pixels first: pictures have no others.
    picture = picture.filter("scale", "iw*sar", "ih").filter("scale", *bounds, force_original_aspect_ratio="decrease")
    options = {"frames:v": 1, "c:v": "mjpeg", "q:v": 4, "pix_fmt": "yuvj420p"}
    run(to_file([picture], out, "image2", update=1, **options), film, timeout_s)
    if not out.exists():
        raise CutError(f"{film} shows nothing at {second:.2f} s")
