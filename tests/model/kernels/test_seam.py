"""One place decides which form an operator takes, and every network is the same in both."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from every_network import SUBJECTS, Subject, at_inference
from torch import Tensor

from mesm.model import kernels
from mesm.model.batch import Batch
from mesm.model.kernels import plain_kernels, use_cpu_kernels
from mesm.model.kernels.cells import Diagonal
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.network_config import Draw

X = torch.zeros(2, 3)
LAYOUT = Layout([2])
WEIGHTS = (torch.ones(4, 3), torch.ones(4), torch.ones(3, 4), torch.ones(3))
ARGUMENTS = {
    "dropout": (["x"], {"p": 0.1, "training": True}),
    "add_dropped": (["residual", "x"], {"p": 0.1, "training": True}),
    "feed_forward": (
        ["residual", "x"],
        {"weights": WEIGHTS, "slope": torch.full((1,), 0.3), "p": 0.1, "training": True},
    ),
    "attention": (["q", "k", "v"], {"mask": None, "p": 0.1, "training": True}),
    "packed_attention": (
        ["q", "k", "v"],
        {"layout": LAYOUT, "key_mask": None, "heads": 1, "p": 0.1, "training": True},
    ),
    "diagonal_cells": (
        ["s", "m", "e", "weight"],
        {"bias": torch.zeros(2), "diagonals": (Diagonal(1, 1, 2),), "p": 0.1, "training": True},
    ),
}
"""Of each operator the tensors that decide, and what else it takes."""


def test_fast_forms_are_for_float32_on_a_cpu() -> None:
    assert use_cpu_kernels(X)
    assert use_cpu_kernels(X, X)
    for other in (X.double(), X.bfloat16(), X.to("meta")):
        assert not use_cpu_kernels(other)
        assert not use_cpu_kernels(X, other)


def test_fast_forms_are_not_for_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not use_cpu_kernels(X)
        with torch.autocast("cpu", enabled=False):
            assert use_cpu_kernels(X)
    assert use_cpu_kernels(X)


def test_fast_forms_are_not_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not use_cpu_kernels(X)


def test_the_switch_holds_inside_its_block_only() -> None:
    with plain_kernels():
        assert not use_cpu_kernels(X)
        with plain_kernels():
            assert not use_cpu_kernels(X)
        assert not use_cpu_kernels(X)
    assert use_cpu_kernels(X)
    with pytest.raises(ZeroDivisionError), plain_kernels():
        _ = 1 / 0
    assert use_cpu_kernels(X)


def test_every_form_of_an_operator_is_known_here() -> None:
    forms = {name for name in vars(kernels) if name.startswith(("fast_", "plain_"))} - {"plain_kernels"}
    assert forms == {f"{form}_{name}" for form in ("fast", "plain") for name in ARGUMENTS}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_form_has_the_signature_of_its_operator(name: str) -> None:
    signatures = [inspect.signature(getattr(kernels, f"{form}{name}")) for form in ("", "fast_", "plain_")]
    assert signatures[0] == signatures[1] == signatures[2]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_operator_takes_the_form_that_is_decided(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for form in ("fast", "plain"):
        monkeypatch.setattr(kernels, f"{form}_{name}", lambda *values, form=form: (form, values))
    operator = getattr(kernels, name)
    tensors, rest = ARGUMENTS[name]
    given = dict.fromkeys(tensors, X) | rest
    assert set(given) == set(inspect.signature(operator).parameters)
    assert operator(**given) == ("fast", tuple(given.values()))
    with plain_kernels():
        assert operator(**given) == ("plain", tuple(given.values()))
    for tensor in tensors:
        assert operator(**given | {tensor: X.double()})[0] == "plain"


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_compiler_sees_one_graph_of_the_plain_form(name: str) -> None:
    tensors, rest = ARGUMENTS[name]
    shape = {"attention": (1, 1, 2, 3), "packed_attention": (2, 3), "feed_forward": (2, 3), "diagonal_cells": (2, 3, 4)}
    given = {tensor: torch.randn(*shape.get(name, (1,))) for tensor in tensors} | rest
    given |= {"p": 0.0} if "p" in rest else {}
    given |= {"weight": torch.randn(2, 4)} if "weight" in tensors else {}
    torch._dynamo.reset()
    compiled = torch.compile(getattr(kernels, name), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(**given), getattr(kernels, f"plain_{name}")(**given))


DROPOUT = ("dropout", "input_dropout")


def cases() -> Iterator[Any]:
    """Every network and the switches to build it with; again with the published masks where it has those."""
    for subject in SUBJECTS:
        known = {field.name for field in fields(subject.config)}
        for switches in ({}, {"masks": "official"}):
            if known.issuperset(switches):
                yield pytest.param(subject, switches, id="-".join((subject.name, *switches.values())))


every_network = pytest.mark.parametrize(("subject", "switches"), list(cases()))


def losses_and_gradients(
    subject: Subject, network: Network, batch: Batch
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    losses = network.losses(network(batch), batch, subject.losses)
    network.zero_grad()
    losses["total"].backward()
    return losses, {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_same(fast: tuple[dict[str, Any], ...], plain: tuple[dict[str, Any], ...]) -> None:
    assert all(torch.isfinite(loss) for loss in plain[0].values())
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-5, atol=1e-6)
    assert fast[1].keys() == plain[1].keys()
    for name, expected in plain[1].items():
        assert (fast[1][name] is None) == (expected is None), name
        if expected is not None:
            # A single slope's gradient is a sum over all activations, whose terms cancel.
            assert float((fast[1][name] - expected).norm()) < 2e-4 * max(float(expected.norm()), 2e-2), name


def hand_written(loss: Tensor) -> set[str]:
    """Names of the autograd functions of ours that a loss came through."""
    seen, waiting, found = set(), [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__)
        waiting += [above for above, _ in node.next_functions]
    return found


@every_network
def test_a_network_without_dropout_is_the_same_in_both_forms(subject: Subject, switches: dict[str, object]) -> None:
    without = {key: 0.0 for key in DROPOUT if hasattr(subject.config, key)}
    network, batch = subject.build(**switches, **without).train(), subject.batch(windows=2)
    fast = losses_and_gradients(subject, network, batch)
    with plain_kernels():
        plain = losses_and_gradients(subject, network, batch)
    assert_same(fast, plain)
    assert hand_written(plain[0]["total"]) == set()


@every_network
def test_a_network_that_drops_nothing_is_the_same_in_both_forms(
    subject: Subject, switches: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast forms for training run, with masks that keep everything."""
    for module in ("elementwise", "dot_product", "feed_forward_block", "cells"):
        monkeypatch.setattr(f"mesm.model.kernels.{module}.draw_mask", lambda shape, p: (keep_all(shape), 1.0))
    network, batch = subject.build(**switches).train(), subject.batch(windows=2)
    if Draw.MASKED_WORDS_ALIKE in subject.config.draws():
        # Such a network hides words in training only.
        batch = replace(batch, word_mask=None)
    fast = losses_and_gradients(subject, network, batch)
    with plain_kernels():
        plain = losses_and_gradients(subject, network.eval(), batch)
    assert_same(fast, plain)


