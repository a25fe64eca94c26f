"""Sections of a configuration: from what YAML holds to dataclasses, with every mistake in words.

pydantic checks types, bounds and names; the texts are ours, as they name the key, what was found and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mesm.datasets.annotations.records import shorten
from mesm.model.registry import NETWORKS
from mesm.pipeline.config.yaml_text import read_yaml

T = TypeVar("T")

LONGEST_KEY = 80
"""Letters of a key that a message shows."""

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}


def build_section(kind: type[T], content: Any, place: str, errors: list[str]) -> T:
    """Fill a dataclass from a mapping; mistakes are added to `errors` and the default stands in."""
    # Inside a dict, the dataclasses take the adapter's configuration, and places of mistakes begin with the section.
    adapter = TypeAdapter(dict[str, kind], config=STRICT)  # type: ignore[valid-type]
    try:
        # As JSON, since strict Python would have dataclasses and tuples where YAML has mappings and lists.
        return adapter.validate_json(json.dumps({place: _readable(kind, content)}, default=str))[place]
    except ValidationError as error:
        errors += [_in_words(kind, details) for details in error.errors(include_url=False)]
    return kind()


def nearest(name: str, known: Iterable[Any]) -> str:
    """Return ` (did you mean 'x'?)` with the nearest known name, if one is near."""
    close = difflib.get_close_matches(name, [str(item) for item in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def number_in(text: str) -> Any:
    """Return the number that a text is: YAML 1.1 reads 1e-4, without a dot, as text; other texts unchanged."""
    try:
        return float(text)
    except ValueError:
        return text


def fields_of(kind: Any) -> dict[str, Any]:
    """Names and annotations of a dataclass's fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _readable(kind: Any, value: Any) -> Any:
    """Turn texts that are numbers into numbers, where that is what `kind` has."""
    kind, _ = _bare(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        known = fields_of(kind)
        return {str(k): _readable(known[k], v) if k in known else v for k, v in value.items()}
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return [_readable(typing.get_args(kind)[0], item) for item in value]
    return number_in(value) if kind is float and isinstance(value, str) else value


def _bare(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without its bounds, and the bounds."""
    if typing.get_origin(kind) is Annotated:
        return typing.get_args(kind)[0], typing.get_args(kind)[1:]
    return kind, ()


def _kind_at(kind: Any, place: Iterable[str | int]) -> Any:
    """The annotation of what lies at a place below a section; None where nothing may lie."""
    for part in place:
        bare, _ = _bare(kind)
        if dataclasses.is_dataclass(bare):
            kind = fields_of(bare).get(str(part))
        elif typing.get_origin(bare) is tuple:
            kind = typing.get_args(bare)[0]
        if kind is None:
            return None
    return kind


def _in_words(section: Any, details: ErrorDetails) -> str:
    place, found = details["loc"], details["input"]
    where = ".".join(str(part)[:LONGEST_KEY] for part in place)
    kind, bounds = _bare(_kind_at(section, place[1:]))
    if kind is None:
        known = fields_of(_bare(_kind_at(section, place[1:-1]))[0])
        return f"{where}: unknown key{nearest(str(place[-1]), known)}{_owners(place, section)}"
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        listed = ", ".join(map(str, choices))
        return f"{where}: expected one of {listed}, found {shorten(found)}{nearest(str(found), choices)}"
    if dataclasses.is_dataclass(kind):
        return f"{where}: expected a section with keys, found {shorten(found)}"
    if details["type"].startswith(("greater_than", "less_than", "finite_number")):
        return f"{where}: expected {_limits(bounds)}, found {shorten(found)}"
    return f"{where}: expected {_kind_name(kind)}, found {shorten(found)}"


def _owners(place: tuple[str | int, ...], section: Any) -> str:
    """Name the networks that have a key which this one lacks."""
    owners = list(_networks_with(str(place[-1]), section)) if len(place) == 2 and place[0] in ("model", "loss") else []
    return f"; it belongs to the network {' or '.join(owners)}" if owners else ""


def _networks_with(key: str, section: Any) -> Iterator[str]:
    for entry in NETWORKS.values():
        for kind in (entry.config_class(), entry.losses_class()):
            of_one_sort = hasattr(kind, "rankings") == hasattr(section, "rankings")
            if of_one_sort and key in fields_of(kind):
                yield entry.name


def _limits(bounds: tuple[Any, ...]) -> str:
    texts = [f"at least {b.ge:g}" for b in bounds if isinstance(b, Ge)]
    texts += [f"at most {b.le:g}" for b in bounds if isinstance(b, Le)]
    return " and ".join(texts) or "a finite number"


def _kind_name(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind_name(part) for part in typing.get_args(kind))
    return _KINDS.get(origin or kind, "a section" if origin is not None else str(kind))


def yaml_value(text: str) -> Any:
    """Read the value of an override; YamlTextError when it is none."""
    value = read_yaml(text)
    return number_in(value) if isinstance(value, str) else value
