"""Make what tests share importable from every folder of tests: `shared.py`, and the helpers of each part."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent

sys.path[:0] = [
    str(HERE),
    *(str(HERE / part) for part in ("pipeline", "extractors", "model", "model/networks", "tools")),
]
