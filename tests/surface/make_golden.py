"""Write the golden files of the public surface anew, from the code as it is.

They were made by the code as it stood before its restructuring, and hold it to what users had then: commands, shipped
configurations, names of tensors, losses, encoders' constants, and runs that were trained with it. Run this only when
the surface is meant to change, and read the difference: whatever it removes or changes, users lose.

    cd tests && PYTHONPATH=pipeline:model:extractors python surface/make_golden.py

Losses and figures are those of one machine; `machine.json` says which bits it computes (see `figures.py`).
"""

from __future__ import annotations

import gzip
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import calls
import yaml
from figures import ENCODERS_GOLDEN, GOLDEN, machine
from stored import EPOCHS, RUNS, VARIANTS, go_on, predictions, rows
from tiny_training import CONTENT, make_corpus, write_word_table

LEFT_OUT = ("report.html", "tiny.yaml")


def write(path: Path, value: dict[str, Any]) -> None:
    """Write one line for each entry, so that a difference can be read."""
    lines = (f"{json.dumps(key)}: {json.dumps(entry, sort_keys=True)}" for key, entry in value.items())
    content = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_stored_runs(folder: Path) -> None:
    """Train the runs, keep them with their corpus in one archive, and say what comes of them."""
    corpus = make_corpus(folder / "corpus")
    write_word_table(corpus / "features")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump({"name": "tiny", **CONTENT}))
    for name, options in VARIANTS.items():
        calls.train(config, corpus, folder / name, *options, "--set", f"train.epochs={EPOCHS}")
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in LEFT_OUT]
    with tarfile.open(RUNS, "w:xz", preset=9) as archive:
        for path in kept:
            # An entry made from its name alone has no time and no owner.
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                archive.addfile(entry, content)
    expected = {}
    for name in VARIANTS:
        evaluation = calls.evaluate(corpus, folder / name, "--controls")
        answers = predictions(folder / name)
        go_on(corpus, folder / name)
        expected[name] = {"evaluation": evaluation, "predictions": answers, "next epoch": rows(folder / name)[EPOCHS]}
    write(GOLDEN / "runs.json", expected)


def main() -> None:
    """Write all of them."""
    GOLDEN.mkdir(exist_ok=True)
    write(GOLDEN / "machine.json", machine())
    write(GOLDEN / "commands.json", calls.commands())
    write(GOLDEN / "configs.json", {key: calls.resolved(*config) for key, config in calls.CONFIGS.items()})
    write(GOLDEN / "states.json.gz", {key: calls.state_of(*config) for key, config in calls.CONFIGS.items()})
    steps = {
        f"{name}, dropout {'on' if dropout else 'off'}": {
            part: value.hex() for part, value in calls.training_step(name, dropout).items()
        }
        for name in calls.STEPS
        for dropout in (False, True)
    }
    write(GOLDEN / "steps.json", steps)
    with tempfile.TemporaryDirectory() as folder:
        write(ENCODERS_GOLDEN, calls.encoder_specs(Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        write_stored_runs(Path(folder))


if __name__ == "__main__":
    main()
