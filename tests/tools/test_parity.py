"""The parity tool holds the network to golden numbers: published ones, and those of its plain form in all settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import GOLDEN_SETTINGS, write_golden
from shared import shared_path
from torch import Tensor

from mesm.model import losses, matcher
from mesm.model.kernels import dot_product
from mesm.model.networks import mesm
from mesm.model.networks.mesm import Mesm
from mesm.tools import parity, parity_mesm
from mesm.tools.parity_mesm import check_file


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    return {name: write_golden(folder / f"{name}.npz", name) for name in GOLDEN_SETTINGS}


@pytest.mark.parametrize("name", GOLDEN_SETTINGS)
def test_every_setting_is_recognised_and_holds(golden: dict[str, Path], name: str) -> None:
    setting, rows = check_file(golden[name])
    assert setting == name
    assert len(rows) > 550
    assert not [row for row in rows if not row.passed]
    kinds = {row.name.split("/", 2)[-1] for row in rows}
    assert {"outputs/recon_feat", "outputs/recfw_words_logit", "losses/loss_rec_ss", "total", "step 4 total"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["golden_charades_csf.npz", "golden_tacos_c3d.npz"])
def test_published_numbers_hold(name: str) -> None:
    _, rows = check_file(shared_path(f"golden/{name}"))
    assert len(rows) > 600
    assert not [row for row in rows if not row.passed]


def perturbed(path: Path, out: Path, key: str, factor: float) -> Path:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays[key] = arrays[key] * factor
    np.savez(out, **arrays)
    return out


@pytest.mark.parametrize(
    ("key", "factor"),
    [
        ("fixed_masks/eval/outputs/pred_spans", 1.001),
        ("official_masks/train/outputs/recfw_words_logit", 1.001),
        ("official_masks/train/losses/loss_saliency", 1.0001),
        ("fixed_masks/eval/total", 1.0001),
        ("fixed_masks/train/grad_norm/class_embed.weight", 1.01),
        ("fixed_masks/train/adamw_total_and_gradnorm", 1.01),
        ("official_masks/train/global_grad_norm", 1.01),
        ("fixed_masks/eval/losses/loss_giou_0", float("nan")),
    ],
)
def test_one_changed_number_is_found(golden: dict[str, Path], tmp_path: Path, key: str, factor: float) -> None:
    _, rows = check_file(perturbed(golden["tacos-c3d-glove"], tmp_path / "changed.npz", key, factor))
    failed = [row.name for row in rows if not row.passed]
    expected = key if "adamw" not in key else key.replace("adamw_total_and_gradnorm", "step 1 total")
    assert expected in failed
    assert len(failed) <= 8


def constant(name: str, value: object) -> object:
    def change(patch: pytest.MonkeyPatch) -> None:
        known = parity_mesm.recognise

        def recognise(*arguments: object) -> parity_mesm.Setting:
            setting = known(*arguments)  # type: ignore[arg-type]
            return dataclasses.replace(setting, loss=dataclasses.replace(setting.loss, **{name: value}))

        patch.setattr(parity_mesm, "recognise", recognise)

    return change


def switch(name: str, value: object) -> object:
    def change(patch: pytest.MonkeyPatch) -> None:
        known = parity_mesm.mesm_of
        patch.setattr(parity_mesm, "mesm_of", lambda *a, **switches: known(*a, **{**switches, name: value}))

    return change


def zero_frame_positions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mesm, "frame_positions", lambda layout, dim: torch.zeros(int(layout.mask.sum()), dim))


def any_frame_for_words(patch: pytest.MonkeyPatch) -> None:
    rebuild = Mesm._rebuild_words

    def all_frames(self: Mesm, batch: mesm.Batch, video: Tensor, positions: Tensor) -> Tensor | None:
        assert batch.targets is not None
        everywhere = batch.frames.mask[list(batch.video_of_query)]
        changed = dataclasses.replace(batch, targets=dataclasses.replace(batch.targets, clip_mask=everywhere))
        return rebuild(self, changed, video, positions)

    patch.setattr(Mesm, "_rebuild_words", all_frames)


def visible_padding(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dot_product, "_visible", lambda block, key_mask: None)


def spans_taken_for_windows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(losses, "spans_to_windows", lambda spans: spans)


def assignment_by_class_only(patch: pytest.MonkeyPatch) -> None:
    known = matcher.match
    patch.setattr(losses, "match", lambda *arguments: known(*arguments[:-3], 0.0, 0.0, arguments[-1]))


MISTAKES = {
    "four heads": ("tacos-c3d-glove", switch("heads", 4)),
    "fixed masks only": ("charades-clip-slowfast", switch("masks", "fixed")),
    "own clip": ("qvhighlights-clip-slowfast", switch("segment_context", "clip")),
    "no positions": ("charades-clip-slowfast", zero_frame_positions),
    "words see all frames": ("charades-vgg-glove", any_frame_for_words),
    "padding seen": ("tacos-c3d-glove", visible_padding),
    "spans as windows": ("charades-clip-slowfast", spans_taken_for_windows),
    "assignment by class": ("qvhighlights-clip-slowfast", assignment_by_class_only),
    "margin": ("tacos-c3d-glove", constant("margin", 0.3)),
    "no triplet": ("qvhighlights-clip-slowfast", constant("triplet", False)),
    "smoothing": ("charades-vgg-glove", constant("label_smoothing", 0.0)),
    "background": ("charades-clip-slowfast", constant("background_weight", 0.2)),
    "temperature": ("charades-clip-slowfast", constant("temperature", 0.07)),
    "rank divisor": ("tacos-c3d-glove", constant("rank_divisor", 12.0)),
    "weight of words": ("qvhighlights-clip-slowfast", constant("rebuild_words", 0.1)),
}


@pytest.mark.parametrize(("name", "mistake"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_the_network_is_found(
    golden: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, mistake: object
) -> None:
    assert callable(mistake)
    mistake(monkeypatch)
    _, rows = check_file(golden[name])
    assert [row for row in rows if not row.passed]


def test_exit_code_tells_whether_all_held(
    golden: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = golden["charades-clip-slowfast"]
    assert parity.main([str(good)]) == 0
    assert "0 out of tolerance" in capsys.readouterr().out
    bad = perturbed(good, tmp_path / "bad.npz", "fixed_masks/train/total", 2)
    assert parity.main([str(good), str(bad)]) == 1
    assert "fixed_masks/train/total" in capsys.readouterr().out
    other = tmp_path / "other.npz"
    np.savez(other, something=np.zeros(3))
    assert parity.main([str(other)]) == 2
    assert "not a golden file" in capsys.readouterr().err
    assert parity.main([str(tmp_path / "none.npz")]) == 2
