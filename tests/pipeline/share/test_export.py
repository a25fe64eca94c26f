"""A run that travels answers as it did, bit for bit, and what was changed on the way is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hub_stand_in import Hub, running_hub
from untrained_run import save_untrained_run

from mesm.pipeline import cli
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import to_plain
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.run.checkpoint import BEST, checkpoint_file, load_checkpoint, save_checkpoint
from mesm.pipeline.run.package import FILES, LOADED, WEIGHTS
from mesm.pipeline.share.export import export_run
from mesm.pipeline.share.hub import find_package, push

FIGURES = {
    "test": {
        "demo": {"queries": 120, "protocol": "plain", "brief": {"MR-full-R1@0.5": 61.5, "MR-short-mAP": None}},
        "fixed window": {"queries": 120, "protocol": "plain", "brief": {"MR-full-R1@0.5": 20.0}},
    }
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a"
    save_untrained_run(folder, load_config("demo", ["dataset.annotations=/home/somebody/secret"]))
    (folder / "evaluation.json").write_text(json.dumps(FIGURES))
    return folder


@pytest.fixture(scope="module")
def package(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("package") / "a", "cc-by-4.0")


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(package, tmp_path / "elsewhere" / "copy"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # The stand-in takes large files by LFS, as the hub does where Xet is not to be had.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True, raising=False)
    with running_hub() as hub:
        yield hub


def answers(retriever: MomentRetriever) -> list[Any]:
    """Everything that a network says of queries about a video of several pieces."""
    rows = np.random.default_rng(0).standard_normal((400, retriever.encoders[0].dim)).astype(np.float32)
    video = EncodedVideo(Path("a.mp4"), 400.0, (rows,))
    found = [retriever.ground(video, query, top_k=20) for query in ("a red circle", "it turns blue", "ä")]
    return [(one.moments, one.saliency.tobytes()) for one in found]


def test_the_same_answers_bit_for_bit(run: Path, copy: Path) -> None:
    before = answers(MomentRetriever.from_checkpoint(run))
    assert answers(MomentRetriever.from_pretrained(copy)) == before
    assert answers(MomentRetriever.from_checkpoint(copy)) == before


def test_a_package_is_complete_and_says_nothing_of_its_machine(run: Path, package: Path) -> None:
    assert {path.name for path in package.iterdir()} == set(FILES) - {"glove.safetensors", "calibration.json"}
    content = b"".join(path.read_bytes() for path in package.iterdir())
    assert b"/home/somebody" not in content
    assert str(run).encode() not in content
    meta = load_checkpoint(package).meta
    assert json.loads((package / "config.json").read_text())["config"] == meta["config"]


def test_the_card_has_figures_and_licences(package: Path) -> None:
    _, front, body = (package / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["license"] == "cc-by-4.0"
    (result,) = said["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert result["metrics"] == [{"type": "MR-full-R1@0.5", "value": 61.5}]
    assert "| MR-full-R1@0.5 | 61.50 |" in body
    assert "20.0" not in body
    assert "These weights: cc-by-4.0" in body
    assert "weights `untrained:0`" in body


def test_what_others_do_not_have_and_where_weights_came_from_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(run)
    config = to_plain(load_config("demo"))
    config["features"]["video"][0]["weights"] = "/home/somebody/clip.pt"
    meta = {**checkpoint.meta, "config": config, "imported": {"source": "model.ckpt", "sha256": "ab12"}}
    save_checkpoint(checkpoint_file(tmp_path / "run", BEST), checkpoint.tensors, meta)
    out = export_run(tmp_path / "run", tmp_path / "package")
    assert "names weights /home/somebody/clip.pt of the encoder clip" in capsys.readouterr().err
    card = (out / "README.md").read_text()
    assert "from a released file, `model.ckpt`, sha256 ab12" in card
    assert "license: other" in card
    assert "These weights: not stated" in card


def test_the_hubs_own_reader_reads_the_card(package: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(package / "README.md")
    assert card.data.library_name == "mesm-pipeline"
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [("MR-full-R1@0.5", 61.5)]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_changed_file_is_refused(name: str, copy: Path) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-9] ^= 1
    (copy / name).write_bytes(content)
    for load in (MomentRetriever.from_pretrained, MomentRetriever.from_checkpoint):
        with pytest.raises(PipelineError, match=f"{name} is not the file that was exported"):
            load(copy)


def test_missing_added_and_unlisted_files_are_refused(copy: Path) -> None:
    (copy / "calibration.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"calibration\.json is not in manifest\.json"):
        MomentRetriever.from_pretrained(copy)
    (copy / "calibration.json").unlink()
    (copy / "config.json").rename(copy / "other.json")
    with pytest.raises(PipelineError, match=r"config\.json is missing"):
        MomentRetriever.from_pretrained(copy)
    (copy / "other.json").rename(copy / "config.json")
    (copy / "README.md").write_text("a card that its owner wrote")
    MomentRetriever.from_pretrained(copy)
    for text in ("{}", "no json", '{"format": 2, "sha256": {}}'):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(PipelineError, match=r"manifest\.json"):
            MomentRetriever.from_pretrained(copy)


def test_every_file_that_is_loaded_has_its_hash(package: Path) -> None:
    manifest = json.loads((package / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {name for name in LOADED if (package / name).exists()}


def test_exporting_does_not_clear_what_is_not_a_package(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for force in (True, False):
        with pytest.raises(PipelineError, match="is not empty"):
            export_run(run, tmp_path, force=force)
    with pytest.raises(PipelineError, match="is the run itself"):
        export_run(run, run)
    out = export_run(run, tmp_path / "package")
    with pytest.raises(PipelineError, match="--force"):
        export_run(run, out)
    (out / "notes.txt").write_text("mine")
    export_run(run, out, force=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_package_can_be_exported_again(package: Path, tmp_path: Path) -> None:
    again = export_run(package, tmp_path / "again", "cc-by-4.0")
    for name in ("config.json", "README.md", "evaluation.json", "manifest.json"):
        assert (again / name).read_text() == (package / name).read_text()


def test_pushed_and_fetched_it_answers_the_same(run: Path, hub: Hub) -> None:
    retriever = MomentRetriever.from_checkpoint(run)
    address = retriever.push_to_hub("somebody/finder", endpoint=hub.address, token="hf_x", private=True, licence="mit")
    assert address.startswith(f"{hub.address}/somebody/finder/commit/")
    assert hub.repositories["somebody/finder"].private
    fetched = MomentRetriever.from_pretrained("somebody/finder", endpoint=hub.address)
    assert fetched.commit == address.rpartition("/")[2]
    assert answers(fetched) == answers(retriever)


def test_a_revision_is_that_revision(package: Path, run: Path, hub: Hub, tmp_path: Path) -> None:
    first = push(package, "a/b", endpoint=hub.address, token="hf_x").rpartition("/")[2]
    other = export_run(run, tmp_path / "other", "apache-2.0")
    push(other, "a/b", revision="next", endpoint=hub.address, token="hf_x")
    for revision, licence in ((None, "cc-by-4.0"), ("main", "cc-by-4.0"), ("next", "apache-2.0"), (first, "cc-by-4.0")):
        folder, commit = find_package("a/b", revision, hub.address)
        assert f"license: {licence}" in (folder / "README.md").read_text()
        assert commit == hub.repositories["a/b"].find(revision or "main")[0]  # type: ignore[index]
    with pytest.raises(PipelineError, match="a/b at gone cannot be fetched"):
        find_package("a/b", "gone", hub.address)
    with pytest.raises(PipelineError, match="a folder, which has no revision"):
        find_package(package, "main")


def test_what_the_hub_changed_is_refused(package: Path, hub: Hub) -> None:
    push(package, "a/b", endpoint=hub.address, token="hf_x")
    repository = hub.repositories["a/b"]
    weights = bytearray(repository.commits[repository.branches["main"]][WEIGHTS])
    weights[-1] ^= 1
    repository.commit("main", {WEIGHTS: bytes(weights)})
    with pytest.raises(PipelineError, match="not the file that was exported"):
        MomentRetriever.from_pretrained("a/b", endpoint=hub.address)


def test_a_card_without_figures_is_pushed_only_when_forced(run: Path, hub: Hub, tmp_path: Path) -> None:
    plain = Path(shutil.copytree(run, tmp_path / "plain"))
    (plain / "evaluation.json").unlink()
    retriever = MomentRetriever.from_checkpoint(plain)
    with pytest.raises(PipelineError, match="no measured figures"):
        retriever.push_to_hub("a/b", endpoint=hub.address, token="hf_x")
    assert not hub.repositories
    assert not hub.asked
    retriever.push_to_hub("a/b", endpoint=hub.address, token="hf_x", force=True)
    assert "None was measured" in hub.repositories["a/b"].find("main")[1]["README.md"].decode()  # type: ignore[index]


@pytest.mark.parametrize("source", ["no-folder", "a/b/c", "../../etc", "http://x/y", ""])
def test_what_is_neither_folder_nor_repository_is_told(source: str) -> None:
    with pytest.raises(PipelineError, match=r"expected the folder|is no package|no checkpoint"):
        MomentRetriever.from_pretrained(source)


def test_the_command_exports_and_pushes(
    run: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    out = tmp_path / "package"
    assert cli.run(["export", str(run), "--out", str(out), "--license", "mit", "--push", "a/b"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(out)
    assert printed[1].startswith(f"{hub.address}/a/b/commit/")
    assert cli.run(["export", str(run)]) == 2
    assert "give --out" in capsys.readouterr().err
    assert cli.run(["export", str(run), "--out", str(tmp_path / "b"), "--private"]) == 2
    assert cli.run(["export", str(tmp_path), "--out", str(tmp_path / "c")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
