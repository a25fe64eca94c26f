"""What names and files say is shown, and does nothing to the terminal or the page that shows it."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from mesm.pipeline.report.page import _environment
from mesm.pipeline.report.table import MetricsTable, render_rich
from mesm.pipeline.run.console import say
from mesm.pipeline.run.shown_text import json_text, one_line, visible
from mesm.pipeline.run.text_files import publish_text

ROOT = Path(__file__).resolve().parents[3]
HARMFUL = [
    *map(chr, range(9)),
    *map(chr, range(11, 32)),
    *map(chr, range(127, 160)),
    "\u202e",
    "\u2066",
    "\udce9",
    "\ud800",
]


@pytest.mark.parametrize("character", HARMFUL)
def test_what_acts_on_a_terminal_becomes_an_escape(character: str) -> None:
    shown = visible(f"a{character}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert json.loads(json_text({f"a{character}b": 1})) == {f"a{character}b": 1}
    json_text(character).encode("utf-8")


def test_ordinary_text_stays_as_it_is() -> None:
    text = "Ein Mann öffnet die Tür\n\t第 1 話 \N{ARABIC LETTER ALEF} 👩\u200d🍳"
    assert visible(text) == text
    assert one_line("a\nfailed: b") == "a\\nfailed: b"
    assert visible(os.fsdecode(b"caf\xe9")) == "caf\\xe9"


def test_messages_show_names_as_they_are_but_for_what_acts(capsys: pytest.CaptureFixture[str]) -> None:
    say("error: \x1b[31m[bold]:warning:\x07")
    assert capsys.readouterr().err == "error: \\x1b[31m[bold]:warning:\\x07\n"


def test_tables_and_pages_do_the_same() -> None:
    from rich.console import Console

    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(render_rich(MetricsTable(("a",), (("\x1b[31m[red]x", (1.0,)),)), "[b]title"))
    assert "\\x1b[31m[red]x" in capture.get()
    assert "[b]title" in capture.get()
    page = _environment().from_string("{{ name }}").render(name="<b>\u202e\udce9")
    assert page == "&lt;b&gt;\\u202e\\xe9"


def test_files_are_utf_8_whatever_names_are_in_them(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    publish_text(path, json.dumps([os.fsdecode(b"\xff")], ensure_ascii=False))
    assert json.loads(path.read_bytes().decode("utf-8")) == [os.fsdecode(b"\xff")]


def test_commands_print_by_the_functions_that_make_names_harmless() -> None:
    bare = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "pipeline" / "commands").glob("*.py")
        if path.name != "output.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not bare
