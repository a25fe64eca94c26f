"""The films of moments, each measured once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mesm.extractors.errors import VideoError
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.show.ffmpeg_run import CutError
from mesm.pipeline.show.source import Source

GONE = {"missing": "the film is not there any more", "changed": "the film is another one than was searched"}
"""Notes of a moment whose film must not be cut, and what they mean."""


class Sources:
    """Films that are measured when they are first asked for; a film that cannot be read is asked for once."""

    def __init__(self) -> None:
        self._found: dict[Path, Source | VideoError] = {}

    def of(self, moment: FoundMoment) -> Source:
        """Return the film of a moment; VideoError when it cannot be read, CutError when it is not the one searched."""
        for note in moment.notes:
            if note in GONE:
                raise CutError(f"{moment.file}: {GONE[note]}; search it again")
        if moment.file not in self._found:
            try:
                self._found[moment.file] = Source.of(moment.file)
            except VideoError as error:
                self._found[moment.file] = error
        found = self._found[moment.file]
        if isinstance(found, VideoError):
            raise found
        return found


def once_each(moments: Iterable[FoundMoment]) -> Sequence[FoundMoment]:
    """Return the moments without those that are the same part of the same film as an earlier one."""
    found: dict[tuple[Path, float, float], FoundMoment] = {}
    for moment in moments:
        found.setdefault((moment.file, moment.start_s, moment.end_s), moment)
    return list(found.values())
