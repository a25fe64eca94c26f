"""The network: what an answer depends on, which parts run when, and what every switch does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import SETTINGS, Setting
from torch import Tensor, nn

from mesm.model.batch import Batch, Words
from mesm.model.layers.inputs import RecurrentLayer, Standardise
from mesm.model.layouts import Layout
from mesm.model.losses import covered_share, frame_loss
from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import Mesm, MesmConfig
from mesm.model.registry import build_network
from mesm.tools.synthetic_batches import SHAPES, BatchShape, configs_of, make_batch, network_of_setting

TOLERANCE = 1e-5
RECIPE_SWITCHES = {"recurrent_frames": True, "recurrent_words": True, "positions": "frames"}

# Parameters of the published networks (MESM's own count), and those among them that are never used.
PUBLISHED_PARAMETERS = {
    "charades-clip-slowfast": 12_806_789,
    "charades-vgg-glove": 13_081_395,
    "tacos-c3d-glove": 14_134_579,
    "qvhighlights-clip-slowfast": 13_810_358,
}


def unused_parameters(words: int, dim: int = 256) -> int:
    position_code = (words + 1) * dim + 2 * dim
    sentence_head = 2 * (2 * dim + dim * dim + dim)
    return position_code + sentence_head


def alone(batch: Batch, query: int) -> Batch:
    """The batch of one query: its own video and its own words, without what is needed for training only."""
    start = sum(batch.frames.lengths[: batch.video_of_query[query]])
    length = batch.frames.lengths[batch.video_of_query[query]]
    words = int(batch.words.mask[query].sum())
    return Batch(
        video=batch.video[start : start + length],
        frames=Layout([length]),
        video_of_query=(0,),
        group_of_query=(0,),
        words=Words(batch.words.vectors[query : query + 1, :words], batch.words.mask[query : query + 1, :words]),
    )


def at_inference(batch: Batch) -> Batch:
    return replace(batch, negative_query=None, word_mask=None, targets=None)


@pytest.mark.parametrize("switches", [{}, RECIPE_SWITCHES], ids=str)
@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_a_query_is_answered_alone_as_in_any_batch(name: str, switches: dict[str, object]) -> None:
    setting = SETTINGS[name]
    model, batch = setting.network(**switches).eval(), setting.batch()
    together = model(batch)
    for query in range(batch.count):
        single = model(alone(batch, query))
        length = batch.frames.lengths[batch.video_of_query[query]]
        for ours, other in ((single.spans, together.spans), (single.logits, together.logits)):
            for layer, other_layer in zip(ours, other, strict=True):
                assert float((layer[0] - other_layer[query]).abs().max()) <= TOLERANCE
        assert float((single.saliency[0] - together.saliency[query, :length]).abs().max()) <= TOLERANCE
        assert float((single.segment_token[0] - together.segment_token[query]).abs().max()) <= TOLERANCE


@torch.no_grad()
def test_official_masks_let_other_queries_change_the_answer() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    model, batch = setting.network(masks="official").eval(), setting.batch()
    together = model(batch)
    differences = [
        float((model(alone(batch, query)).spans[0][0] - together.spans[0][query]).abs().max())
        for query in range(batch.count)
    ]
    assert max(differences) > 10 * TOLERANCE


@torch.no_grad()
def test_the_answer_without_training_branches_is_the_same() -> None:
    setting = SETTINGS["tacos-c3d-glove"]
    model, batch = setting.network().eval(), setting.batch()
    full, plain = model(batch), model(at_inference(batch))
    assert torch.allclose(full.spans[0], plain.spans[0], atol=TOLERANCE)
    assert torch.allclose(full.saliency, plain.saliency, atol=TOLERANCE)
    assert plain.negative_saliency is None
    assert plain.word_logits is None


def count_rows(model: Mesm, batch: Batch) -> dict[str, int]:
    """Rows that pass through some layers in one forward."""
    seen: dict[str, int] = {}

    def record(name: str) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = seen.get(name, 0) + inputs[0][..., 0].numel()

        return hook

    watched = {
        "word_head": model.word_head[0],
        "frame_word": model.frame_word.layers[0].frames,
        "encoder": model.encoder[0].feed_forward,
        "decoder": model.decoder.layers[0].feed_forward,
        "video": model.video_projection[0].linear,
        "token": model.segment_sentence.layers[0].frames,
    }
    handles = [module.register_forward_hook(record(name)) for name, module in watched.items()]  # type: ignore[arg-type]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return seen


def test_inference_does_no_work_for_negatives_and_hidden_words() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    model, batch = setting.network().eval(), setting.batch()
    training, inference = count_rows(model, batch), count_rows(model, at_inference(batch))
    rows = sum(batch.frames.lengths[v] for v in batch.video_of_query)
    n = batch.count
    assert "word_head" not in inference
    assert inference["frame_word"] == rows
    assert inference["encoder"] == rows + n
    assert training["encoder"] == 2 * (rows + n)
    assert training["decoder"] == inference["decoder"] == 10 * n


def test_shared_videos_are_projected_once_and_read_by_one_token() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    batch = setting.batch()
    seen = count_rows(setting.network().eval(), batch)
    assert seen["video"] == sum(batch.frames.lengths)
    assert seen["token"] == len(batch.frames)


@torch.no_grad()
def test_one_token_per_video_equals_one_per_query() -> None:
    setting = SETTINGS["charades-vgg-glove"]
    model, batch = setting.network().eval(), setting.batch()
    token = model(batch).segment_token
    frames = batch.frames.pad(model.video_projection(batch.video))
    rows = list(batch.video_of_query)
    each = model.segment_sentence(frames[rows], batch.frames.mask[rows][:, None])
    assert float((token - each).abs().max()) <= 1e-6


@torch.no_grad()
def test_a_group_of_clips_can_be_read_as_one() -> None:
    setting = SETTINGS["qvhighlights-clip-slowfast"]
    batch = setting.batch()
    by_clip = setting.network().eval()(batch).segment_token
    by_group = setting.network(segment_context="group").eval()(batch).segment_token
    same_group = [0, 1, 2]
    assert torch.allclose(by_group[same_group], by_group[:1].expand(3, -1), atol=1e-6)
    assert not torch.allclose(by_clip[0], by_clip[1], atol=1e-3)
    assert torch.allclose(by_clip[5], by_group[5], atol=1e-6)


SWITCHES = [
    {},
    {"frame_word": False},
    {"segment_sentence": False},
    {"frame_word": False, "segment_sentence": False},
    {"encoder_loss": "bce"},
    {"encoder_loss": "none"},
    {"context": "attention"},
    {"segment_context": "group"},
    {"masks": "official"},
    {"masks": "official", "segment_context": "group"},
    {"decoder_layers": 3, "frame_word_layers": 1},
    {"recurrent_frames": True},
    {"recurrent_words": True},
    {"positions": "frames"},
]


@pytest.mark.parametrize("name", ["tacos-c3d-glove", "qvhighlights-clip-slowfast"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_learns_with_every_switch(name: str, switches: dict[str, object]) -> None:
    setting: Setting = SETTINGS[name]
    model, batch = setting.network(**switches).train(), setting.batch()
    if switches.get("encoder_loss") in ("bce", "none"):
        batch = replace(batch, negative_query=None)
    losses = model.losses(model(batch), batch, setting.loss)
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    silent = [key for key, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not silent


@torch.no_grad()
def test_frame_classifier_learns_from_windows_not_from_whole_rows() -> None:
    setting = SETTINGS["tacos-c3d-glove"]
    model, batch = setting.network(encoder_loss="bce").eval(), replace(setting.batch(), negative_query=None)
    assert batch.targets is not None
    output, rows = model(batch), batch.targets
    others = replace(batch, targets=replace(rows, clip_mask=~rows.clip_mask))
    first = model.losses(output, others, setting.loss)["frame"]
    moved = replace(batch, targets=replace(rows, windows=rows.windows / 2))
    assert first == frame_loss(output.frame_logits, batch.query_mask(), covered_share(rows, batch.query_mask()))
    assert model.losses(output, moved, setting.loss)["frame"] != first


@torch.no_grad()
def test_recurrence_reads_frames_in_order_and_no_padding() -> None:
    torch.manual_seed(0)
    layer, lengths = RecurrentLayer(8), [3, 7, 5]
    sequences = [torch.randn(length, 8) for length in lengths]
    read = layer(torch.cat(sequences), Layout(lengths))
    for sequence, found in zip(sequences, read.split(lengths), strict=True):
        torch.testing.assert_close(found, sequence + layer.gru(sequence[None])[0][0])
        assert not torch.allclose(found.flip(0), layer(sequence.flip(0), Layout([len(sequence)])), atol=1e-3)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters_are_the_published_ones_less_the_unused(name: str) -> None:
    config, sizes, _ = configs_of(name)
    with torch.device("meta"):
        model = build_network(config, sizes)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PUBLISHED_PARAMETERS[name] - unused_parameters(SHAPES[name].words)


def test_the_layers_of_the_token_start_alike() -> None:
    model = Mesm(MesmConfig(dim=32, feed_forward_dim=40), Sizes(10, 8, 5))
    first, *others = model.segment_sentence.layers
    for layer in others:
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, first.get_parameter(name))


@torch.no_grad()
def test_context_sentences_matter_only_when_they_attend() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    batch = setting.batch()
    vectors = batch.words.vectors.clone()
    vectors[1] = batch.words.vectors[5]
    changed = replace(batch, words=replace(batch.words, vectors=vectors))
    for switch, matters in (("none", False), ("attention", True)):
        model = setting.network(context=switch).eval()
        difference = (model(batch).segment_token[0] - model(changed).segment_token[0]).abs().max()
        assert (float(difference) > 1e-4) == matters


def test_standardise_gives_mean_0_and_deviation_1_and_spares_columns_that_hardly_vary() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 4, generator=draw) * torch.tensor([2.0, 1.0, 1e-5, 0.0]) + torch.tensor([50.0, -3, 7, 1])
    scaling = Standardise(4)
    scaling.measure([rows[:100], rows[100:]])
    scaled = scaling(rows)
    assert torch.allclose(scaled[:, :2].mean(0), torch.zeros(2), atol=1e-4)
    assert torch.allclose(scaled[:, :2].std(0, correction=0), torch.ones(2), atol=1e-4)
    assert scaled[:, 2:].abs().max() < 0.1


def test_without_a_loss_the_encoder_has_no_saliency() -> None:
    setting = SETTINGS["charades-clip-slowfast"]
    model = setting.network(encoder_loss="none").eval()
    assert not [name for name, _ in model.named_parameters() if "saliency" in name or "frame_head" in name]
    assert not model(at_inference(setting.batch())).saliency.any()


def first_groups(shape: BatchShape, count: int) -> BatchShape:
    """A batch of fewer groups; its tensors are still large enough for several threads."""
    groups = [group for group in shape.group_of_query if group < count]
    videos = shape.video_of_query[: len(groups)]
    return replace(shape, rows=shape.rows[: max(videos) + 1], video_of_query=videos, group_of_query=tuple(groups))


@pytest.mark.parametrize("name", ["charades-clip-slowfast", "qvhighlights-clip-slowfast"])
def test_gradients_are_the_same_bits_every_time(name: str) -> None:
    torch.manual_seed(0)
    model, loss = network_of_setting(name)
    batch = make_batch(first_groups(SHAPES[name], 4))
    first: list[Tensor] = []
    for _ in range(4):
        torch.manual_seed(1)
        model.zero_grad()
        model.losses(model(batch), batch, loss)["total"].backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        first = first or gradients
        assert all(torch.equal(a, b) for a, b in zip(first, gradients, strict=True))
