"""From YAML files, recipes and overrides to a configuration; all mistakes are reported at once.

A file may name another one as its `base` and say only what differs. `key=value` overrides use dotted keys and YAML
values: `train.lr=1e-4`, `features.video.0.weights=untrained:0`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mesm.datasets.annotations.records import shorten
from mesm.datasets.plain_text import read_plain_text
from mesm.model.registry import DEFAULT, find_network
from mesm.pipeline.config.errors import ConfigError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.config.sections import LONGEST_KEY, build_section, fields_of, nearest, yaml_value
from mesm.pipeline.config.yaml_text import YamlTextError, read_yaml

RECIPE_PREFIX = "recipe-"
"""Shipped files of this prefix say how to train, whatever the dataset; `--recipe fast` reads `recipe-fast`."""


LONGEST_FILE = 1024**2
"""Bytes of the longest configuration that is read."""
SHOWN_MISTAKES = 100


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


def load_config(name: str | Path, overrides: Sequence[str] = (), recipe: str = "", network: str = "") -> Config:
    """Read a shipped configuration by name, or a file by path, lay a recipe over it, and apply `key=value` overrides.

    network: take this one instead; the sections `model` and `loss` then begin with its own defaults. Raises
    ConfigError with every mistake: unknown keys (and the nearest valid one), wrong types, impossible values.
    """
    content = _unshared(_read(str(name)))
    if network and network != _network_of(content):
        content = {**content, "model": {"network": network}, "loss": {}}
    if recipe:
        content = _merge(content, {**_recipe_for(recipe, content, overrides), "name": content["name"]})
    errors = [message for override in overrides if (message := _override(content, override))]
    config = _build(content, errors)
    if errors:
        count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
        raise ConfigError(f"{count} in the configuration {name}:\n" + _lines(errors))
    return config


def config_from_plain(content: Mapping[str, Any], source: str) -> Config:
    """Build a configuration from what `to_plain` made of one, as a checkpoint stores it."""
    errors: list[str] = []
    config = _build(content, errors)
    if errors:
        raise ConfigError(f"the configuration in {source} cannot be used:\n" + _lines(errors))
    return config


def _lines(errors: Sequence[str]) -> str:
    more = [f"... and {len(errors) - SHOWN_MISTAKES} more"] if len(errors) > SHOWN_MISTAKES else []
    return "\n".join(f"  {error}" for error in [*errors[:SHOWN_MISTAKES], *more])


def _build(content: Mapping[str, Any], errors: list[str]) -> Config:
    """Fill a Config; mistakes are added to `errors`."""
    known = fields_of(Config)
    errors += [f"{key[:LONGEST_KEY]}: unknown key{nearest(key, known)}" for key in content if key not in known]
    kinds = dict(known)
    try:
        entry = find_network(_network_of(content))
    except ValueError as error:
        errors.append(f"model.network: {error}")
        content = {key: value for key, value in content.items() if key not in ("model", "loss")}
        entry = find_network(DEFAULT)
    kinds["model"], kinds["loss"] = entry.config_class(), entry.losses_class()
    values = {key: build_section(kinds[key], value, key, errors) for key, value in content.items() if key in known}
    config = Config(**{"model": kinds["model"](), "loss": kinds["loss"](), **values})
    errors += _impossible(config)
    return config


def _network_of(content: Mapping[str, Any]) -> str:
    """Return the name of the network that a configuration's content names."""
    return str(_section(content, "model").get("network", DEFAULT))


