"""Parameter names of the published MESM code, and what these parameters are called here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import MesmConfig, MesmLosses

_CROSS_LAYER = (
    (r"\.self_attn\.in_proj", r".attention.in_proj"),
    (r"\.self_attn\.out_proj", r".attention.out_proj"),
    (r"\.(linear[12]|norm[12])_1\.", r".words.\1."),
    (r"\.(linear[12]|norm[12])\.", r".frames.\1."),
)
_ENCODER_LAYER = (
    (r"\.self_attn\.", r".attention."),
    (r"\.(linear[12]|norm[12])\.", r".feed_forward.\1."),
)
_DECODER_LAYER = (
    (r"\.sa_([qk])content_proj", r".self_content_\1"),
    (r"\.sa_([qk])pos_proj", r".self_position_\1"),
    (r"\.sa_v_proj", r".self_v"),
    (r"\.self_attn\.out_proj", r".self_out"),
    (r"\.ca_qpos_sine_proj", r".cross_sine_q"),
    (r"\.ca_([qk])content_proj", r".cross_content_\1"),
    (r"\.ca_([qk])pos_proj", r".cross_position_\1"),
    (r"\.ca_v_proj", r".cross_v"),
    (r"\.cross_attn\.out_proj", r".cross_out"),
    (r"\.(linear[12]|norm[12])\.", r".feed_forward.\1."),
)
_INPUT_BLOCK = ((r"\.LayerNorm\.", r".norm."), (r"\.net\.1\.", r".linear."))

# (published prefix, our prefix, rules for what follows it)
_PREFIXES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("enhance_encoder.t2v_encoder.layers.", "frame_word.layers.", _CROSS_LAYER),
    ("t2v_encoder.t2v_encoder.layers.", "aligner.layers.", _CROSS_LAYER),
    ("ss_reconstructor.recon_trans.layers.", "segment_sentence.layers.", _CROSS_LAYER),
    ("transformer.encoder.layers.", "encoder.", _ENCODER_LAYER),
    ("transformer.decoder.layers.", "decoder.layers.", _DECODER_LAYER),
    ("transformer.decoder.norm.", "decoder.norm.", ()),
    ("transformer.decoder.query_scale.", "decoder.query_scale.", ()),
    ("transformer.decoder.ref_point_head.", "decoder.position_head.", ()),
    ("transformer.decoder.bbox_embed.", "decoder.refine_head.", ()),
    ("transformer.decoder.ref_anchor_head.", "decoder.anchor_head.", ()),
    ("span_embed.", "span_head.", ()),
    ("class_embed.", "class_head.", ()),
    ("query_embed.weight", "query_spans", ()),
    ("input_txt_proj.", "text_projection.", _INPUT_BLOCK),
    ("input_vid_proj.", "video_projection.", _INPUT_BLOCK),
    ("output_txt_proj.", "word_head.", _INPUT_BLOCK),
    ("saliency_proj1.", "saliency_frame.", ()),
    ("saliency_proj2.", "saliency_global.", ()),
    ("global_rep_token", "global_token", ()),
    ("global_rep_pos", "global_position", ()),
    ("masked_token", "masked_word", ()),
    ("unknown_token", "unknown_word", ()),
    ("ss_reconstructor.masked_sent_token", "segment_sentence.token", ()),
)

UNUSED_PREFIXES = ("txt_position_embed.", "ss_reconstructor.output_sent_proj.")
"""Parameters that the published network holds but never uses: they get no gradient and have no place here."""


def our_name(published: str) -> str | None:
    """Name of a published parameter here; None for one that the published network never uses.

    Raises KeyError for a name that the published network does not have.
    """
    if published.startswith(UNUSED_PREFIXES):
        return None
    for prefix, ours, rules in _PREFIXES:
        if published.startswith(prefix):
            rest = published[len(prefix) :]
            for pattern, replacement in rules:
                rest, found = re.subn(pattern, replacement, f".{rest}")
                rest = rest[1:]
                if found:
                    break
            return ours + rest
    raise KeyError(published)


def network_of(shapes: Mapping[str, Iterable[int]], **switches: object) -> tuple[MesmConfig, Sizes]:
    """Work out the network and its sizes from the names and shapes of its published parameters."""
    sizes = {name: tuple(shape) for name, shape in shapes.items()}

    def layers(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in sizes if name.startswith(prefix)})

    dim, video_dim = sizes["input_vid_proj.0.net.1.weight"]
    widths = Sizes(video_dim, sizes["input_txt_proj.0.net.1.weight"][1], sizes["output_txt_proj.1.weight"][0])
    config = MesmConfig(
        dim=dim,
        feed_forward_dim=sizes["t2v_encoder.t2v_encoder.layers.0.linear1.weight"][0],
        queries=sizes["query_embed.weight"][0],
        frame_word_layers=layers("enhance_encoder.t2v_encoder.layers."),
        segment_sentence_layers=layers("ss_reconstructor.recon_trans.layers."),
        aligner_layers=layers("t2v_encoder.t2v_encoder.layers."),
        encoder_layers=layers("transformer.encoder.layers."),
        decoder_layers=layers("transformer.decoder.layers."),
        separate_word_feed_forward=any("linear1_1" in name for name in sizes),
        **switches,  # type: ignore[arg-type]
    )
    return config, widths


@dataclass(frozen=True)
class Setting:
    """A published setting, recognised from its parameters."""

    name: str
    loss: MesmLosses
    segment_context: str


def recognise(shapes: Mapping[str, tuple[int, ...]], graded_saliency: bool = False) -> Setting:
    """Tell the setting from the parameters; only QVHighlights has graded saliency labels, or a large vocabulary."""
    config, widths = network_of(shapes)
    if config.separate_word_feed_forward:
        tacos = MesmLosses(label=6.0, saliency=1.0, rank_divisor=1.0, triplet=True)
        return Setting("tacos-c3d-glove", tacos, "clip")
    if widths.word_classes > 5000 or graded_saliency:
        highlights = MesmLosses(saliency=1.0, triplet=True, rebuild_words=0.5)
        return Setting("qvhighlights-clip-slowfast", highlights, "group")
    name = "charades-vgg-glove" if widths.text_dim == 300 else "charades-clip-slowfast"
    return Setting(name, MesmLosses(), "clip")
