"""Turn a released checkpoint of a published code into a run directory that `evaluate` and `ground` load.

A released file is a torch pickle: a dictionary of `model` (tensors by their published names), `optimizer`,
`lr_scheduler`, `epoch` and `opt`, an argparse.Namespace; `opt.json` beside it holds the same options.

What the file does not hold:
* The features that it was trained on. `fingerprints` of the run is empty, so evaluation accepts any features whose
  sizes fit and warns; give it the released ones, imported by `mesm-pipeline import-features`.
* The word vectors of a GloVe setting. Evaluation takes `glove.safetensors` from the run directory, or else from the
  folder of features.
* The vocabulary of the rebuilding of words. It is read from the published counts beside the annotations when these are
  given; otherwise every word counts as unknown, which no answer depends on: only training rebuilds words.
* TACoS' vector of unknown words: the published training drew it first after seeding with 2019, and so does this.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mesm.datasets.plain_text import read_json
from mesm.datasets.shards.publishing import held_alone
from mesm.datasets.text.vocabulary import Vocabulary
from mesm.extractors.encoders.registry import ENCODERS
from mesm.extractors.weights.sources import file_sha256
from mesm.extractors.weights.tensor_files import torch_reason
from mesm.extractors.weights.unpickling import BROKEN_PICKLE, tensors_problem, unpacked_problem
from mesm.model.network_config import NetworkConfig, Sizes
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import WORD_TABLE_FILE, find_counts, make_unknown_vector
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.importers.recognition import NETWORK_OF, network_name, setting_of
from mesm.pipeline.importers.tables import vocabulary_of_training, without_tables
from mesm.pipeline.importers.word_order import VECTORS, words_inside
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.networks import network_shapes

TEXT_ENCODER_PREFIX = "text_encoder."
"""The frozen text encoder, whose weights are found by their own name here."""
TEMPORAL_COLUMNS = 2
"""Start and end of each row: added to the frame features after `opt.json` was written."""
FRAME_WIDTHS = {
    514: "CLIP alone",
    2306: "SlowFast alone",
    2818: "CLIP and SlowFast",
    4868: "SlowFast, CLIP and audio, which is not read here",
}
"""What released networks of these widths read, temporal columns included."""
SHOWN = 20


def import_checkpoint(
    source: Path,
    out: Path,
    *,
    opt: Path | None = None,
    trust_pickle: bool = False,
    setting: str | None = None,
    annotations: Path | None = None,
    word_vectors: Path | None = None,
) -> RunDirectory:
    """Write a run directory from a released checkpoint, and return it.

    opt: the `opt.json` beside it, to check against; setting: shipped configuration, by default recognised from the
    parameters (Charades-CG's network is that of Charades-STA and has to be named); annotations: where the published
    counts of words are, or the queries whose words' vectors the checkpoint holds; word_vectors: the table that these
    were taken from. Raises PipelineError for a file that is no such checkpoint, that needs pickle without
    `trust_pickle`, or whose tensors are not exactly those of the setting, all of which are listed.
    """
    content = read_released(source, trust_pickle)
    tensors = _model_tensors(content, source)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config, sizes = _match_setting(shapes, setting, source)
    _check_options(_options(content, opt), sizes, opt)
    tensors = without_tables(tensors, config.model, source)
    state = _translate(tensors, config.model, sizes, source)
    words = words_inside(tensors, config, annotations, word_vectors) if VECTORS in tensors else None
    vocabulary = _vocabulary(config, annotations)
    run = RunDirectory(out)
    digest = file_sha256(source)
    _refuse_other_run(run, digest)
    run.create()
    epoch = content.get("epoch")
    imported = {"source": source.name, "sha256": digest, "epoch": epoch if isinstance(epoch, int) else None}
    with held_alone(out):
        _refuse_other_run(run, digest)
        run.write_text("config.yaml", config.to_yaml())
        if words is not None:
            words.save(run.path / WORD_TABLE_FILE)
        run.save(
            BEST, {f"model.{name}": value for name, value in state.items()}, _meta(config, sizes, vocabulary, imported)
        )
    say(f"{source.name}: {config.name}, {sum(v.numel() for v in state.values()):,} parameters, written to {out}")
    if text_kind(config.features.text.encoder).is_table and words is None:
        say("its word vectors are not in the checkpoint: evaluation reads glove.safetensors beside the features")
    return run


def read_released(source: Path, trust_pickle: bool) -> dict[str, Any]:
    """Read a torch file by torch's restricted unpickler: tensors, plain containers and, if trusted, the options.

    Nothing but argparse.Namespace is ever allowed in addition, so no file can run code here. Raises PipelineError.
    """
    if source.exists() and not source.is_file():
        raise PipelineError(f"{source} is no file; give a released checkpoint")
    try:
        if zipfile.is_zipfile(source) and (problem := unpacked_problem(source)):
            raise PipelineError(f"{source} is not a checkpoint: {problem}")
        with _allow_options() if trust_pickle else _allow_nothing():
            content = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PipelineError(f"{source} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise PipelineError(_refusal(source, error, trust_pickle)) from error
    except (*BROKEN_PICKLE, zipfile.BadZipFile) as error:
        reason = torch_reason(source, error)
        raise PipelineError(f"{source} is not a checkpoint that torch can read, or is damaged: {reason}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{source} holds a {type(content).__name__}; expected a dictionary with `model`")
    return content


@contextmanager
def _allow_nothing() -> Iterator[None]:
    yield


@contextmanager
def _allow_options() -> Iterator[None]:
    """Let torch's restricted unpickler build an argparse.Namespace, which only stores attributes."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _refusal(source: Path, error: pickle.UnpicklingError, trusted: bool) -> str:
    if "argparse.Namespace" in str(error) and not trusted:
        return (
            f"{source} is a pickle that holds an object (argparse.Namespace, the options of its training), not only "
            "tensors; a pickle may run code, so objects are refused. If you trust where the file comes from, use "
            "--trust-pickle: it admits this one class and no other"
        )
    return (
        f"{source} cannot be read as a checkpoint: {torch_reason(source, error)}; a released checkpoint holds tensors, "
        "numbers and argparse.Namespace"
    )


def _model_tensors(content: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """Return the network's tensors as float32, without those of the text encoder."""
    model = content.get("model", content.get("state_dict"))
    if model is None and content and all(isinstance(value, Tensor) for value in content.values()):
        # The bare state of a network, as that of MSAT was released.
        model = content
    named = isinstance(model, Mapping) and all(isinstance(name, str) for name in model)
    if not named or not model or not all(isinstance(value, Tensor) for value in model.values()):
        raise PipelineError(
            f"{source} has no `model` or `state_dict` with tensors by name; it holds {', '.join(map(str, content))}"
        )
    if problem := tensors_problem(model):
        raise PipelineError(f"{source} cannot be used: {problem}")
    # As they will be used: a number that is finite in a file may be none in a narrower type.
    broken = [str(name) for name, value in model.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise PipelineError(f"{source} has numbers that are not finite in {_some(broken)}; get the file again")
    encoder = [name for name in model if name.startswith(TEXT_ENCODER_PREFIX)]
    if encoder:
        say(f"{len(encoder)} tensors of the frozen text encoder are left out; its weights come from the weights table")
    return {name: value.float() for name, value in model.items() if name not in encoder}


def _match_setting(shapes: Mapping[str, tuple[int, ...]], setting: str | None, source: Path) -> tuple[Config, Sizes]:
    """Return the configuration of the setting with this network's sizes, and those that follow from the features."""
    try:
        network, telling = network_name(shapes)
    except PipelineError as error:
        raise PipelineError(f"{source}: {error}") from error
    try:
        found, sizes = NETWORK_OF[network](shapes)
        likely = setting_of(network, shapes)
    except KeyError as error:
        raise PipelineError(f"{source} is no checkpoint of {network}: it has no parameter {error}") from error
    except (ValueError, IndexError) as error:
        raise PipelineError(
            f"{source} is no checkpoint of {network}: a weight has an unexpected shape ({error})"
        ) from error
    say(f"{source.name} is of the network {network} (it has {telling})")
    config = load_config(setting or likely)
    if config.model.name != network:
        raise PipelineError(
            f"{source} holds {network} (it has {telling}), the setting {config.name} is of {config.model.name}; "
            f"use --setting {likely}"
        )
    problems = list(_contradictions(config, found, sizes))
    if problems:
        raise PipelineError(
            f"{source} was not trained in the setting {config.name}: "
            + "; ".join(problems)
            + "; name the right one by --setting"
        )
    return _with_sizes(config, found, sizes)


def _with_sizes(config: Config, found: NetworkConfig, sizes: Sizes) -> tuple[Config, Sizes]:
    """Give a setting the sizes of the file's network, and the behaviour of the published code."""
    # The number of layers is the setting's: taken from the file, a lost layer would not be missed.
    own = {name: getattr(found, name) for name in ("dim", "feed_forward_dim", "queries") if hasattr(found, name)}
    group = config.dataset.group_by == "youtube-id"
    official = {"masks": "official", "behaviour": "official", "segment_context": "group" if group else "clip"}
    switches = {name: value for name, value in official.items() if hasattr(config.model, name)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **own, **switches))
    if (most := config.model.most_words()) is not None:
        dataset = dataclasses.replace(config.dataset, max_words=min(config.dataset.max_words, most))
        config = dataclasses.replace(config, dataset=dataset)
    unknown, text = 1, config.features.text
    others = unknown + sum(marker is not None for marker in text_kind(text.encoder).markers)
    if not sizes.word_classes:
        return config, dataclasses.replace(sizes, word_classes=text.vocabulary_size + others)
    text = dataclasses.replace(text, vocabulary_size=sizes.word_classes - others)
    return dataclasses.replace(config, features=dataclasses.replace(config.features, text=text)), sizes


def _contradictions(config: Config, found: NetworkConfig, sizes: Sizes) -> Iterator[str]:
    text_dim = ENCODERS[config.features.text.encoder].dim
    if sizes.text_dim != text_dim:
        yield f"it reads words of {sizes.text_dim} numbers, the setting's have {text_dim}"
    streams = [stream.encoder for stream in config.features.video]
    known = [ENCODERS[stream].dim or 0 for stream in streams if stream in ENCODERS]
    video_dim = sum(known) + TEMPORAL_COLUMNS
    if len(known) == len(streams) and sizes.video_dim != video_dim and sizes.video_dim in FRAME_WIDTHS:
        yield (
            f"it reads frames of {sizes.video_dim} numbers ({FRAME_WIDTHS[sizes.video_dim]}), "
            f"the setting's have {video_dim} ({' and '.join(streams)})"
        )
    separate = "separate_word_feed_forward"
    if getattr(found, separate, None) != getattr(config.model, separate, None):
        has = "has" if getattr(found, separate) else "lacks"
        yield f"it {has} feed-forward weights of the rebuilding of words (linear1_1)"


@dataclass(frozen=True)
class _Options:
    video_dims: tuple[int, ...]
    """What the stored options may mean by the width of the frames, temporal columns included."""
    where: str


def _options(content: Mapping[str, Any], opt: Path | None) -> _Options | None:
    """Read the width of the frames from `opt.json`, or else from the checkpoint's own options."""
    if opt is not None:
        try:
            stored = read_json(opt)
        except (OSError, ValueError) as error:
            raise PipelineError(f"{opt} cannot be read as JSON: {error}") from error
        width = stored.get("v_feat_dim") if isinstance(stored, dict) else None
        if not isinstance(width, int):
            raise PipelineError(f"{opt} has no whole number v_feat_dim; expected the opt.json of a released checkpoint")
        return _Options((width + TEMPORAL_COLUMNS,), f"{opt} says v_feat_dim {width}")
    width = getattr(content.get("opt"), "v_feat_dim", None)
    if not isinstance(width, int):
        return None
    # The options inside the checkpoint may have been stored before or after the columns were counted.
    return _Options((width, width + TEMPORAL_COLUMNS), f"its options say v_feat_dim {width}")


def _check_options(options: _Options | None, sizes: Sizes, opt: Path | None) -> None:
    if options is not None and sizes.video_dim not in options.video_dims:
        raise PipelineError(
            f"the checkpoint's network reads frames of {sizes.video_dim - TEMPORAL_COLUMNS} numbers and "
            f"{TEMPORAL_COLUMNS} temporal columns, but {options.where}"
            + ("; give the opt.json that belongs to it" if opt else "")
        )


def _translate(tensors: Mapping[str, Tensor], network: NetworkConfig, sizes: Sizes, source: Path) -> dict[str, Tensor]:
    """Rename every tensor; PipelineError lists what is missing, unknown or of another shape."""
    if problems := network.problems():
        raise PipelineError(f"{source}: {'; '.join(problems)}")
    expected = network_shapes(network, sizes, answering=True)
    of_training = set(network_shapes(network, sizes)) - set(expected)
    state: dict[str, Tensor] = {}
    unknown, shapes, unused = [], [], 0
    for name, value in tensors.items():
        try:
            ours = our_name(name, network.name)
        except KeyError:
            unknown.append(name)
            continue
        if ours is None or ours in of_training:
            unused += 1
        elif ours not in expected or ours in state:
            unknown.append(name)
        elif (value := _without_unit_axes(value, expected[ours])).shape != expected[ours]:
            shapes.append(f"{name} {list(value.shape)}, expected {list(expected[ours])}")
            state[ours] = value
        else:
            state[ours] = value
    missing = [name for name in expected if name not in state]
    labels = {"missing (as named here)": missing, "not of this network": unknown, "of another shape": shapes}
    lines = [f"{len(names)} {label}: {_some(names)}" for label, names in labels.items() if names]
    if lines:
        raise PipelineError(f"{source} does not hold the network of its setting:\n  " + "\n  ".join(lines))
    if unused:
        say(f"{unused} tensors that the published network holds but answers without are left out")
    return state


def _without_unit_axes(value: Tensor, expected: tuple[int, ...]) -> Tensor:
    """Drop last axes of one number that `expected` has not: a linear layer may be published as a convolution."""
    while value.dim() > len(expected) and value.shape[-1] == 1:
        value = value.squeeze(-1)
    return value


def _vocabulary(config: Config, annotations: Path | None) -> Vocabulary:
    """Return the published vocabulary of the setting, or one of the same size without words."""
    text = config.features.text
    kind = text_kind(text.encoder)
    if text.vocabulary == "all" and annotations is not None:
        return vocabulary_of_training(config, annotations)
    # Without a vector for unknown words (Charades), the published counts are those of the table of word vectors.
    if annotations is None or (kind.is_table and text.unknown_words != "vector"):
        return Vocabulary((), text.vocabulary_size, *kind.markers)
    path = find_counts(annotations, kind.counts_file)
    if path is None:
        raise PipelineError(
            f"{annotations} has no {kind.counts_file}; give the folder of the published annotations, or none"
        )
    return kind.read_counts(path, text.vocabulary_size)


def _meta(config: Config, sizes: Sizes, vocabulary: Vocabulary, imported: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint of our own training has beside its tensors, as far as a released one tells."""
    text: dict[str, Any] = {}
    if text_kind(config.features.text.encoder).is_table:
        text = {"unknown_vector": [float(x) for x in make_unknown_vector(sizes.text_dim)]}
    return {
        "config": to_plain(config),
        "sizes": dataclasses.asdict(sizes),
        "fingerprints": {},
        "vocabulary": vocabulary.to_json(),
        "text": text,
        "state": {
            "epoch": imported["epoch"],
            "step": 0,
            "best_score": None,
            "best_epoch": imported["epoch"],
            "sums": {},
        },
        "weights": "imported",
        "imported": dict(imported),
        "versions": {name: importlib.metadata.version(name) for name in ("mesm-pipeline", "torch", "numpy")},
    }


def _refuse_other_run(run: RunDirectory, digest: str) -> None:
    """Raise PipelineError when the folder holds a run that this checkpoint would overwrite."""
    if run.metrics_path.exists():
        raise PipelineError(f"{run.path} holds a training run; choose another --out")
    present = run.load(BEST)
    if present is not None and present.meta.get("imported", {}).get("sha256") != digest:
        raise PipelineError(f"{run.path} holds another checkpoint; choose another --out")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
