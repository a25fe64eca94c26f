"""Films in object storage: which there are, which content they have, and their files."""

from __future__ import annotations

import datetime
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesm.extractors.decoding.source_file import SourceFile, quick_hash
from mesm.pipeline.extract.films import FetchError
from mesm.pipeline.extract.videos import VideoItem, names_by_id, shared
from mesm.pipeline.run.object_storage import RemotePlace

_BLOCK = 2**20
_TIMES = ("LastModified", "mtime", "updated", "last_commit")
"""What file systems call the time of the last change."""


class RemoteStorage:
    """The films of one place in object storage, and their content."""

    def __init__(self, address: str, pause: Callable[[float], None] = time.sleep) -> None:
        """Connect; PipelineError where the package for the protocol is missing or the address is none."""
        self._place = RemotePlace(address, pause)
        self._names: dict[str, str] = {}

    def list_videos(self) -> list[VideoItem]:
        """List the videos below the address, or the one that it names, as `collect_videos` does of a folder.

        Raises PipelineError when it is not there, may not be read, or holds no video.
        """
        entries = self._place.entries()
        found = names_by_id(entries, self._place.address)
        items = []
        for video_id in sorted(found):
            name = min(found[video_id])
            self._names[video_id] = entries[name]["name"]
            items.append(self._item(video_id, name, entries[name], shared(found[video_id])))
        return items

    def look(self, item: VideoItem) -> SourceFile | None:
        """Read 16 parts of an object; None where the server gives no parts. FetchError when it cannot be had."""

        def read() -> SourceFile | None:
            try:
                with self._place.system.open(self._names[item.video_id], "rb", cache_type="none") as file:
                    return SourceFile(item.path, item.size, item.modified_ns, quick_hash(file, item.size))
            except ValueError:
                # fsspec's word for a web server that sends files from their beginning only
                return None

        return self._fetched(item, read)

    def fetch(self, item: VideoItem, target: Path, stopped: Callable[[], bool]) -> None:
        """Write an object's content to a file; FetchError when it cannot be had whole, or `stopped`."""

        def copy() -> None:
            name = self._names[item.video_id]
            with self._place.system.open(name, "rb", cache_type="readahead") as source, open(target, "wb") as file:
                while block := source.read(_BLOCK):
                    if stopped():
                        raise FileNotFoundError("the run ended while it was fetched")
                    file.write(block)
            if target.stat().st_size != item.size:
                raise OSError(errno.EIO, f"{target.stat().st_size} bytes came of {item.size}")

        self._fetched(item, copy)

    def _item(self, video_id: str, name: str, entry: dict[str, Any], problem: str) -> VideoItem:
        size = entry.get("size")
        if size is None:
            size = self._place.named(lambda: self._place.system.info(entry["name"]).get("size"))
        if size is None and not problem:
            problem = "its server does not say how large it is"
        address = self._place.address
        one = address if address.endswith(f"/{name}") else f"{address}/{name}"
        return VideoItem(video_id, Path(name), problem, one, int(size or 0), _modified_ns(entry))

    def _fetched(self, item: VideoItem, action: Callable[[], Any]) -> Any:
        try:
            return self._place.retried(action)
        except Exception as error:  # what drivers of other packages raise has no common base
            raise FetchError(f"{item.address} cannot be read ({type(error).__name__}: {error})") from error


def _modified_ns(entry: dict[str, Any]) -> int:
    """Return the time of the last change, 0 where the storage does not tell."""
    for key in _TIMES:
        value: Any = entry.get(key)
        if key == "last_commit":
            value = getattr(value, "date", None)
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            return round(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float):
            return round(value * 1e6) * 1000
    return 0
