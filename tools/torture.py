"""Attack what the stages promise: nothing is lost by kill -9, full disks, several processes at once, flipped bits.

    python -m mesm.tools.torture extract --kills 50 --seed 7
    python -m mesm.tools.torture all --kills 2 --full-disks 1 --side-by-side 1 --flips 4

Works on a few films of some seconds, in a folder for temporary files, and prints a table; exit code 1 when anything was
lost. Every attack ends with the same command again, undisturbed, and a comparison of all that readers get with what a
run leaves that nobody disturbed. A full disk is a small one of its own (tmpfs), which needs root or user namespaces;
without these, files may only grow to a random length instead.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mesm.tools.attacks.attacks import Tally, Target, fill_disk, flip_bits, kill_at_random, side_by_side
from mesm.tools.attacks.films import Material
from mesm.tools.attacks.processes import Forks, Task

JOBS = ("extract", "train", "index")
MODULES = (
    "mesm.tools.attacks.jobs",
    "mesm.tools.attacks.full_disk",
    "mesm.pipeline.extract.stage",
    "mesm.pipeline.train.recipe",
    "mesm.pipeline.ground.retriever",
    "mesm.pipeline.index.build",
    # Declares what torchvision lacks, without which open_clip cannot be imported.
    "mesm.extractors.encoders.clip",
    "open_clip",
)


def attack(job: str, material: Material, place: Path, forks: Forks, options: argparse.Namespace) -> list[Tally]:
    """Try every attack on a job."""
    draw = random.Random(f"{options.seed} {job}")
    own_disk = forks.run(Task("mesm.tools.attacks.full_disk:has_own_disk")).status == 0
    target = Target(job, material, place, forks)
    return [
        kill_at_random(target, options.kills, draw),
        fill_disk(target, options.full_disks, draw, own_disk),
        side_by_side(target, options.side_by_side, draw),
        flip_bits(target, options.flips, draw),
    ]


def table(tallies: Sequence[Tally]) -> str:
    """Return a line an attack: how often it was tried, how often something was lost, what came of the others."""
    lines = [f"{'job':8} {'attack':28} {'tried':>5} {'lost':>5}  outcomes"]
    for tally in tallies:
        outcomes = ", ".join(f"{name} {n}" for name, n in sorted(tally.counts.items()) if name != "LOST")
        lines.append(f"{tally.job:8} {tally.attack:28} {tally.counts.total():5} {tally.counts['LOST']:5}  {outcomes}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the attacks; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m mesm.tools.torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=(*JOBS, "all"))
    parser.add_argument("--kills", type=int, default=50, help="kill -9, spread evenly over the stages of a run")
    parser.add_argument("--full-disks", type=int, default=8, help="disks that are full at a random fill")
    parser.add_argument("--side-by-side", type=int, default=4, help="times that 2 or 3 processes share a place")
    parser.add_argument("--flips", type=int, default=60, help="bits flipped, in turn in every file")
    parser.add_argument("--seed", type=int, default=0, help="the same seed tries the same attacks")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="mesm-torture-") as name, Forks(MODULES) as forks:
        material = Material(Path(name) / "material")
        output = Path(name) / "prepared.txt"
        if forks.run(Task("mesm.tools.attacks.jobs:prepare", (str(material.place),), str(output))).status:
            raise RuntimeError(f"the material could not be made: {output.read_text('utf-8', 'replace')}")
        for job in JOBS if options.job == "all" else (options.job,):
            tallies += attack(job, material, Path(name), forks, options)
    print(table(tallies))
    losses = [loss for tally in tallies for loss in tally.losses]
    for loss in losses:
        print(f"LOST {loss}")
    print(f"{time.monotonic() - started:.0f} s; seed {options.seed}")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
