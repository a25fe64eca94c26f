"""The guides followed to the letter, in a copy of the project: their files, their commands, and what comes of them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from guides import DOCS, blocks_of, commands_of, copy_of_the_project, run, run_pipeline
from tiny_extraction import VIDEOS, make_videos
from toy_corpus import make_toy_corpus, write_charades

from mesm.pipeline.data.folders import find_features

GUIDES = ("add-a-network.md", "add-an-encoder.md", "add-a-dataset.md")


def pipeline_commands(guide: Path) -> list[str]:
    return [command for command in commands_of(guide) if command.startswith("mesm-pipeline ")]


def losses(run_directory: Path) -> list[float]:
    lines = (run_directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"]["total"] for line in lines]


@pytest.mark.parametrize("name", GUIDES)
def test_prose_says_where_a_block_goes(name: str) -> None:
    blocks = [block for block in blocks_of(DOCS / name) if block.file]
    assert blocks
    for block in blocks:
        assert f"`{block.file}`" in block.before, f"line {block.line}: {block.file} is not in the paragraph above"
        assert not block.below or f"`{block.below}`" in block.before


def test_network_of_the_guide_trains_and_answers(tmp_path: Path) -> None:
    guide = DOCS / "add-a-network.md"
    project = copy_of_the_project(tmp_path, guide)
    write_charades(project / "annotations", make_toy_corpus(project))
    printed = run_pipeline(pipeline_commands(guide), project)
    total = losses(project / "runs/pooling")
    assert len(total) == 5
    assert total[-1] < total[0]
    assert all(row in printed for row in ("charades-mini-pooling", "without the video", "whole video"))
    answers = (project / "runs/pooling/predictions-test.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["pred_relevant_windows"]) for line in answers] == [5] * len(answers)
    run("python -m mesm.tools.readme_table --write", project)
    assert "pooling" in (project / "README.md").read_text().partition("<!-- networks -->")[2]


@pytest.mark.slow
def test_network_of_the_guide_holds_what_every_network_must(tmp_path: Path) -> None:
    guide = DOCS / "add-a-network.md"
    project = copy_of_the_project(tmp_path, guide)
    golden = project / "tests/model/networks/golden/losses.json"
    assert "pooling" not in json.loads(golden.read_text())
    for command in commands_of(guide):
        if "tests/" in command:
            printed = run(command, project)
    assert "pooling" in json.loads(golden.read_text())
    assert "passed" in printed or "100%" in printed


def test_encoder_of_the_guide_extracts(tmp_path: Path) -> None:
    guide = DOCS / "add-an-encoder.md"
    project = copy_of_the_project(tmp_path, guide)
    make_videos(project / "videos")
    run_pipeline(pipeline_commands(guide), project)
    folder = find_features(project / "features", "tiny-cnn")
    assert len(folder) == VIDEOS
    assert all(folder.record(video).clip_len_s == 0.5 for video in folder)
    assert folder.read("film3")["features"].shape == (6, 64)


@pytest.mark.slow
def test_dataset_of_the_guide_is_read_and_trained_on(tmp_path: Path) -> None:
    guide = DOCS / "add-a-dataset.md"
    project = copy_of_the_project(tmp_path, guide)
    (sample,) = (block.text for block in blocks_of(guide) if block.language == "csv")
    for split, records in make_toy_corpus(project).items():
        (project / "annotations" / f"{split}.csv").write_text(captions(records, sample.splitlines()[0]))
    run_pipeline(pipeline_commands(guide), project)
    assert len(losses(project / "runs/captions")) == 2
    assert (project / "runs/captions/predictions-test.jsonl").is_file()
    (project / "sample").mkdir()
    (project / "sample" / "train.csv").write_text(sample)
    program = (
        "from mesm.datasets.annotations.registry import read_annotations; "
        "print([query.moments for query in read_annotations('captions-csv', 'sample', 'train')])"
    )
    assert run(f'python -c "{program}"', project).strip() == "[((3.2, 7.5),), ((14.0, 19.0),)]"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add-an-encoder.md", "add-a-dataset.md"])
def test_tests_of_the_guide_pass(name: str, tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path, DOCS / name)
    (command,) = (command for command in commands_of(DOCS / name) if command.startswith("pytest"))
    run(command, project)


@pytest.mark.parametrize("name", GUIDES)
def test_code_of_the_guide_is_as_clean_as_ours(name: str, tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path, DOCS / name)
    files = " ".join({block.file for block in blocks_of(DOCS / name) if block.file.endswith(".py")})
    run(f"python -m ruff check --no-cache {files}", project)
    run(f"python -m ruff format --no-cache --check {files}", project)


def captions(records: list[dict[str, Any]], head: str) -> str:
    """Write queries as the guide's sample does."""
    names = {"video": "video_id", "duration": "duration_s", "sentence": "query"}
    text = io.StringIO()
    writer = csv.DictWriter(text, head.split(","))
    writer.writeheader()
    for record in records:
        ((start, end),) = record["moments"]
        writer.writerow({"start": start, "end": end, **{column: record[key] for column, key in names.items()}})
    return text.getvalue()
