"""The network without parameters: its answers are those of the curve, whoever shares the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mesm.model.batch import Batch, Sentences, Words
from mesm.model.curves.decoders import DECODERS
from mesm.model.curves.video import default_reading, find_spans, similarity
from mesm.model.layouts import Layout
from mesm.model.network import Network
from mesm.model.network_config import Asked, Sizes
from mesm.model.networks.zero_shot import ZeroShotConfig, ZeroShotLosses
from mesm.model.registry import NETWORKS, build_network, networks_that_learn

ROWS, DIM = (20, 1, 33), 6
COLUMNS = (2, 2 + DIM)


def network(**options: object) -> Network:
    return build_network(ZeroShotConfig(**options), Sizes(DIM + 4, 5, 0)).eval()  # type: ignore[arg-type]


def batch_of(videos: list[int], rows: tuple[int, ...] = ROWS, seed: int = 0) -> Batch:
    """Queries about videos whose frames lie between two other columns and the two of time."""
    random = np.random.default_rng(seed)
    frames = [random.standard_normal((count, DIM + 4)).astype(np.float32) for count in rows]
    sentences = np.random.default_rng(9).standard_normal((len(rows), DIM))
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    number = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    return Batch(
        video=torch.from_numpy(np.concatenate([frames[video] for video in number])),
        frames=Layout([rows[video] for video in number]),
        video_of_query=tuple(number[video] for video in videos),
        group_of_query=tuple(range(len(videos))),
        words=Words(torch.ones(len(videos), 2, 5), torch.ones(len(videos), 2, dtype=torch.bool)),
        sentences=Sentences(
            torch.from_numpy(sentences[videos]),
            torch.from_numpy(np.full(DIM, 0.1)),
            COLUMNS,
            tuple(1.0 for _ in videos),
        ),
    )


def test_it_is_the_one_network_that_has_nothing_to_learn() -> None:
    assert set(NETWORKS) - set(networks_that_learn()) == {"zero-shot"}
    assert not list(network().parameters())
    assert not network().state_dict()


def test_answers_are_those_of_the_curve() -> None:
    batch = batch_of([0, 2, 1])
    answers = network().decode(network()(batch), batch)
    assert batch.sentences is not None
    for query, video in enumerate([0, 2, 1]):
        first = sum(batch.frames.lengths[: batch.video_of_query[query]])
        rows = batch.video[first : first + ROWS[video], slice(*COLUMNS)].numpy()
        curve = similarity(rows, batch.sentences.vectors[query].numpy(), batch.sentences.generic.numpy())
        spans = find_spans(curve, 1.0, default_reading(), rows)
        np.testing.assert_allclose(answers.windows[query, : len(spans)], spans[:, :2] / ROWS[video])
        np.testing.assert_allclose(answers.saliency[query, : ROWS[video]], curve, rtol=1e-6)
        assert not answers.saliency[query, ROWS[video] :].any()


def test_a_query_is_answered_alone_as_in_any_batch() -> None:
    together = batch_of([0, 1, 2, 0])
    answers = network().decode(network()(together), together)
    for query, video in enumerate([0, 1, 2, 0]):
        alone = batch_of([video])
        found = network().decode(network()(alone), alone)
        count = found.windows.shape[1]
        assert torch.equal(found.windows[0], answers.windows[query, :count])
        assert torch.allclose(found.scores[0], answers.scores[query, :count], rtol=1e-12)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_windows_are_ordered_within_the_video_and_scored(name: str) -> None:
    batch = batch_of([0, 1, 2])
    answers = network(decoder=name).decode(network(decoder=name)(batch).float(), batch)
    assert answers.windows.dtype == torch.float64
    assert answers.windows.shape[:2] == answers.scores.shape
    assert bool((answers.windows[..., 0] < answers.windows[..., 1]).all())
    assert bool(((answers.windows >= 0) & (answers.windows <= 1)).all())
    assert bool(((answers.scores > 0) & (answers.scores < 1)).all())
    assert bool((answers.scores.diff(dim=1) <= 0).all())


def test_what_fits_any_picture_is_taken_off() -> None:
    """A row that a generic sentence fits as well must not be the answer."""
    generic, wanted = np.eye(DIM)[0], 0.8 * np.eye(DIM)[0] + 0.6 * np.eye(DIM)[1]
    rows = np.tile(np.eye(DIM, dtype=np.float32)[5], (24, 1))
    rows[3:9], rows[14:20] = np.eye(DIM)[0], np.eye(DIM)[1]
    frames = np.pad(rows, ((0, 0), (2, 2)))
    batch = Batch(
        torch.from_numpy(frames),
        Layout([24]),
        (0,),
        (0,),
        Words(torch.ones(1, 2, 5), torch.ones(1, 2, dtype=torch.bool)),
        sentences=Sentences(torch.from_numpy(wanted[None]), torch.from_numpy(generic), COLUMNS, (1.0,)),
    )
    start, end = (network().decode(network()(batch), batch).windows[0, 0] * 24).tolist()
    assert 9 <= start <= 14
    assert end >= 20
    assert batch.sentences is not None
    without = replace(batch, sentences=replace(batch.sentences, generic=torch.zeros(DIM, dtype=torch.float64)))
    assert float(network().decode(network()(without), without).windows[0, 0, 0]) * 24 <= 4


def test_seconds_of_a_row_decide_how_much_is_smoothed() -> None:
    batch = batch_of([2])
    assert batch.sentences is not None
    slow = replace(batch, sentences=replace(batch.sentences, row_s=(5.0,)))
    assert not torch.equal(*(network().decode(network()(one), one).scores for one in (batch, slow)))


def test_rows_may_be_pictures_at_their_beginning() -> None:
    batch = batch_of([0])
    plain, early = (network(row_offset=offset) for offset in (0.0, -0.5))
    shifted = (plain.decode(plain(batch), batch).windows - 0.5 / ROWS[0]).clip(0, 1)
    assert torch.allclose(early.decode(early(batch), batch).windows, shifted)


def test_a_batch_without_sentences_and_a_training_are_refused() -> None:
    batch = batch_of([0])
    with pytest.raises(ValueError, match="no sentences"):
        network()(replace(batch, sentences=None))
    with pytest.raises(ValueError, match="cannot be trained"):
        network().losses(network()(batch), batch, ZeroShotLosses())


def test_options_that_cannot_be_are_named() -> None:
    assert ZeroShotConfig(decoder="pathh").problems() == [
        "there is no decoder 'pathh' (did you mean 'path'?); expected one of " + ", ".join(DECODERS)
    ]
    assert "no constant 'speed'" in ZeroShotConfig(constants={"speed": 1.0}).problems()[0]
    assert not ZeroShotConfig(decoder="path", constants={"stay": 0.97}).problems()


def test_it_says_how_sentences_are_to_be_read() -> None:
    assert ZeroShotConfig().sentences() is Asked.IN_FORMS
    assert ZeroShotConfig(prompts=False).sentences() is Asked.PLAIN
    assert {entry.config_class()().sentences() for entry in networks_that_learn().values()} == {Asked.NOT}


def test_sentences_go_with_the_batch_to_another_device() -> None:
    moved = batch_of([0]).to("meta")
    assert moved.sentences is not None
    assert moved.sentences.vectors.device.type == "meta"
    assert moved.sentences.row_s == (1.0,)
