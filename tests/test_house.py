"""The rules of the house that no linter knows: who may import whom, and what every module must have."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FUNCTION = 60
LONGEST_FILE = 400
LONGEST_CHAIN = 13
FLAT_FILES_OF_PIPELINE = 5

# Folder -> the folders of the project that it may import, besides itself.
ALLOWED_IMPORTS: dict[str, set[str]] = {
    "datasets": set(),
    "extractors": set(),
    "model": set(),
    "pipeline": {"datasets", "extractors", "model"},
    "tools": {"datasets", "extractors", "model", "pipeline"},
}

# Rooms of pipeline/, from the ground up: a room may import the rooms of the floors below its own.
FLOORS: tuple[set[str], ...] = (
    {"__init__", "config"},
    {"workspace"},
    {"run", "data"},
    {"report"},
    {"extract", "evaluate", "importers", "share"},
    {"train", "ground"},
    {"grounding", "index"},
    {"show"},
    {"experiments", "demo", "serve"},
    {"commands"},
    {"cli"},
    {"__main__"},
)

# Words by which code would know one network from another, and the only modules outside model/ that may.
NETWORK_NAMES = re.compile(r"\b(Mesm\w*|MESM|QdDetr\w*|MomentDetr\w*|qd[-_]detr|moment[-_]detr)\b")
MAY_NAME_NETWORKS = ("mesm.pipeline.importers.", "mesm.tools.")

# Packages that are imported by another name than they are installed by.
INSTALLED_AS = {
    "PIL": "pillow",
    "ffmpeg": "ffmpeg-python",
    "open_clip": "open-clip-torch",
    "pydantic_core": "pydantic",
    "torch.utils.tensorboard": "tensorboard",
    "yaml": "pyyaml",
}
DECLARED_AHEAD: set[str] = set()
"""Declared before it is imported."""


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


def room_of(module: str) -> str:
    """The room of pipeline/ that a module stands in, or its own name where it stands in none."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 else "__init__"


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_rooms_of_the_pipeline_import_only_what_lies_below() -> None:
    breaches = []
    for name, path in modules().items():
        if folder_of(name) != "pipeline":
            continue
        for target in imported_modules(name, ast.walk(tree(path))):
            if folder_of(target) == "pipeline" and room_of(target) != room_of(name):
                above = floor_of(room_of(target)) > floor_of(room_of(name))
                beside = floor_of(room_of(target)) == floor_of(room_of(name))
                if above or (beside and room_of(target) not in BESIDE.get(room_of(name), ())):
                    breaches.append(f"{name} imports {target}")
    assert not breaches


BESIDE = {"data": {"run"}}
"""Rooms of one floor, of which the first may import the second."""


def test_networks_know_nothing_of_one_another() -> None:
    networks = {name for name in modules() if name.startswith("mesm.model.networks.")}
    breaches = [
        f"{name} imports {target}"
        for name in networks
        for target in imported_modules(name, ast.walk(tree(modules()[name])))
        if target in networks
    ]
    assert not breaches


def test_kernels_stand_behind_one_door() -> None:
    """They know of the model how sequences are laid out, and nobody imports a form past the package."""
    door, below = "mesm.model.kernels", {"mesm.model.layouts"}
    breaches = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imported_modules(name, ast.walk(tree(path)))
        if (name.startswith(door) and not target.startswith(door) and target not in below)
        or (target.startswith(f"{door}.") and not name.startswith(door))
    ]
    assert not breaches


def test_the_door_of_the_kernels_alone_chooses_by_autocast_and_compiling() -> None:
    questions = {"is_compiling", "is_autocast_enabled"}
    asking = {name for name, path in modules().items() if questions & set(words_of(path))}
    assert asking == {"mesm.model.kernels"}


def test_the_registry_of_networks_imports_none_of_them() -> None:
    path = modules()["mesm.model.registry"]
    assert not list(imported_modules("mesm.model.registry", nodes_at_import(tree(path))))


