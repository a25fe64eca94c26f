"""A trained network as a folder that travels: what is in it, and how a changed file is known.

model.safetensors     weights, and all that answering needs, in the header
config.json           the same configuration for people and for the hub
glove.safetensors     word vectors, where the network reads those
calibration.json      what its scores mean, where that was measured
manifest.json         sha256 of the files above
evaluation.json, README.md    figures and the card, which nothing is loaded from
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mesm.datasets.plain_text import read_json
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.text_files import publish_text

WEIGHTS, CONFIG, MANIFEST, CARD = "model.safetensors", "config.json", "manifest.json", "README.md"
WORD_TABLE, CALIBRATION, FIGURES = "glove.safetensors", "calibration.json", "evaluation.json"
LOADED = (WEIGHTS, CONFIG, WORD_TABLE, CALIBRATION)
"""Files whose content answers depend on, or that say what it is: all have their hash in the manifest."""
FILES = (*LOADED, MANIFEST, FIGURES, CARD)
FORMAT = 1
_BLOCK = 2**20


def is_package(folder: Path) -> bool:
    """Whether a folder holds a network that travels."""
    return (folder / WEIGHTS).is_file()


def write_manifest(folder: Path) -> None:
    """Write down the hashes of a package's files; FeatureError when that is impossible."""
    hashes = {name: sha256_of(folder / name) for name in LOADED if (folder / name).is_file()}
    publish_text(folder / MANIFEST, json.dumps({"format": FORMAT, "sha256": hashes}, indent=1) + "\n")


def verify(folder: Path) -> None:
    """Raise PipelineError unless every file that is loaded from a package is the one that was exported."""
    place = folder / MANIFEST
    try:
        manifest = read_json(place)
        expected = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{place} is missing or damaged; get the whole package again ({error})") from error
    if manifest.get("format") != FORMAT:
        raise PipelineError(f"{place} has format {manifest.get('format')}; this version reads {FORMAT}")
    present = {name for name in LOADED if (folder / name).is_file()}
    for name in sorted({*present, *expected}):
        if name not in present:
            raise PipelineError(f"{folder / name} is missing; get the whole package again")
        if name not in expected:
            raise PipelineError(f"{folder / name} is not in {MANIFEST}: it was added later; remove it, or get it again")
        if sha256_of(folder / name) != expected[name]:
            raise PipelineError(
                f"{folder / name} is not the file that was exported (its sha256 differs from {MANIFEST}); "
                "get the package again"
            )


def sha256_of(path: Path) -> str:
    """Return a file's sha256 as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
