"""The README's table follows from registry, shipped configurations and published figures; its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from guides import ROOT
from shared import shared_path
from typer.main import get_command

from mesm.model.registry import networks_that_learn
from mesm.pipeline import cli
from mesm.pipeline.config.load import load_config, shipped_configs
from mesm.tools import parity, readme_table

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_is_up_to_date() -> None:
    assert readme_table.with_table(README) == README, "run `python -m mesm.tools.readme_table --write`"


def test_the_table_has_every_network_and_configuration() -> None:
    header, _, *rows = [line for line in readme_table.table().splitlines() if line.startswith("|")]
    assert [name for name in networks_that_learn() if f"`{name}`" not in header] == []
    cells = [cell.strip() for row in rows for cell in row.strip("|").split(" | ")[1:]]
    assert sum(map(bool, cells)) == len(shipped_configs())
    assert all(row.count(" | ") == len(networks_that_learn()) for row in rows)


@pytest.mark.parametrize(
    ("config", "cell"),
    [
        ("charades-clip-slowfast", "**exact**, 61.24"),
        ("charades-vgg-glove", "*as published*, 56.69"),
        ("charades-vgg-glove-qd-detr", "*guess*, 51.51"),
        ("tacos-c3d-glove-moment-detr", "*guess*"),
        ("qvhighlights-clip-slowfast-moment-detr", "**exact**, 52.89"),
        ("charades-mini", "[trained here](docs/learning.md)"),
        ("somebodys-own", "not compared"),
    ],
)
def test_what_is_said_of_a_configuration(config: str, cell: str) -> None:
    assert readme_table.cell(config, shipped_configs().get(config, "a setting of their own")) == cell


def test_what_is_said_to_be_trained_here_has_its_figures() -> None:
    for config, page in readme_table.TRAINED_HERE.items():
        assert config in (ROOT / page).read_text(encoding="utf-8")
        assert config in shipped_configs()


def test_golden_files_of_the_project_are_of_exact_settings() -> None:
    files = sorted((ROOT / "tests/model/networks/golden").glob("*.npz"))
    assert files
    settings = set()
    for path in files:
        with np.load(path, allow_pickle=False) as archive:
            settings.add((str(archive["network"]), str(archive["setting"])))
    assert settings <= {setting_of(config) for config in readme_table.EXACT}


@pytest.mark.slow
@pytest.mark.parametrize("config", readme_table.EXACT)
def test_what_is_called_exact_meets_the_published_numbers(config: str) -> None:
    subject, rows = parity.check_file(shared_path(f"golden/{readme_table.EXACT[config]}"))
    assert setting_of(config)[1] in subject
    assert len(rows) > 100
    assert not [row.name for row in rows if not row.passed]


GRID = {
    "msat-tacos-c3d": ("msat", "tacos-c3d-glove"),
    "acb-vtc-tacos-c3d": ("acb-vtc", "tacos-c3d-glove"),
}
"""What their golden files call themselves."""


def setting_of(config: str) -> tuple[str, str]:
    """Network and setting as golden files name them."""
    if config in GRID:
        return GRID[config]
    network = load_config(config).model.name
    return network, config.removesuffix(f"-{network}")


def test_a_readme_without_marks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    assert readme_table.main(["--write", "--readme", str(page)]) == 2
    assert "<!-- networks -->" in capsys.readouterr().err
    assert page.read_text() == "nothing\n"
    page.write_text(f"above\n{readme_table.BEGIN}\nof yesterday\n{readme_table.END}\nbelow\n")
    assert readme_table.main(["--write", "--readme", str(page)]) == 0
    assert re.match(r"above\n<!-- networks -->\n\| (.|\n)*\n<!-- /networks -->\nbelow\n$", page.read_text())
    assert "yesterday" not in page.read_text()


def commands_in_the_readme() -> list[list[str]]:
    """The words of every `mesm-pipeline` command of the README, in blocks and in running text."""
    fenced = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = "\n".join(fenced).replace("\\\n", " ").splitlines()
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", README, flags=re.S))]
    found = []
    for line in (*lines, *spans):
        _, program, rest = line.partition("mesm-pipeline ")
        _, module, of_module = line.partition("-m mesm.pipeline ")
        if program and not line.startswith("pip "):
            found.append(rest.split())
        elif module:
            found.append(of_module.split())
    return found


def test_commands_and_options_of_the_readme_exist() -> None:
    found = commands_in_the_readme()
    assert len(found) > 15
    root = get_command(cli.app)
    for words in found:
        command = root
        for word in words:
            if (below := getattr(command, "commands", {}).get(word)) is None:
                break
            command = below
        assert command is not root, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, words
