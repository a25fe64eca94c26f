"""One training step, or the answers to one batch, beside the plain form of the same mathematics."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mesm.pipeline.run.memory import keep_freed_memory, peak_memory_bytes
from mesm.pipeline.run.threads import wait_quietly
from mesm.tools.benchmarks.elastic import ElasticPair, elastic_difference
from mesm.tools.benchmarks.networks import Pair, same_losses
from mesm.tools.benchmarks.timing import Clock, Peak, device_name, spread
from mesm.tools.synthetic_batches import ELASTIC, SHAPES

WARM_UP = 2
LOSS_RTOL = 1e-5


def serve(pipe: Connection, what: str, setting: str, options: argparse.Namespace, plain: bool) -> None:
    """Build one of the two forms, then time a run of it whenever asked."""
    device = torch.device(options.device)
    clock = Clock(device)
    if not plain:
        keep_freed_memory()
    pair = (ElasticPair if setting in ELASTIC else Pair)(setting, options)
    if plain:
        step = pair.reference_step(what)
    else:
        step = pair.train_step() if what == "train-step" else pair.infer()
    with FlopCounterMode(display=False) as counter:
        step()
    # Under the counter nothing is compiled, not even afterwards.
    if options.compile and not plain:
        pair.compile()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(WARM_UP):
        step()
    pipe.send({"flops": counter.get_total_flops(), "memory_mb": peak_memory_bytes(clock.device) / 2**20})
    peak = Peak(clock.device, torch.bfloat16 if options.precision == "bf16" else torch.float32, clock)
    for request in iter(pipe.recv, None):
        pipe.send(clock(step) if request == "step" else peak.measure())


def serve_quietly(*arguments: Any) -> None:
    """Serve as our programs run, with threads that wait quietly."""
    wait_quietly()
    serve(*arguments)


class Server:
    """A process that runs one of the two forms."""

    def __init__(self, what: str, setting: str, options: argparse.Namespace, plain: bool, quiet: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, what, setting, options, plain)
        self._process = context.Process(target=serve_quietly if quiet else serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self.facts: dict[str, float] = self._pipe.recv()

    def ask(self, what: str) -> float:
        """Return the milliseconds of a `step`, or the `peak` in GFLOP/s."""
        self._pipe.send(what)
        return float(self._pipe.recv())

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(None)
        self._process.join()


def bench_train_step(setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the training step of one setting."""
    return _bench("train-step", setting, options)


def bench_infer(setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the answers to a batch of one setting."""
    return _bench("infer", setting, options)


def _bench(what: str, setting: str, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    compare = elastic_difference if setting in ELASTIC else same_losses
    difference = compare(setting, device) if options.reference else None
    if difference is not None and not difference <= LOSS_RTOL:
        raise SystemExit(f"{setting}: the losses differ by {difference:.1e} of the plain form's; nothing was measured")
    gc.collect()
    ours = Server(what, setting, options, plain=False)
    plain = Server(what, setting, options, plain=True) if options.reference else None
    times, plain_times, peaks, ratios = [], [], [], []
    for _ in range(options.repeats):
        some = [ours.ask("step") for _ in range(options.inner)]
        times += some
        peaks.append(ours.ask("peak"))
        if plain is not None:
            plain_times.append(plain.ask("step"))
            ratios.append(plain_times[-1] / statistics.median(some))
    ms, best, flops = statistics.median(times), statistics.median(peaks), ours.facts["flops"]
    useful = flops / ms / 1e6
    row: dict[str, Any] = {
        "bench": what,
        "setting": setting,
        "device": device_name(device),
        "precision": options.precision,
        "compile": options.compile,
        "queries": len(SHAPES[setting].video_of_query),
        "ms_per_step": round(ms, 2),
        "spread": round(spread(times), 3),
        "useful_gflop": round(flops / 1e9, 2),
        "useful_gflops": round(useful, 1),
        "peak_gflops": round(best, 1),
        "peak_fraction": round(useful / best, 3),
        "peak_memory_mb": round(ours.facts["memory_mb"]),
    }
    if plain is not None:
        row |= {
            "reference_ms_per_step": round(statistics.median(plain_times), 2),
            "reference_gflop": round(plain.facts["flops"] / 1e9, 2),
            "reference_peak_memory_mb": round(plain.facts["memory_mb"]),
            "speedup": round(statistics.median(ratios), 2),
            "loss_difference": difference,
        }
        plain.stop()
    ours.stop()
    return row
