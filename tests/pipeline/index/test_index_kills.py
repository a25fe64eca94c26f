"""Indexing that is killed at any moment, or run twice at once, ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from colours import BLUE, GREEN, GREY, RED, write_film

from mesm.pipeline.index.store import IndexStore

HERE = Path(__file__).parents[1]
KILLS = 20
INDEXING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from colours import ColourFrames
from mesm.pipeline.index.build import add_files
from mesm.pipeline.index.store import IndexStore
if __name__ == "__main__":
    index = IndexStore.create_or_open(Path(sys.argv[3]), "colours", [ColourFrames()])
    print(add_files(index, [Path(sys.argv[2])], [ColourFrames()]).encoded, flush=True)
"""


def start(films: Path, index: Path, script: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(script), str(HERE), str(films), str(index)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def content(path: Path) -> tuple[list[tuple[str, str]], dict[str, bytes], list[str]]:
    """Files with their films, vectors by film, and names that nothing refers to."""
    index = IndexStore.open(path)
    searched = index.catalogue.films()
    files = [(file.path.name, file.film_id) for file in index.catalogue.files().values() if file.film_id in searched]
    vectors = {film: np.asarray(index.folder.read(film)["features"]).tobytes() for film in searched}
    assert set(index.matrix.films) == set(searched)
    left = [file.name for file in path.rglob("*") if file.name.startswith(".tmp") or file.name.endswith(".damaged")]
    index.close()
    return sorted(files), vectors, left


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(12):
        write_film(folder / f"{number}.mp4", (3 + number, (RED, GREEN, BLUE)[number % 3]), (20, GREY))
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("script") / "indexing.py"
    file.write_text(INDEXING)
    return file


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_moments(films: Path, script: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    undisturbed = start(films, tmp_path / "undisturbed", script)
    assert undisturbed.communicate()[0].strip() == b"12"
    whole = time.monotonic() - began
    expected = content(tmp_path / "undisturbed")
    draw, killed, ended = random.Random(0), 0, 0
    while killed < KILLS:
        process = start(films, tmp_path / f"index {ended}", script)
        try:
            process.wait(draw.uniform(0.3, 0.95) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
            process.communicate()
            continue
        assert process.communicate()[1].count(b"Traceback") == 0
        assert content(tmp_path / f"index {ended}") == expected
        ended += 1
    last = start(films, tmp_path / f"index {ended}", script)
    error = last.communicate()[1]
    assert last.returncode == 0, error
    assert content(tmp_path / f"index {ended}") == expected
    assert expected[2] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_at_once(films: Path, script: Path, tmp_path: Path) -> None:
    both = [start(films, tmp_path / "index", script) for _ in range(2)]
    encoded = [int(process.communicate()[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(encoded) == 12
    files, vectors, left = content(tmp_path / "index")
    assert (len(files), len(vectors), left) == (12, 12, [])
