"""A writer, a compaction or a repair that is killed at any write point loses nothing that was published."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesm.datasets.shards.folder import FeatureFolder
from mesm.datasets.shards.publishing import PUBLISH_STEPS

SERVER = """
import json, os, sys
from pathlib import Path
import numpy as np
from mesm.datasets.shards.folder import FeatureFolder

for line in sys.stdin:
    request = json.loads(line)
    process = os.fork()
    if process == 0:
        os.environ["MESM_FAULT"] = request["fault"]
        sys.stdout = open(request["output"], "a")
        exec(request["program"], {**globals(), "root": Path(request["root"])})
        sys.stdout.flush()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
PREAMBLE = """
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


class Runner:
    """Runs programs in processes that may be killed, forked from one that has imported everything."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def killed(self, root: Path, program: str, fault: str) -> list[str]:
        """Run a program that a write point kills; return the lines that it printed."""
        status, lines = self._run(root, program, fault)
        assert status == -signal.SIGKILL, f"{fault} was not passed"
        return lines

    def through(self, root: Path, program: str) -> list[str]:
        """Run a program to its end; return the lines that it printed."""
        status, lines = self._run(root, program, "")
        assert status == 0
        return lines

    def close(self) -> None:
        """End the process, and wait for its end."""
        self._process.communicate()

    def _run(self, root: Path, program: str, fault: str) -> tuple[int, list[str]]:
        self._output.write_text("")
        request = {"program": PREAMBLE + program, "root": str(root), "fault": fault, "output": str(self._output)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = int(self._process.stdout.readline())
        return status, self._output.read_text().splitlines()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner") / "output")
    yield runner
    runner.close()


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock, by relative path."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def features(root: Path) -> dict[str, bytes]:
    (folder,) = FeatureFolder.all_in(root)
    return {key: folder.read(key)["features"].tobytes() for key in folder}


@pytest.fixture(scope="module")
def written(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written")
    runner.through(root, WRITE)
    return root


@pytest.mark.parametrize("point", [*FOLDER_POINTS, *SHARD_POINTS, "shard:half-written:3", "shard:renamed:4"])
def test_a_killed_writer_started_again_leaves_the_same_bytes(
    runner: Runner, tmp_path: Path, written: Path, point: str
) -> None:
    made = runner.killed(tmp_path, WRITE, point) + runner.through(tmp_path, WRITE)
    assert files(tmp_path) == files(written)
    again = len(made) - 8
    assert again <= 2, "no more than the last flush interval is made twice"
    (folder,) = FeatureFolder.all_in(tmp_path)
    assert folder.verify() == []


@pytest.fixture(scope="module")
def revised(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight shards: four of two videos, then four that revise a video each; the first counts no longer."""
    root = tmp_path_factory.mktemp("revised")
    runner.through(root, WRITE + REVISE)
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
def test_a_killed_compaction_changes_no_feature(runner: Runner, tmp_path: Path, revised: Path, point: str) -> None:
    root = Path(shutil.copytree(revised, tmp_path / "features"))
    runner.killed(root, COMPACT, point)
    assert features(root) == features(revised)
    runner.through(root, COMPACT)
    assert features(root) == features(revised)
    (folder,) = FeatureFolder.all_in(root)
    assert folder.verify() == []
    assert len(folder.shards()) < 6
    assert list(folder.path.glob(".tmp-*")) == []


@pytest.mark.parametrize("point", ["shard:half-written", "shard:renamed", "verify:rescued", "verify:set-aside"])
def test_a_killed_repair_loses_only_what_was_damaged(runner: Runner, tmp_path: Path, written: Path, point: str) -> None:
    root = Path(shutil.copytree(written, tmp_path / "features"))
    (folder,) = FeatureFolder.all_in(root)
    shard = folder.path / "shard-000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[content.index(features(written)["v2"])] ^= 1
    shard.write_bytes(content)
    runner.killed(root, REPAIR, point)
    made = runner.through(root, REPAIR + WRITE)
    assert made == ["made v2"]
    assert features(root) == features(written)
    assert FeatureFolder.open(folder.path).verify() == []
