"""Measure how fast training and answering are, on seeded synthetic features in the shapes of the published settings.

    python -m mesm.tools.bench train-step --setting charades-clip-slowfast
    python -m mesm.tools.bench infer --setting all --json
    python -m mesm.tools.bench epoch --setting tacos-c3d-glove
    python -m mesm.tools.bench evaluate
    python -m mesm.tools.bench ground
    python -m mesm.tools.bench beside --setting demo
    python -m mesm.tools.bench ask --rows 1000000 --files 100000

* `train-step`: forward, losses, backward, clipping and AdamW, beside the plain form of the same mathematics
  (`mesm.tools.reference_network`); `infer`: the answers to a batch, beside the plain form. Each has a process of its
  own, and they take turns, so that a busy machine slows down both; medians count. The losses of both are compared
  before anything is measured.
* `epoch`: an epoch of training over features in shards, and the share of a step that cuts the batch.
* `evaluate`: scoring of 1,550 queries with 10 windows each.
* `ground`: one query about a video of a minute, and one of two hours, that is encoded already.
* `ask`: a search over an index of so many rows, warm and cold, without the encoding of the question; the planning of so
  many files; the entering of a film.
* `large`: reading, planning, an epoch of batches and the scoring of a generated data set of the size of ActivityNet
  Captions, and the memory that they take.
* `beside`: a training step alone, and beside a process that keeps one core busy; with idle threads that wait as OpenMP
  has them wait by default, and as our programs do (`mesm.pipeline.run.threads`).

FLOPs are the matrix products that torch's counter sees in this project's path; the peak is that of a large matrix
product in the same precision, measured between the repetitions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mesm.pipeline.run.threads import wait_quietly


def show(row: dict[str, Any], as_json: bool) -> None:
    """Print one result: a JSON line, or names and figures."""
    print(json.dumps(row) if as_json else ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; exit code 1 when the two forms do not agree."""
    # After the program has said how threads wait.
    from mesm.tools.benchmarks import ask, beside, large, stages, steps
    from mesm.tools.synthetic_batches import PUBLISHED, SHAPES

    of_setting: dict[str, Callable[[str, argparse.Namespace], dict[str, Any]]] = {
        "train-step": steps.bench_train_step,
        "infer": steps.bench_infer,
        "epoch": stages.bench_epoch,
        "beside": beside.bench_beside,
    }
    of_none = {
        "evaluate": stages.bench_evaluate,
        "ground": stages.bench_ground,
        "ask": ask.bench_ask,
        "large": large.bench_large,
    }
    parser = argparse.ArgumentParser(
        prog="python -m mesm.tools.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", choices=(*of_setting, *of_none))
    parser.add_argument("--setting", default="charades-clip-slowfast", choices=(*SHAPES, "all"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; in each the plain form runs once")
    parser.add_argument("--inner", type=int, default=3, help="runs of ours in a round")
    parser.add_argument("--videos", type=int, default=120, help="videos of `epoch`")
    parser.add_argument("--many", type=int, default=15_000, help="videos of `large`")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of `ask`")
    parser.add_argument("--files", type=int, default=100_000, help="files of `ask`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="run ours through torch.compile")
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=True, help="run the plain form")
    parser.add_argument("--json", action="store_true", help="one JSON line a result")
    options = parser.parse_args(arguments)
    if options.bench in of_none:
        show(of_none[options.bench](options), options.json)
        return 0
    for setting in PUBLISHED if options.setting == "all" else (options.setting,):
        show(of_setting[options.bench](setting, options), options.json)
    return 0


if __name__ == "__main__":
    wait_quietly()
    sys.exit(main())
