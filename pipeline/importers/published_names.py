"""Parameter names of the published codes, and what these parameters are called here."""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_CO_ATTENTION_LAYER = (
    (r"\.attention_text\.self\.", r".attend_words."),
    (r"\.attention_visual\.self\.", r".attend_points."),
    (r"\.attention_text\.output\.LayerNorm\.", r".attend_words.output.norm."),
    (r"\.attention_visual\.output\.LayerNorm\.", r".attend_points.output.norm."),
    (r"\.attention_text\.output\.", r".attend_words.output."),
    (r"\.attention_visual\.output\.", r".attend_points.output."),
    (r"\.intermediate_text\.dense\.", r".feed_words.inner."),
    (r"\.intermediate_visual\.dense\.", r".feed_points.inner."),
    (r"\.output_text\.LayerNorm\.", r".feed_words.outer.norm."),
    (r"\.output_visual\.LayerNorm\.", r".feed_points.outer.norm."),
    (r"\.output_text\.dense\.", r".feed_words.outer.dense."),
    (r"\.output_visual\.dense\.", r".feed_points.outer.dense."),
    (r"\.attention\.self\.", r".attend."),
    (r"\.crossattention\.self\.", r".attend_points."),
    (r"\.attention\.output\.LayerNorm\.", r".attend.output.norm."),
    (r"\.crossattention\.output\.LayerNorm\.", r".attend_points.output.norm."),
    (r"\.attention\.output\.", r".attend.output."),
    (r"\.crossattention\.output\.", r".attend_points.output."),
)
_SLOW_COPY = ((r"\.(visual_encoder|text_encoder|vision_proj|text_proj)_m\.", r".slow_\1_"),)
_QUERY_LAYER = (
    (r"\.self_attn\.", r".self_attention."),
    (r"\.multihead_attn\.", r".cross_attention."),
    (r"\.(linear[12]|norm[12])\.", r".feed_forward.\1."),
)

_ELASTIC_LAYER = (
    (r"\.dense\.0\.conv1d\.", r".inner."),
    (r"\.dense\.2\.conv1d\.", r".outer."),
    (r"\.guide\.conv_layers\.0\.weight", r".guide.near"),
    (r"\.guide\.conv_layers\.1\.", r".guide.mix."),
    (r"\.conv1d\.", r"."),
)
_FUSER = (
    (r"\.cq_attention\.w4C", r".context_weight"),
    (r"\.cq_attention\.w4Q", r".query_weight"),
    (r"\.cq_attention\.w4mlu", r".product_weight"),
    (r"\.cq_attention\.cqa_linear\.conv1d\.", r".attended."),
    (r"\.cq_concat\.weighted_pool\.weight", r".pool_weight"),
    (r"\.cq_concat\.conv1d\.conv1d\.", r".joined."),
)
_PREDICTOR = ((r"\.(start|end)_block\.(\d)\.conv1d\.", r".\1_head.\2."), (r"\.dense_output\.conv1d\.", r".output."))
_RANKER = ((r"\.encoders\.0\.", r".convolution."), (r"\.predictor\.", r".head."))

Rules = tuple[tuple[str, str], ...]
Prefixes = tuple[tuple[str, str, Rules], ...]
"""(published prefix, our prefix, rules for what follows it)."""

