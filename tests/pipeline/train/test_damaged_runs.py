"""Runs that were damaged, edited or half written: found when they are read, and said in one message."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_training import make_corpus, tiny_config, train_tiny

from mesm.datasets.errors import DatasetError, FeatureError
from mesm.datasets.shards.publishing import held_alone
from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.evaluate.trained import load_trained
from mesm.pipeline.run.checkpoint import BEST, HASHED, LAST, METADATA_KEY, load_checkpoint
from mesm.pipeline.run.directory import RunDirectory

CPU = torch.device("cpu")
SHORT = ("train.epochs=2",)
FLIPS = 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def trained(corpus: Path) -> Path:
    return train_tiny(corpus, corpus / "trained", *SHORT).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunDirectory:
    shutil.copytree(trained, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Write a checkpoint as another program would that knows of no hash."""
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()[METADATA_KEY])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    meta.pop("sha256", None)
    change(meta, tensors)
    save_file(tensors, path, {METADATA_KEY: json.dumps(meta)})


@pytest.mark.parametrize("which", [BEST, LAST])
def test_every_flipped_bit_of_a_checkpoint_is_found(run: RunDirectory, which: str) -> None:
    path = run.checkpoint_path(which)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = random.Random(7)
    for number in range(FLIPS):
        content = bytearray(whole)
        content[places.randrange(header) if number % 2 else places.randrange(header, len(whole))] ^= 1 << number % 8
        path.write_bytes(content)
        with pytest.raises(PipelineError, match=r"damaged|has format"):
            load_checkpoint(path)


def test_a_damaged_name_of_the_hash_makes_no_earlier_version_of_a_checkpoint(run: RunDirectory) -> None:
    path = run.checkpoint_path(BEST)
    whole = path.read_bytes()
    place = whole.index(b"sha256")
    for number in range(6):
        content = bytearray(whole)
        content[place + number] ^= 1
        path.write_bytes(content)
        with pytest.raises(PipelineError, match="damaged"):
            load_checkpoint(path)


