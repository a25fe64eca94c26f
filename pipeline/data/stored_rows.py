"""Rows that are too many for the memory, in a file that has no name, read when they are asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

FLOAT = 4


class StoredRows:
    """Rows (rows, dim) float32 on disk. They are read and not mapped, so that what was read does not stay."""

    device = torch.device("cpu")

    def __init__(self, rows: int, dim: int) -> None:
        """Open a file for the rows; a killed run leaves nothing behind."""
        self.dim = dim
        self._file = tempfile.TemporaryFile(prefix="mesm-frames-")  # noqa: SIM115
        os.ftruncate(self._file.fileno(), rows * dim * FLOAT)

    def write(self, first: int, rows: np.ndarray) -> None:
        """Store rows (n, dim) from row `first` on; OSError when the disk is full."""
        content = np.ascontiguousarray(rows, np.float32).data.cast("B")
        done = 0
        while done < len(content):
            done += os.pwrite(self._file.fileno(), content[done:], first * self.dim * FLOAT + done)

    def take(self, parts: Iterable[tuple[int, int]], total: int) -> Tensor:
        """Read parts, each a first row and a number of rows, `total` rows together: (total, dim)."""
        found = np.empty((total, self.dim), np.float32)
        place = 0
        for first, count in parts:
            content = found[place : place + count].data.cast("B")
            done = 0
            while done < len(content):
                read = os.preadv(self._file.fileno(), [content[done:]], first * self.dim * FLOAT + done)
                if not read:
                    raise OSError("the temporary file of frames has ended too early")
                done += read
            place += count
        return torch.from_numpy(found)
