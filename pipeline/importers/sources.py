"""Features as others release them: named arrays in an HDF5 file or a folder.

Layouts: an HDF5 file with one dataset (rows, dim) per video id (`clip_image.hdf5`, `slowfast.hdf5`,
`vgg.hdf5`, `c3d.hdf5`, `i3d.hdf5`); a folder with one npz per video that holds `features`; a folder with one
npy per video, whose axes of length 1 are dropped.
"""

from __future__ import annotations

import hashlib
import zipfile
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Literal

import h5py
import numpy as np

from mesm.datasets.errors import FeatureError
from mesm.extractors.weights.sources import file_sha256

Layout = Literal["auto", "hdf5", "npz", "npy"]
Shape = tuple[int, ...]
HDF5_SUFFIXES = (".h5", ".hdf5")
NPZ_ARRAY = "features"
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError)


class FeatureSource(AbstractContextManager["FeatureSource"], ABC):
    """Released features: named arrays in some layout."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all arrays, sorted."""

    @abstractmethod
    def shape(self, name: str) -> Shape:
        """Return an array's shape without reading its numbers; FeatureError when it has none to read."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Return an array; raises FeatureError when it cannot be read."""

    @abstractmethod
    def sha256(self) -> str:
        """Hash everything that the features are read from."""


def open_source(source: Path, layout: Layout = "auto") -> FeatureSource:
    """Open released features for reading; FeatureError when `source` does not have the layout."""
    found = detect_layout(source) if layout == "auto" else layout
    if found == "hdf5":
        return HDF5Source(source)
    return ArrayFiles(source, f".{found}")


def detect_layout(source: Path) -> Literal["hdf5", "npz", "npy"]:
    """Tell the layout from a file's suffix or a folder's content; FeatureError when it cannot be told."""
    if source.is_file() and source.suffix.lower() in HDF5_SUFFIXES:
        return "hdf5"
    if source.is_dir():
        kinds = {path.suffix for path in source.iterdir()} & {".npz", ".npy"}
        if kinds == {".npz"}:
            return "npz"
        if kinds == {".npy"}:
            return "npy"
        found = "both npz and npy files" if kinds else "neither npz nor npy files"
    else:
        found = "a file of another kind" if source.exists() else "nothing"
    raise FeatureError(
        f"{source}: found {found}; expected a file ending in .h5 or .hdf5, or a folder of npz or of npy "
        "files (name the layout with --layout if there are both)"
    )


class HDF5Source(FeatureSource):
    """An HDF5 file with one dataset per video id at its top level."""

    def __init__(self, path: Path) -> None:
        """Open the file; FeatureError when it is missing or no HDF5 file."""
        self._path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise FeatureError(f"{path} cannot be opened as an HDF5 file: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all top-level datasets and groups, sorted."""
        return sorted(self._file)

    def shape(self, name: str) -> Shape:
        """Return a dataset's shape; FeatureError when it is none of this file's own numbers."""
        return tuple(self._dataset(name).shape)

    def read(self, name: str) -> np.ndarray:
        """Return a dataset's numbers; FeatureError when they cannot be read."""
        try:
            return np.asarray(self._dataset(name)[()])
        except _UNREADABLE as error:
            raise FeatureError(f"it cannot be read: {error}") from error

    def sha256(self) -> str:
        """Hash the file."""
        return _sha256(self._path)

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _dataset(self, name: str) -> h5py.Dataset:
        # A link or a virtual dataset would read other files of this machine into the features.
        if not isinstance(self._file.get(name, getlink=True), h5py.HardLink):
            raise FeatureError("it is a link to elsewhere; expected a dataset in this file")
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise FeatureError("it is a group; expected a dataset (rows, dim)")
        if dataset.is_virtual or dataset.external:
            raise FeatureError("its numbers lie in other files; expected them in this one")
        if dataset.dtype.kind != "f":
            raise FeatureError(f"it holds {dataset.dtype}; expected floating-point numbers")
        return dataset


class ArrayFiles(FeatureSource):
    """A folder with one npz (array `features`) or npy file per video."""

    def __init__(self, folder: Path, suffix: str) -> None:
        """List the folder; FeatureError when it has no such file."""
        self._suffix = suffix
        self._files = {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))} if folder.is_dir() else {}
        if not self._files:
            raise FeatureError(f"{folder} holds no {suffix} files; expected one per video")

    def names(self) -> list[str]:
        """Return the file names without their suffix, sorted."""
        return sorted(self._files)

    def shape(self, name: str) -> Shape:
        """Return an array's shape from the file's header; FeatureError when there is no array of numbers."""
        try:
            if self._suffix == ".npy":
                with open(self._files[name], "rb") as stream:
                    return _npy_shape(stream)
            with zipfile.ZipFile(self._files[name]) as archive, archive.open(f"{NPZ_ARRAY}.npy") as member:
                return _npy_shape(member)
        except _UNREADABLE as error:
            raise FeatureError(f"{self._files[name].name} cannot be read: {error}") from error

    def read(self, name: str) -> np.ndarray:
        """Return an array; FeatureError when it cannot be read."""
        path = self._files[name]
        try:
            if self._suffix == ".npy":
                return np.load(path, allow_pickle=False)
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[NPZ_ARRAY]
        except _UNREADABLE as error:
            raise FeatureError(f"{path.name} cannot be read: {error}") from error

    def sha256(self) -> str:
        """Hash the files' names and contents."""
        digest = hashlib.sha256()
        for name in self.names():
            digest.update(f"{self._files[name].name}\0{_sha256(self._files[name])}\n".encode())
        return digest.hexdigest()

    def __exit__(self, *exception: object) -> None:
        """Nothing is kept open."""


def squeezed(shape: Shape) -> Shape:
    """Drop axes of length 1 until two are left, the rows and the dimension; a single vector is one row."""
    if len(shape) <= 2:
        return (1, *shape) if len(shape) == 1 else shape
    rest = tuple(length for length in shape if length != 1)
    return (1, *rest) if len(rest) == 1 else rest


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise FeatureError(f"{path} cannot be read: {error.strerror or error}") from error


def _npy_shape(stream: IO[bytes]) -> Shape:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in readers:
        raise ValueError(f"npy format {version} is not known")
    shape, _, dtype = readers[version](stream)
    if dtype.kind != "f":
        raise ValueError(f"it holds {dtype}; expected floating-point numbers")
    return tuple(shape)
