"""YAML as it is handed over: read without running anything, and no larger unfolded than it may be."""

from __future__ import annotations

from typing import Any

import yaml

from mesm.datasets.annotations.records import is_unicode

MOST_VALUES = 100_000
"""Values that a text may hold once its aliases are unfolded; eight lines of aliases can mean billions."""
_LETTERS_A_VALUE = 64
"""A long text counts as several values."""

_NO_YAML = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
"""What PyYAML raises; besides its own errors, what Python says of a date or a number that is none."""


class YamlTextError(ValueError):
    """A text is no YAML, or unfolds to too much of it."""


def read_yaml(text: str) -> Any:
    """Return what a text holds in dictionaries with texts as keys, lists and plain values, none of them shared.

    Raises YamlTextError.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {})
            return _unfolded(loader.construct_document(node))
        finally:
            loader.dispose()
    except YamlTextError:
        raise
    except RecursionError as error:
        raise YamlTextError("its brackets are nested too deeply") from error
    except _NO_YAML as error:
        raise YamlTextError(str(error) or type(error).__name__) from error


def _count(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return how many values a node unfolds to; `sizes` has those of nodes by identity, 0 while they are counted."""
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise YamlTextError("an alias stands inside what it stands for")
        return known
    sizes[id(node)] = 0
    if isinstance(node, yaml.MappingNode):
        size = 1 + sum(_count(key, sizes) + _count(value, sizes) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        size = 1 + sum(_count(item, sizes) for item in node.value)
    elif is_unicode(node.value):
        size = 1 + len(node.value) // _LETTERS_A_VALUE
    else:
        raise YamlTextError("it holds half of a character (a surrogate)")
    if size > MOST_VALUES:
        raise YamlTextError(f"it unfolds to more than {MOST_VALUES:,} values")
    sizes[id(node)] = size
    return size


def _unfolded(value: Any) -> Any:
    """Copy sections and lists, so that a change of one place does not reach its alias at another."""
    if isinstance(value, dict):
        return {str(key): _unfolded(item) for key, item in value.items()}
    return [_unfolded(item) for item in value] if isinstance(value, list) else value
