"""The README's table of networks and settings: `python -m mesm.tools.readme_table [--write]`, in the project's folder.

Columns are the networks that learn, rows the shipped configurations; figures are the published ones. A test compares
the README with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mesm.model.registry import DEFAULT, networks_that_learn
from mesm.pipeline.config.load import load_config, shipped_configs
from mesm.pipeline.experiments.paper import published_settings
from mesm.pipeline.run.threads import wait_quietly

BEGIN, END = "<!-- networks -->", "<!-- /networks -->"
FIGURES = ("R1@0.5", "Rank1@0.5")
"""The figure that is shown, by what it is called in the tables of the papers."""

EXACT: Mapping[str, str] = {
    "charades-clip-slowfast": "golden_charades_csf.npz",
    "tacos-c3d-glove": "golden_tacos_c3d.npz",
    "msat-tacos-c3d": "golden_msat_tacos.npz",
    "acb-vtc-tacos-c3d": "golden_acb_vtc.npz",
    "qvhighlights-clip-slowfast-qd-detr": "golden_qd_detr_qvh.npz",
    "qvhighlights-clip-slowfast-moment-detr": "golden_moment_detr_qvh.npz",
    "charades-i3d-glove-emb": "golden_emb_charades.npz",
}
"""Configurations in which outputs, losses and gradients of the published code are met, and the file of its numbers that
`mesm.tools.parity` compares."""

TRAINED_HERE: Mapping[str, str] = {
    "charades-mini": "docs/learning.md",
    "charades-mini-span-map": "docs/learning.md",
    "demo": "docs/demo.md",
}
"""Configurations that were trained here, and where their figures stand."""

LEGEND = f"""\
The configuration of another network than `{DEFAULT}` has the network's name behind its own. Numbers: {FIGURES[0]} as
published (first test split). **exact**: outputs, losses and gradients are those of the published code in this setting,
by golden numbers. *as published*: the published options, not compared number by number. *guess*: the options were not
published. None of the papers' settings was trained here. `train --network` puts any network into any setting."""


def table() -> str:
    """Return the table and what its words mean, as Markdown."""
    networks = networks_that_learn()
    cells: dict[str, dict[str, str]] = {}
    for name, purpose in shipped_configs().items():
        network = load_config(name).model.name
        setting = name if network == DEFAULT else name.removesuffix(f"-{network}")
        cells.setdefault(setting, {})[network] = cell(name, purpose)
    rows = [
        ["`--config`", *(f"{entry.source}: `{entry.name}`" for entry in networks.values())],
        ["---"] * (1 + len(networks)),
        *([f"`{setting}`", *(found.get(network, "") for network in networks)] for setting, found in cells.items()),
    ]
    return "\n".join([*map(_line, rows), "", LEGEND])


def cell(config: str, purpose: str) -> str:
    """Say how a configuration stands to the published one, and the published figure, if there is one."""
    paper = published_settings().get(config)
    if config in EXACT:
        state = "**exact**"
    elif config in TRAINED_HERE:
        state = f"[trained here]({TRAINED_HERE[config]})"
    elif "not published" in purpose:
        state = "*guess*"
    else:
        state = "*as published*" if paper else "not compared"
    figures = next(iter(paper.rows.values())) if paper else {}
    shown = next((f"{state}, {figures[name]:.2f}" for name in FIGURES if name in figures), state)
    return shown


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def with_table(readme: str) -> str:
    """Put the table between a README's marks; ValueError when it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the marks {BEGIN} and {END} around the table")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it into the README; 2 if that has no place for it."""
    parser = argparse.ArgumentParser(prog="python -m mesm.tools.readme_table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write it into the README")
    parser.add_argument("--readme", type=Path, default=Path("README.md"), help="default: README.md")
    options = parser.parse_args(arguments)
    if not options.write:
        print(table())
        return 0
    try:
        content = with_table(options.readme.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 2
    options.readme.write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    wait_quietly()
    sys.exit(main())
