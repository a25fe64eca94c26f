"""Every option that takes a path, given random bytes and the beginnings of real files: a message, never a traceback.

`cli.run` lets through what is no mistake of a user, so an error that nobody thought of fails these tests by itself.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from colours import ColourFrames, colour_model
from PIL import Image
from tiny_training import make_corpus, tiny_config, train_tiny, write_word_table

from mesm.pipeline import cli
from mesm.pipeline.ground.answer_lines import answer_line
from mesm.pipeline.ground.answers import FoundMoment
from mesm.pipeline.ground.zero_shot import ZeroShot
from mesm.pipeline.index.catalogue import CATALOGUE_FILE
from mesm.pipeline.index.store import INDEX_FILE, IndexStore

SEEDS = range(3)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real file of each kind that is handed over."""
    place = tmp_path_factory.mktemp("real")
    corpus = make_corpus(place, videos=4, test_videos=1)
    run = train_tiny(corpus, place / "run", "train.epochs=1")
    write_word_table(place)
    arguments = ["evaluate", str(run.path), "--annotations", str(corpus / "annotations")]
    assert cli.run([*arguments, "--features", str(corpus / "features"), "--device", "cpu"]) == 0
    files = place / "files"
    files.mkdir()
    shutil.copy(corpus / "annotations" / "train.jsonl", files / "annotations.jsonl")
    shutil.copy(run.path / "predictions-test.jsonl", files / "predictions.jsonl")
    shutil.copy(tiny_config_file(corpus), files / "config.yaml")
    shutil.copy(run.checkpoint_path("best"), files / "checkpoint.safetensors")
    with h5py.File(files / "features.h5", "w") as file:
        file["v00"] = np.ones((8, 4), np.float32)
    np.savez_compressed(files / "features.npz", features=np.ones((8, 4), np.float32))
    np.save(files / "features.npy", np.ones((8, 4), np.float32))
    np.savez(files / "vectors.npz", words=np.array(["", "a"]), vectors=np.eye(2, 3, -1, dtype=np.float32))
    torch.save({"model": {"a": torch.ones(3)}, "epoch": 1}, files / "released.ckpt")
    (files / "opt.json").write_text(json.dumps({"v_feat_dim": 512}))
    moment = FoundMoment(place / "film.mp4", 1.0, 2.0, 0.5, "somebody", "contrast", "x")
    (files / "answers.jsonl").write_text(answer_line(moment) + "\n")
    (files / "queries.txt").write_text("somebody\nsomething\n")
    Image.new("RGB", (32, 24), (200, 60, 60)).save(files / "picture.png")
    store = IndexStore.create_or_open(place / "index", "colours", [ColourFrames()])
    store.close()
    shutil.copy(place / "index" / INDEX_FILE, files / INDEX_FILE)
    shutil.copy(place / "index" / CATALOGUE_FILE, files / CATALOGUE_FILE)
    (run.path / "calibration.json").write_text(json.dumps(CALIBRATION))
    assert cli.run(["export", str(run.path), "--out", str(place / "package")]) == 0
    for name in ("calibration.json", "evaluation.json", "metrics.jsonl"):
        shutil.copy(run.path / name, files / name)
    shutil.copy(run.checkpoint_path("last"), files / "checkpoint-last.safetensors")
    shutil.copy(place / "package" / "manifest.json", files / "manifest.json")
    (features,) = (corpus / "features").glob("first-*")
    shutil.copy(features / "fingerprint.json", files / "fingerprint.json")
    return place


CALIBRATION = {"temperature": 1.5, "offset": 0.1, "queries": 20, "split": "val", "epoch": 0}


def beside(folder: Path, file: Path, place: str = ".") -> str:
    """Copy a folder around a damaged file of it, which stands at a place below it; returns where."""
    copy = file.parent / "copy"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    if file.exists():
        shutil.copy(file, copy / place / file.name)
    return str(copy)


