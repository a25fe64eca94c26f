"""The rules of the house that no linter knows: who may import whom, and what every module must have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FUNCTION = 80

# Folder -> the folders of the project that it may import, besides itself.
ALLOWED_IMPORTS = {
    "datasets": set(),
    "extractors": set(),
    "model": set(),
    "pipeline": {"datasets", "extractors", "model", "tools"},
    "tools": {"datasets", "extractors", "model", "pipeline"},
}


def modules() -> dict[str, Path]:
    """Return the installed name of every module of the project and its file."""
    found = {}
    for folder in ALLOWED_IMPORTS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(("mesm", *(part for part in parts if part != "__init__")))] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_modules(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Yield the project's modules that these nodes of module `name` import; `name` itself never."""
    known = modules()
    is_package = known[name].name == "__init__.py"
    for node in nodes:
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = name.split(".")[: len(name.split(".")) - node.level + is_package]
                base = ".".join([*above, *([node.module] if node.module else [])])
            candidates = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for candidate in candidates:
            target = candidate if candidate in known else candidate.rpartition(".")[0]
            if target in known and target != name:
                yield target


def nodes_at_import(parent: ast.AST) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: nothing inside functions or under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from nodes_at_import(node)


def folder_of(module: str) -> str:
    return module.split(".")[1]


def test_folders_import_only_what_they_may() -> None:
    breaches = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imported_modules(name, ast.walk(tree(path)))
        if folder_of(target) not in {folder_of(name), *ALLOWED_IMPORTS[folder_of(name)]}
    ]
    assert not breaches


def test_imports_name_the_installed_packages() -> None:
    breaches = []
    for name, path in modules().items():
        for node in ast.walk(tree(path)):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module or ""]
            breaches += [f"{name} imports {top}" for top in imported if top.split(".")[0] in ALLOWED_IMPORTS]
    assert not breaches


def test_modules_do_not_import_in_circles() -> None:
    graph = {
        name: {
            target
            for target in imported_modules(name, nodes_at_import(tree(path)))
            # A package's own __init__ imports its modules, and each of them imports it, implicitly, first.
            if not name.startswith(f"{target}.")
        }
        for name, path in modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import one another in a circle: {' -> '.join(error.args[1])}")


def test_every_module_says_what_it_is_for() -> None:
    assert not [name for name, path in modules().items() if not ast.get_docstring(tree(path))]


def test_no_function_is_too_long() -> None:
    too_long = [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not too_long


@pytest.mark.parametrize("folder", ALLOWED_IMPORTS)
def test_packages_are_marked_as_typed(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()


def test_the_import_rules_see_every_kind_of_import(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ast.parse(
        "import mesm.model.mesm\n"
        "from mesm.datasets import shards, nothing\n"
        "from mesm.pipeline.errors import PipelineError\n"
        "from . import errors\n"
        "from .errors import DatasetError\n"
        "def late():\n    from mesm.tools import parity\n"
    )
    names = ["mesm.model.mesm", "mesm.datasets", "mesm.datasets.shards", "mesm.datasets.errors"]
    names += ["mesm.pipeline.errors", "mesm.tools.parity", "mesm.datasets.here"]
    monkeypatch.setattr(f"{__name__}.modules", lambda: {name: Path(f"{name}.py") for name in names})
    found = list(imported_modules("mesm.datasets.here", ast.walk(source)))
    assert sorted(found) == sorted([*names[:6], "mesm.datasets.errors"])
    assert "mesm.tools.parity" not in imported_modules("mesm.datasets.here", nodes_at_import(source))
