"""The demo goes on after Ctrl-C and kill -9 at any stage, and ends with the same network as without a break."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory

VIDEOS = "10"
COMMAND = [sys.executable, "-m", "mesm.pipeline", "demo", "--videos", VIDEOS, "--out"]


def start(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def stop_at(out: Path, words: str, how: signal.Signals) -> tuple[int, str]:
    """Run the demo until it says something, then send it a signal; returns its exit code and what it said."""
    process = start(out)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if words in line:
            os.kill(process.pid, how)
            break
    said += process.stdout.readlines()
    return process.wait(timeout=60), "".join(said)


@pytest.mark.slow
def test_stopped_in_every_stage_it_ends_as_without_a_break(tmp_path: Path) -> None:
    straight = subprocess.run([*COMMAND, str(tmp_path / "a")], capture_output=True, text=True, check=False)
    assert straight.returncode == 0, straight.stderr
    assert "held-out videos" in straight.stdout
    assert "fixed window" in straight.stdout
    out = tmp_path / "b"
    for words, how in (
        ("--- generate", signal.SIGKILL),
        ("--- generate", signal.SIGINT),
        ("--- extract", signal.SIGKILL),
        ("features:", signal.SIGINT),
        ("epoch 3/", signal.SIGKILL),
        ("epoch 9/", signal.SIGINT),
        ("epoch 20/", signal.SIGKILL),
        ("--- evaluate", signal.SIGKILL),
    ):
        code, said = stop_at(out, words, how)
        assert code == (130 if how is signal.SIGINT else -9), said
        assert ("interrupted; run the same command again" in said) == (how is signal.SIGINT), said
    resumed = subprocess.run([*COMMAND, str(out)], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert table(resumed.stdout) == table(straight.stdout)
    one, other = (RunDirectory(folder / "run").load(BEST) for folder in (tmp_path / "a", out))
    assert one is not None
    assert other is not None
    assert one.meta == other.meta
    assert all(one.tensors[name].equal(other.tensors[name]) for name in one.tensors)
    page = (out / "demo.html").read_text()
    assert "saliency" in page
    assert page.count("data:image/") > 5
    assert set(json.loads((out / "seconds.json").read_text())) == {"generate", "extract", "train", "evaluate", "ground"}


def table(output: str) -> str:
    return output[: output.index("generate ")]
