"""From the layouts of released weights to the names of the networks here, every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from mesm.extractors.errors import WeightsError
from mesm.extractors.weights.unpickling import tensors_problem

_LISTED = 12


def load_exactly(network: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy a state into a network; every tensor must find its place and every place its tensor.

    BatchNorm's `num_batches_tracked`, which no feature depends on, may be absent. Raises WeightsError with
    the lists of what is missing, extra or of another shape.
    """
    refuse_misfits({name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}, state, source)
    # In the network's own type: a number that is finite in a file may be none in a narrower one.
    own = {n: tensor for n, tensor in network.state_dict().items() if tensor.is_meta or torch.isfinite(tensor).all()}
    refuse_not_finite({n: state[n].to(tensor.dtype) for n, tensor in own.items() if n in state}, source)
    network.load_state_dict(dict(state), strict=False)


def refuse_not_finite(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError with the names of tensors that hold numbers which are none."""
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{source} holds numbers that are not finite: {_listing('tensors', broken)}")


def refuse_misfits(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError, as `load_exactly` does, unless a state has the tensors of these names and shapes."""
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = [n for n in expected if n not in given and not n.endswith("num_batches_tracked")]
    extra = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {list(given[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    report_mismatch(source, missing, extra, reshaped)


def report_mismatch(source: str, missing: list[str], extra: list[str], reshaped: list[str]) -> None:
    """Raise WeightsError with the lists of what does not fit, unless all are empty."""
    kinds = {"missing": missing, "extra": extra, "of another shape": reshaped}
    problems = [_listing(kind, names) for kind, names in kinds.items() if names]
    if problems:
        raise WeightsError(f"{source} does not fit the network: {'; '.join(problems)}")


def _listing(problem: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {problem}: {', '.join(names[:_LISTED])}{more}"


_CLIP_SCALARS = ("input_resolution", "context_length", "vocab_size")

_OPTIMISER_BLOBS = ("momentum", "lr", "model_iter")

# Caffe2's BatchNorm suffixes; `riv` reads like an inverse, but PySlowFast takes it for the variance.
_BLOB_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

# Fusion before blocks, because their names begin alike.
_BLOB_RULES: tuple[tuple[str, str], ...] = (
    (r"t_pool1_subsample_bn_(?P<norm>\w+)", "s1_fuse.bn.{norm}"),
    (r"t_pool1_subsample_w", "s1_fuse.conv_f2s.weight"),
    (r"t_res(?P<stage>[2-4])_\d+_branch2c_bn_subsample_bn_(?P<norm>\w+)", "s{stage}_fuse.bn.{norm}"),
    (r"t_res(?P<stage>[2-4])_\d+_branch2c_bn_subsample_w", "s{stage}_fuse.conv_f2s.weight"),
    (r"(?P<fast>t_)?(?:res_)?conv1_bn_(?P<norm>\w+)", "s1.pathway{path}_stem.bn.{norm}"),
    (r"(?P<fast>t_)?(?:res_)?conv1_w", "s1.pathway{path}_stem.conv.weight"),
    (
        r"(?P<fast>t_)?res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc])_bn_(?P<norm>\w+)",
        "s{stage}.pathway{path}_res{block}.branch{branch}_bn.{norm}",
    ),
    (
        r"(?P<fast>t_)?res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2[abc])_w",
        "s{stage}.pathway{path}_res{block}.branch{branch}.weight",
    ),
    (r"pred_w", "head.projection.weight"),
    (r"pred_b", "head.projection.bias"),
)

_PYTORCHVIDEO_RULES: tuple[tuple[str, str], ...] = (
    (r"s1\.pathway(\d)_stem\.conv\.(.+)", "blocks.0.multipathway_blocks.{0}.conv.{1}"),
    (r"s1\.pathway(\d)_stem\.bn\.(.+)", "blocks.0.multipathway_blocks.{0}.norm.{1}"),
    (r"s(\d)_fuse\.conv_f2s\.(.+)", "blocks.{stage}.multipathway_fusion.conv_fast_to_slow.{1}"),
    (r"s(\d)_fuse\.bn\.(.+)", "blocks.{stage}.multipathway_fusion.norm.{1}"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch1\.(.+)", "{block}.branch1_conv.{3}"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch1_bn\.(.+)", "{block}.branch1_norm.{3}"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])\.(.+)", "{block}.branch2.conv_{3}.{4}"),
    (r"s(\d)\.pathway(\d)_res(\d+)\.branch2\.([abc])_bn\.(.+)", "{block}.branch2.norm_{3}.{4}"),
    (r"head\.projection\.(.+)", "blocks.6.proj.{0}"),
)

_CAFFE_LAYERS = {
    "conv1a": "conv1",
    "conv2a": "conv2",
    "fc6-1": "fc6",
    "fc7-1": "fc7",
    "fc8-1": "fc8",
}


def convert_clip(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Turn OpenAI's archive, a plain state dict or a checkpoint into open_clip's names, in float32.

    OpenAI's names are open_clip's; its archive adds three numbers about the architecture, which are dropped.
    """
    return {name: tensor.float() for name, tensor in clip_state(content).items()}


def clip_state(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Do what `convert_clip` does, and leave the tensors in the precision of the file."""
    state = _without_prefix(_state(content, "state_dict"), "module.")
    return {name: tensor for name, tensor in state.items() if name not in _CLIP_SCALARS}


def convert_slowfast(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Turn Caffe2's blobs, a PySlowFast or a pytorchvideo checkpoint into pytorchvideo's names.

    Blobs of the optimiser are dropped; any other blob that is not understood keeps its name, and so is
    reported. Raises WeightsError when the content is none of these.
    """
    if "blobs" in content:
        state = _slowfast_blobs(content["blobs"])
    else:
        state = _state(content, "model_state")
    return {pytorchvideo_name(name): tensor for name, tensor in state.items()}


def pyslowfast_name(blob: str) -> str | None:
    """Return PySlowFast's name of a Caffe2 blob of SlowFast, or None when it has none."""
    for pattern, template in _BLOB_RULES:
        match = re.fullmatch(pattern, blob)
        if match is None:
            continue
        parts = match.groupdict()
        norm = _BLOB_NORM.get(parts.get("norm") or "s")
        if norm is None:
            return None
        branch = (parts.get("branch") or "").replace("2", "2.")
        return template.format(
            path=1 if parts.get("fast") else 0,
            stage=parts.get("stage"),
            block=parts.get("block"),
            branch=branch,
            norm=norm,
        )
    return None


def pytorchvideo_name(name: str) -> str:
    """Return pytorchvideo's name of a parameter of PySlowFast's; other names unchanged."""
    for pattern, template in _PYTORCHVIDEO_RULES:
        match = re.fullmatch(pattern, name)
        if match is not None:
            parts = match.groups()
            stage = int(parts[0]) - 1 if parts[0].isdecimal() else 0
            block = ""
            if "{block}" in template:
                block = f"blocks.{stage}.multipathway_blocks.{parts[1]}.res_blocks.{parts[2]}"
            return template.format(*parts, stage=stage, block=block)
    return name


def convert_i3d_inception(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict of piergiaj's Inception I3D, whose names are ours."""
    return _state(content)


def convert_i3d_r50(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict of pytorchvideo's I3D R50 checkpoint."""
    return _state(content, "model_state")


def convert_c3d(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Turn the port's state dict or Caffe's layers of C3D into our names.

    Caffe's blobs are in torch's order, a linear layer's as (1, 1, 1, out, in). Raises WeightsError for
    others.
    """
    if not all(isinstance(value, list) for value in content.values()):
        return _state(content)
    state: dict[str, torch.Tensor] = {}
    for layer, blobs in content.items():
        if len(blobs) != 2:
            raise WeightsError(f"layer {layer} of the Caffe network has {len(blobs)} blobs; expected 2")
        name, (weight, bias) = _CAFFE_LAYERS.get(layer, layer), blobs
        state[f"{name}.weight"] = weight.flatten(0, 3) if name.startswith("fc") else weight
        state[f"{name}.bias"] = bias.flatten()
    return state


def convert_vgg16(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state dict of torchvision's VGG-16."""
    return _state(content)


def _slowfast_blobs(blobs: Any) -> dict[str, torch.Tensor]:
    if not isinstance(blobs, Mapping):
        raise WeightsError(f"the Caffe2 file's blobs are a {type(blobs).__name__}; expected a dictionary")
    state: dict[str, torch.Tensor] = {}
    for blob, array in blobs.items():
        name = pyslowfast_name(blob)
        if name is None and any(part in blob for part in _OPTIMISER_BLOBS):
            continue
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise WeightsError(f"blob {blob} is a {type(array).__name__}; expected an array of numbers")
        with np.errstate(over="ignore"):
            state[name or blob] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    return state


def _without_prefix(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _state(content: Mapping[str, Any], key: str = "") -> dict[str, torch.Tensor]:
    """Return the state dict under `key`, or the content itself. Raises WeightsError for other things."""
    state = content.get(key, content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"the weights are a {type(state).__name__}; expected a dictionary of tensors")
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(f"expected a dictionary of tensors; {_listing('others', others)}")
    if problem := tensors_problem(state):
        raise WeightsError(f"the weights cannot be used: {problem}")
    return dict(state)
