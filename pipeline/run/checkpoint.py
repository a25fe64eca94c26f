"""Checkpoints: tensors by name and a description as JSON; none of it needs pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mesm.datasets.annotations.records import shorten
from mesm.datasets.plain_text import parse_json
from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import replace_file
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.console import say
from mesm.pipeline.run.package import WEIGHTS, is_package, verify

METADATA_KEY = "mesm-checkpoint"
HASHED = re.compile(r'\{"sha256":"([0-9a-f]{64})",')
"""Beginning of a description: the hash of the tensors and of the rest of it. Files of earlier versions have none."""
FORMAT = 1
LAST, BEST = "last", "best"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below a prefix, without it."""
        return {k.removeprefix(f"{prefix}."): v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def checkpoint_file(run: Path, which: str) -> Path:
    """The file of a run's checkpoint: `last` or `best`."""
    return run / f"checkpoint-{which}.safetensors"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Publish a checkpoint: a reader finds the old or the new one, never half.

    FeatureError when the disk is full or the folder cannot be written.
    """
    text = json.dumps({"format": FORMAT, **meta}, separators=(",", ":"), sort_keys=True)
    held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    # One entry alone: those of a header come in no particular order, and files are to be the same bit for bit.
    content = save(held, {METADATA_KEY: f'{{"sha256":"{_sha256(held, text)}",{text[1:]}'})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            half = len(content) // 2
            file.write(content[:half])
            write_point("checkpoint:half-written")
            file.write(content[half:])

    write_point("checkpoint:before-write")
    replace_file(path, write)
    write_point("checkpoint:published")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the best one of a run directory, or an exported package.

    PipelineError when it is missing, damaged or of another format, or when a package's files were changed. One of an
    earlier version, which has no hash, is read with a note.
    """
    checkpoint, has_hash = read_checkpoint(path)
    if not has_hash:
        say(f"note: {path} is of an earlier version and has no hash, so damage to it would not be noticed")
    return checkpoint


def read_checkpoint(path: Path) -> tuple[Checkpoint, bool]:
    """Read a checkpoint file as `load_checkpoint`, and say whether it has a hash, which agrees then."""
    if path.is_dir() and is_package(path) and not checkpoint_file(path, BEST).exists():
        verify(path)
        path = path / WEIGHTS
    elif path.is_dir():
        path = checkpoint_file(path, BEST)
    if not path.exists():
        raise PipelineError(f"there is no checkpoint {path}; train first, or give a run directory")
    if not path.is_file():
        raise PipelineError(f"{path} is no file; give a run directory, or a checkpoint file")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {})[METADATA_KEY]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        hashed = HASHED.match(text)
        if hashed is not None:
            text = "{" + text[hashed.end() :]
            if _sha256(tensors, text) != hashed[1]:
                raise ValueError("its numbers or its description do not have the hash that it states")
        meta = parse_json(text)
        if not isinstance(meta, dict):
            raise ValueError(f"expected its description to be an object, found {shorten(meta)}")
        if hashed is None and any(name not in _EARLIER_HASHES and _is_hash(value) for name, value in meta.items()):
            raise ValueError("it states a hash in another place than this program does")
    except _DAMAGED as error:
        raise PipelineError(
            f"{path} is not a checkpoint of this program, or is damaged: {error}; {_remedy(path)}"
        ) from error
    if meta.get("format") != FORMAT:
        raise PipelineError(f"{path} has format {shorten(meta.get('format'))}; this version reads {FORMAT}")
    return Checkpoint(tensors, meta), hashed is not None


def require_parts(checkpoint: Checkpoint, path: Path, *more: str) -> None:
    """Raise PipelineError unless a checkpoint's description has the parts that a network is built from, and `more`."""
    meta, path = checkpoint.meta, checkpoint_file(path, BEST) if path.is_dir() else path
    wrong = [f"{n}: {shorten(meta.get(n))}" for n in (*_PARTS, *more) if not isinstance(meta.get(n), dict)]
    if not wrong and not all(isinstance(value, str) for value in meta["fingerprints"].values()):
        wrong = [f"fingerprints: {shorten(meta['fingerprints'])}"]
    if wrong:
        raise PipelineError(f"{path} lacks parts of a network, or holds others: {'; '.join(wrong)}; {_remedy(path)}")


_DAMAGED = (OSError, SafetensorError, LookupError, ValueError, TypeError, RuntimeError)
_EARLIER_HASHES = ("queries",)
"""Hashes in the description of files that have none of their own."""
_PARTS = ("config", "sizes", "fingerprints", "vocabulary", "text")


def _remedy(path: Path) -> str:
    """Say what to do about a damaged checkpoint, and what that costs."""
    if path.name == checkpoint_file(path.parent, LAST).name:
        return "delete it, and the same training begins anew"
    if path.name == checkpoint_file(path.parent, BEST).name:
        return f"delete it and {checkpoint_file(path.parent, LAST).name} beside it, and train again, or import it again"
    return "get it again"


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _sha256(tensors: Mapping[str, Tensor], text: str) -> str:
    """Hash a description and tensors by name, type, shape and numbers; 64 hex digits."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return the moments of AdamW by parameter name."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser.{kind}.{names[number]}": torch.as_tensor(value)
        for number, kinds in state.items()
        for kind, value in kinds.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put the moments back that `optimiser_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    numbers = {name: number for number, name in enumerate(names)}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        state.setdefault(numbers[name], {})[kind] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def refuse_other_features(expected: Mapping[str, str], found: Mapping[str, str], path: Path) -> None:
    """Raise PipelineError unless the features have the fingerprints that the checkpoint was trained with."""
    wrong = [
        f"{name}: trained with {fingerprint[:12]}, found {found.get(name, 'none')[:12]}"
        for name, fingerprint in expected.items()
        if found.get(name) != fingerprint
    ]
    if wrong:
        raise PipelineError(
            f"{path} was trained on other features ({'; '.join(wrong)}); extract with the configuration that it was "
            "trained with, or import the same files"
        )
