"""A training step alone and beside a busy process, with threads that wait as OpenMP has them wait, and quietly."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from mesm.pipeline.run.threads import CHOICES
from mesm.tools.benchmarks.steps import Server
from mesm.tools.benchmarks.timing import device_name

SETTLE_S = 4.0
"""Seconds of steps before any is timed: others are noticed, and found gone, after one to three."""


def bench_beside(setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the training step of one setting: `spinning` as OpenMP does by default, `quiet` as our programs run."""
    with without_choices():
        spinning = Server("train-step", setting, options, plain=False, quiet=False)
    servers = {"spinning": spinning, "quiet": Server("train-step", setting, options, plain=False)}
    times: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for place, company in (("alone", nullcontext()), ("beside", busy_process())):
            with company:
                for way, server in servers.items():
                    times.setdefault(f"{way}_{place}", []).extend(settled_steps(server, options.inner))
    for server in servers.values():
        server.stop()
    ms = {name: statistics.median(values) for name, values in times.items()}
    # Where the scheduler puts both of our threads on one core decides about a factor of ten, which medians hide.
    mean = {name: statistics.mean(values) for name, values in times.items()}
    return {
        "bench": "beside",
        "setting": setting,
        "device": device_name(torch.device(options.device)),
        **{f"{name}_ms": round(value, 1) for name, value in ms.items()},
        "cost_alone": round(ms["quiet_alone"] / ms["spinning_alone"] - 1, 3),
        "gain_beside": round(ms["spinning_beside"] / ms["quiet_beside"], 2),
        "gain_beside_of_means": round(mean["spinning_beside"] / mean["quiet_beside"], 2),
    }


def settled_steps(server: Server, count: int) -> list[float]:
    """Milliseconds of so many steps, after the server has been at work for a while."""
    started = time.monotonic()
    while time.monotonic() - started < SETTLE_S:
        server.ask("step")
    return [server.ask("step") for _ in range(count)]


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def without_choices() -> Iterator[None]:
    """Have processes that start meanwhile inherit nothing about how threads wait."""
    kept = {name: os.environ.pop(name) for name in CHOICES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
