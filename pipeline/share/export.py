"""A run as a package that travels: weights, configuration, word vectors, calibration, figures, card, hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mesm.datasets.shards.publishing import replace_file
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.load import config_from_plain
from mesm.pipeline.config.schema import Config, to_plain
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.run.checkpoint import load_checkpoint, save_checkpoint
from mesm.pipeline.run.console import say
from mesm.pipeline.run.package import (
    CALIBRATION,
    CARD,
    CONFIG,
    FIGURES,
    FILES,
    WEIGHTS,
    WORD_TABLE,
    is_package,
    write_manifest,
)
from mesm.pipeline.run.text_files import publish_text, read_facts
from mesm.pipeline.share.card import read_figures, write_card

LEFT_BEHIND = ("queries",)
"""What a checkpoint says of its training data alone."""


def export_run(run: Path, out: Path, licence: str = "", force: bool = False) -> Path:
    """Write a run directory, or a package, as a package of its own, and return the folder.

    licence: of the weights, by the hub's identifier. PipelineError when `run` holds no checkpoint, when its network
    reads word vectors that are not there, or when `out` is in the way and not `force`.
    """
    checkpoint = load_checkpoint(run)
    folder = run if run.is_dir() else run.parent
    if out.resolve() == folder.resolve():
        raise PipelineError(f"{out} is the run itself; export it into another folder")
    _clear(out, force)
    config = config_from_plain(checkpoint.meta["config"], str(run))
    # Where the annotations stood on this machine is nobody else's business.
    config = replace(config, dataset=replace(config.dataset, annotations=""))
    meta = {key: value for key, value in checkpoint.meta.items() if key not in LEFT_BEHIND}
    meta["config"] = to_plain(config)
    save_checkpoint(out / WEIGHTS, checkpoint.tensors, meta)
    publish_text(out / CONFIG, json.dumps(_description(config, meta), indent=1, ensure_ascii=False) + "\n")
    if text_kind(config.features.text.encoder).is_table:
        _copy(folder, out, WORD_TABLE, f"its network reads word vectors, and {folder / WORD_TABLE} is not there")
    for name in (CALIBRATION, FIGURES):
        if (folder / name).is_file():
            _copy(folder, out, name)
    card = write_card(config, read_figures(folder), licence, _calibration(folder), meta.get("imported"))
    publish_text(out / CARD, card)
    for what in _paths_in(config):
        say(f"warning: the configuration names {what}; without that file others cannot ask this network")
    write_manifest(out)
    return out


def _clear(out: Path, force: bool) -> None:
    """Make room for a package; nothing but a package's own files is ever removed."""
    if out.exists() and not out.is_dir():
        raise PipelineError(f"{out} is a file; a package is a folder")
    found = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if found and not (force and is_package(out)):
        raise PipelineError(
            f"{out} is not empty; give another folder" + (", or --force to export anew" if is_package(out) else "")
        )
    for name in set(found) & set(FILES):
        (out / name).unlink()


def _description(config: Config, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people, and the hub, want to know of a package without opening its weights."""
    return {
        "library_name": "mesm-pipeline",
        "model_type": config.model.name,
        "sizes": meta["sizes"],
        "fingerprints": meta["fingerprints"],
        "versions": meta.get("versions", {}),
        "config": meta["config"],
    }


def _paths_in(config: Config) -> Iterator[str]:
    """Name the encoders' weights and options that are places on this machine."""
    text = config.features.text
    streams = [(one.encoder, {"weights": one.weights, **one.options}) for one in config.features.video]
    for encoder, options in (*streams, (text.encoder, {"weights": text.weights, **text.options})):
        for name, value in options.items():
            if isinstance(value, str) and Path(value).is_absolute():
                yield f"{name} {value} of the encoder {encoder}"


def _copy(folder: Path, out: Path, name: str, missing: str = "") -> None:
    source = folder / name
    if not source.is_file():
        raise PipelineError(missing)
    replace_file(out / name, lambda place: shutil.copyfile(source, place))


def _calibration(folder: Path) -> Mapping[str, Any] | None:
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        return read_facts(path)
    except ValueError as error:
        raise PipelineError(
            f"{path} is damaged: {error}; make it anew by `mesm-pipeline evaluate RUN --calibrate`, or delete it"
        ) from error
