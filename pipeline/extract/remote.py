"""Films in object storage and on web servers, read through fsspec: s3://, gs://, hf://, http(s)://.

Only what a person names on the command line is read so; names inside of media files never reach the network. Which
keys are used is left to fsspec's file systems: environment variables, or the files of the clouds' own programs.
"""

from __future__ import annotations

import datetime
import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesm.extractors.decoding.source_file import SourceFile, quick_hash
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.films import FetchError
from mesm.pipeline.extract.videos import VideoItem, names_by_id, shared

PROTOCOLS = ("s3", "gs", "gcs", "hf", "http", "https")
TRIES = 4
FIRST_PAUSE_S = 0.5
"""Before the second try; each further pause is three times as long."""
_BLOCK = 2**20
_TIMES = ("LastModified", "mtime", "updated", "last_commit")
"""What file systems call the time of the last change."""


def is_address(place: str) -> bool:
    """Whether a place is an address of object storage or of a web server, and not a path."""
    protocol, colon, _ = place.partition("://")
    return bool(colon) and protocol in PROTOCOLS


class RemoteStorage:
    """One place in object storage: its videos, and their content."""

    def __init__(self, address: str, pause: Callable[[float], None] = time.sleep) -> None:
        """Connect; PipelineError where the package for the protocol is missing or the address is none."""
        try:
            import fsspec

            self._system, self._root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise PipelineError(
                f"{address}: {error}. Install what reads it: pip install 'mesm-pipeline[remote]'"
            ) from error
        except (ValueError, OSError) as error:
            raise PipelineError(f"{address} is no address that can be read: {error}") from error
        self.address = address.rstrip("/")
        self._pause = pause
        self._names: dict[str, str] = {}

    def list_videos(self) -> list[VideoItem]:
        """List the videos below the address, or the one that it names, as `collect_videos` does of a folder.

        Raises PipelineError when it is not there, may not be read, or holds no video.
        """
        try:
            entries = self._retried(self._entries)
        except PermissionError as error:
            raise PipelineError(f"{self.address} may not be read with the present keys: {error}") from error
        except FileNotFoundError as error:
            raise PipelineError(f"{self.address}: there is no such place") from error
        except Exception as error:  # what drivers of other packages raise has no common base
            raise PipelineError(f"{self.address} cannot be listed ({type(error).__name__}: {error})") from error
        found = names_by_id(entries, self.address)
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
                with self._system.open(self._names[item.video_id], "rb", cache_type="none") as file:
                    return SourceFile(item.path, item.size, item.modified_ns, quick_hash(file, item.size))
            except ValueError:
                # fsspec's word for a web server that sends files from their beginning only
                return None

        return self._fetched(item, read)

    def fetch(self, item: VideoItem, target: Path, stopped: Callable[[], bool]) -> None:
        """Write an object's content to a file; FetchError when it cannot be had whole, or `stopped`."""

        def copy() -> None:
            name = self._names[item.video_id]
            with self._system.open(name, "rb", cache_type="readahead") as source, open(target, "wb") as file:
                while block := source.read(_BLOCK):
                    if stopped():
                        raise FetchError(f"{item.address}: the run ended while it was fetched")
                    file.write(block)
            if target.stat().st_size != item.size:
                raise OSError(errno.EIO, f"{target.stat().st_size} bytes came of {item.size}")

        self._fetched(item, copy)

    def _entries(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each file, by its name below the address."""
        found: dict[str, dict[str, Any]] = self._system.find(self._root, detail=True)
        root = self._root.rstrip("/")
        entries = {}
        for path, entry in found.items():
            name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
            if not any(part.startswith(".") for part in name.split("/")):
                entries[name] = entry
        if not found and not self._system.exists(self._root):
            raise FileNotFoundError(self.address)
        return entries

    def _item(self, video_id: str, name: str, entry: dict[str, Any], problem: str) -> VideoItem:
        size = entry.get("size")
        if size is None:
            size = self._retried(lambda: self._system.info(entry["name"]).get("size"))
        if size is None and not problem:
            problem = "its server does not say how large it is"
        one = self.address if self.address.endswith(f"/{name}") else f"{self.address}/{name}"
        return VideoItem(video_id, Path(name), problem, one, int(size or 0), _modified_ns(entry))

    def _fetched(self, item: VideoItem, action: Callable[[], Any]) -> Any:
        try:
            return self._retried(action)
        except FetchError:
            raise
        except Exception as error:  # what drivers of other packages raise has no common base
            raise FetchError(f"{item.address} cannot be read ({type(error).__name__}: {error})") from error

    def _retried(self, action: Callable[[], Any]) -> Any:
        """Do it again where the fault may pass: not what is missing, forbidden or ended, nor a full disk here."""
        for again in range(TRIES - 1):
            try:
                return action()
            except (FileNotFoundError, PermissionError, FetchError):
                raise
            except Exception as error:  # what drivers of other packages raise has no common base
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                self._pause(FIRST_PAUSE_S * 3**again)
        return action()


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
