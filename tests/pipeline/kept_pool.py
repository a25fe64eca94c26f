"""Decode processes that outlive one extraction of a test, because their start takes longer than it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from mesm.extractors.decoding.pool import DecodePool
from mesm.pipeline.extract import run as extraction


class KeptPool(DecodePool):
    """A pool whose processes outlive a run that ended well."""

    kept: ClassVar[dict[int, KeptPool]] = {}

    @classmethod
    def of(cls, workers: int, **settings: Any) -> KeptPool:
        return cls.kept.pop(workers, None) or cls(workers, **settings)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self.workers not in self.kept:
            self.kept[self.workers] = self
        else:
            self.close()


@contextmanager
def kept_pools() -> Iterator[None]:
    """Have extractions use kept pools, and end them at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "DecodePool", KeptPool.of)
        yield
    while KeptPool.kept:
        KeptPool.kept.popitem()[1].close()
