"""Compare this implementation with golden numbers of the published code: `python -m mesm.tools.parity FILE.npz...`.

A file about a network names it, but for those of MESM that were made first; which of its settings, or which of the
extractors, a file is about is worked out from its contents.
Prints the largest difference of every compared quantity against its tolerance; exit code 0 if all hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.threads import wait_quietly


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison of each file; 0 if everything holds, 1 if something does not, 2 if a file cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mesm.tools.parity", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("--all", action="store_true", help="print every quantity, not only the largest of each kind")
    options = parser.parse_args(arguments)
    code = 0
    for path in options.files:
        try:
            subject, rows = check_file(path)
        except (OSError, ValueError, KeyError, BadZipFile, PipelineError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            print(f"{path}: not a golden file that can be compared: {reason}", file=sys.stderr)
            code = 2
            continue
        failed = [row for row in rows if not row.passed]
        print(f"{path.name}: {subject}, {len(rows)} quantities, {len(failed)} out of tolerance")
        for row in rows if options.all else summarise(rows):
            mark = "ok" if row.passed else "FAILED"
            print(f"  {row.name:<72} {row.difference:>10.2e}  tolerance {row.tolerance:.0e}  {mark}")
        if failed and code == 0:
            code = 1
    return code


def check_file(path: Path) -> tuple[str, list[Any]]:
    """Compare one file; returns what it is about and the comparisons. PipelineError for a network that is not here."""
    if path.is_file() and not is_zipfile(path):
        raise ValueError("it is no npz archive")
    with np.load(path, allow_pickle=False) as archive:
        members = list(archive.files)
    # After the program has said how threads wait.
    from mesm.tools import parity_elastic, parity_extractors, parity_mesm, parity_networks

    if parity_elastic.is_postprocessing(members):
        return parity_elastic.check_file(path)
    if "network" in members:
        return parity_networks.check_file(path)
    if parity_mesm.is_golden(members):
        return parity_mesm.check_file(path)
    if "parameter_names" in members:
        raise PipelineError("it names no network (`network`), and has not the layout of the files of MESM made first")
    return parity_extractors.check_file(path)


def summarise(rows: Sequence[Any]) -> list[Any]:
    """Every failure, every quantity that stands alone, and of the gradient norms only the worst of each kind."""
    worst: dict[str, Any] = {}
    for row in rows:
        kind = row.name.split("/grad_norm/")[0] + "/grad_norm (worst)" if "/grad_norm/" in row.name else row.name
        key = row.name if not row.passed else kind
        if key not in worst or row.difference > worst[key].difference:
            worst[key] = row
    return list(worst.values())


if __name__ == "__main__":
    wait_quietly()
    sys.exit(main())