def _recipe_for(name: str, content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Read a recipe: what it says for every network, and below `networks` for this one alone."""
    known = shipped_recipes()
    if name not in known and not Path(name).is_file():
        raise ConfigError(f"there is no recipe {name!r}; expected one of {', '.join(known)}, or a .yaml file")
    found = _unshared(_read(f"{RECIPE_PREFIX}{name}" if name in known else name))
    own = found.pop("networks", {})
    chosen = _unshared(dict(content))
    for override in overrides:
        _override(chosen, override)
    if not isinstance(own, Mapping) or not all(isinstance(part, Mapping) for part in own.values()):
        raise ConfigError(
            f"the recipe {name}: expected sections by name of network below `networks`, found {shorten(own)}"
        )
    return _merge(found, own.get(_network_of(chosen), {}))


def _read(name: str, folder: Path | None = None, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a file and the files that it is based on, merged; `name` is kept as the configuration's name.

    folder: where the file that names this one as its base lies; above: the files that led here.
    """
    path = Path(name) if folder is None else folder / name
    text, source = _text_of(name, path)
    if source in above:
        raise ConfigError(f"{source} is based on itself: {' -> '.join([*above, source])}")
    try:
        content = read_yaml(text) or {}
    except YamlTextError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected a mapping of sections, found {type(content).__name__}")
    base = content.pop("base", None)
    content.setdefault("name", path.stem)
    return content if base is None else _laid_over(_read(str(base), path.parent, (*above, source)), content)


def _laid_over(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Merge a file into its base; where it names another network, `model` and `loss` begin with that one's defaults."""
    if _network_of(content) != _network_of(base) and "network" in _section(content, "model"):
        base = {key: value for key, value in base.items() if key not in ("model", "loss")}
    return _merge(base, content)


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, Mapping) else {}


def _text_of(name: str, path: Path) -> tuple[str, str]:
    """Return the content of a shipped file or of the file at `path`, and what to call it."""
    resource = resources.files("mesm.pipeline.configs") / f"{name}.yaml"
    if resource.is_file():
        return resource.read_text(encoding="utf-8"), f"{name}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"no shipped configuration is called {name!r}{nearest(name, shipped_configs())}; "
            f"expected one of {', '.join(shipped_configs())}, or the path of a .yaml file"
        )
    try:
        return read_plain_text(path, LONGEST_FILE), str(path)
    except OSError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the configuration {path} cannot be read: {error}") from error


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
        return f"override {shorten(override)}: expected key=value, such as train.lr=1e-4"
    try:
        value = yaml_value(text)
    except YamlTextError:
        return f"override {shorten(override)}: the value is not valid YAML"
    *parents, last = key.strip().split(".")
    place: Any = content
    for part in parents:
        if isinstance(place, list):
            if not part.isdecimal() or int(part) >= len(place):
                return f"override {shorten(override)}: the list has no entry {part}"
            place = place[int(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            return f"override {shorten(override)}: {part} lies below a value, not a section"
    if isinstance(place, list) and last.isdecimal() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        return f"override {shorten(override)}: no such place"
    return None


def _impossible(config: Config) -> Iterator[str]:
    """Say which values, each possible by itself, cannot be used."""
    clip_len, ties, most = config.dataset.clip_len, config.model.ties(), config.model.most_queries()
    if most is not None and config.train.batch_groups > most:
        yield f"train.batch_groups is {config.train.batch_groups}, the network keeps {most} queries (model.vtc_queue)"
    if not (clip_len == -1 or 0 < clip_len < math.inf):
        yield f"dataset.clip_len: expected seconds above 0, or -1 for rows that share the duration, found {clip_len!r}"
    longest = config.model.most_words()
    if longest is not None and config.dataset.max_words > longest:
        yield f"dataset.max_words is {config.dataset.max_words}, with model.behaviour=official it is {longest} at most"
    if not config.features.video:
        yield "features.video: expected at least one stream, found none"
    yield from (f"model: {problem}" for problem in config.model.problems())
    if config.evaluate.rank_by == "frames":
        yield from config.hindrances_to_rank_by_frames()
    if config.train.compile and ties:
        yield f"train.compile cannot go with {ties[0]}, which would be compiled in every step"
    if config.train.compile and not config.model.compiles():
        yield f"train.compile cannot go with the network {config.model.name}, whose recurrent layers no compiler takes"
    if config.train.group_by_length and config.dataset.max_queries_per_group:
        yield "train.group_by_length cannot go with dataset.max_queries_per_group, whose batches hold a video once only"
