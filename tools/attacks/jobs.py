"""What is attacked: extraction, training and indexing as the command line does them, and what each leaves behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mesm.datasets.errors import DatasetError
from mesm.datasets.shards.folder import FeatureFolder
from mesm.extractors.errors import ExtractorError
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.data.stored import verify_features
from mesm.pipeline.data.stored_runs import verify_run
from mesm.pipeline.evaluate.calibration import read_calibration
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.index.search import present_file
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.run.checkpoint import BEST, LAST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.package import CALIBRATION
from mesm.tools.attacks.films import FILMS, Material, make_annotations, make_films

SHORT_TEXT = 1000
FAULTS = (PipelineError, DatasetError, ExtractorError)
"""What a damaged file is refused with."""


def _extracting(material: Material, out: Path) -> list[str]:
    return [
        *("extract", "--config", "demo", "--videos", str(material.videos), "--device", "cpu"),
        *("--annotations", str(material.annotations), "--features", str(out), "--set", "extract.flush_rows=8"),
    ]


def _training(material: Material, out: Path) -> list[str]:
    return [
        *("train", "--config", "demo", "--annotations", str(material.annotations), "--device", "cpu"),
        *("--features", str(material.features), "--out", str(out), "--set", "train.epochs=3"),
        *("--set", "train.checkpoint_every_s=0", "--set", "train.validate_every=1", "--set", "train.batch_groups=3"),
    ]


def _indexing(material: Material, out: Path) -> list[str]:
    return ["index", str(material.videos), "--index", str(out), "--checkpoint", str(material.run), "--device", "cpu"]


def _features(out: Path) -> dict[str, Any]:
    """Everything that a reader of features gets, by folder and key."""
    found: dict[str, Any] = {}
    for folder in FeatureFolder.all_in(out):
        for key in folder:
            arrays = {name: (str(a.dtype), a.shape, _digest(a.tobytes())) for name, a in folder.read(key).items()}
            found[f"{folder.path.name} {key}"] = (arrays, repr(folder.record(key)))
        found[folder.path.name] = (folder.name, folder.spec)
    return found


def _run(out: Path) -> dict[str, Any]:
    """Weights, state and figures of a run."""
    run = RunDirectory(out)
    found: dict[str, Any] = {}
    for which in (BEST, LAST):
        checkpoint = run.load(which)
        if checkpoint is not None:
            tensors = {name: _digest(tensor.numpy().tobytes()) for name, tensor in checkpoint.tensors.items()}
            found[which] = (tensors, checkpoint.meta)
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in run.metrics()]
    found |= {f"metrics of epoch {row['epoch']}": row for row in rows}
    # Nothing is read from config.yaml and report.html, which are for people.
    calibration = out / CALIBRATION
    found["calibration"] = read_calibration(load_trained(out, torch.device("cpu"))) if calibration.exists() else None
    found["report"] = run.report_path.exists()
    return found


def _index(out: Path) -> dict[str, Any]:
    """Films, files, vectors and pictures, as a search reads them."""
    index = IndexStore.open(out)
    films = index.catalogue.films()
    vectors = {film: [_digest(folder.read(film)["features"].tobytes()) for folder in index.folders] for film in films}
    mapped = [index.matrix.rows(first, end) for first, end in pairwise(index.matrix.starts.tolist())]
    rows = dict(zip(index.matrix.films, (_digest(one.tobytes()) for one in mapped), strict=True))
    files = [f for f in index.catalogue.files().values() if f.film_id in films]
    found = {
        "facts": vars(index.facts),
        "films": {film: (vars(films[film]), vectors[film], rows[film]) for film in films},
        "files": [(str(file.path), file.film_id, file.size, present_file([file])[1]) for file in files],
        "pictures": {
            film: [(second, _digest(picture)) for second, picture in _pictures(index, film)] for film in films
        },
        "cues": {film: [vars(cue) for cue in index.catalogue.cues(film)] for film in films},
        "failures": [vars(one) for one in index.catalogue.failures()],
    }
    index.close()
    return found


def _pictures(index: IndexStore, film: str) -> list[tuple[float, bytes]]:
    rows = index.catalogue.rows("SELECT second, picture FROM thumbnails WHERE film = ? ORDER BY second", (film,))
    return [(float(second), bytes(picture)) for second, picture in rows]


@dataclass(frozen=True)
class Job:
    """A command that writes, and how to see what it wrote."""

    run: Callable[[Material, Path], int]
    """From material and the place to write to, to the exit code."""
    answer: Callable[[Path], dict[str, Any]]
    """What readers get from that place; raises one of FAULTS for what is damaged."""
    problems: Callable[[Path], list[str]]
    """What `verify` finds there; raises one of FAULTS as well."""
    identical: tuple[str, ...]
    """Files that are the same bit for bit, however often the run was stopped: patterns."""


JOBS = {
    "extract": Job(
        lambda material, out: cli.run(_extracting(material, out)),
        _features,
        lambda out: [str(one) for folder in verify_features(out) for one in folder.problems],
        ("*/shard-*.safetensors", "*/fingerprint.json"),
    ),
    "train": Job(
        lambda material, out: cli.run(_training(material, out)),
        _run,
        lambda out: [f"{one.path}: {one.problem}" for one in verify_run(out) if one.problem],
        ("checkpoint-*.safetensors", "config.yaml"),
    ),
    "index": Job(
        lambda material, out: cli.run(_indexing(material, out)),
        _index,
        lambda out: [str(one) for folder in verify_features(out / "features") for one in folder.problems],
        (),
    ),
}


def prepare(place: str) -> int:
    """Make the material: films, their features, and a short training."""
    torch.set_num_threads(1)
    material = Material(Path(place))
    make_films(material.videos, FILMS)
    make_annotations(material.annotations, FILMS)
    for arguments in (_extracting(material, material.features), _training(material, material.run)):
        code = cli.run(arguments)
        if code:
            return code
    return 0


def work(job: str, material: str, out: str) -> int:
    """Do a job as its command does; returns the exit code."""
    torch.set_num_threads(1)
    return JOBS[job].run(Material(Path(material)), Path(out))


def judge(job: str, out: str, result: str) -> None:
    """Read what a job left, and write what is found as JSON: `answer` by name, or `refused`; `problems`; `left`."""
    found: dict[str, Any] = {"answer": {}, "refused": "", "problems": []}
    place = Path(out)
    try:
        found["problems"] = JOBS[job].problems(place)
        answer = JOBS[job].answer(place)
        found["answer"] = {name: _short(json.dumps(part, default=str, sort_keys=True)) for name, part in answer.items()}
    except FAULTS as error:
        found["refused"] = str(error)
    found["identical"] = {
        str(path.relative_to(place)): _digest(path.read_bytes())
        for pattern in JOBS[job].identical
        for path in sorted(place.glob(pattern))
    }
    found["left"] = [str(path) for path in place.rglob("*") if path.name.startswith(".tmp-")]
    Path(result).write_text(json.dumps(found))


def _short(text: str) -> str:
    """Return what can be compared in place of a text: itself, or the hash of a long one."""
    return text if len(text) < SHORT_TEXT else _digest(text.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
