"""The trial of spans on real image-text vectors."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from shared import shared_path

from mesm.tools import trial_spans


@pytest.fixture
def trial(tmp_path: Path) -> list[str]:
    """A film of 20 s in which the second noun is seen from 8 s to 14 s."""
    vectors = np.eye(3, dtype=np.float16)
    np.savez(tmp_path / "nouns.npz", names=np.array(["cup", "door", "sofa"]), vectors=vectors)
    rows = np.tile(vectors[0].astype(np.float32), (20, 1))
    rows[8:14] += 0.5 * vectors[1]
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["film"] = rows
    np.savez(tmp_path / "pairs.npz", video_id=["film"], noun=["door"], duration_s=[19.8])
    names = ("pairs.npz", "features.h5", "nouns.npz")
    return [*(str(tmp_path / name) for name in names), "--out", str(tmp_path / "answers.jsonl")]


@pytest.mark.parametrize("decoder", ["overlap", "path", "contrast"])
def test_answers_are_written_in_the_scorers_format(trial: list[str], decoder: str) -> None:
    assert trial_spans.main([*trial, "--decoder", decoder, "--set", "smoothed_s=1"]) == 0
    lines = Path(trial[-1]).read_text().splitlines()
    assert len(lines) == 1
    windows = json.loads(lines[0])["windows"]
    assert windows[0][:2] == [7.5, 13.5]


def test_what_cannot_be_used_is_said(trial: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert trial_spans.main([*trial, "--set", "speed=1"]) == 2
    assert "no constant 'speed'" in capsys.readouterr().err
    assert trial_spans.main(["nothing.npz", *trial[1:]]) == 2
    assert "nothing.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_the_default_on_real_vectors(tmp_path: Path) -> None:
    """The best answer overlaps the truth by half or more for at least 46 % of the pairs."""
    folder, out = shared_path("zeroshot"), tmp_path / "answers.jsonl"
    features = shared_path("charades-mini/clip_train.h5")
    pairs = folder / "zeroshot_dev.npz"
    assert trial_spans.main([str(pairs), str(features), str(folder / "noun_vectors.npz"), "--out", str(out)]) == 0
    answers = [json.loads(line)["windows"] for line in out.read_text().splitlines()]
    with np.load(pairs) as archive:
        hit = np.zeros(len(archive["video_id"]), bool)
        for pair, start, end in archive["spans"]:
            window = answers[int(pair)][0]
            shared = min(window[1], end) - max(window[0], start)
            hit[int(pair)] |= shared >= 0.5 * (max(window[1], end) - min(window[0], start))
    assert hit.mean() >= 0.46
