"""The command line as a user meets it: help, exit codes, and one clear message for every mistake."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mesm.pipeline import cli

SCREEN = 45


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(list(arguments))
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def write_video(path: Path, seconds: int = 3) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(10 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * i % 256, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    "command", ["", "extract", "train", "evaluate", "ground", "demo", "import-features", "reproduce", "compare"]
)
def test_help_fits_on_a_screen_and_has_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, *filter(None, [command]), "--help")
    assert code == 0
    assert len(out.splitlines()) <= SCREEN
    assert "Example: mesm-pipeline" in out


def test_version_and_configs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].strip() == cli.__version__
    names = run(capsys, "configs")[1]
    assert all(name in names for name in ("demo", "charades-mini", "tacos-c3d-glove", "qvhighlights-clip-slowfast"))
    assert "batch_groups" in run(capsys, "configs", "demo")[1]
    assert "--recipe fast" in names
    assert "recipe-fast" not in names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["extract", "--videos", "no-such-folder", "--config", "demo"], "no such folder"),
        (["extract", "--videos", ".", "--config", "dmo"], "did you mean 'demo'"),
        (["extract", "--videos", ".", "--config", "demo", "--set", "extract.worker=2"], "did you mean 'workers'"),
        (["extract", "--videos", ".", "--config", "demo", "--weights", "x=y"], "expected NAME=PATH"),
        (["train", "--out", "runs/a", "--config", "demo"], "--annotations"),
        (["train", "--out", "runs/a", "--config", "demo", "--annotations", "nowhere"], "there is no nowhere"),
        (["evaluate"], "run directory or --predictions"),
        (["extrac"], "extrac"),
        (["extract", "--bogus"], "--bogus"),
        (["extract", "--config", "demo"], "--videos"),
        (["train", "--config", "demo", "--annotations", "."], "--out"),
        (["train", "--out", "a", "--config", "demo", "--annotations", ".", "--recipe", "slow"], "expected one of fast"),
        (["train", "--out", "a", "--config", "demo", "--annotations", ".", "--seeds", "1,x"], "whole numbers"),
        (["train", "--out", "a", "--config", "demo", "--annotations", ".", "--seeds", "1,1"], "twice"),
        (["reproduce", "charades"], "charades-vgg-glove"),
        (["compare", "--out", "a", "--networks", "mems"], "did you mean 'mesm'"),
        (["compare", "--out", "a", "--networks", "mesm", "--seeds", "1,1", "--annotations", "."], "twice"),
        (["compare", "--out", "a", "--networks", "mesm", "--annotations", "nowhere"], "there is no nowhere"),
        (["ground", "video.mp4", "a cat", "--top-k", "many"], "--top-k"),
        (["evaluate", "no-run", "--annotations", "."], "no checkpoint"),
        (["ground", "video.mp4", "  "], "query is empty"),
        (["ground", "video.mp4", "a cat", "--checkpoint", "no-run"], "no checkpoint"),
        (["ground", "video.mp4", "a cat", "--checkpoint", "no-run", "--zero-shot"], "give one of them"),
        (["ground", "video.mp4", "a cat", "--weights", "vgg16-imagenet=untrained:x"], "untrained:0"),
        (["ground", "video.mp4", "a cat", "--model", "ViT-B-32"], "NAME/TAG"),
        (["verify", "no-folder"], "not a folder"),
        (["weights", "get", "nothing"], "expected one of"),
        (["import-checkpoint", "none.ckpt", "--out", "runs/x"], "none.ckpt"),
    ],
)
def test_mistake_is_one_message_and_exit_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert not out


def test_queries_are_encoded_without_videos(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = {"query_id": 1, "video_id": "a", "query": "it gets bright", "moments": [[0, 2]], "split": "train"}
    annotations = tmp_path / "queries.jsonl"
    annotations.write_text(json.dumps(record) + "\n")
    arguments = ["extract", "--config", "demo", "--features", str(tmp_path / "features"), "--annotations"]
    assert run(capsys, *arguments, str(annotations))[:2] == (0, "1 queries encoded\n")
    assert run(capsys, *arguments, str(annotations))[:2] == (0, "0 queries encoded\n")


def test_folder_without_videos_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no video")
    code, _, err = run(
        capsys, "extract", "--videos", str(tmp_path), "--config", "demo", "--features", str(tmp_path / "f")
    )
    assert code == 2
    assert "no video" in err


def test_missing_weights_offline_say_where_to_put_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    write_video(tmp_path / "a.mp4")
    code, _, err = run(
        capsys, "extract", "--videos", str(tmp_path), "--config", "charades-clip-slowfast", "--features", str(tmp_path)
    )
    assert code == 2
    assert "https://" in err
    assert str(tmp_path / "cache") in err


def no_run_here(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MESM_CHECKPOINT", raising=False)
    monkeypatch.setenv("MESM_CACHE", str(folder / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def test_ground_without_a_checkpoint_says_which_weights_it_misses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_run_here(monkeypatch, tmp_path)
    write_video(tmp_path / "a.mp4")
    code, out, err = run(capsys, "ground", "a.mp4", "it gets bright")
    assert (code, out) == (2, "")
    assert "no run is here" in err
    assert "https://" in err
    assert "--weights openai-clip-vit-b-32=PATH" in err


@pytest.mark.parametrize("options", [[], ["--zero-shot"], ["--json"]])
def test_ground_without_a_checkpoint_and_with_random_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    no_run_here(monkeypatch, tmp_path)
    small = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    }
    monkeypatch.setattr("open_clip.get_model_config", lambda name: copy.deepcopy(small))
    write_video(tmp_path / "a.mp4")
    weights = ["--weights", "openai-clip-vit-b-32=untrained:0"]
    code, out, err = run(capsys, "ground", "a.mp4", "it gets bright", *weights, *options)
    assert code == 0, err
    assert "answers without training" in err
    assert "meaningless" in err
    assert ("no run is here" in err) == ("--zero-shot" not in options)
    if "--json" in options:
        answers = [json.loads(line) for line in out.splitlines()]
        assert {(one["file"], one["score_kind"], one["model"]) for one in answers} == {
            ("a.mp4", "contrast", "ViT-B-32/openai")
        }
        assert all("untrained: meaningless" in one["notes"] for one in answers)
    else:
        assert out.split()[:3] == ["start", "end", "score"]


def test_extract_lists_failures_and_a_second_run_does_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "good.mp4")
    (videos / "bad.mp4").write_bytes(b"this is no video")
    annotations = tmp_path / "queries.jsonl"
    records = [
        {"query_id": 1, "video_id": "good", "query": "it gets bright", "moments": [[0, 2]], "split": "train"},
        {"query_id": 2, "video_id": "gone", "query": "it gets dark", "moments": [[0, 2]], "split": "train"},
    ]
    annotations.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = [
        "extract",
        "--videos",
        str(videos),
        "--config",
        "demo",
        "--features",
        str(tmp_path / "features"),
        "--annotations",
        str(annotations),
    ]
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert "1 videos extracted" in out
    assert "bad: probe:" in err
    assert "gone" in err
    (videos / "bad.mp4").unlink()
    records.pop()
    annotations.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out.startswith("nothing to do: all 1 videos are there")


def test_installed_command_shows_no_traceback(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("mesm-pipeline")
    if not command.exists():
        pytest.skip("the package is not installed")
    finished = subprocess.run(
        [command, "ground", "nothing.mp4", "a dog", "--checkpoint", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
