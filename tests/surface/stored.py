"""The runs that are stored, and what is read of a run's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import calls
from figures import GOLDEN

RUNS = GOLDEN / "runs.tar.xz"
EPOCHS = 2
_NARROW = ("dim=4", "feed_forward_dim=4", "queries=3")
_SMALL = tuple(part for key in _NARROW for part in ("--set", f"model.{key}"))
_WORD_VECTORS = ("features.text.encoder=glove", "features.text.unknown_words=vector", "train.warmup_steps=2")

VARIANTS: dict[str, tuple[str, ...]] = {
    "published": _SMALL,
    "fast": (*_SMALL, "--recipe", "fast", *(part for key in _WORD_VECTORS for part in ("--set", key))),
}
"""Options of `train` on `tiny_training.CONTENT`: as published on token states, and the recipe on word vectors."""


def go_on(corpus: Path, run: Path) -> str:
    """Train a stored run for one more epoch, by its own configuration."""
    return calls.train(run / "config.yaml", corpus, run, "--set", f"train.epochs={EPOCHS + 1}")


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without the time that they took, and the hash that lines have since."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "sha256")} for row in found]


def predictions(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "predictions-test.jsonl").read_text().splitlines()]