_SHARED: Prefixes = (
    ("transformer.encoder.layers.", "encoder.", _ENCODER_LAYER),
    ("transformer.decoder.norm.", "decoder.norm.", ()),
    ("span_embed.", "span_head.", ()),
    ("class_embed.", "class_head.", ()),
    ("input_txt_proj.", "text_projection.", _INPUT_BLOCK),
    ("input_vid_proj.", "video_projection.", _INPUT_BLOCK),
)
_ANCHORED: Prefixes = (
    *_SHARED,
    ("transformer.decoder.layers.", "decoder.layers.", _DECODER_LAYER),
    ("transformer.decoder.query_scale.", "decoder.query_scale.", ()),
    ("transformer.decoder.ref_point_head.", "decoder.position_head.", ()),
    ("transformer.decoder.bbox_embed.", "decoder.refine_head.", ()),
    ("transformer.decoder.ref_anchor_head.", "decoder.anchor_head.", ()),
    ("query_embed.weight", "query_spans", ()),
    ("saliency_proj1.", "saliency_frame.", ()),
    ("saliency_proj2.", "saliency_global.", ()),
    ("global_rep_token", "global_token", ()),
    ("global_rep_pos", "global_position", ()),
)
_FRAME_LAYERS = ("f2f", "w2w", "f2w", "w2f", "v2v", "vq2q")
_PROPOSAL_LAYERS = ("p2p", "p2w", "w2p", "s2s", "pq2q")
_ELASTIC: Prefixes = (
    ("embedding_net.word_emb.unk_vec", "unknown_word", ()),
    ("embedding_net.linear.conv1d.", "word_projection.", ()),
    ("video_affine.linear.conv1d.", "video_projection.", ()),
    *((f"encoder.{name}.layers.0.", f"frame_side.{name}.", _ELASTIC_LAYER) for name in _FRAME_LAYERS),
    *((f"encoder.{name}.layers.0.", f"proposal_side.{name}.", _ELASTIC_LAYER) for name in _PROPOSAL_LAYERS),
    ("fuser1.", "frame_fuser.", _FUSER),
    ("fuser2.", "proposal_fuser.", _FUSER),
    ("highlight_layer.conv1d.conv1d.", "highlight_head.", ()),
    ("predictor.", "predictor.", _PREDICTOR),
    ("ranker.", "ranker.", _RANKER),
)
PREFIXES: dict[str, Prefixes] = {
    "emb": _ELASTIC,
    "tea": (
        *_ELASTIC,
        *((f"paragraph.encoder.{n}.layers.0.", f"paragraph.frame_side.{n}.", _ELASTIC_LAYER) for n in _FRAME_LAYERS),
        ("paragraph.fuser.", "paragraph.fuser.", _FUSER),
        ("paragraph.highlight_layer.conv1d.conv1d.", "paragraph.highlight_head.", ()),
        ("paragraph.predictor.", "paragraph.predictor.", _PREDICTOR),
        ("narrative_mlp.", "narrative_mlp.", ()),
        ("narrative_attention.layers.0.", "narrative_attention.", _ELASTIC_LAYER),
    ),
    "mesm": (
        *_ANCHORED,
        ("enhance_encoder.t2v_encoder.layers.", "frame_word.layers.", _CROSS_LAYER),
        ("t2v_encoder.t2v_encoder.layers.", "aligner.layers.", _CROSS_LAYER),
        ("ss_reconstructor.recon_trans.layers.", "segment_sentence.layers.", _CROSS_LAYER),
        ("output_txt_proj.", "word_head.", _INPUT_BLOCK),
        ("masked_token", "masked_word", ()),
        ("unknown_token", "unknown_word", ()),
        ("ss_reconstructor.masked_sent_token", "segment_sentence.token", ()),
    ),
    "qd-detr": (*_ANCHORED, ("transformer.t2v_encoder.layers.", "aligner.layers.", _CROSS_LAYER)),
    "moment-detr": (
        *_SHARED,
        ("transformer.decoder.layers.", "decoder.layers.", _QUERY_LAYER),
        ("query_embed.weight", "queries", ()),
        ("saliency_proj.", "saliency.", ()),
    ),
    "msat": (
        ("bert_layer.vlbert.mask_embeddings.weight", "hidden_word", ()),
        ("bert_layer.vlbert.word_mapping.", "word_projection.", ()),
        ("bert_layer.vlbert.text_embedding_LayerNorm.", "word_norm.", ()),
        ("bert_layer.vlbert.visual_embedding_LayerNorm.", "point_norm.", ()),
        ("bert_layer.vlbert.visual_1x1_object.", "point_projection.", ()),
        ("bert_layer.vlbert.visual_1x1_visual.", "point_projection.", ()),
        ("bert_layer.vlbert.encoder.layer.", "encoder.layers.", _CO_ATTENTION_LAYER),
        ("bert_layer.vlbert.mplug.temp", "contrast.temperature", ()),
        ("bert_layer.vlbert.mplug.image_queue", "contrast.video_queue", ()),
        ("bert_layer.vlbert.mplug.idx_queue", "contrast.queued", ()),
        ("bert_layer.vlbert.mplug.queue_ptr", "contrast.pointer", ()),
        ("bert_layer.vlbert.mplug.", "contrast.", _SLOW_COPY),
        ("bert_layer.final_mlp.", "word_head.", ()),
        ("bert_layer.final_mlp_2.", "stage_projection.", ()),
        ("bert_layer.final_mlp_3.0.", "grid.first.", ()),
        ("bert_layer.final_mlp_3.3.", "grid.second.", ()),
        ("bert_layer.final_mlp_s.", "start_head.", ()),
        ("bert_layer.final_mlp_e.", "end_head.", ()),
        ("bert_layer.final_mlp_c.", "middle_head.", ()),
    ),
}
"""By network; what a published code calls its parameters."""

UNUSED_PREFIXES = (
    "txt_position_embed.",
    "ss_reconstructor.output_sent_proj.",
    "embedding_net.char_emb.",
    "embedding_net.word_emb.pad_vec",
    "embedding_net.word_emb.glove_vec",
    "position.pe",
    "bert_layer.vlbert.visual_1x1_text.",
    "bert_layer.vlbert.mplug.itm_head.",
)
"""What the published networks hold but never use, or is no parameter (word vectors, positions): no place here."""


def our_name(published: str, network: str = "mesm") -> str | None:
    """Name of a published parameter of a network here; None for one that the published network never uses.

    Raises KeyError for a name that the published network does not have.
    """
    if published.startswith(UNUSED_PREFIXES):
        return None
    for prefix, ours, rules in PREFIXES[network]:
        if published.startswith(prefix):
            rest = published[len(prefix) :]
            for pattern, replacement in rules:
                rest, found = re.subn(pattern, replacement, f".{rest}")
                rest = rest[1:]
                if found:
                    break
            return ours + rest
    raise KeyError(published)


def unknown_names(names: Iterable[str], network: str) -> list[str]:
    """Return the names that the published code of a network does not have."""
    known = (*UNUSED_PREFIXES, *(prefix for prefix, _, _ in PREFIXES[network]))
    return [name for name in names if not name.startswith(known)]
