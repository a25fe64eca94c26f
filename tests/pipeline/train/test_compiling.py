"""What `train.compile` compiles: few graphs, which serve batches of every size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_corpus, tiny_steps
from torch._dynamo.utils import counters

from mesm.model.batch import Batch
from mesm.model.network_config import Sizes
from mesm.model.registry import build_network
from mesm.pipeline.train.compiling import forward_and_losses
from mesm.tools.synthetic_batches import SHAPES, configs_of, make_batch

SIZES = Sizes(18, 24, 50)
BATCHES = 6
SWITCHES = {"recurrent_frames": True, "recurrent_words": True, "positions": "frames", "standardise": True}


def batches(setting: str) -> Iterator[Batch]:
    """Batches of many sizes; the videos of QVHighlights are of one length, and its queries have a video each."""
    draw, shape = np.random.default_rng(0), replace(SHAPES[setting], **asdict(SIZES))
    for seed in range(BATCHES):
        videos = int(draw.integers(5, 9))
        rows = tuple(draw.integers(6, 20, videos).tolist())
        queries = np.arange(videos).repeat(draw.integers(1, 4, videos)).tolist()
        groups = queries
        if setting.startswith("qvh"):
            rows, queries, groups = (9,) * videos, list(range(videos)), [v // 2 for v in range(videos)]
        sizes = {"rows": rows, "video_of_query": tuple(queries), "group_of_query": tuple(groups)}
        yield make_batch(replace(shape, **sizes, words=int(draw.integers(8, 17))), seed)


def compile_with(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch.compile use another compiler behind its graphs; forget what was compiled before."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend=backend, **options))
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "switches", "graphs"),
    [
        ("charades-clip-slowfast", {}, 2),
        ("tacos-c3d-glove", {}, 2),
        ("qvhighlights-clip-slowfast", {}, 2),
        # The host has to know the lengths of what a recurrent layer reads, which cuts the graph.
        ("charades-clip-slowfast", SWITCHES, 6),
    ],
    ids=["charades", "tacos", "qvhighlights", "recurrent"],
)
def test_few_graphs_serve_batches_of_every_size(
    setting: str, switches: dict[str, object], graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_with("eager", monkeypatch)
    network, _, loss = configs_of(setting)
    torch.manual_seed(0)
    config = replace(network, dim=32, feed_forward_dim=40, dropout=0.0, input_dropout=0.0, **switches)
    model = build_network(config, SIZES).train()
    forward, losses = forward_and_losses(model, compiled=True)
    assert forward is not model
    with torch.no_grad():
        for batch in batches(setting):
            batch.prepare()
            found, expected = forward(batch), model(batch)
            ours, theirs = losses(found, batch, loss), model.losses(expected, batch, loss)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_a_compiled_epoch_has_the_losses_of_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All but the generation of code, which takes minutes.
    compile_with("aot_eager", monkeypatch)
    corpus = make_corpus(tmp_path / "corpus")
    losses: dict[str, list[dict[str, float]]] = {}
    for compiled in ("false", "true"):
        steps = tiny_steps(corpus, f"train.compile={compiled}", "model.dropout=0", "model.input_dropout=0")
        steps.state.network.train()
        losses[compiled] = [steps.take(groups, n).read() for n, groups in enumerate(steps.batches(0))]
    for found, expected in zip(losses["true"], losses["false"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 2
