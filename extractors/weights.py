"""Where the weights of an encoder come from: seeded random numbers, or a file that was checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from mesm.extractors.converters import load_exactly
from mesm.extractors.errors import WeightsError
from mesm.extractors.tensor_files import read_tensor_file

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

    name: str
    """Its name in the table of weights, or its path when it is not in the table."""
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
    """What the user allows when weights are looked for."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Files to take instead of a download, by the name of the table of weights."""
    download: bool = True
    trust_pickle: bool = False
    """Open files that need Python's pickle, through an unpickler that builds arrays and nothing else."""


def resolve_weights(choice: str, default: str | None, sources: WeightSources) -> Weights:
    """Find the weights that `choice` names: `default`, a table's name, `untrained:SEED`, or a file's path.

    Raises WeightsError when there are none.
    """
    if choice.startswith(UNTRAINED_PREFIX):
        return Untrained(_seed(choice))
    name = default if choice == "default" else choice
    if name is None:
        raise WeightsError(
            "this encoder has no default weights; give a path, or untrained:SEED for random ones"
        )
    path = sources.files.get(name, Path(name))
    if not path.is_file():
        raise WeightsError(f"no weights {name!r}: expected the path of a file, or untrained:SEED")
    return WeightsFile(name, path, file_sha256(path), sources.trust_pickle)


def _seed(choice: str) -> int:
    text = choice.removeprefix(UNTRAINED_PREFIX)
    if not text.isdecimal():
        raise WeightsError(
            f"weights {choice!r}: expected {UNTRAINED_PREFIX} and a whole number, as in untrained:0"
        )
    return int(text)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def build_network(
    make: Callable[[], Network],
    weights: Weights,
    convert: Callable[[Mapping[str, Any]], dict[str, torch.Tensor]],
) -> Network:
    """Build a network and put its weights in: random ones of a seed, or a file's, renamed by `convert`.

    torch's global random state is neither used nor changed. Raises WeightsError with the lists of what is
    missing, extra or of another shape when the file does not fill the network exactly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed if isinstance(weights, Untrained) else 0)
        network = make()
    if isinstance(weights, WeightsFile):
        content = read_tensor_file(weights.path, weights.trust_pickle)
        load_exactly(network, convert(content), str(weights.path))
    return network