def keep_all(shape: torch.Size) -> Tensor:
    return torch.ones(*shape, dtype=torch.uint8)


@every_network
@pytest.mark.parametrize("form", ["fast", "plain"])
def test_a_network_trains_with_dropout_in_both_forms(subject: Subject, switches: dict[str, object], form: str) -> None:
    network, batch = subject.build(**switches).train(), subject.batch(windows=2)
    with plain_kernels() if form == "plain" else nullcontext():
        losses, gradients = losses_and_gradients(subject, network, batch)
        assert not torch.equal(losses["total"], network.losses(network(batch), batch, subject.losses)["total"])
    assert torch.isfinite(losses["total"])
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert bool(hand_written(losses["total"])) == (form == "fast")


@every_network
@torch.no_grad()
def test_answers_are_the_same_in_both_forms(subject: Subject, switches: dict[str, object]) -> None:
    network, batch = subject.build(**switches).eval(), at_inference(subject.batch())
    fast = network.decode(network(batch), batch)
    with plain_kernels():
        plain = network.decode(network(batch), batch)
    torch.testing.assert_close(vars(fast), vars(plain), rtol=0, atol=2e-5)


@every_network
def test_a_network_runs_where_no_kernel_was_written_for(subject: Subject, switches: dict[str, object]) -> None:
    """The device `meta` computes shapes only, and refuses whatever reads a number."""
    batch = at_inference(subject.batch())
    batch.prepare()
    network = subject.build(**switches).eval()
    expected, found = network(batch), network.to("meta")(batch.to("meta"))
    for field in fields(expected):
        value, shape = getattr(expected, field.name), getattr(found, field.name)
        if isinstance(value, Tensor):
            assert (shape.device.type, shape.shape, shape.dtype) == ("meta", value.shape, value.dtype), field.name
