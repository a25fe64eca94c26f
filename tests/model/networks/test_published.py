"""Every network answers as its published code does, by small golden files that the project holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from every_network import SUBJECTS, Subject, losses_and_gradients

from mesm.model.registry import networks_that_learn
from mesm.tools.parity import check_file

GOLDEN = Path(__file__).parent / "golden"
ANSWERS = ("pred_spans", "start_logits")
"""What the published networks call the numbers that their answers are made of."""
NO_PUBLISHED_CODE: tuple[str, ...] = ("span-map", "tea")
"""Networks that nobody else has."""


@pytest.mark.parametrize("name", [name for name in networks_that_learn() if name not in NO_PUBLISHED_CODE])
def test_answers_are_those_of_the_published_code(name: str) -> None:
    subject, rows = check_file(GOLDEN / f"{name}.npz")
    assert subject.startswith(f"{name}, ")
    assert len(rows) >= 6
    assert not [row.name for row in rows if not row.passed]


@pytest.mark.parametrize("name", [name for name in networks_that_learn() if name not in NO_PUBLISHED_CODE])
def test_a_changed_number_is_found(name: str, tmp_path: Path) -> None:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    of_query = [k for k in arrays if "alone/1/" in k and k.endswith(ANSWERS)]
    key = (of_query or ["eval/outputs/logits_visual"])[-1]
    arrays[key] = arrays[key] * np.float32(1 + 1e-4) + np.float32(1e-4)
    np.savez(tmp_path / "changed.npz", **arrays)
    _, rows = check_file(tmp_path / "changed.npz")
    assert [row.name for row in rows if not row.passed] == [key]


def test_a_file_of_an_unknown_network_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", network=np.array("cg-detr"))
    with pytest.raises(Exception, match=r"of the network 'cg-detr'; .*expected one of mesm"):
        check_file(tmp_path / "other.npz")


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_losses_and_gradients_are_those_that_were_met(subject: Subject) -> None:
    """Stored when the complete golden files held, by `python tests/model/networks/every_network.py`."""
    stored = json.loads((GOLDEN / "losses.json").read_text())[subject.name]
    found = losses_and_gradients(subject)
    assert found.keys() == stored.keys()
    for name, value in found.items():
        assert value == pytest.approx(stored[name], rel=2e-4, abs=1e-6), name
