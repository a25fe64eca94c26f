"""The public surface as it is now; every call of an inner function that these tests make stands in this file.

What a function here returns is what a golden file holds: `make_golden.py` stores it, the tests compare with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import typer
import yaml
from networks import video
from settings import SETTINGS, SMALL, Setting

from mesm.extractors.encoders.registry import create_text_encoder, create_video_encoder
from mesm.model.network_config import Sizes
from mesm.model.registry import build_network
from mesm.pipeline import cli
from mesm.pipeline.config.load import load_config

Plain = dict[str, Any]

SIZES = {
    "charades-clip-slowfast": Sizes(2818, 512, 1114),
    "charades-vgg-glove": Sizes(4098, 300, 1112),
    "charades-cg-clip-slowfast": Sizes(2818, 512, 1114),
    "charades-cg-i3d-glove": Sizes(1026, 300, 1112),
    "charades-mini": Sizes(514, 300, 1112),
    "tacos-c3d-glove": Sizes(4098, 300, 1112),
    "qvhighlights-clip-slowfast": Sizes(2818, 512, 5003),
    "demo": Sizes(258, 256, 203),
}
"""What follows from the features of each configuration: two endpoint columns beside them, and three classes (CLIP) or
one (GloVe) beside the vocabulary."""

CONFIGS = {f"{name} {recipe}".strip(): (name, recipe) for name in SIZES for recipe in ("", "fast")}
"""Shipped configurations, each by itself and with the recipe laid over it."""

VIDEO_ENCODERS = ("clip", "slowfast-8x8-r50", "i3d-inception", "i3d-r50", "c3d", "vgg16")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: the order of a sum, and so its bits, depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def command(*arguments: str | Path) -> str:
    """Run a command that succeeds; return what it printed as its result."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(argument) for argument in arguments])
    assert code == 0, err.getvalue()
    return out.getvalue()


def train(config: Path, corpus: Path, run: Path, *options: str | Path) -> str:
    place = ("--annotations", corpus / "annotations", "--features", corpus / "features")
    return command("train", "--config", config, *place, "--out", run, "--device", "cpu", *options)


def evaluate(corpus: Path, run: Path, *options: str) -> Plain:
    place = ("--annotations", corpus / "annotations", "--features", corpus / "features")
    return json.loads(command("evaluate", run, *place, "--split", "test", "--device", "cpu", "--json", *options))


def commands() -> dict[str, Plain]:
    """Every command by its words, with its arguments in order and its options by their longest name."""
    found: dict[str, Plain] = {}
    open_commands: list[tuple[str, Any]] = [("", typer.main.get_command(cli.app))]
    while open_commands:
        words, entry = open_commands.pop()
        arguments = [_parameter(p) for p in entry.params if p.param_type_name == "argument"]
        options = {max(p.opts, key=len): _parameter(p) for p in entry.params if p.param_type_name == "option"}
        found[words] = {"arguments": arguments, "options": options}
        open_commands += [(f"{words} {name}".strip(), inner) for name, inner in getattr(entry, "commands", {}).items()]
    return dict(sorted(found.items()))


def _parameter(parameter: Any) -> Plain:
    """What users rely on; an argument's name in the code is none of it."""
    said: Plain = {"required": parameter.required, "values": parameter.nargs}
    if parameter.param_type_name == "option":
        default = parameter.default
        said |= {
            "names": sorted([*parameter.opts, *parameter.secondary_opts]),
            "flag": bool(parameter.is_flag),
            "repeats": bool(parameter.multiple),
            "default": default if isinstance(default, bool | int | None) else str(default),
        }
    return said


def resolved(name: str, recipe: str) -> Plain:
    """A shipped configuration as the user gets it, a recipe laid over it."""
    return yaml.safe_load(load_config(name, recipe=recipe).to_yaml())


def state_of(name: str, recipe: str) -> dict[str, list[int]]:
    """Names and shapes of what a checkpoint of this configuration stores of the network."""
    with torch.device("meta"):
        network = build_network(load_config(name, recipe=recipe).model, SIZES[name])
    return {key: list(value.shape) for key, value in network.state_dict().items()}


def _settings() -> dict[str, Setting]:
    """The published settings, the recipe, and the switches that reproduce the published code."""
    published, glove = SETTINGS["qvhighlights-clip-slowfast"], SETTINGS["charades-vgg-glove"]
    switches = {"masks": "official", "segment_context": "group"}
    fast = load_config("charades-mini", recipe="fast")
    return {
        **SETTINGS,
        "qvhighlights-clip-slowfast as published": dataclasses.replace(
            published, model=dataclasses.replace(published.model, **switches)
        ),
        "charades-mini fast": dataclasses.replace(
            glove, model=dataclasses.replace(fast.model, **SMALL), loss=fast.loss
        ),
    }


STEPS = _settings()


@one_thread()
def training_step(name: str, dropout: bool) -> dict[str, float]:
    """The losses of one step on a fixed batch, and the norm of the gradient."""
    setting = STEPS[name]
    model = setting.network(**({} if dropout else {"dropout": 0.0, "input_dropout": 0.0}))
    batch = setting.batch()
    if model.config.encoder_loss == "bce":
        batch = dataclasses.replace(batch, negative_query=None)
    torch.manual_seed(7)
    losses = model.losses(model(batch), batch, setting.loss)
    losses["total"].backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1, foreach=True)
    return {**{part: float(value.detach()) for part, value in losses.items()}, "gradient": float(norm)}


def encoder_specs(folder: Path) -> dict[str, Plain]:
    """What every encoder says that it does with pixels or words, without the names and hashes of its weights.

    Networks are built on the meta device, where nothing is computed; `folder`: for small files of weights.
    """
    with mock.patch.dict(os.environ, {"MESM_CACHE": str(folder / "cache")}):
        specs: dict[str, Any] = {"glove": create_text_encoder("glove", weights=str(_word_vectors(folder))).spec}
        model = {"model": str(_transformers_model(folder / "hf"))}
        with torch.device("meta"):
            untrained: Plain = {"weights": "untrained:0", "device": "meta"}
            specs["clip-text"] = create_text_encoder("clip-text", **untrained).spec
            specs["hf-text"] = create_text_encoder("hf-text", options=model, **untrained).spec
            encoders = {name: create_video_encoder(name, **untrained) for name in VIDEO_ENCODERS}
            encoders["hf"] = create_video_encoder("hf", options=model, **untrained)
    for name, encoder in encoders.items():
        frames = encoder.plan(video(frames=300)).frames
        specs[name] = {**encoder.spec, "plan of 300 frames": [list(frames.shape), frames[0].tolist()]}
    return {name: {k: v for k, v in spec.items() if k not in ("weights", "settings")} for name, spec in specs.items()}


def _word_vectors(folder: Path) -> Path:
    path = folder / "vectors.txt"
    path.write_text("a .1 .2 .3\ndog .4 .5 .6\n")
    return path


def _transformers_model(folder: Path) -> Path:
    """A folder as transformers writes it, without weights."""
    from tokenizers import Tokenizer, models
    from transformers import CLIPConfig, PreTrainedTokenizerFast

    text: Plain = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 32, "patch_size": 16}
    text |= {"vocab_size": 3, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    CLIPConfig(text_config=text, vision_config=vision, projection_dim=16).save_pretrained(folder)
    image = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    image |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<pad>": 2}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(folder)
    return folder
