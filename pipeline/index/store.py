"""An index on the disk: vectors in feature shards, everything else in a catalogue.

INDEX/index.json            the model, and which folder holds its vectors
INDEX/features/<encoder>-<fingerprint>/shard-*.safetensors
INDEX/catalogue.sqlite      files, films, thumbnails, what is spoken; can be made anew without encoding
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards.fingerprints import NAME_DIGITS, fingerprint
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.contracts import VideoEncoder
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.encoders import feature_folder
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.index.adaptive import AdaptiveEncoder, every_row
from mesm.pipeline.index.catalogue import CATALOGUE_FILE, Catalogue
from mesm.pipeline.index.matrix import RowMatrix
from mesm.pipeline.run import text_files

INDEX_FILE = "index.json"
FORMAT = 2
"""Of an index with rows left out; others have 1, as before that was possible."""
MAPPING_TRIES = 20


@dataclass(frozen=True)
class IndexFacts:
    """What holds for a whole index."""

    model: str
    """As `--model` names it, or a run's name."""
    folders: tuple[str, ...]
    """Names of the folders of its vectors; the first one's are searched."""
    row_s: float
    """Seconds of a row."""
    weights: str
    """Which weights made the vectors, as their specification says."""
    network: bool = False
    """Whether the vectors are those that a trained network reads, which no sentence can be compared with."""
    adaptive: bool = False
    """Whether rows that look like the one before are left out."""


