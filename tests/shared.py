"""Reference material that is not part of the project: tests that want it skip when it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("MESM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_path(relative: str) -> Path:
    """Return the path of a reference file or folder, or skip the test that asks for it."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"reference material {relative} is not here (set MESM_SHARED to its folder)")
    return path
