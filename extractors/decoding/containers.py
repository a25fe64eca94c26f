"""Opening media files: each is kept to itself, to formats that hold films, and to pictures of a bounded size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags
from av.error import FFmpegError

from mesm.extractors.decoding.packets import reason
from mesm.extractors.decoding.source_file import refuse_irregular
from mesm.extractors.errors import ProbeError

CONTAINERS = "3g2,3gp,asf,avi,dv,f4v,flv,gif,m4a,matroska,mj2,mov,mp4,mpeg,mpegts,mxf,nut,ogg,rm,webm,wtv"
"""libavformat's demuxers that may be used: each reads one file and no other."""

MAX_PIXELS = 8192 * 8192
"""Largest picture that is decoded, coded or displayed: twice what the highest level of any video codec allows."""


def open_container(path: Path) -> Any:
    """Open a regular file with PyAV, kept to that file alone; raises ProbeError with what was found."""
    refuse_irregular(path)
    # The bound holds for frames that are decoded while the file is opened, too.
    options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS, "max_pixels": str(MAX_PIXELS)}
    try:
        return av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except FFmpegError as error:
        raise ProbeError(f"{path} is not a video that can be read: {reason(error)}") from error


def open_track(path: Path, track: int, threads: int = 0, exact_crop: bool = True) -> tuple[Any, Any]:
    """Open a file and one of its video streams for decoding; ProbeError when it is not there.

    `threads`: of the decoder, 0 for its own choice. `exact_crop`: crop at the left where that is slower, too.
    """
    container = open_container(path)
    streams = container.streams
    if track >= len(streams) or streams[track].type != "video" or streams[track].codec_context is None:
        container.close()
        raise ProbeError(f"{path} has no video stream {track}; it had one when it was measured")
    codec = streams[track].codec_context
    codec.options = {**codec.options, "max_pixels": str(MAX_PIXELS)}
    if exact_crop:
        codec.flags |= int(Flags.unaligned)
    if threads:
        streams[track].thread_type = "AUTO"
        codec.thread_count = threads
    return container, streams[track]
