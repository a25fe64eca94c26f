"""What the pages say of the code is so: paths, modules, links, floors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_house
from guides import DOCS, FENCE, ROOT, blocks_of

PAGES = sorted(DOCS.glob("*.md"))
FOLDERS = (*test_house.ALLOWED_IMPORTS, "tests", "docs")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def code_in(page: Path) -> Iterator[str]:
    return iter(re.findall(r"`([^`\n]+)`", prose(page)))


def made_by_guides() -> set[str]:
    """Files that a reader of the guides writes."""
    return {block.file for page in PAGES for block in blocks_of(page)}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_paths_exist(page: Path) -> None:
    own = made_by_guides()
    paths = [word for word in code_in(page) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", word)]
    missing = [path for path in paths if not (ROOT / path).exists() and path not in own]
    assert not missing
    assert page.name != "map.md" or len(paths) > 60


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_can_be_imported_and_have_what_is_named(page: Path) -> None:
    for name in code_in(page):
        if not re.fullmatch(r"mesm(\.\w+)+", name):
            continue
        module, _, last = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), last), name


def test_the_map_has_the_floors_and_folders_that_are_enforced() -> None:
    text = prose(DOCS / "map.md")
    floors = re.findall(r"^\| \d+ \| (.+) \|$", text, re.MULTILINE)
    assert tuple(set(re.findall(r"`(\w+)`", row)) for row in floors) == test_house.FLOORS
    assert {"data": {"run"}} == test_house.BESIDE
    section = text.partition("Folders, besides themselves:")[2].partition("Rooms of")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", found)) for name, found in rows} == test_house.ALLOWED_IMPORTS
    assert f"longer than\n{test_house.LONGEST_CHAIN} modules" in text
    assert f"more than {test_house.LONGEST_FUNCTION} lines and no file more than {test_house.LONGEST_FILE}" in text


def test_the_map_names_every_room_and_folder() -> None:
    named = {word.strip("/") for word in code_in(DOCS / "map.md")}
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in test_house.ALLOWED_IMPORTS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert {package for package in packages if package != "tools/benchmarks"} <= named
