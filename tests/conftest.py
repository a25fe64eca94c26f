"""Make `tests/shared.py` importable from every folder of tests, and keep torch to the cores that tests may use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
