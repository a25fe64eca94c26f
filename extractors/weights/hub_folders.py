"""Folders of models of transformers: from the disk, or from the hub; and their networks, loaded to the last tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.converters import report_mismatch
from mesm.extractors.weights.sources import file_sha256

SETTINGS_FILES = ("*.json", "*.txt", "*.model")


def find_folder(
    chosen: str, download: bool, with_weights: bool = True, more: Sequence[str] = (), revision: str | None = None
) -> Path:
    """Return the folder of a model, downloading it from the hub when there is no folder of that name.

    more: patterns of further files that it needs; revision: which one of the hub's. WeightsError when it cannot be had.
    """
    folder = Path(chosen)
    if folder.is_dir():
        return folder
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    patterns = [*SETTINGS_FILES, *more, *(["*.safetensors"] if with_weights else [])]
    try:
        found = huggingface_hub.snapshot_download(
            chosen, revision=revision, allow_patterns=patterns, local_files_only=not download
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise WeightsError(
            f"{chosen!r} is no folder and could not be had from the hub ({error}). Get the files of "
            f"https://huggingface.co/{chosen} into a folder and name that folder"
        ) from error
    return Path(found)


@dataclass(frozen=True)
class ReadNetwork:
    """A network as it was read, and what of it and of the file did not fit."""

    network: Any
    missing: list[str]
    extra: list[str]
    reshaped: list[str]


def read_network(model_class: Any, folder: Path) -> ReadNetwork:
    """Read a network of transformers from safetensors alone; WeightsError when there are none."""
    if not weight_files(folder):
        raise WeightsError(f"{folder} holds no *.safetensors")
    network, report = model_class.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    reshaped = [f"{name} {list(given)} instead of {list(own)}" for name, given, own in report["mismatched_keys"]]
    return ReadNetwork(network, sorted(report["missing_keys"]), sorted(report["unexpected_keys"]), reshaped)


def load_network(model_class: Any, folder: Path) -> Any:
    """Load a network of transformers from safetensors alone; WeightsError when not every tensor fits."""
    read = read_network(model_class, folder)
    report_mismatch(str(folder), read.missing, read.extra, read.reshaped)
    return read.network


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a folder, by name."""
    return sorted(folder.glob("*.safetensors"))


def settings_files(folder: Path) -> list[Path]:
    """Return the files of settings in a folder, by pattern and name."""
    return sorted(path for pattern in SETTINGS_FILES for path in folder.glob(pattern))


def digest(paths: Sequence[Path]) -> str:
    """Return the sha256 of one file, or that of the list of names and sha256 of several."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    listing = "".join(f"{file_sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(listing.encode()).hexdigest()