def test_damage_is_found_by_verify_as_well(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert f"{run.checkpoint_path(BEST)}: ok\n" in shown
    assert f"{run.metrics_path}: ok\n" in shown
    path = run.checkpoint_path(LAST)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    run.metrics_path.write_text('{"epoch": 0}\n{"epo')
    (run.path / "config.yaml").write_bytes(b"a: \xff")
    assert cli.run(["verify", str(run.path)]) == 1
    lines = {line.partition(":")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "do not have the hash" in lines[str(path)]
    assert "cannot be read" in lines[str(run.metrics_path)]
    assert "Latin-1" in lines[str(run.path / "config.yaml")]
    assert lines[str(run.checkpoint_path(BEST))].endswith(": ok")


def test_a_checkpoint_of_an_earlier_version_is_read_with_a_note(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run.checkpoint_path(BEST), lambda meta, tensors: None)
    with safe_open(run.checkpoint_path(BEST), "pt") as file:
        assert HASHED.match(file.metadata()[METADATA_KEY]) is None
    load_trained(run.path, CPU)
    assert "is of an earlier version and has no hash" in capsys.readouterr().err
    assert cli.run(["verify", str(run.path)]) == 0
    assert "ok (of an earlier version, without a hash)" in capsys.readouterr().out


def fill(value: float) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    def change(meta: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            if tensor.is_floating_point():
                tensor.fill_(value)

    return change


EDITS: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "no sizes": (lambda m, t: m.pop("sizes"), "sizes: None"),
    "sizes are texts": (lambda m, t: m["sizes"].update(text_dim="12"), "expected its sizes to be"),
    "a size too many": (lambda m, t: m["sizes"].update(more=1), "expected its sizes to be"),
    "sizes beyond all memory": (lambda m, t: m["sizes"].update(video_dim=10**12), "expected its sizes to be"),
    "fingerprints are a number": (lambda m, t: m.update(fingerprints=7), "fingerprints: 7"),
    "a fingerprint is a list": (lambda m, t: m["fingerprints"].update(first=[]), "fingerprints: "),
    "no vocabulary": (lambda m, t: m.pop("vocabulary"), "vocabulary: None"),
    "a vocabulary of another size": (lambda m, t: m["vocabulary"].update(size=5000), "its vocabulary has"),
    "a vocabulary of lists": (lambda m, t: m["vocabulary"].update(tokens=[[1]]), "vocabulary's tokens"),
    "texts are a list": (lambda m, t: m.update(text=[]), "text: "),
    "a vector of texts": (lambda m, t: m["text"].update(unknown_vector=["x"]), "vector of unknown words"),
    "a tensor is missing": (lambda m, t: t.pop(sorted(t)[0]), "nearest to those|other options"),
    "a tensor too many": (lambda m, t: t.update({"model.more": torch.ones(1)}), "nearest to those|other options"),
    "a tensor of another shape": (
        lambda m, t: t.update({sorted(t)[0]: torch.ones(3, 5)}),
        r"weights are not as its configuration says: .* \[3, 5\], expected",
    ),
    "another width": (lambda m, t: m["config"]["model"].update(dim=32), "weights are not as its configuration says"),
    "a width that no memory holds": (lambda m, t: m["config"]["model"].update(dim=2**20), "at most 65536"),
    "a billion queries": (lambda m, t: m["config"]["model"].update(queries=10**9), "at most 65536"),
    "a billion layers": (lambda m, t: m["config"]["model"].update(encoder_layers=10**9), "at most 64"),
    "an unknown network": (lambda m, t: m["config"]["model"].update(network="x"), "there is no network 'x'"),
    "weights are NaN": (fill(float("nan")), "of its weights are not finite"),
    "weights are infinite": (fill(float("inf")), "of its weights are not finite"),
    "another format": (lambda m, t: m.update(format=[9]), r"has format \[9\]"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_checkpoints_of_foreign_make_are_refused_in_words(run: RunDirectory, edit: str) -> None:
    change, words = EDITS[edit]
    rewrite(run.checkpoint_path(BEST), change)
    with pytest.raises((PipelineError, DatasetError), match=words):
        load_trained(run.path, CPU)


@pytest.mark.parametrize("kind", ["fifo", "folder", "nothing"])
def test_what_is_no_file_is_no_checkpoint(run: RunDirectory, kind: str) -> None:
    path = run.checkpoint_path(BEST)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(PipelineError, match="is no file" if kind != "nothing" else "train first"):
        load_trained(run.path, CPU)


@pytest.mark.parametrize(
    "change",
    [
        lambda m, t: t.pop("optimiser.step." + next(n for n in t if n.startswith("model."))[6:]),
        lambda m, t: t.update({"optimiser.exp_avg.nobody": torch.ones(1)}),
        lambda m, t: t.pop(next(n for n in t if n.startswith("model."))),
        lambda m, t: m["state"].update(epoch="1"),
        lambda m, t: m["state"].update(more=1),
        lambda m, t: m.update(state=None),
    ],
)
def test_training_does_not_go_on_from_another_state(corpus: Path, run: RunDirectory, change: Any) -> None:
    rewrite(run.checkpoint_path(LAST), change)
    with pytest.raises(PipelineError, match="training begins anew"):
        train_tiny(corpus, run.path, "train.epochs=3")


def test_a_missing_report_is_written_by_the_same_command(corpus: Path, run: RunDirectory) -> None:
    before = run.report_path.read_text().replace("trained”", "run”")
    run.report_path.unlink()
    train_tiny(corpus, run.path, *SHORT)
    assert run.report_path.read_text() == before


def test_missing_best_weights_are_not_passed_over(
    corpus: Path, run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    run.checkpoint_path(BEST).unlink()
    with pytest.raises(PipelineError, match=r"checkpoint-best\.safetensors is gone; delete checkpoint-last"):
        train_tiny(corpus, run.path, *SHORT)
    train_tiny(corpus, run.path, "train.epochs=3")
    assert "is gone; the best of the epochs to come is kept" in capsys.readouterr().err
    best = run.load(BEST)
    assert best is not None
    assert best.meta["state"]["best_epoch"] == 2


def test_sound_lines_of_damaged_metrics_are_kept(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"epoch": n}) for n in range(6)]
    lines[2] = '{"epo'
    run.metrics_path.write_text("\n".join(lines) + "\n")
    assert [row["epoch"] for row in run.metrics()] == [0, 1, 3, 4, 5]
    assert "no figures of an epoch in line 3" in capsys.readouterr().err
    for content in (b"\xff\xfe\0\0", b"[1]\n5\n", b"[" * 100_000, b'{"epoch": "1"}'):
        run.metrics_path.write_bytes(content)
        assert run.metrics() == []


HOLD = """
import sys
from pathlib import Path
from mesm.datasets.shards.publishing import held_alone
with held_alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_into_one_folder_is_refused(corpus: Path, run: RunDirectory) -> None:
    files = {path.name: path.read_bytes() for path in run.path.iterdir()}
    command = [sys.executable, "-c", HOLD, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FeatureError, match="is being written by another process"):
            train_tiny(corpus, run.path, "train.epochs=3")
        other.stdin.close()
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == files
    train_tiny(corpus, run.path, "train.epochs=3")
    with held_alone(run.path):
        pass


def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(corpus: Path, tmp_path: Path) -> None:
    tiny_config(corpus)
    with pytest.raises(PipelineError, match="GiB of memory are free"):
        train_tiny(corpus, tmp_path / "run", "model.dim=65536", "model.feed_forward_dim=65536")


def test_a_changed_digit_of_an_epoch_is_found(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    whole, text = run.metrics(), run.metrics_path.read_text()
    place = text.index('"span": 0.') + len('"span": 0.')
    run.metrics_path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    assert run.metrics() == whole[1:]
    assert "no figures of an epoch in line 1" in capsys.readouterr().err
    assert cli.run(["verify", str(run.path)]) == 1
    assert "it was changed" in capsys.readouterr().out
    run.set_metrics(whole)
    assert run.metrics() == whole
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in whole))
    assert run.metrics() == whole, "rows of earlier versions have no hash"
