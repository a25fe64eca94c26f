"""Films that visitors bring: bounded in size, length, number and total, looked at before they are kept."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mesm.extractors.contracts import VideoInfo
from mesm.extractors.decoding.pool import DecodePool, Failed, Probed
from mesm.extractors.errors import ProbeError, VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.serve.limits import MIB, Limits

PROBE_TIMEOUT_S = 60.0
LONGEST_NAME = 120
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


class UploadError(PipelineError):
    """An upload is refused; `status` is the answer's code in HTTP."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(eq=False)
class Upload:
    """One film that came, or is coming."""

    key: str
    visitor: str
    name: str
    """As its visitor calls it; never a part of a path."""
    folder: Path
    announced: int
    """Bytes that are kept free for it."""
    info: VideoInfo | None = None
    """What it is, once it was looked at."""
    seen: float = field(default_factory=time.monotonic)
    stream: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """The file, named by us; its ending is that of its name where that is a plain one."""
        suffix = Path(self.name).suffix.lower()
        return self.folder / f"film{suffix if _SUFFIX.fullmatch(suffix) else ''}"


class Uploads:
    """The films of all visitors; safe to be used by several threads."""

    def __init__(self, folder: Path, limits: Limits, probe: Callable[[Path], VideoInfo] | None = None) -> None:
        """Keep films in a folder; probe: measures a file, by default in another process, and raises VideoError."""
        self._folder, self._limits, self._probe = folder, limits, probe or probe_apart
        self._found: dict[str, Upload] = {}
        self._lock = threading.Lock()

    def begin(self, visitor: str, name: str, size: int) -> Upload:
        """Make room for a film of so many bytes; UploadError when it is too large, or there are too many."""
        limits = self._limits
        if size <= 0:
            raise UploadError("The file is empty, or its size was not given.", 411 if size < 0 else 415)
        if size > limits.upload_bytes:
            raise UploadError(
                f"The film has {size / MIB:,.1f} MB; at most {limits.upload_bytes / MIB:,.0f} MB are taken.", 413
            )
        shown = " ".join(name.replace("\\", "/").rpartition("/")[2].split())[:LONGEST_NAME] or "film"
        with self._lock:
            own = sum(1 for one in self._found.values() if one.visitor == visitor)
            if own >= limits.uploads:
                raise UploadError(
                    f"You have {own} films here already; at most {limits.uploads} are taken. "
                    "They are removed when you close the page.",
                    429,
                )
            if sum(one.announced for one in self._found.values()) + size > limits.all_bytes:
                raise UploadError("There is no room for more films now; try again later.", 507)
            key = secrets.token_hex(16)
            upload = Upload(key, visitor, shown, self._folder / key, size)
            self._found[key] = upload
        upload.folder.mkdir(mode=0o700)
        upload.stream = open(upload.path, "xb")  # noqa: SIM115 - closed by finish and drop
        return upload

    def write(self, upload: Upload, content: bytes) -> None:
        """Add to a film that is coming; UploadError when it grows beyond what was announced."""
        assert upload.stream is not None
        if upload.stream.tell() + len(content) > upload.announced:
            raise UploadError("More was sent than was announced.", 413)
        upload.seen = time.monotonic()
        upload.stream.write(content)

    def finish(self, upload: Upload) -> Upload:
        """Look at a film that came; UploadError when it is none, is not whole, or is too long. Then it is removed."""
        assert upload.stream is not None
        size = upload.stream.tell()
        upload.stream.close()
        try:
            if size != upload.announced:
                raise UploadError("The film did not arrive whole; send it again.", 400)
            try:
                info = self._probe(upload.path)
            except VideoError:
                raise UploadError(f"{upload.name} is no film that can be read.", 415) from None
            if info.duration_s > self._limits.upload_s:
                raise UploadError(
                    f"The film lasts {_length(info.duration_s)}; at most {_length(self._limits.upload_s)} are taken.",
                    422,
                )
        except BaseException:
            self.drop(upload)
            raise
        upload.info, upload.seen = info, time.monotonic()
        return upload

    def drop(self, upload: Upload) -> None:
        """Remove a film, whole or not."""
        if upload.stream is not None:
            upload.stream.close()
        shutil.rmtree(upload.folder, ignore_errors=True)
        with self._lock:
            self._found.pop(upload.key, None)

    def of(self, visitor: str) -> list[Upload]:
        """Return the films of a visitor that were looked at, in the order in which they came."""
        with self._lock:
            return [one for one in self._found.values() if one.visitor == visitor and one.info is not None]

    def get(self, key: str, visitor: str) -> Upload | None:
        """Return a film by its key; nobody but its visitor gets it."""
        with self._lock:
            found = self._found.get(key)
        if found is None or found.info is None or found.visitor != visitor:
            return None
        found.seen = time.monotonic()
        return found

    def leave(self, visitor: str) -> list[Upload]:
        """Remove all films of a visitor, and return them."""
        with self._lock:
            gone = [one for one in self._found.values() if one.visitor == visitor]
        for one in gone:
            self.drop(one)
        return gone

    def remove_idle(self) -> list[Upload]:
        """Remove the films of visitors who gave no sign for long, and return them."""
        bound = time.monotonic() - self._limits.idle_s
        with self._lock:
            seen: dict[str, float] = {}
            for one in self._found.values():
                seen[one.visitor] = max(one.seen, seen.get(one.visitor, one.seen))
        return [one for visitor, last in seen.items() if last < bound for one in self.leave(visitor)]


def probe_apart(path: Path) -> VideoInfo:
    """Measure a file in another process, which may crash or hang; VideoError says why it is no film."""
    found: VideoInfo | VideoError = ProbeError(f"{path} was not measured")
    with DecodePool(workers=1, timeout_s=PROBE_TIMEOUT_S) as pool:
        pool.start(0, path)
        while pool.busy:
            match pool.next_event():
                case Probed() as probed:
                    found = probed.info
                    pool.dismiss(probed)
                case Failed(_, error):
                    found = error
    if isinstance(found, VideoError):
        raise found
    return found


def _length(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.3g} minutes"
