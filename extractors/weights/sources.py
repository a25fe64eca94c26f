"""Which weights an encoder gets: released ones, a file of the user's, or untrained ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.converters import load_exactly
from mesm.extractors.weights.downloads import Progress, download, locked
from mesm.extractors.weights.table import WEIGHTS, WeightsEntry
from mesm.extractors.weights.tensor_files import read_tensor_file

UNTRAINED_PREFIX = "untrained:"


Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Untrained:
    """Random weights that depend on a seed alone."""

    seed: int

    @property
    def identity(self) -> str:
        """What an encoder's spec says of these weights."""
        return f"{UNTRAINED_PREFIX}{self.seed}"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, hashed."""

    path: Path
    sha256: str
    trust_pickle: bool = False

    @property
    def identity(self) -> str:
        """What an encoder's spec says of these weights."""
        return f"sha256:{self.sha256}"


Weights = Untrained | WeightsFile


@dataclass(frozen=True)
class WeightSources:
    """Where weights are looked for, and what the user allows."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Files to take instead of a download, by the name in the table."""
    download: bool = True
    untrained: Mapping[str, int] = field(default_factory=dict)
    """Names in the table whose networks get random weights of this seed: what comes out of them means nothing."""
    trust_pickle: bool = False
    """Open files that need Python's pickle, through an unpickler that builds arrays and nothing else."""
    progress: Progress | None = None
    """Called during a download with the bytes so far and the total, if it is known."""

    def __post_init__(self) -> None:
        """Raise WeightsError for names that the table does not have."""
        unknown = sorted({*self.files, *self.untrained} - set(WEIGHTS))
        if unknown:
            raise WeightsError(
                f"there are no weights called {', '.join(unknown)}; the table has {', '.join(sorted(WEIGHTS))}"
            )


@dataclass(frozen=True)
class WeightsRequest:
    """Which weights an encoder was asked to have, not yet looked for."""

    choice: str
    """`default`, a name of the table, `untrained:SEED`, or a path (what else, the encoder documents)."""
    sources: WeightSources

    def untrained(self) -> Untrained | None:
        """Return the random weights if those were asked for."""
        seed = untrained_seed(self.choice)
        return None if seed is None else Untrained(seed)

    def resolve(self, default: str | None) -> Weights:
        """Find the weights, downloading them if need be. Raises WeightsError when there are none."""
        return self.untrained() or self._named(default)

    def _named(self, default: str | None) -> Weights:
        name = default if self.choice == "default" else self.choice
        if name is None:
            raise WeightsError("there are no default weights for these options: give a path or untrained:SEED")
        if name in self.sources.untrained:
            return Untrained(self.sources.untrained[name])
        if name in WEIGHTS:
            return find_weights(name, self.sources)
        path = Path(name)
        if not path.is_file():
            raise WeightsError(
                f"no weights {name!r}: no file, and no name of the table ({', '.join(sorted(WEIGHTS))}); "
                "untrained:SEED gives random ones"
            )
        return WeightsFile(path, file_sha256(path), self.sources.trust_pickle)


def untrained_seed(choice: str) -> int | None:
    """Return the seed of `untrained:SEED`, None for anything else; WeightsError when there is no seed."""
    if not choice.startswith(UNTRAINED_PREFIX):
        return None
    text = choice.removeprefix(UNTRAINED_PREFIX)
    if not text.isdecimal():
        raise WeightsError(f"weights {choice!r}: expected {UNTRAINED_PREFIX} and a whole number, as in untrained:0")
    return int(text)


