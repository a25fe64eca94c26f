"""Asking an archive: a search over many rows, the planning of many files, the entering of a film."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import lfilter

from mesm.datasets.shards.folder import FeatureFolder
from mesm.model.curves.video import default_reading
from mesm.pipeline.index.catalogue import CATALOGUE_FILE, Catalogue, Film, IndexedFile
from mesm.pipeline.index.matrix import row_norms
from mesm.pipeline.index.moments import find_moments
from mesm.pipeline.index.planning import make_plan
from mesm.pipeline.index.store import IndexFacts, IndexStore

DIM = 512
FILM_ROWS = 3600
SPEC = {"encoder": "synthetic", "weights": "none"}
PERSISTENCE = 0.9
"""How much of a row the next one keeps: neighbours look alike, as in films."""


def bench_ask(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what asking costs beside encoding the question: seconds and MB."""
    with tempfile.TemporaryDirectory(prefix="mesm-bench-") as folder:
        path = Path(folder) / "index"
        index = synthetic_index(path, options.rows)
        row = _bench_search(index, options.repeats)
        index.close()
        del index
        row.update(_bench_cold(path))
        index = _reopened(path)
        row["commit_ms"] = _bench_commits(index, 50)
        index.close()
        return {"bench": "ask", "rows": options.rows, **row, **_bench_planning(Path(folder), options.files)}


def synthetic_index(path: Path, rows: int, seed: int = 0) -> IndexStore:
    """Write an index of films of an hour, in which neighbouring rows look alike."""
    draw = np.random.default_rng(seed)
    folder = FeatureFolder.create_or_open(path / "features", "synthetic", SPEC)
    catalogue = Catalogue.create_or_open(path / CATALOGUE_FILE)
    with folder.writer() as writer:
        for number, start in enumerate(range(0, rows, FILM_ROWS)):
            film, count = f"{number:032x}", min(FILM_ROWS, rows - start)
            steps = draw.standard_normal((count, DIM), np.float32)
            features = (lfilter([1], [1, -PERSISTENCE], steps, axis=0) + 4 * draw.standard_normal(DIM)).astype(
                np.float16
            )
            writer.add(film, {"features": features}, clip_len_s=1.0, duration_s=float(count))
            _enter(catalogue, film, features)
            if number % 8 == 7:
                writer.publish()
    folder.compact()
    catalogue.close()
    return _reopened(path)


def _reopened(path: Path) -> IndexStore:
    folder = FeatureFolder.open(next((path / "features").iterdir()))
    facts = IndexFacts("synthetic", (folder.path.name,), 1.0, "none")
    return IndexStore(path, facts, Catalogue.open(path / CATALOGUE_FILE), [folder])


def _enter(catalogue: Catalogue, film: str, features: np.ndarray) -> None:
    catalogue.add_film(Film(film, 1, float(len(features)), 1280, 720), [(5.0, b"picture")])
    catalogue.add_norms([(film, row_norms(features))])
    catalogue.add_file(IndexedFile(Path(f"/films/{film}.mp4"), 1, 1, film), [])


def _bench_search(index: IndexStore, repeats: int) -> dict[str, Any]:
    started = time.perf_counter()
    ask = _asker(index)
    opened, anonymous = time.perf_counter() - started, _anonymous_mb()
    ask()
    used = time.process_time()
    warm = [_seconds(ask) for _ in range(3 * repeats)]
    used = time.process_time() - used
    return {
        "open_s": round(opened, 3),
        "search_ms": round(1000 * statistics.median(warm), 1),
        "search_p95_ms": round(1000 * float(np.percentile(warm, 95)), 1),
        "search_cpu_ms": round(1000 * used / len(warm), 1),
        "own_memory_mb": round(_anonymous_mb() - anonymous, 1),
    }


def _bench_cold(path: Path) -> dict[str, Any]:
    """Open an index and ask once, after the kernel was asked to forget the shards; beside reading them once."""
    cold, read = [], []
    for _ in range(3):
        _evict(path)
        read.append(_seconds(lambda: _read_all(path)))
        _evict(path)
        started = time.perf_counter()
        index = _reopened(path)
        _asker(index)()
        cold.append(time.perf_counter() - started)
        index.close()
        del index
    return {"cold_s": round(statistics.median(cold), 2), "read_once_s": round(statistics.median(read), 2)}


def _asker(index: IndexStore) -> Callable[[], object]:
    draw, reading, matrix = np.random.default_rng(1), default_reading(), index.matrix
    searched = np.ones(len(matrix.films), bool)

    def ask() -> None:
        wanted = draw.standard_normal(DIM)
        wanted /= np.linalg.norm(wanted)
        find_moments(matrix, wanted, matrix.scores(wanted), searched, reading, 1.0, 10)

    return ask


def _bench_commits(index: IndexStore, films: int) -> float:
    features = np.ones((FILM_ROWS, DIM), np.float16)
    times = [_seconds(lambda n=number: _enter(index.catalogue, f"{n:x}", features)) for number in range(films)]  # type: ignore[misc]
    return round(1000 * statistics.median(times), 2)


def _bench_planning(folder: Path, files: int) -> dict[str, Any]:
    place = folder / "films"
    place.mkdir()
    for number in range(files):
        (place / f"{number}.mp4").touch()
    before = _anonymous_mb()
    started = time.process_time()
    first = make_plan([place], {})
    known = {file.path: IndexedFile(file.path, file.size, file.modified_ns, "x") for file in first.work}
    again = make_plan([place], known)
    seconds, memory = time.process_time() - started, _anonymous_mb() - before
    assert (len(first.work), len(again.unchanged)) == (files, files)
    return {"files": files, "two_plans_cpu_s": round(seconds, 2), "plan_memory_mb": round(memory, 1)}


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _shards(path: Path) -> list[Path]:
    return sorted((path / "features").glob("*/*.safetensors"))


def _read_all(path: Path) -> None:
    for shard in _shards(path):
        with open(shard, "rb", buffering=0) as file:
            while file.read(16 * 2**20):
                pass


def _evict(path: Path) -> None:
    """Ask the kernel to forget the shards' pages."""
    for shard in _shards(path):
        with open(shard, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _anonymous_mb() -> float:
    """Return the memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
