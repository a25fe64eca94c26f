"""What messages advise exists: every option, command, setting, extra and name of weights that they name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from mesm.extractors.weights.table import WEIGHTS
from mesm.model.registry import NETWORKS
from mesm.pipeline.cli import app
from mesm.pipeline.config.schema import Config
from mesm.pipeline.config.sections import _bare, fields_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("datasets", "extractors", "model", "pipeline")
OF_OTHER_PROGRAMS = {"--nproc-per-node", "--start", "--start-time"}
"""Options of torchrun, and of players."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"\bmesm-pipeline (?!that )((?:[a-z-]+)(?: (?:list|get|check|show|export)\b)?)")
SETTING = re.compile(
    r"(?<![\w./-])(?:dataset|features|extract|model|loss|train|evaluate)(?:\.(?:[a-z_]+|\d))+(?![\w/])"
)
EXTRA = re.compile(r"mesm-pipeline\[(\w+)\]")
WEIGHTS_OPTION = re.compile(r"--weights ([a-z0-9-]+)=")
FILE_ENDINGS = {"h5", "json", "jsonl", "md", "npz", "py", "safetensors", "yaml"}


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Every text of the product that is no docstring, f-strings in one piece, with the file that it stands in."""
    return tuple(
        (str(path.relative_to(ROOT)), text)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in texts_of(ast.parse(path.read_text(encoding="utf-8")))
    )


def texts_of(tree: ast.AST) -> Iterator[str]:
    prose = {
        id(node.value)
        for parent in ast.walk(tree)
        for node in ast.iter_child_nodes(parent)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    parts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            # What is filled in is a number here: the place of a stream in a list.
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "0" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose | parts:
            yield node.value


@cache
def commands() -> dict[str, set[str]]:
    """Options of each command, by its words behind `mesm-pipeline`."""
    found: dict[str, set[str]] = {}

    def visit(command: Any, name: str) -> None:
        found[name] = {option for parameter in command.params for option in parameter.opts}
        for word, below in getattr(command, "commands", {}).items():
            visit(below, f"{name} {word}".strip())

    visit(typer.main.get_command(app), "")
    return found


def is_setting(dotted: str) -> bool:
    """Say whether a dotted key is one of the configuration, of any network."""
    section, *rest = dotted.split(".")
    if section in ("model", "loss"):
        kinds: list[Any] = [e.config_class() if section == "model" else e.losses_class() for e in NETWORKS.values()]
    else:
        kinds = [fields_of(Config)[section]]
    for part in rest:
        kinds = [inner for kind in kinds for inner in below(kind, part)]
    return bool(kinds)


def below(kind: Any, part: str) -> Iterator[Any]:
    bare, _ = _bare(kind)
    if part.isdecimal():
        yield from getattr(bare, "__args__", ())[:1]
    elif hasattr(bare, "__dataclass_fields__") and part in fields_of(bare):
        yield fields_of(bare)[part]


def test_options_in_messages_exist() -> None:
    known = set().union(*commands().values()) | OF_OTHER_PROGRAMS | {"--help"}
    named = {(file, option) for file, text in texts() for option in OPTION.findall(text)}
    assert len(named) > 50
    assert sorted(pair for pair in named if pair[1] not in known) == []


def test_commands_in_messages_exist() -> None:
    named = {(file, name) for file, text in texts() for name in COMMAND.findall(text)}
    known = set(commands())
    assert len(named) > 10
    assert sorted(pair for pair in named if pair[1] not in known and pair[1].split(" ")[0] not in known) == []
    assert not [pair for pair in named if " " in pair[1] and pair[1] not in known]


def test_commands_in_messages_take_the_options_beside_them() -> None:
    wrong = []
    for file, text in texts():
        for found in COMMAND.finditer(text):
            own = commands().get(found[1], set()) | {"--help"}
            quoted = re.split(r"[`;,(]|: | or ", text[found.end() :])[0]
            wrong += [f"{file}: {found[0]} {option}" for option in OPTION.findall(quoted) if option not in own]
    assert wrong == []


def test_settings_in_messages_exist() -> None:
    named = {
        (file, key)
        for file, text in texts()
        if file.startswith("pipeline")
        for key in SETTING.findall(text)
        if key.rpartition(".")[2] not in FILE_ENDINGS and ".0" not in key.replace("video.0", "video")
    }
    assert len(named) > 12
    assert sorted(pair for pair in named if not is_setting(pair[1])) == []


def test_extras_and_weights_in_messages_exist() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {name for _, text in texts() for name in EXTRA.findall(text)}
    assert extras
    assert extras <= set(setup["options.extras_require"])
    named = {name for _, text in texts() for name in WEIGHTS_OPTION.findall(text)}
    assert named - {"0"} <= set(WEIGHTS)


@pytest.mark.parametrize("key", ["train.rates", "features.video.x", "dataset.", "model.nothing", "features.video.0.x"])
def test_what_does_not_exist_would_be_found(key: str) -> None:
    assert not is_setting(key)
    assert is_setting("features.video.0.fingerprint")
    assert is_setting("model.encoder_loss")


def test_no_message_advises_what_was_wrong_once() -> None:
    every = "\n".join(text for _, text in texts())
    for words in ("glove.pkl", "ask for the queries that both have", "weights_only=False", "features.video.*"):
        assert words not in every
