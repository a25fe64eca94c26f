"""A writer, a compaction or a repair that is killed at any write point loses nothing that was published."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesm.datasets.faults import FAULT_VARIABLE
from mesm.datasets.publishing import PUBLISH_STEPS
from mesm.datasets.shards import FeatureFolder

PREAMBLE = """
import sys
from pathlib import Path
import numpy as np
from mesm.datasets.shards import FeatureFolder

root = Path(sys.argv[1])
videos = {f"v{n}": np.random.default_rng(n).standard_normal((n + 2, 8)).astype(np.float16) for n in range(8)}
folder = FeatureFolder.create_or_open(root, "clip", {"mode": "clean"})
"""
WRITE = """
with folder.writer() as writer:
    for key, features in videos.items():
        if key in folder:
            continue
        print("made", key, flush=True)
        writer.add(key, {"features": features}, clip_len_s=1.0)
        if writer.pending == 2:
            writer.publish()
"""
REVISE = """
with folder.writer() as writer:
    for key in ("v1", "v4", "v0", "v7"):
        writer.add(key, {"features": videos[key] * 2})
        writer.publish()
"""
COMPACT = "folder.compact(target_bytes=4000)\n"
REPAIR = "folder.verify(remove_damaged=True)\n"
FOLDER_POINTS = ["folder:created", "folder:synced", *(f"fingerprint:{step}" for step in PUBLISH_STEPS)]
SHARD_POINTS = [f"shard:{step}" for step in PUBLISH_STEPS]


def run(root: Path, program: str, fault: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, FAULT_VARIABLE: fault}
    command = [sys.executable, "-c", PREAMBLE + program, str(root)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def run_killed(root: Path, program: str, fault: str) -> str:
    result = run(root, program, fault)
    assert result.returncode == -signal.SIGKILL, (fault, result.stderr)
    return result.stdout


def run_through(root: Path, program: str) -> str:
    result = run(root, program)
    assert result.returncode == 0, result.stderr
    return result.stdout


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, by relative path."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def features(root: Path) -> dict[str, bytes]:
    (folder,) = FeatureFolder.all_in(root)
    return {key: folder.read(key)["features"].tobytes() for key in folder}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    run_through(root, WRITE)
    return root


@pytest.mark.parametrize("point", [*FOLDER_POINTS, *SHARD_POINTS, "shard:half-written:3", "shard:renamed:4"])
def test_a_killed_writer_started_again_leaves_the_same_bytes(
    tmp_path: Path, written: Path, point: str
) -> None:
    made = run_killed(tmp_path, WRITE, point) + run_through(tmp_path, WRITE)
    assert files(tmp_path) == files(written)
    again = len(made.splitlines()) - 8
    assert again <= 2, "no more than the last flush interval is made twice"
    (folder,) = FeatureFolder.all_in(tmp_path)
    assert folder.verify() == []


@pytest.fixture(scope="module")
def revised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards: four of two videos, then four that revise a video each; the first counts no longer."""
    root = tmp_path_factory.mktemp("revised")
    run_through(root, WRITE + REVISE)
    return root


@pytest.mark.parametrize(
    "point",
    [
        "compact:removed",
        "compact:synced",
        "shard:before-temp",
        "shard:half-written",
        "shard:fsynced",
        "shard:renamed",
        "shard:published",
        "compact:merged",
        "compact:removed:2",
        "compact:removed:4",
        "compact:synced:2",
        "shard:renamed:2",
    ],
)
def test_a_killed_compaction_changes_no_feature(tmp_path: Path, revised: Path, point: str) -> None:
    root = Path(shutil.copytree(revised, tmp_path / "features"))
    run_killed(root, COMPACT, point)
    assert features(root) == features(revised)
    run_through(root, COMPACT)
    assert features(root) == features(revised)
    (folder,) = FeatureFolder.all_in(root)
    assert folder.verify() == []
    assert len(folder.shards()) < 6
    assert list(folder.path.glob(".tmp-*")) == []


@pytest.mark.parametrize(
    "point", ["shard:half-written", "shard:renamed", "verify:rescued", "verify:set-aside"]
)
def test_a_killed_repair_loses_only_what_was_damaged(tmp_path: Path, written: Path, point: str) -> None:
    root = Path(shutil.copytree(written, tmp_path / "features"))
    (folder,) = FeatureFolder.all_in(root)
    shard = folder.path / "shard-000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[content.index(features(written)["v2"])] ^= 1
    shard.write_bytes(content)
    run_killed(root, REPAIR, point)
    made = run_through(root, REPAIR + WRITE)
    assert made.splitlines() == ["made v2"]
    assert features(root) == features(written)
    assert FeatureFolder.open(folder.path).verify() == []
