"""A guide's code: which file each block is, a copy of the project in which they are, and the guide's commands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COPIED = ("pipeline", "extractors", "model", "datasets", "tools", "tests")
FENCE = re.compile(r"^```(?P<language>\w+)(?P<marks>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. One with a file is that file, or goes into it below a line or instead of one."""

    language: str
    text: str
    line: int
    """Of the guide, the first one of the text."""
    before: str
    """The paragraph above it."""
    file: str = ""
    below: str = ""
    instead_of: str = ""


def blocks_of(guide: Path) -> list[Block]:
    content = guide.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        marks = dict(part.split("=", 1) for part in shlex.split(match["marks"]))
        above = content[: match.start()].rstrip().split("\n\n")[-1]
        line = content[: match.start("text")].count("\n") + 1
        marks = {name.replace("-", "_"): value for name, value in marks.items()}
        found.append(Block(match["language"], match["text"], line, above, **marks))
    return found


def put_in_place(block: Block, project: Path) -> None:
    """Write a block's file, or put the block where the guide says that it goes."""
    path = project / block.file
    anchor = block.below or block.instead_of
    if not anchor:
        assert not path.exists(), f"{block.file} is there already"
        path.write_text(block.text, encoding="utf-8")
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.count(anchor) == 1, f"{block.file} has {lines.count(anchor)} lines {anchor!r}"
    place = lines.index(anchor)
    lines[place + bool(block.below) : place + 1] = block.text.rstrip("\n").split("\n")
    path.write_text("\n".join(lines), encoding="utf-8")


def copy_of_the_project(folder: Path, guide: Path) -> Path:
    """Copy the project below `folder`, so that it is importable as `mesm` from there, with a guide's files in it."""
    project = folder / "mesm"
    for name in COPIED:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    for block in blocks_of(guide):
        if block.file:
            put_in_place(block, project)
    return project


def commands_of(guide: Path) -> list[str]:
    """The lines of a guide's shell blocks, continued lines joined."""
    shell = "".join(block.text for block in blocks_of(guide) if block.language == "bash")
    return shell.replace("\\\n", " ").splitlines()


def run(command: str, project: Path) -> str:
    """Run a guide's `python` or `pytest` command in the copy, by this interpreter; returns what it printed."""
    program, *arguments = shlex.split(command)
    start = {"pytest": ["-m", "pytest", "-p", "no:cacheprovider"], "python": []}
    return _started([*start[program], *arguments], project)


def run_pipeline(commands: list[str], project: Path) -> str:
    """Run `mesm-pipeline` commands in the copy, one after the other in one process, as it takes seconds to start."""
    words = [shlex.split(command)[1:] for command in commands]
    program = "import json, sys\nfrom mesm.pipeline.cli import run\nsys.exit(max(map(run, json.loads(sys.argv[1]))))"
    return _started(["-c", program, json.dumps(words)], project)


def _started(arguments: list[str], project: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project.parent), "PYTHONSAFEPATH": "1", "MESM_CACHE": str(project)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
