"""Look at the machine: what is installed, which decoders work, where weights are kept."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from mesm.extractors import torchvision_without_operators as compatibility
from mesm.extractors.weights.sources import WeightSources, cache_folder, local_path
from mesm.extractors.weights.table import WEIGHTS

PACKAGES = ("torch", "torchvision", "open_clip_torch", "pytorchvideo", "av", "decord", "transformers", "torchtext")
LEAST_FREE_GB = 5

Finding = tuple[str, bool, str]


def examine() -> Iterator[Finding]:
    """Yield (what, whether it is in order, what was found)."""
    for package in PACKAGES:
        yield _package(package)
    shim = compatibility.declare_missing_torchvision_operators()
    yield "torchvision ops", True, "declared here, as its library does not fit this torch" if shim else "loaded"
    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    yield "device", True, name
    yield _cache(cache_folder())
    here = [entry.name for entry in WEIGHTS.values() if local_path(entry, WeightSources())]
    yield "weights", True, ", ".join(here) or "none here yet; `mesm-pipeline weights get NAME` downloads them"


def _package(name: str) -> Finding:
    try:
        return name, True, importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "decord":
            return name, True, "not installed (no wheel for this platform); PyAV decodes everything"
        return name, False, "not installed; run `pip install mesm-pipeline` again"


def _cache(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    writable = os.access(place, os.W_OK)
    finding = f"{folder}, {free:.0f} GiB free" + ("" if writable else ", not writable: set MESM_CACHE")
    return "cache", writable and free > LEAST_FREE_GB, finding