def evaluation(real: Path, run: str, features: str = "") -> list[str]:
    return [
        *("evaluate", run, "--annotations", str(real / "annotations"), "--device", "cpu"),
        *("--features", features or str(real / "features")),
    ]


def first_folder(real: Path) -> str:
    """The name of the folder of features that the damaged files of `files` are of."""
    (found,) = (real / "features").glob("first-*")
    return found.name


def going_on(real: Path, run: str) -> list[str]:
    """Train again into a run that is complete."""
    return [
        *("train", "--config", str(real / "tiny.yaml"), "--annotations", str(real / "annotations")),
        *("--features", str(real / "features"), "--out", run, "--device", "cpu", "--set", "train.epochs=1"),
    ]


def tiny_config_file(corpus: Path) -> Path:
    tiny_config(corpus)
    return corpus / "tiny.yaml"


def with_facts(real: Path, index: Path) -> Path:
    """Put beside a catalogue what else an index has."""
    shutil.copy(real / "files" / INDEX_FILE, index / INDEX_FILE)
    shutil.copytree(real / "index" / "features", index / "features", dirs_exist_ok=True)
    return index


def damages(content: bytes, seeds: Iterable[int] = SEEDS) -> Iterator[bytes]:
    """Yield what may stand in the place of a file: nothing, noise, its beginning, itself with noise, another text."""
    yield b""
    yield b"\0" * 64
    yield b"[" * 1_000
    yield b"{" * 1_000
    # The reader of YAML, which is written in Python, takes seconds for as many.
    yield (b"[" if content.startswith((b"{", b"[")) else b"x") * 100_000
    yield content.decode("latin-1").encode("utf-16")
    yield b"<!DOCTYPE html>\n<title>Sign in</title>"
    for seed in seeds:
        generator = random.Random(seed)
        yield generator.randbytes(700)
        yield content[: generator.randrange(len(content))]
        noisy = bytearray(content)
        for _ in range(8):
            noisy[generator.randrange(len(noisy))] = generator.randrange(256)
        yield bytes(noisy)


