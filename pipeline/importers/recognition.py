"""Which network, of which sizes and setting, the parameters of a released checkpoint are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mesm.model.network_config import TEMPORAL_COLUMNS, NetworkConfig, Sizes
from mesm.model.networks.emb import EmbConfig, TeaConfig
from mesm.model.networks.mesm import MesmConfig, MesmLosses
from mesm.model.networks.moment_detr import MomentDetrConfig
from mesm.model.networks.msat import MsatConfig
from mesm.model.networks.qd_detr import QdDetrConfig
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.importers.published_names import unknown_names

Shapes = Mapping[str, Iterable[int]]

TELLING: dict[str, tuple[str, ...]] = {
    "mesm": ("ss_reconstructor.", "enhance_encoder."),
    "qd-detr": ("transformer.t2v_encoder.", "saliency_proj1."),
    "moment-detr": ("transformer.decoder.layers.0.multihead_attn.", "saliency_proj.weight"),
    "emb": ("encoder.f2f.layers.0.guide.", "fuser1.cq_attention."),
    "msat": ("bert_layer.vlbert.word_mapping.", "bert_layer.final_mlp_3."),
}
"""By network, beginnings of names that it has; of the first network any, of the others all must be there."""
NOT_TRAINED = "contrastive_align_projection_"
"""Parameters of a loss that no released run used."""
SHOWN = 20


def network_name(shapes: Shapes) -> tuple[str, str]:
    """Tell the network from the names of its published parameters: its name here, and a name that told it.

    Relatives share most names, so a match is no proof: see `unknown_names`. Raises PipelineError with the nearest
    network when it is none of them.
    """
    found = {
        network: [name for prefix in prefixes for name in shapes if name.startswith(prefix)]
        for network, prefixes in TELLING.items()
    }
    for network, prefixes in TELLING.items():
        present = [any(name.startswith(prefix) for name in shapes) for prefix in prefixes]
        if any(present) if network == "mesm" else all(present):
            return network, found[network][0]
    distance = {network: len(unknown_names(shapes, network)) for network in TELLING}
    near = min(distance, key=lambda network: distance[network])
    lacking = [prefix for prefix in TELLING[near] if not any(name.startswith(prefix) for name in shapes)]
    raise PipelineError(
        f"these are the parameters of none of the networks {', '.join(TELLING)}; nearest is {near}, which has no "
        f"{distance[near]} of these {len(list(shapes))} parameters, and has {', '.join(lacking)}"
    )


def refuse_unknown(shapes: Shapes, network: str) -> None:
    """Raise PipelineError for parameters that the published code of a network does not have, at most 20 named."""
    unused = [name for name in shapes if name.startswith(NOT_TRAINED)]
    if unused:
        raise PipelineError(f"{', '.join(unused)}: parameters of a contrastive loss that is not built here")
    unknown = unknown_names(shapes, network)
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise PipelineError(f"{len(unknown)} parameters are not of {network}: {', '.join(unknown[:SHOWN])}{more}")


def mesm_of(shapes: Shapes, **switches: object) -> tuple[MesmConfig, Sizes]:
    """Work out MESM and its sizes from the names and shapes of its published parameters."""
    sizes = {name: tuple(shape) for name, shape in shapes.items()}

    dim, video_dim = sizes["input_vid_proj.0.net.1.weight"]
    widths = Sizes(video_dim, sizes["input_txt_proj.0.net.1.weight"][1], sizes["output_txt_proj.1.weight"][0])
    config = MesmConfig(
        dim=dim,
        feed_forward_dim=sizes["t2v_encoder.t2v_encoder.layers.0.linear1.weight"][0],
        queries=sizes["query_embed.weight"][0],
        frame_word_layers=count_layers(sizes, "enhance_encoder.t2v_encoder.layers."),
        segment_sentence_layers=count_layers(sizes, "ss_reconstructor.recon_trans.layers."),
        aligner_layers=count_layers(sizes, "t2v_encoder.t2v_encoder.layers."),
        encoder_layers=count_layers(sizes, "transformer.encoder.layers."),
        decoder_layers=count_layers(sizes, "transformer.decoder.layers."),
        separate_word_feed_forward=any("linear1_1" in name for name in sizes),
        **switches,  # type: ignore[arg-type]
    )
    return config, widths


def qd_detr_of(shapes: Shapes, **switches: object) -> tuple[QdDetrConfig, Sizes]:
    """Work out QD-DETR and its sizes from the names and shapes of its published parameters."""
    sizes = {name: tuple(shape) for name, shape in shapes.items()}
    config = QdDetrConfig(
        dim=sizes["input_vid_proj.0.net.1.weight"][0],
        feed_forward_dim=sizes["transformer.t2v_encoder.layers.0.linear1.weight"][0],
        queries=sizes["query_embed.weight"][0],
        aligner_layers=count_layers(sizes, "transformer.t2v_encoder.layers."),
        encoder_layers=count_layers(sizes, "transformer.encoder.layers."),
        decoder_layers=count_layers(sizes, "transformer.decoder.layers."),
        **switches,  # type: ignore[arg-type]
    )
    return config, _widths(sizes)


def moment_detr_of(shapes: Shapes, **switches: object) -> tuple[MomentDetrConfig, Sizes]:
    """Work out Moment-DETR and its sizes from the names and shapes of its published parameters."""
    sizes = {name: tuple(shape) for name, shape in shapes.items()}
    config = MomentDetrConfig(
        dim=sizes["input_vid_proj.0.net.1.weight"][0],
        feed_forward_dim=sizes["transformer.encoder.layers.0.linear1.weight"][0],
        queries=sizes["query_embed.weight"][0],
        encoder_layers=count_layers(sizes, "transformer.encoder.layers."),
        decoder_layers=count_layers(sizes, "transformer.decoder.layers."),
        **switches,  # type: ignore[arg-type]
    )
    return config, _widths(sizes)


def emb_of(shapes: Shapes, **switches: object) -> tuple[EmbConfig, Sizes]:
    """Work out EMB and its sizes from the names and shapes of its published parameters."""
    dim, sizes = _elastic_widths(shapes)
    return EmbConfig(dim=dim, **switches), sizes  # type: ignore[arg-type]


def tea_of(shapes: Shapes, **switches: object) -> tuple[TeaConfig, Sizes]:
    """Work out TEA's sizes from the names and shapes of its parameters; its switches are to be given."""
    dim, sizes = _elastic_widths(shapes)
    return TeaConfig(dim=dim, **switches), sizes  # type: ignore[arg-type]


