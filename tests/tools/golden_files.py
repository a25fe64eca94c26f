"""Golden files of any setting, made by the plain form of the network in the layout of the published ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mesm.model.batch import Batch
from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import MesmConfig, MesmLosses
from mesm.tools.parity_mesm import formula_weight
from mesm.tools.reference_batch import PlainBatch
from mesm.tools.reference_losses import reference_losses
from mesm.tools.reference_network import ReferenceMesm
from mesm.tools.synthetic_batches import BatchShape, configs_of, make_batch

DIM, HIDDEN, CLASSES, WORDS = 32, 48, 23, 8
_GROUPS = (0, 0, 0, 1, 1, 2)


@dataclass(frozen=True)
class GoldenSetting:
    name: str
    text_dim: int
    own_clips: bool = False
    levels: int = 1
    windows: int = 1

    def shape(self) -> BatchShape:
        rows = (12, 12, 9, 12, 7, 12) if self.own_clips else (9, 14, 6)
        videos = tuple(range(6)) if self.own_clips else _GROUPS
        return BatchShape(
            30, self.text_dim, CLASSES, rows, videos, _GROUPS, words=WORDS, windows=self.windows, levels=self.levels
        )


GOLDEN_SETTINGS = {
    setting.name: setting
    for setting in (
        GoldenSetting("charades-clip-slowfast", 24),
        GoldenSetting("charades-vgg-glove", 300),
        GoldenSetting("tacos-c3d-glove", 300),
        GoldenSetting("qvhighlights-clip-slowfast", 24, own_clips=True, levels=12, windows=3),
    )
}


def unused_parameters(words: int) -> dict[str, tuple[int, ...]]:
    """Parameters that the published network holds and never uses."""
    shapes: dict[str, tuple[int, ...]] = {
        "txt_position_embed.position_embeddings.weight": (words + 1, DIM),
        "txt_position_embed.LayerNorm.weight": (DIM,),
        "txt_position_embed.LayerNorm.bias": (DIM,),
    }
    for layer in (0, 1):
        prefix = f"ss_reconstructor.output_sent_proj.{layer}"
        shapes |= {f"{prefix}.LayerNorm.weight": (DIM,), f"{prefix}.LayerNorm.bias": (DIM,)}
        shapes |= {f"{prefix}.net.1.weight": (DIM, DIM), f"{prefix}.net.1.bias": (DIM,)}
    return shapes


def reference(config: MesmConfig, sizes: Sizes, masks: str) -> ReferenceMesm:
    network = ReferenceMesm(replace(config, masks=masks), sizes)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(formula_weight(name, tuple(parameter.shape))))
    return network


def write_golden(path: Path, name: str) -> Path:
    """Write the golden file of a setting, with a narrow network."""
    np.savez(path, **golden_arrays(name, make_batch(GOLDEN_SETTINGS[name].shape(), seed=3)))
    return path


def narrow_network(name: str) -> tuple[MesmConfig, Sizes, MesmLosses]:
    setting = GOLDEN_SETTINGS[name]
    config, _, loss = configs_of(name)
    assert isinstance(config, MesmConfig)
    config = replace(
        config,
        dim=DIM,
        feed_forward_dim=HIDDEN,
        heads=8,
        dropout=0.0,
        input_dropout=0.0,
        segment_context="group" if setting.own_clips else "clip",
    )
    return config, Sizes(30, setting.text_dim, CLASSES), loss


def golden_arrays(name: str, batch: Batch, results: bool = True) -> dict[str, np.ndarray]:
    """What the golden file of a setting holds about a batch, with or without what the network makes of it."""
    config, sizes, loss = narrow_network(name)
    arrays = dict(batch_arrays(batch, GOLDEN_SETTINGS[name]))
    shapes = {key: tuple(p.shape) for key, p in ReferenceMesm(config, sizes).named_parameters()} | unused_parameters(
        WORDS
    )
    arrays["parameter_names"] = np.array([f"{key} {list(shape)}" for key, shape in shapes.items()])
    for masks in ("official", "fixed") if results else ():
        arrays |= dict(eval_arrays(reference(config, sizes, masks), batch, loss, f"{masks}_masks/eval"))
        arrays |= dict(train_arrays(reference(config, sizes, masks), batch, loss, f"{masks}_masks/train"))
    return arrays


def batch_arrays(batch: Batch, setting: GoldenSetting) -> Iterator[tuple[str, np.ndarray]]:
    plain = PlainBatch.of(batch)
    assert plain.masked is not None
    assert plain.unknown is not None
    assert plain.labels is not None
    yield "batch/num_clips", np.bincount(_GROUPS)
    yield "batch/video_feat", plain.video.numpy()
    yield "batch/video_mask", plain.video_mask.numpy()
    yield "batch/clip_mask", plain.clip_mask.numpy()
    yield "batch/unknown_mask", plain.unknown.numpy()
    yield "batch/words_label", plain.labels.numpy()
    yield "masked_words", plain.masked.numpy()
    yield "negative_index", np.array(plain.negative)
    vectors = 3 * plain.words.numpy()
    if setting.name == "charades-vgg-glove":
        yield "batch/words_id", vectors
    else:
        wider = np.zeros((len(vectors), WORDS + 5, setting.text_dim), np.float32)
        wider[:, :WORDS] = vectors
        yield "text_features", wider
        yield "batch/words_mask", np.pad(plain.words_mask.numpy(), ((0, 0), (0, 5)))
    if plain.positive_frames is not None and plain.negative_frames is not None:
        yield "batch/pos_idx", plain.positive_frames.numpy()
        yield "batch/neg_idx", plain.negative_frames.numpy()
    if setting.own_clips:
        yield "batch/saliency_label", plain.saliency.numpy().astype(np.float64)
        for number, windows in enumerate(plain.windows):
            yield f"batch/norm_moment/{number}/moments", windows.numpy()
    else:
        yield "batch/norm_moment", torch.cat(plain.windows).numpy()


def eval_arrays(
    network: ReferenceMesm, batch: Batch, loss: MesmLosses, prefix: str
) -> Iterator[tuple[str, np.ndarray]]:
    plain = PlainBatch.of(replace(batch, word_mask=None))
    with torch.no_grad():
        out = network.eval()(plain)
        yield from described(out, reference_losses(out, plain, loss), prefix)


def train_arrays(
    network: ReferenceMesm, batch: Batch, loss: MesmLosses, prefix: str
) -> Iterator[tuple[str, np.ndarray]]:
    plain = PlainBatch.of(batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4, weight_decay=1e-4)
    steps = []
    for step in range(4):
        optimiser.zero_grad()
        out = network.train()(plain)
        losses = reference_losses(out, plain, loss)
        losses["total"].backward()
        if step == 0:
            yield from described(out, losses, prefix)
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None
                yield f"{prefix}/grad_norm/{name}", np.float64(parameter.grad.norm())
            for name in unused_parameters(WORDS):
                yield f"{prefix}/grad_norm/{name}", np.float64(-1)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        steps.append((float(losses["total"].detach()), float(norm)))
        optimiser.step()
    yield f"{prefix}/global_grad_norm", np.float64(steps[0][1])
    yield f"{prefix}/adamw_total_and_gradnorm", np.array(steps)


def described(
    out: dict[str, torch.Tensor], losses: dict[str, torch.Tensor], prefix: str
) -> Iterator[tuple[str, np.ndarray]]:
    names = {
        "pred_logits",
        "pred_spans",
        "saliency_scores",
        "neg_saliency_scores",
        "aux_outputs/0/pred_logits",
        "aux_outputs/0/pred_spans",
        "recon_feat",
        "enhanced_video_feat",
        "recfw_words_logit",
    }
    for name in sorted(names & out.keys()):
        yield f"{prefix}/outputs/{name}", out[name].detach().numpy()
    for name, value in losses.items():
        key = f"{prefix}/total" if name == "total" else f"{prefix}/losses/{name}"
        yield key, np.float64(value.detach())