def listing(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


Command = Callable[[Path, Path, Path], list[str]]
"""From (real things, damaged file, folder to write to) to arguments."""

DOORS: dict[str, tuple[str, Command]] = {
    "train --config": (
        "config.yaml",
        lambda real, file, out: ["train", "--config", str(file), "--annotations", "x", "--out", str(out / "run")],
    ),
    "train --recipe": (
        "config.yaml",
        lambda real, file, out: [
            *("train", "--config", "demo", "--recipe", str(file)),
            *("--annotations", str(real / "nothing"), "--out", str(out / "run")),
        ],
    ),
    "train --annotations": (
        "annotations.jsonl",
        lambda real, file, out: [
            *("train", "--config", str(real / "tiny.yaml"), "--annotations", str(file), "--set", "train.epochs=1"),
            *("--features", str(real / "features"), "--out", str(out / "run"), "--device", "cpu"),
        ],
    ),
    "extract --annotations": (
        "annotations.jsonl",
        lambda real, file, out: [
            *("extract", "--config", str(real / "tiny.yaml"), "--annotations", str(file)),
            *("--features", str(out / "features"), "--device", "cpu"),
        ],
    ),
    "evaluate --predictions": (
        "predictions.jsonl",
        lambda real, file, out: [
            *("evaluate", "--predictions", str(file), "--split", "test"),
            *("--annotations", str(real / "annotations" / "test.jsonl")),
        ],
    ),
    "evaluate --annotations": (
        "annotations.jsonl",
        lambda real, file, out: [
            *("evaluate", "--predictions", str(real / "files" / "predictions.jsonl")),
            *("--annotations", str(file), "--split", "test"),
        ],
    ),
    "evaluate RUN": (
        "checkpoint.safetensors",
        lambda real, file, out: [
            *("evaluate", str(file), "--annotations", str(real / "annotations")),
            *("--features", str(real / "features"), "--device", "cpu"),
        ],
    ),
    "ground --checkpoint": (
        "checkpoint.safetensors",
        lambda real, file, out: ["ground", str(real / "film.mp4"), "somebody", "--checkpoint", str(file)],
    ),
    "extract --weights": (
        "released.ckpt",
        lambda real, file, out: [
            *("extract", "--videos", str(real / "films"), "--config", "charades-mini", "--device", "cpu"),
            *("--features", str(out / "features"), "--weights", f"openai-clip-vit-b-32={file}", "--trust-pickle"),
        ],
    ),
    "import-checkpoint": (
        "released.ckpt",
        lambda real, file, out: ["import-checkpoint", str(file), "--out", str(out / "run"), "--trust-pickle"],
    ),
    "import-checkpoint --opt": (
        "opt.json",
        lambda real, file, out: [
            *("import-checkpoint", str(real / "files" / "released.ckpt"), "--out", str(out / "run")),
            *("--opt", str(file)),
        ],
    ),
    "import-features hdf5": (
        "features.h5",
        lambda real, file, out: [
            *("import-features", str(file), "--name", "x", "--clip-len", "1", "--layout", "hdf5"),
            *("--features", str(out / "features")),
        ],
    ),
    "import-features npz": (
        "features.npz",
        lambda real, file, out: [
            *("import-features", str(file.parent), "--name", "x", "--clip-len", "1", "--layout", "npz"),
            *("--features", str(out / "features")),
        ],
    ),
    "import-features npy": (
        "features.npy",
        lambda real, file, out: [
            *("import-features", str(file.parent), "--name", "x", "--clip-len", "1", "--layout", "npy"),
            *("--features", str(out / "features")),
        ],
    ),
    "cut": ("answers.jsonl", lambda real, file, out: ["cut", str(file), str(out / "clips")]),
    "show": ("answers.jsonl", lambda real, file, out: ["show", str(file), "--srt", str(out / "found.srt")]),
    "ground --queries": (
        "queries.txt",
        lambda real, file, out: ["ground", str(real / "film.mp4"), "--queries", str(file), "--zero-shot"],
    ),
    "ground --image": (
        "picture.png",
        lambda real, file, out: ["ground", str(real / "film.mp4"), "--image", str(file), "--zero-shot"],
    ),
    "search --index, facts": ("index.json", lambda real, file, out: ["search", "x", "--index", str(file.parent)]),
    "search --index, catalogue": (
        "catalogue.sqlite",
        lambda real, file, out: ["search", "x", "--index", str(with_facts(real, file.parent))],
    ),
    "import-features glove": (
        "vectors.npz",
        lambda real, file, out: [
            *("import-features", str(file), "--name", "glove", "--features", str(out / "features")),
        ],
    ),
    "export RUN, calibration": (
        "calibration.json",
        lambda real, file, out: ["export", beside(real / "run", file), "--out", str(out / "package")],
    ),
    "export RUN, evaluation": (
        "evaluation.json",
        lambda real, file, out: ["export", beside(real / "run", file), "--out", str(out / "package")],
    ),
    "evaluate RUN, calibration": (
        "calibration.json",
        lambda real, file, out: evaluation(real, beside(real / "run", file)),
    ),
    "evaluate RUN, config.yaml": ("config.yaml", lambda real, file, out: evaluation(real, beside(real / "run", file))),
    "evaluate RUN, metrics": ("metrics.jsonl", lambda real, file, out: evaluation(real, beside(real / "run", file))),
    "evaluate PACKAGE, manifest": (
        "manifest.json",
        lambda real, file, out: evaluation(real, beside(real / "package", file)),
    ),
    "evaluate, fingerprint of features": (
        "fingerprint.json",
        lambda real, file, out: evaluation(
            real, str(real / "run"), beside(real / "features", file, first_folder(real))
        ),
    ),
    "train on, last checkpoint": (
        "checkpoint-last.safetensors",
        lambda real, file, out: going_on(real, beside(real / "run", file)),
    ),
    "verify RUN": ("metrics.jsonl", lambda real, file, out: ["verify", beside(real / "run", file)]),
    "verify FEATURES": (
        "fingerprint.json",
        lambda real, file, out: ["verify", beside(real / "features", file, first_folder(real))],
    ),
}
DOORS_INSIDE = list(DOORS)[list(DOORS).index("export RUN, calibration") :]
"""Files inside a folder that is handed over."""
MAY_PASS = {0, 1, 2}
"""A file with noise in it may still be one."""


@pytest.mark.parametrize("door", DOORS)
def test_damaged_files_end_in_a_message(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    name, command = DOORS[door]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    (real / "films").mkdir(exist_ok=True)
    (real / "films" / "film.mp4").write_bytes(b"no film")
    whole = (real / "files" / name).read_bytes()
    for number, content in enumerate(damages(whole, SEEDS[:1] if door in DOORS_INSIDE else SEEDS)):
        place, out = tmp_path / f"in-{number}", tmp_path / f"out-{number}"
        place.mkdir()
        out.mkdir()
        file = place / name
        file.write_bytes(content)
        before = listing(place)
        code = cli.run(command(real, file, out))
        shown = capsys.readouterr()
        assert code in MAY_PASS, (number, shown.err)
        assert code == 0 or (shown.err or ("verify" in door and shown.out)), number
        assert "Traceback" not in shown.err
        assert len(shown.err) < 20_000, number
        written = listing(out) | (listing(place) - before)
        assert not [path for path in written if path.endswith(".part") or ".tmp-" in path], number


NO_FILES = {"import-features npz", "import-features npy", *DOORS_INSIDE}
"""Where a folder is handed over."""
WRONG_KINDS = ["folder", "fifo", "dangling", "long"]


@pytest.mark.parametrize("kind", WRONG_KINDS)
@pytest.mark.parametrize("door", [door for door in DOORS if door not in NO_FILES])
def test_what_is_no_file_ends_in_a_message(
    real: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    door: str,
    kind: str,
) -> None:
    name, command = DOORS[door]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ZeroShot, "from_model", classmethod(lambda *_, **__: colour_model()))
    (real / "films").mkdir(exist_ok=True)
    (real / "films" / "film.mp4").write_bytes(b"no film")
    file = tmp_path / name
    match kind:
        case "folder":
            file.mkdir()
        case "fifo" if door in ("evaluate RUN", "ground --checkpoint", "import-checkpoint"):
            os.mkfifo(file)
        case "dangling":
            file.symlink_to("nowhere")
        case "long":
            file = tmp_path / f"{'x' * 300}{file.suffix}"
    (tmp_path / "out").mkdir()
    assert cli.run(command(real, file, tmp_path / "out")) == 2
    assert capsys.readouterr().err.strip()


def test_damaged_films_are_listed_and_stop_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = tmp_path / "films"
    films.mkdir()
    contents = list(damages(random.Random(9).randbytes(5000)))
    for number, content in enumerate(contents):
        (films / f"{number}.mp4").write_bytes(content)
    arguments = ["extract", "--videos", str(films), "-c", "demo", "--features", str(tmp_path / "F"), "--json"]
    assert cli.run([*arguments, "--device", "cpu"]) == 1
    assert len(json.loads(capsys.readouterr().out)["failed"]) == len(contents)


def test_archives_of_odd_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "npz"
    folder.mkdir()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(folder / f"{method}.npz", "w", method) as archive:
            archive.writestr("features.npy", np.lib.format.magic(1, 0) + b"\xff\xff{'descr'" * 30)
        content = bytearray((folder / f"{method}.npz").read_bytes())
        content[45:60] = bytes(15)
        (folder / f"{method}-noise.npz").write_bytes(content)
    arguments = ["import-features", str(folder), "--name", "x", "--clip-len", "1", "--features", str(tmp_path / "F")]
    assert cli.run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