def _elastic_widths(shapes: Shapes) -> tuple[int, Sizes]:
    sizes = {name: tuple(shape) for name, shape in shapes.items()}
    dim, video_dim, _ = sizes["video_affine.linear.conv1d.weight"]
    return dim, Sizes(video_dim + TEMPORAL_COLUMNS, sizes["embedding_net.linear.conv1d.weight"][1], 0)


def msat_of(shapes: Shapes, **switches: object) -> tuple[MsatConfig, Sizes]:
    """Work out MSAT and its sizes from the names and shapes of its published parameters and buffers.

    Heads and the constants of ranking and contrast leave no trace there.
    """
    sizes = {name: tuple(shape) for name, shape in shapes.items()}
    dim, text_dim = sizes["bert_layer.vlbert.word_mapping.weight"]
    asymmetric = any(".crossattention." in name for name in sizes)
    layers = count_layers(sizes, "bert_layer.vlbert.encoder.layer.")
    found: dict[str, Any] = {"encoder_layers": layers}
    if asymmetric:
        crossing = len({name.split(".")[4] for name in sizes if ".crossattention." in name})
        groups = layers - crossing
        found = {"encoder": "asymmetric", "groups": groups, "asymmetric_blocks": crossing // max(groups, 1)}
    if "bert_layer.vlbert.mplug.image_queue" in sizes:
        found["vtc_queue"] = sizes["bert_layer.vlbert.mplug.image_queue"][1]
    found |= {
        "dim": dim,
        "feed_forward_dim": sizes["bert_layer.final_mlp_3.0.weight"][0],
        "clips": sizes["bert_layer.iou_mask_map"][0] - 1,
        "positions": sizes["bert_layer.vlbert.postion_encoding.pos_table"][1],
        "vtc": "bert_layer.vlbert.mplug.temp" in sizes,
    }
    config = MsatConfig(**{**found, **switches})
    visual = "bert_layer.vlbert.visual_1x1_visual.weight"
    video = sizes[visual if visual in sizes else "bert_layer.vlbert.visual_1x1_object.weight"][1]
    return config, Sizes(video + TEMPORAL_COLUMNS, text_dim, sizes["bert_layer.final_mlp.4.weight"][0])


def count_layers(names: Iterable[str], prefix: str) -> int:
    """Count the numbers that follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})


def _widths(sizes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Widths of the features; these networks rebuild no words, hence the 0."""
    return Sizes(sizes["input_vid_proj.0.net.1.weight"][1], sizes["input_txt_proj.0.net.1.weight"][1], 0)


NETWORK_OF: dict[str, Callable[..., tuple[NetworkConfig, Sizes]]] = {
    "mesm": mesm_of,
    "qd-detr": qd_detr_of,
    "moment-detr": moment_detr_of,
    "emb": emb_of,
    "tea": tea_of,
    "msat": msat_of,
}
"""By network: what works it out from its parameters."""


@dataclass(frozen=True)
class Setting:
    """A published setting, recognised from its parameters."""

    name: str
    loss: Any
    """Weights of the losses."""
    segment_context: str


def recognise(shapes: Shapes, graded_saliency: bool = False) -> Setting:
    """Tell MESM's setting; only QVHighlights has graded saliency labels, or a large vocabulary."""
    config, widths = mesm_of(shapes)
    if config.separate_word_feed_forward:
        tacos = MesmLosses(label=6.0, saliency=1.0, rank_divisor=1.0, triplet=True)
        return Setting("tacos-c3d-glove", tacos, "clip")
    if widths.word_classes > 5000 or graded_saliency:
        highlights = MesmLosses(saliency=1.0, triplet=True, rebuild_words=0.5)
        return Setting("qvhighlights-clip-slowfast", highlights, "group")
    name = "charades-vgg-glove" if widths.text_dim == 300 else "charades-clip-slowfast"
    return Setting(name, MesmLosses(), "clip")


def grid_setting(shapes: Shapes) -> str:
    """Name the setting of MSAT, with what arXiv 2312.07435 changes of it, that parameters are of."""
    config, sizes = msat_of(shapes)
    parts = ["acb" if config.encoder == "asymmetric" else "msat", *(["vtc"] if config.vtc else [])]
    return "-".join([*parts, "tacos" if sizes.video_dim - TEMPORAL_COLUMNS > 500 else "activitynet", "c3d"])


def setting_of(network: str, shapes: Shapes) -> str:
    """Name the setting that parameters of a network are likeliest of: those of the baselines were released for one."""
    if network == "msat":
        return grid_setting(shapes)
    if network == "emb":
        return "charades-i3d-glove-emb"
    return recognise(shapes).name if network == "mesm" else f"qvhighlights-clip-slowfast-{network}"