def words_of(path: Path) -> Iterator[str]:
    """Names and strings of a module's code; docstrings are prose and do not count."""
    docstrings = {
        id(node.value)
        for parent in ast.walk(tree(path))
        for node in ast.iter_child_nodes(parent)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def test_only_the_importers_and_the_tools_name_a_network() -> None:
    breaches = {
        f"{name}: {found.group()}"
        for name, path in modules().items()
        if folder_of(name) != "model" and not name.startswith(MAY_NAME_NETWORKS)
        for word in words_of(path)
        if (found := NETWORK_NAMES.search(word)) is not None
    }
    assert not breaches


def test_the_pipeline_has_rooms() -> None:
    flat = [path.name for path in (ROOT / "pipeline").glob("*.py")]
    assert len(flat) <= FLAT_FILES_OF_PIPELINE, flat


def test_no_file_is_too_long() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert not {name: count for name, count in lines.items() if count > LONGEST_FILE}


def nodes_at_run_time(parent: ast.AST) -> Iterator[ast.AST]:
    """Yield all but what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(parent):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from nodes_at_run_time(node)


def test_no_chain_of_imports_is_too_long() -> None:
    """Imports inside functions count, too; those for types alone do not."""
    graph = {name: set(imported_modules(name, nodes_at_run_time(tree(path)))) for name, path in modules().items()}
    heights: dict[str, int] = {}

    def height(name: str, above: tuple[str, ...]) -> int:
        if name not in heights:
            below = [t for t in graph[name] if t not in above and not name.startswith(f"{t}.")]
            heights[name] = 1 + max((height(t, (*above, name)) for t in below), default=0)
        return heights[name]

    assert max(height(name, ()) for name in graph) <= LONGEST_CHAIN


def third_party(module: str) -> str:
    """What has to be installed for a module to be imported; empty where nothing has."""
    own = next((name for place, name in INSTALLED_AS.items() if f"{module}.".startswith(f"{place}.")), "")
    top = module.split(".")[0]
    return "" if top == "mesm" or top in sys.stdlib_module_names else own or top.replace("_", "-").lower()


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    imported = set()
    for path in modules().values():
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {third_party(name) for name in names}
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = [lines for name, lines in setup["options.extras_require"].items() if name != "test"]
    lines = "\n".join([setup["options"]["install_requires"], *extras]).split("\n")
    declared = {re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("_", "-").lower() for line in lines}
    assert imported - declared == set()
    assert declared - imported == DECLARED_AHEAD


def test_every_package_is_installed() -> None:
    found = {
        f"mesm.{path.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
        for folder in ALLOWED_IMPORTS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    listed = re.search(r"^packages =\n((?: +\S+\n)+)", text, re.MULTILINE)
    assert listed is not None
    assert found == set(listed.group(1).split())


def test_the_import_rules_see_every_kind_of_import(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ast.parse(
        "import mesm.model.networks.mesm\n"
        "from mesm.datasets import targets, nothing\n"
        "from mesm.pipeline.config.errors import PipelineError\n"
        "from . import errors\n"
        "from .errors import DatasetError\n"
        "def late():\n    from mesm.tools import parity\n"
    )
    names = ["mesm.model.networks.mesm", "mesm.datasets", "mesm.datasets.targets", "mesm.datasets.errors"]
    names += ["mesm.pipeline.config.errors", "mesm.tools.parity", "mesm.datasets.here"]
    monkeypatch.setattr(f"{__name__}.modules", lambda: {name: Path(f"{name}.py") for name in names})
    found = list(imported_modules("mesm.datasets.here", ast.walk(source)))
    assert sorted(found) == sorted([*names[:6], "mesm.datasets.errors"])
    assert "mesm.tools.parity" not in imported_modules("mesm.datasets.here", nodes_at_import(source))


def test_json_of_files_is_read_by_the_functions_that_name_what_is_wrong() -> None:
    """`json.loads` raises RecursionError as well; what is read elsewhere was written by the same process."""
    doors = {"mesm.datasets.plain_text"}
    own = {"mesm.datasets.shards.folder", "mesm.extractors.decoding.pool"}
    # Packages of others, read by their own folders, which nothing of `datasets` may serve.
    apart = {"mesm.extractors.encoders.hf_folder", "mesm.extractors.encoders.clip_towers"}
    found = {
        name
        for name, path in modules().items()
        if folder_of(name) != "tools"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads", "json.JSONDecoder")
    }
    assert found <= doors | own | apart
