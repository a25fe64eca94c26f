"""From YAML files, recipes and overrides to a configuration; all mistakes are reported at once.

A file may name another one as its `base` and say only what differs. `key=value` overrides use dotted keys and YAML
values: `train.lr=1e-4`, `features.video.0.weights=untrained:0`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.config.schema import DERIVED, Config

T = TypeVar("T")


RECIPE_PREFIX = "recipe-"
"""Shipped files of this prefix say how to train, whatever the dataset; `--recipe fast` reads `recipe-fast`."""


_AT_LEAST_ONE = (1, math.inf)


_SHARE = (0, 0.99)


_WEIGHT = (0, math.inf)


_RANGES: Mapping[str, tuple[float, float]] = {
    "model.dim": _AT_LEAST_ONE,
    "model.heads": _AT_LEAST_ONE,
    "model.feed_forward_dim": _AT_LEAST_ONE,
    "model.queries": _AT_LEAST_ONE,
    "model.dropout": _SHARE,
    "model.input_dropout": _SHARE,
    "model.frame_word_layers": _AT_LEAST_ONE,
    "model.segment_sentence_layers": _AT_LEAST_ONE,
    "model.aligner_layers": _AT_LEAST_ONE,
    "model.encoder_layers": _AT_LEAST_ONE,
    "model.decoder_layers": _AT_LEAST_ONE,
    "loss.span": _WEIGHT,
    "loss.giou": _WEIGHT,
    "loss.label": _WEIGHT,
    "loss.saliency": _WEIGHT,
    "loss.frame": _WEIGHT,
    "loss.rank_divisor": (1e-6, math.inf),
    "loss.rebuild_words": _WEIGHT,
    "loss.segment_sentence": _WEIGHT,
    "loss.background_weight": _WEIGHT,
    "loss.contrast_iou": (-1, 1),
    "loss.temperature": (1e-6, math.inf),
    "loss.margin": _WEIGHT,
    "loss.label_smoothing": _SHARE,
}
"""Smallest and largest value of the network's and the losses' numbers, whose dataclasses know nothing of files."""


def shipped_configs() -> dict[str, str]:
    """Names of the shipped configurations and what they are for, which their first line says."""
    return {name: purpose for name, purpose in _shipped().items() if not name.startswith(RECIPE_PREFIX)}


def shipped_recipes() -> dict[str, str]:
    """Names of the shipped recipes and what they are for."""
    found = _shipped().items()
    return {k.removeprefix(RECIPE_PREFIX): purpose for k, purpose in found if k.startswith(RECIPE_PREFIX)}


def _shipped() -> dict[str, str]:
    files = resources.files("mesm.pipeline.configs")
    purposes = {}
    for entry in sorted(files.iterdir(), key=lambda item: item.name):
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            purposes[entry.name.removesuffix(".yaml")] = first.removeprefix("#").strip()
    return purposes


def load_config(name: str | Path, overrides: Sequence[str] = (), recipe: str = "") -> Config:
    """Read a shipped configuration by name, or a file by path, lay a recipe over it, and apply `key=value` overrides.

    Raises ConfigError with every mistake: unknown keys (and the nearest valid one), wrong types, impossible values.
    """
    content = _unshared(_read(str(name)))
    if recipe:
        content = _merge(content, {**_read_recipe(recipe), "name": content["name"]})
    errors = [message for override in overrides if (message := _override(content, override))]
    config = _build(Config, content, "", errors)
    errors += _impossible(config)
    if errors:
        count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        raise ConfigError(f"{count} in the configuration {name}:\n" + "\n".join(f"  {error}" for error in errors))
    return config


def _read_recipe(name: str) -> dict[str, Any]:
    known = shipped_recipes()
    if name not in known and not Path(name).is_file():
        raise ConfigError(f"there is no recipe {name!r}; expected one of {', '.join(known)}, or a .yaml file")
    return _unshared(_read(f"{RECIPE_PREFIX}{name}" if name in known else name))


def config_from_plain(content: Mapping[str, Any], source: str) -> Config:
    """Build a configuration from what `to_plain` made of one, as a checkpoint stores it."""
    errors: list[str] = []
    config = _build(Config, content, "", errors)
    errors += _impossible(config)
    if errors:
        raise ConfigError(f"the configuration in {source} cannot be used:\n" + "\n".join(errors))
    return config


def _read(name: str, folder: Path | None = None, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a file and the files that it is based on, merged; `name` is kept as the configuration's name.

    folder: where the file that names this one as its base lies; above: the files that led here.
    """
    path = Path(name) if folder is None else folder / name
    text, source = _text_of(name, path)
    if source in above:
        raise ConfigError(f"{source} is based on itself: {' -> '.join([*above, source])}")
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected a mapping of sections, found {type(content).__name__}")
    base = content.pop("base", None)
    content.setdefault("name", path.stem)
    return content if base is None else _merge(_read(str(base), path.parent, (*above, source)), content)


