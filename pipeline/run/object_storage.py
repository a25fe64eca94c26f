"""Object storage and web servers through fsspec: s3://, gs://, hf://, http(s)://.

Only what a person names on the command line is read so; names inside of media files never reach the network. Which
keys are used is left to fsspec's file systems: environment variables, or the files of the clouds' own programs.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any, TypeVar

from mesm.pipeline.config.errors import PipelineError

PROTOCOLS = ("s3", "gs", "gcs", "hf", "http", "https")
TRIES = 4
FIRST_PAUSE_S = 0.5
"""Before the second try; each further pause is three times as long."""

Answer = TypeVar("Answer")


def is_address(place: str) -> bool:
    """Whether a place is an address of object storage or of a web server, and not a path."""
    protocol, colon, _ = place.partition("://")
    return bool(colon) and protocol in PROTOCOLS


class RemotePlace:
    """A place in object storage, and what may fail there."""

    def __init__(self, address: str, pause: Callable[[float], None] = time.sleep) -> None:
        """Connect; PipelineError where the package for the protocol is missing or the address is none."""
        try:
            import fsspec

            self.system, self.root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            raise PipelineError(
                f"{address}: {error}. Install what reads it: pip install 'mesm-pipeline[remote]'"
            ) from error
        except (ValueError, OSError) as error:
            raise PipelineError(f"{address} is no address that can be read: {error}") from error
        self.address = address.rstrip("/")
        self._pause = pause

    def entries(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each file below the address, or of the one that it names, by its name below it.

        Raises PipelineError when there is no such place, or it may not be read.
        """
        return self.named(self._entries)

    def named(self, action: Callable[[], Answer], what: str = "") -> Answer:
        """Do it, with further tries; what still fails is a PipelineError that names the address."""
        place = what or self.address
        try:
            return self.retried(action)
        except PipelineError:
            raise
        except PermissionError as error:
            raise PipelineError(f"{place}: the present keys do not allow this ({error})") from error
        except FileNotFoundError as error:
            raise PipelineError(f"{place}: there is no such place") from error
        except Exception as error:  # what drivers of other packages raise has no common base
            raise PipelineError(f"{place} failed ({type(error).__name__}: {error})") from error

    def retried(self, action: Callable[[], Answer]) -> Answer:
        """Do it again where the fault may pass: not what is missing, forbidden or ours, nor a full disk here."""
        for again in range(TRIES - 1):
            try:
                return action()
            except (FileNotFoundError, PermissionError, PipelineError):
                raise
            except Exception as error:  # what drivers of other packages raise has no common base
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                self._pause(FIRST_PAUSE_S * 3**again)
        return action()

    def _entries(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.system.find(self.root, detail=True)
        root = self.root.rstrip("/")
        entries = {}
        for path, entry in found.items():
            name = path.removeprefix(root).lstrip("/") or path.rsplit("/", 1)[-1]
            if not any(part.startswith(".") for part in name.split("/")):
                entries[name] = entry
        if not found and not self.system.exists(self.root):
            raise FileNotFoundError(self.address)
        return entries
