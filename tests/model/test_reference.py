"""The network equals its plain form: outputs, losses and gradients, for every setting and both mask modes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import SETTINGS

from mesm.model.networks.mesm import Mesm, MesmLosses
from mesm.pipeline.importers.published_names import our_name
from mesm.tools.reference_batch import PlainBatch
from mesm.tools.reference_losses import reference_losses
from mesm.tools.reference_network import ReferenceMesm

LOSSES = {
    "span": "loss_span",
    "giou": "loss_giou",
    "label": "loss_label",
    "span_0": "loss_span_0",
    "giou_0": "loss_giou_0",
    "label_0": "loss_label_0",
    "saliency": "loss_saliency",
    "rebuild_words": "loss_rec_fw",
    "segment_sentence": "loss_rec_ss",
    "total": "total",
}


def pair(name: str, masks: str) -> tuple[Mesm, ReferenceMesm]:
    """Both networks with the same weights, without dropout."""
    model = SETTINGS[name].network(masks=masks, dropout=0.0, input_dropout=0.0)
    reference = ReferenceMesm(model.config, model.sizes)
    state = model.state_dict()
    with torch.no_grad():
        for published, parameter in reference.named_parameters():
            parameter.copy_(state[our_name(published) or ""])
    return model, reference


@pytest.mark.parametrize("masks", ["fixed", "official"])
@pytest.mark.parametrize("name", SETTINGS)
def test_losses_and_gradients_are_those_of_the_plain_form(name: str, masks: str) -> None:
    model, reference = pair(name, masks)
    batch = SETTINGS[name].batch()
    loss: MesmLosses = SETTINGS[name].loss
    ours = model.losses(model(batch), batch, loss)
    plain = PlainBatch.of(batch)
    expected = reference_losses(reference(plain), plain, loss)
    assert {LOSSES[key] for key in ours} == set(expected)
    for key, value in ours.items():
        assert float(value.detach()) == pytest.approx(float(expected[LOSSES[key]].detach()), rel=1e-5), key
    ours["total"].backward()
    expected["total"].backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert {our_name(key) for key, _ in reference.named_parameters()} == set(gradients)
    for key, parameter in reference.named_parameters():
        gradient = gradients[our_name(key) or ""]
        assert gradient is not None
        assert parameter.grad is not None
        scale = max(float(parameter.grad.norm()), 1e-2)
        assert float((gradient - parameter.grad).norm()) < 2e-4 * scale, key


@pytest.mark.parametrize("name", SETTINGS)
@torch.no_grad()
def test_answers_are_those_of_the_plain_form(name: str) -> None:
    model, reference = pair(name, "fixed")
    model.eval()
    reference.eval()
    batch = SETTINGS[name].batch()
    expected = reference(PlainBatch.of(batch))
    ours = model(replace(batch, negative_query=None, word_mask=None))
    mask = batch.frames.mask[list(batch.video_of_query)]
    assert torch.allclose(ours.logits[0], expected["pred_logits"], atol=2e-5)
    assert torch.allclose(ours.spans[0], expected["pred_spans"], atol=2e-5)
    assert torch.allclose(ours.saliency[mask], expected["saliency_scores"][mask], atol=2e-5)
