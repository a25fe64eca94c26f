"""Names and shapes of what checkpoints store, and the losses of one step, for every shipped setting."""

from __future__ import annotations

import pytest
from calls import CONFIGS, STEPS, state_of, training_step
from figures import assert_figures, golden

GRADIENT = 1e-3
"""Where a rounding error moves an activation over the kink of a ReLU, the gradient moves more than it did."""

STATES, LOSSES = golden("states.json.gz"), golden("steps.json")


@pytest.mark.parametrize("name", STATES)
def test_checkpoints_of_this_setting_still_fit(name: str) -> None:
    assert state_of(*CONFIGS[name]) == STATES[name]


@pytest.mark.parametrize("dropout", [False, True], ids=["dropout off", "dropout on"])
@pytest.mark.parametrize("name", STEPS)
def test_losses_of_a_step_are_what_they_were(name: str, dropout: bool) -> None:
    stored = LOSSES[f"{name}, dropout {'on' if dropout else 'off'}"]
    expected = {part: float.fromhex(value) for part, value in stored.items()}
    found = training_step(name, dropout)
    assert found.keys() == expected.keys()
    assert_figures(found.pop("gradient"), expected.pop("gradient"), relative=GRADIENT)
    assert_figures(found, expected)
