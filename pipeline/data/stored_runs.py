"""Run directories read again: what is damaged of them, and what nothing would tell of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesm.datasets.errors import FeatureError
from mesm.datasets.plain_text import parse_json, read_plain_text
from mesm.datasets.text.word_vectors import WordVectors
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.yaml_text import read_yaml
from mesm.pipeline.data.texts import WORD_TABLE_FILE, table_fingerprint
from mesm.pipeline.run.checkpoint import BEST, LAST, Checkpoint, checkpoint_file, read_checkpoint
from mesm.pipeline.run.package import CALIBRATION
from mesm.pipeline.run.text_files import without_hash

_HASHED = ("metrics.jsonl", CALIBRATION)
"""Texts that hold their own hash."""


@dataclass(frozen=True)
class FileFinding:
    """What reading one file of a run again found."""

    path: Path
    problem: str = ""
    """What is wrong; empty when nothing is."""
    note: str = ""
    """What cannot be told."""


def is_run(place: Path) -> bool:
    """Say whether a folder is a run directory."""
    return any(checkpoint_file(place, which).exists() for which in (LAST, BEST)) or (place / "metrics.jsonl").exists()


def verify_run(place: Path) -> list[FileFinding]:
    """Read every file of a run directory again and compare with the hashes that there are."""
    findings: list[FileFinding] = []
    known: dict[str, str] = {}
    for which in (BEST, LAST):
        if checkpoint_file(place, which).exists():
            finding, checkpoint = _verify_checkpoint(checkpoint_file(place, which))
            findings.append(finding)
            known.update(checkpoint.meta.get("fingerprints") or {} if checkpoint is not None else {})
    if (place / WORD_TABLE_FILE).exists():
        findings.append(_verify_table(place / WORD_TABLE_FILE, set(known.values())))
    texts = [place / "config.yaml", *sorted(place.glob("*.jsonl")), *sorted(place.glob("*.json"))]
    return [*findings, *(FileFinding(path, _text_problem(path)) for path in texts if path.exists())]


def _verify_checkpoint(path: Path) -> tuple[FileFinding, Checkpoint | None]:
    try:
        checkpoint, has_hash = read_checkpoint(path)
    except PipelineError as error:
        return FileFinding(path, str(error)), None
    return FileFinding(path, note="" if has_hash else "of an earlier version, without a hash"), checkpoint


def _verify_table(path: Path, fingerprints: set[str]) -> FileFinding:
    try:
        found = table_fingerprint(WordVectors.load(path))
    except FeatureError as error:
        return FileFinding(path, str(error))
    if fingerprints and found not in fingerprints:
        return FileFinding(path, f"its word vectors have the sha256 {found[:12]}, the run was trained on others")
    return FileFinding(path, note="" if fingerprints else "the run does not say which word vectors it was trained on")


def _text_problem(path: Path) -> str:
    try:
        text = read_plain_text(path)
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            found = read_yaml(part) if path.suffix == ".yaml" else parse_json(part)
            if path.name in _HASHED:
                without_hash(found)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return ""