def cache_folder() -> Path:
    """Return the folder for what can be had again: `MESM_CACHE`, or one in the user's cache folder."""
    chosen = os.environ.get("MESM_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mesm-pipeline"


def cached_path(entry: WeightsEntry) -> Path:
    """Return where the cache keeps this file, whether it is there or not."""
    return cache_folder() / "weights" / entry.filename


def local_path(entry: WeightsEntry, sources: WeightSources) -> Path | None:
    """Return the file that would be used without a download, unchecked, or None."""
    path = sources.files.get(entry.name, cached_path(entry))
    return path if path.is_file() else None


def find_weights(name: str, sources: WeightSources) -> WeightsFile:
    """Return a file of the table: the user's, the cache's, or downloaded; its checksums are verified.

    Raises WeightsError when it cannot be had, with its URL and the path to put it at, or when it is another
    file.
    """
    entry = WEIGHTS[name]
    given = sources.files.get(name)
    if given is not None and not given.is_file():
        raise WeightsError(f"weights {name}: {given} is not a file")
    if entry.needs_trust and not sources.trust_pickle:
        raise WeightsError(
            f"weights {name} are a Python pickle; if you trust {entry.url}, allow it with --trust-pickle "
            "(it is then read by an unpickler that builds arrays and nothing else)"
        )
    path = given or cached_path(entry)
    if not path.is_file():
        if not sources.download:
            raise WeightsError(f"weights {name} are not here and downloads are off. {_by_hand(entry)}")
        _download(entry, path, sources)
    sha256 = file_sha256(path)
    problems = _problems(entry, path, sha256)
    if problems:
        raise WeightsError(f"weights {name} at {path}: {'; '.join(problems)}")
    return WeightsFile(path, sha256, sources.trust_pickle)


def verify_weights(entry: WeightsEntry, path: Path) -> list[str]:
    """Return what is wrong with a file by the published checksums; empty when nothing is."""
    return _problems(entry, path, file_sha256(path) if entry.sha256 else "")


def _problems(entry: WeightsEntry, path: Path, sha256: str) -> list[str]:
    problems = []
    if not sha256.startswith(entry.sha256):
        problems.append(f"its sha256 is {sha256}, published is {entry.sha256}")
    if entry.git_sha1 and (found := git_blob_sha1(path)) != entry.git_sha1:
        problems.append(f"its git blob id is {found}, published is {entry.git_sha1}")
    return problems


def _download(entry: WeightsEntry, path: Path, sources: WeightSources) -> None:
    try:
        _fetch(entry, path, sources)
    except WeightsError as error:
        raise WeightsError(f"{error}. {_by_hand(entry)}") from error


def _fetch(entry: WeightsEntry, path: Path, sources: WeightSources) -> None:
    """Download a file of the table; of an archive, which several processes may ask for, the member that is wanted."""
    archive = path.with_name(entry.download_name)

    def verify(file: Path) -> list[str]:
        return verify_weights(entry, file)

    if not entry.member:
        download(entry.url, archive, verify, sources.progress)
        return
    try:
        with locked(path):
            if not path.is_file():
                download(entry.url, archive, verify, sources.progress)
                _extract(archive, entry.member, path)
                archive.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"could not put {entry.member} of {archive} at {path}: {error}") from error


def _extract(archive: Path, member: str, path: Path) -> None:
    """Put a member of an archive in its place, whole or not at all; OSError when that cannot be written."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    try:
        with open(descriptor, "wb") as target, zipfile.ZipFile(archive) as content, content.open(member) as source:
            shutil.copyfileobj(source, target)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, RuntimeError) as error:
        raise WeightsError(f"{archive} is not the archive that holds {member}: {error}; remove it") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _by_hand(entry: WeightsEntry) -> str:
    what = f"{entry.member} from {entry.url}" if entry.member else entry.url
    return f"Get {what} and put it at {cached_path(entry)}, or say where it is with --weights {entry.name}=PATH"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits; a file that did not change is read once a process."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    return _digest(path, hashlib.sha256())


def git_blob_sha1(path: Path) -> str:
    """Return the id that git gives to this file's content, 40 hex digits."""
    return _digest(path, hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False))


def _digest(path: Path, digest: Any) -> str:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_weights(weights: WeightsFile) -> Mapping[str, Any]:
    """Return the dictionary that a file of weights holds, as it was released; WeightsError when it cannot be read."""
    return read_tensor_file(weights.path, weights.trust_pickle)


def build_network(
    make: Callable[[Mapping[str, torch.Tensor]], Network],
    weights: Weights,
    convert: Callable[[Mapping[str, Any]], dict[str, torch.Tensor]],
) -> Network:
    """Build a network and put its weights in: random ones of a seed, or a file's, renamed by `convert`.

    `make` is given the converted state (empty for random weights), for networks whose shape depends on it.
    torch's global random state is neither used nor changed. Raises WeightsError with the lists of what is
    missing, extra or of another shape when the file does not fill the network exactly.
    """
    state: dict[str, torch.Tensor] = {}
    if isinstance(weights, WeightsFile):
        state = convert(read_weights(weights))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed if isinstance(weights, Untrained) else 0)
        network = make(state)
    if isinstance(weights, WeightsFile):
        load_exactly(network, state, str(weights.path))
    return network