def _text_of(name: str, path: Path) -> tuple[str, str]:
    """Return the content of a shipped file or of the file at `path`, and what to call it."""
    resource = resources.files("mesm.pipeline.configs") / f"{name}.yaml"
    if resource.is_file():
        return resource.read_text(encoding="utf-8"), f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no shipped configuration is called {name!r}{_nearest(name, shipped_configs())}; "
            f"expected one of {', '.join(shipped_configs())}, or the path of a .yaml file"
        )
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the configuration {path} is not a text file: {error}") from error


def _unshared(value: Any) -> Any:
    """Copy sections and lists, so that an override of one place does not reach its YAML alias at another."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _override(content: dict[str, Any], override: str) -> str | None:
    """Apply `a.b.0.c=value` in place; returns what is wrong with it, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return f"override {override!r}: expected key=value, such as train.lr=1e-4"
    try:
        value = _yaml_value(text)
    except yaml.YAMLError:
        return f"override {override!r}: the value is not valid YAML"
    *parents, last = key.strip().split(".")
    place: Any = content
    for part in parents:
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                return f"override {override!r}: the list has no entry {part}"
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            return f"override {override!r}: {part} lies below a value, not a section"
    if isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        return f"override {override!r}: no such place"
    return None


def _yaml_value(text: str) -> Any:
    value = yaml.safe_load(text)
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4, without a dot, as a string.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _build(cls: type[T], content: Any, place: str, errors: list[str]) -> T:
    """Fill a dataclass from a mapping; mistakes are added to `errors` and the default stands in."""
    if not isinstance(content, Mapping):
        errors.append(f"{place or 'file'}: expected a section with keys, found {content!r}")
        return cls()
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.name not in DERIVED}  # type: ignore[arg-type]
    values = {}
    for key, value in content.items():
        where = f"{place}.{key}" if place else str(key)
        if key not in known:
            errors.append(f"{where}: unknown key{_nearest(str(key), known)}")
            continue
        before = len(errors)
        converted = _convert(value, hints[key], where, errors)
        if len(errors) == before:
            errors.extend(_out_of_range(converted, _limits(known[key].metadata, where), where))
            values[key] = converted
    return cls(**values)


def _convert(value: Any, kind: Any, place: str, errors: list[str]) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), value, place, errors)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(str, arguments))
            errors.append(f"{place}: expected one of {choices}, found {value!r}{_nearest(str(value), arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            errors.append(f"{place}: expected a list, found {value!r}")
            return ()
        return tuple(_convert(item, arguments[0], f"{place}.{i}", errors) for i, item in enumerate(value))
    if kind is float and isinstance(value, str):
        value = _yaml_value(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = Mapping if origin in (Mapping, typing.Mapping) or kind is Mapping else kind
    if not _is_a(value, expected):
        errors.append(f"{place}: expected {_kind_name(expected)}, found {value!r}")
    return value


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_is_a(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is not None:
        kind = typing.get_origin(kind)
    return isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float))


def _kind_name(kind: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Mapping: "a section"}
    return names.get(kind, str(kind))


def _impossible(config: Config) -> Iterator[str]:
    """Say which values, each possible by itself, cannot be used."""
    model, clip_len = config.model, config.dataset.clip_len
    if not (clip_len == -1 or 0 < clip_len < math.inf):
        yield f"dataset.clip_len: expected seconds above 0, or -1 for rows that share the duration, found {clip_len!r}"
    if not config.features.video:
        yield "features.video: expected at least one stream, found none"
    if model.heads and (model.dim % model.heads or model.dim % 4):
        yield f"model: dim must be a multiple of 4 and of heads, found dim {model.dim} and heads {model.heads}"
    if config.evaluate.rank_by == "frames":
        yield from config.hindrances_to_rank_by_frames()
    if config.train.compile and config.ties_between_queries():
        yield f"train.compile cannot go with {config.ties_between_queries()[0]}, which would be compiled in every step"
    if config.train.group_by_length and config.dataset.max_queries_per_group:
        yield "train.group_by_length cannot go with dataset.max_queries_per_group, whose batches hold a video once only"


def _limits(metadata: Mapping[str, Any], place: str) -> tuple[float, float] | None:
    return (metadata["minimum"], metadata["maximum"]) if "minimum" in metadata else _RANGES.get(place)


def _out_of_range(value: Any, limits: tuple[float, float] | None, place: str) -> Iterator[str]:
    if limits is not None and not (limits[0] <= value <= limits[1] and math.isfinite(value)):
        limit = f"at least {limits[0]:g}"
        if limits[1] != math.inf:
            limit += f" and at most {limits[1]:g}"
        yield f"{place}: expected {limit}, found {value!r}"


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, [str(item) for item in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