class IndexStore:
    """Films that were encoded once, to be asked as often as one likes."""

    def __init__(self, path: Path, facts: IndexFacts, catalogue: Catalogue, folders: Sequence[FeatureFolder]) -> None:
        """Stand for an index that is open; use `open` or `create_or_open`."""
        self.path, self.facts, self.catalogue, self.folders = path, facts, catalogue, list(folders)
        self.folder = self.folders[0]
        self._matrix: RowMatrix | None = None
        self._seen = -1

    @classmethod
    def create_or_open(
        cls, path: Path, model: str, encoders: Sequence[VideoEncoder], network: bool = False
    ) -> IndexStore:
        """Open an index for the vectors of encoders, making it when it is not there.

        Raises PipelineError when it holds the vectors of another model, is damaged, or of a newer version.
        """
        if not (path / INDEX_FILE).exists():
            if path.is_file() or (path.is_dir() and any(path.iterdir()) and not _is_begun(path)):
                raise PipelineError(f"{path} is there already and is no index; give another folder by --index")
            made = tuple(feature_folder(path / "features", encoder).path.name for encoder in encoders)
            weights = ", ".join(str(encoder.spec.get("weights", "")) for encoder in encoders)
            adaptive = isinstance(encoders[0], AdaptiveEncoder)
            facts = IndexFacts(model, made, encoders[0].clip_len_s, weights, network, adaptive)
            version = FORMAT if adaptive else 1
            text_files.publish_facts(path / INDEX_FILE, {"format": version, **vars(facts)})
        facts = read_facts(path)
        names = tuple(f"{encoder.name}-{fingerprint(encoder.spec)[:NAME_DIGITS]}" for encoder in encoders)
        if facts.folders != names:
            raise PipelineError(
                f"{path} was made by {facts.model} ({', '.join(facts.folders)}); {model} makes other vectors "
                f"({', '.join(names)}). Use {facts.model}, or make another index by --index"
            )
        folders = [feature_folder(path / "features", encoder) for encoder in encoders]
        return cls(path, facts, Catalogue.create_or_open(path / CATALOGUE_FILE), folders)

    @classmethod
    def open(cls, path: Path) -> IndexStore:
        """Open an index to ask it; PipelineError when there is none, or it cannot be used."""
        facts = read_facts(path)
        try:
            folders = [FeatureFolder.open(path / "features" / name) for name in facts.folders]
        except FeatureError as error:
            raise PipelineError(f"{path} is damaged: {error}") from error
        if not (path / CATALOGUE_FILE).exists():
            raise PipelineError(
                f"{path} has no {CATALOGUE_FILE}; run index again with its files, they are not encoded anew"
            )
        return cls(path, facts, Catalogue.open(path / CATALOGUE_FILE), folders)

    @property
    def matrix(self) -> RowMatrix:
        """The vectors of all films, as they are now."""
        state = self.catalogue.state()
        if self._matrix is None or state != self._seen:
            self._matrix, self._seen = self._map_rows(), state
        return self._matrix

    def _map_rows(self) -> RowMatrix:
        for _ in range(MAPPING_TRIES):
            self.folder.refresh()
            norms = self.catalogue.norms()
            # Lengths of other rows than these would put every later film out of place.
            fitting = {
                film: lengths
                for film, lengths in norms.items()
                if film in self.folder and self.folder.record(film).rows == len(lengths)
            }
            try:
                return RowMatrix(self.folder, fitting)
            except FileNotFoundError:
                continue  # compacted since it was listed
        raise PipelineError(f"{self.path} changes faster than it can be read; try again when nobody adds to it")

    def encoded(self, path: Path) -> EncodedVideo | None:
        """Return the vectors of a file that is as it was indexed; None when it is not here, or changed."""
        file = self.catalogue.files().get(Path(os.path.abspath(path)))
        if file is None or not self.has(file.film_id):
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        if (status.st_size, status.st_mtime_ns) != (file.size, file.modified_ns):
            return None
        return self.encoded_film(path, file.film_id, self.catalogue.films()[file.film_id].duration_s)

    def encoded_film(self, path: Path, film: str, duration_s: float) -> EncodedVideo:
        """Return the vectors of a film, which lies at a path."""
        return EncodedVideo(path, duration_s, tuple(every_row(folder.read(film)) for folder in self.folders))

    def has(self, film: str) -> bool:
        """Tell whether all vectors of a film are on the disk."""
        return all(film in folder for folder in self.folders)

    def refuse_network(self) -> None:
        """Raise PipelineError when the vectors are those of a network, which no sentence can be compared with."""
        if self.facts.network:
            raise PipelineError(
                f"{self.path} was made for the network {self.facts.model}; give its run by --checkpoint, or make an "
                "index without"
            )

    def refuse_other_model(self, model: str, spec: Mapping[str, Any]) -> None:
        """Raise PipelineError when a model's sentence vectors do not belong to the vectors of this index."""
        self.refuse_network()
        weights = str(spec.get("weights", ""))
        if weights != self.facts.weights:
            raise PipelineError(
                f"{self.path} was made by {self.facts.model} with weights {self.facts.weights}; {model} has weights "
                f"{weights}: their vectors cannot be compared"
            )

    def close(self) -> None:
        """Let go of the files."""
        self.catalogue.close()


def read_facts(path: Path) -> IndexFacts:
    """Read what holds for an index; PipelineError when there is none, it is damaged or newer than this program."""
    file = path / INDEX_FILE
    try:
        content = text_files.read_facts(file)
        version = content["format"]
        facts = IndexFacts(
            str(content["model"]),
            tuple(map(str, content["folders"])),
            float(content["row_s"]),
            str(content["weights"]),
            bool(content["network"]),
            bool(content.get("adaptive", False)),
        )
    except FileNotFoundError:
        raise PipelineError(
            f"{path} is no index; make one by: mesm-pipeline index FOLDER_OF_VIDEOS --index {path}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it and {CATALOGUE_FILE} beside it, and run "
            "index again: films whose vectors are there are not encoded again by the same model"
        ) from error
    if version not in range(1, FORMAT + 1):
        raise PipelineError(f"{file} has format {version}, this program reads up to {FORMAT}; update it")
    return facts


def _is_begun(path: Path) -> bool:
    """Say whether a folder is an index whose making was stopped at its very beginning."""
    return all(
        child.name.startswith(("features", CATALOGUE_FILE)) or child.name.startswith(".") for child in path.iterdir()
    )
