"""Measure how fast training and answering are, on seeded synthetic features in the shapes of the published settings.

    python -m mesm.tools.bench train-step --setting charades-clip-slowfast
    python -m mesm.tools.bench infer --setting all --json
    python -m mesm.tools.bench epoch --setting tacos-c3d-glove
    python -m mesm.tools.bench evaluate
    python -m mesm.tools.bench ground

* `train-step`: forward, losses, backward, clipping and AdamW, beside the plain form of the same mathematics
  (`mesm.tools.reference_network`); `infer`: the answers to a batch, beside the plain form. Each has a process of its
  own, and they take turns, so that a busy machine slows down both; medians count. The losses of both are compared
  before anything is measured.
* `epoch`: an epoch of training over features in shards, and the share of a step that cuts the batch.
* `evaluate`: scoring of 1,550 queries with 10 windows each.
* `ground`: one query about a video of a minute, and one of two hours, that is encoded already.

FLOPs are the matrix products that torch's counter sees in this project's path; the peak is that of a large matrix
product in the same precision, measured between the repetitions.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mesm.datasets.annotations.records import Annotation
from mesm.model.batch import Batch
from mesm.model.network_config import Sizes
from mesm.model.networks.mesm import Mesm, MesmConfig
from mesm.pipeline.config.load import load_config
from mesm.pipeline.config.schema import to_plain
from mesm.pipeline.evaluate.metrics import evaluate_predictions
from mesm.pipeline.evaluate.predict import protocol_of
from mesm.pipeline.evaluate.predictions import Prediction
from mesm.pipeline.ground.answers import EncodedVideo
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.importers.published_names import our_name
from mesm.pipeline.run.checkpoint import BEST
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.memory import keep_freed_memory
from mesm.pipeline.run.precision import half_precision
from mesm.pipeline.train.compiling import forward_and_losses
from mesm.pipeline.train.data import build_for, load_training_data
from mesm.pipeline.train.state import TrainingState
from mesm.pipeline.train.step import Steps
from mesm.pipeline.workspace import Workspace
from mesm.tools.reference_network import PlainBatch, ReferenceMesm, reference_losses
from mesm.tools.synthetic_batches import SHAPES, configs_of, make_batch
from mesm.tools.synthetic_dataset import write_synthetic

PEAK_SIZE = 2048
WARM_UP = 2
LOSS_RTOL = 1e-5
QUERIES, WINDOWS = 1550, 10

Step = Callable[[], object]


class Clock:
    """Times a call, waiting for the device before and after."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, step: Step) -> float:
        """Return the milliseconds of one call."""
        self._wait()
        started = time.perf_counter()
        step()
        self._wait()
        return 1000 * (time.perf_counter() - started)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Peak:
    """A large matrix product, to know what the machine can do at this moment."""

    def __init__(self, device: torch.device, dtype: torch.dtype, clock: Clock) -> None:
        size = PEAK_SIZE if device.type == "cpu" else 4 * PEAK_SIZE
        self._a, self._b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        self._clock, self._flops = clock, 2 * size**3
        self.measure()

    def measure(self) -> float:
        """Return GFLOP/s, the best of three."""
        return max(self._flops / self._clock(lambda: self._a @ self._b) / 1e6 for _ in range(3))


def peak_memory_mb(device: torch.device) -> float:
    """Most memory so far: of the process, or of the device's allocator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spread(values: Sequence[float]) -> float:
    """Half of the distance between the quartiles, as a share of the median."""
    if len(values) < 3:
        return math.nan
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def train_step(
    network: torch.nn.Module, forward: Callable[[], dict[str, torch.Tensor]], optimiser: torch.optim.Optimizer
) -> Step:
    """One optimiser step, as training does it."""
    parameters = list(network.parameters())

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        losses = forward()
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.1, foreach=True)
        optimiser.step()
        torch.stack([*(value.detach().float() for value in losses.values()), norm.float()]).tolist()

    return step


class Pair:
    """Our network and its plain form with the same weights, on the same batch."""

    def __init__(self, setting: str, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.config, self.sizes, self.loss = configs_of(setting)
        self.options = options
        self.host_batch = make_batch(SHAPES[setting])
        self.batch = self.host_batch.to(self.device)
        torch.manual_seed(0)
        self.model = Mesm(self.config, self.sizes).to(self.device)
        self.forward, self.compute_losses = forward_and_losses(self.model, compiled=False)

    def compile(self) -> None:
        """From now on, run compiled what `--compile` compiles."""
        self.forward, self.compute_losses = forward_and_losses(self.model, compiled=True)

    def autocast(self) -> torch.autocast:
        """Return the context of the asked precision."""
        return half_precision(self.device, self.options.precision)

    def losses(self) -> dict[str, torch.Tensor]:
        """Forward and losses of ours."""
        # A batch is new in every step, and so is what follows from it.
        batch = replace(self.batch)
        batch.prepare()
        with self.autocast():
            output = self.forward(batch)
        return self.compute_losses(output.float(), batch, self.loss)

    def train_step(self) -> Step:
        """One step of ours."""
        self.model.train()
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=2e-4, weight_decay=1e-4, fused=True)
        return train_step(self.model, self.losses, optimiser)

    def infer(self) -> Step:
        """The answers of ours."""
        self.model.eval()

        def step() -> None:
            batch = at_inference(self.batch)
            batch.prepare()
            with torch.no_grad(), self.autocast():
                self.forward(batch)

        return step

    def reference(self) -> tuple[ReferenceMesm, PlainBatch]:
        """Build the plain form with our weights."""
        network = ReferenceMesm(self.config, self.sizes).to(self.device)
        state = self.model.state_dict()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(state[our_name(name) or ""])
        return network, plain_to(PlainBatch.of(self.host_batch), self.device)

    def reference_step(self, what: str) -> Step:
        """One step, or the answers, of the plain form."""
        network, batch = self.reference()
        if what == "infer":
            network.eval()
            batch = replace(batch, masked=None)

            def answer() -> None:
                with torch.no_grad(), self.autocast():
                    network(batch)

            return answer

        def losses() -> dict[str, torch.Tensor]:
            with self.autocast():
                out = network(batch)
            out = {k: v if v.dtype == torch.bool else v.float() for k, v in out.items()}
            return reference_losses(out, batch, self.loss)

        optimiser = torch.optim.AdamW(network.train().parameters(), lr=2e-4, weight_decay=1e-4)
        return train_step(network, losses, optimiser)


def at_inference(batch: Batch) -> Batch:
    """Leave out what only training needs."""
    return replace(batch, negative_query=None, word_mask=None, targets=None)


def plain_to(batch: PlainBatch, device: torch.device) -> PlainBatch:
    """Move a plain batch to a device."""
    moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(batch).items()}
    moved["windows"] = [w.to(device) for w in batch.windows]
    return PlainBatch(**moved)


def same_losses(setting: str, device: torch.device) -> float:
    """Largest relative difference of the losses of both forms, in fp32 without dropout; the total one's too."""
    config, sizes, loss = configs_of(setting)
    options = argparse.Namespace(device=str(device), precision="fp32", compile=False)
    pair = Pair(setting, options)
    pair.config = replace(config, dropout=0.0, input_dropout=0.0)
    pair.model = Mesm(pair.config, sizes).to(device)
    network, batch = pair.reference()
    with torch.no_grad():
        ours = pair.model.losses(pair.model.train()(pair.batch), pair.batch, loss)
        plain = reference_losses(network.train()(batch), batch, loss)
    names = {"saliency": "loss_saliency", "rebuild_words": "loss_rec_fw", "segment_sentence": "loss_rec_ss"}
    pairs = [(ours[k], plain[names.get(k, k if k == "total" else f"loss_{k}")]) for k in ours]
    return max(abs(float(a) - float(b)) / abs(float(b)) for a, b in pairs)


def serve(pipe: Connection, what: str, setting: str, options: argparse.Namespace, plain: bool) -> None:
    """In a process of its own: build one of the two forms, then time a run of it whenever asked."""
    device = torch.device(options.device)
    clock = Clock(device)
    if not plain:
        keep_freed_memory()
    pair = Pair(setting, options)
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
    pipe.send({"flops": counter.get_total_flops(), "memory_mb": peak_memory_mb(clock.device)})
    peak = Peak(clock.device, torch.bfloat16 if options.precision == "bf16" else torch.float32, clock)
    for request in iter(pipe.recv, None):
        pipe.send(clock(step) if request == "step" else peak.measure())


class Server:
    """A process that runs one of the two forms."""

    def __init__(self, what: str, setting: str, options: argparse.Namespace, plain: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, what, setting, options, plain)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
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


def bench_network(what: str, setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure `train-step` or `infer` of one setting."""
    device = torch.device(options.device)
    difference = same_losses(setting, device) if options.reference else None
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


def device_name(device: torch.device) -> str:
    """What the figures were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def bench_epoch(setting: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure an epoch of training, and what of it cuts batches."""
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="mesm-bench-") as name:
        folder = Path(name)
        write_synthetic(folder, setting, options.videos)
        overrides = [
            "dataset.reader=jsonl",
            "dataset.validation_split=val",
            f"train.precision={options.precision}",
            f"train.compile={str(options.compile).lower()}",
        ]
        config = load_config(setting, overrides)
        data = load_training_data(Workspace(config, folder / "annotations.jsonl", folder / "features", device))
        state = TrainingState.start(config, build_for(config, data).to(device))
        training = Steps(config, data.train, state)
        state.network.train()
        batches = training.batches(0)
        host: list[float] = []
        cut = data.train.batch

        def timed(*arguments: Any, **named: Any) -> Batch:
            started = time.perf_counter()
            batch = cut(*arguments, **named)
            batch.prepare()
            host.append(1000 * (time.perf_counter() - started))
            return batch

        data.train.batch = timed  # type: ignore[method-assign]
        for number, groups in enumerate(batches[:WARM_UP]):
            training.take(groups, number)
        host.clear()
        clock = Clock(device)
        steps = [clock(lambda g=groups, n=n: training.take(g, n)) for n, groups in enumerate(batches)]  # type: ignore[misc]
    ms, batch_ms = statistics.median(steps), statistics.median(host)
    return {
        "bench": "epoch",
        "setting": setting,
        "device": device_name(device),
        "precision": options.precision,
        "compile": options.compile,
        "queries": len(data.train),
        "steps": len(steps),
        "seconds": round(sum(steps) / 1000, 2),
        "ms_per_step": round(ms, 2),
        "spread": round(spread(steps), 3),
        "batch_ms": round(batch_ms, 2),
        "batch_fraction": round(batch_ms / ms, 4),
        "peak_memory_mb": round(peak_memory_mb(device)),
    }


def bench_evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the scoring of 1,550 queries with 10 windows each, under the QVHighlights protocol."""
    draw = np.random.default_rng(0)
    annotations, predictions = [], []
    for number in range(QUERIES):
        starts = draw.uniform(0, 140, int(draw.integers(1, 4)))
        moments = tuple((float(s), float(s + draw.uniform(2, 10))) for s in np.sort(starts))
        annotations.append(Annotation(number, f"v{number}", "q", moments, 150.0, None, "val"))
        edges = np.sort(draw.uniform(0, 150, (WINDOWS, 2)), axis=1)
        windows = np.concatenate((edges, -np.sort(-draw.random((WINDOWS, 1)), axis=0)), axis=1)
        predictions.append(Prediction(number, "q", f"v{number}", windows, None))
    protocol, clock = protocol_of(load_config("qvhighlights-clip-slowfast")), Clock(torch.device("cpu"))
    times = [clock(lambda: evaluate_predictions(predictions, annotations, protocol)) for _ in range(options.repeats)]
    ms = statistics.median(times)
    return {
        "bench": "evaluate",
        "queries": QUERIES,
        "windows": WINDOWS,
        "ms": round(ms, 1),
        "spread": round(spread(times), 3),
    }


def bench_ground(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one query about an encoded video, of a minute and of two hours, with the demo's sizes of network."""
    # Building encoders is not needed to run the benches of the network, and takes seconds to import.
    from mesm.extractors.weights.sources import WeightSources
    from mesm.pipeline.extract.encoders import build_text_encoder, build_video_encoders, encoder_fingerprint

    device, config, sources = torch.device(options.device), load_config("demo"), WeightSources()
    video_encoders = build_video_encoders(config, device, sources)
    text_encoder = build_text_encoder(config.features.text, device, sources)
    sizes = Sizes(video_encoders[0].dim + 2, text_encoder.dim, 203)
    published = MesmConfig()
    network = replace(
        config.model, dim=published.dim, heads=published.heads, feed_forward_dim=published.feed_forward_dim
    )
    config = replace(config, model=network)
    found = {encoder.name: encoder_fingerprint(encoder) for encoder in video_encoders}
    found[text_encoder.name] = encoder_fingerprint(text_encoder)
    with tempfile.TemporaryDirectory(prefix="mesm-bench-") as name:
        run = RunDirectory(Path(name))
        run.create()
        model = Mesm(network, sizes)
        meta = {
            "config": to_plain(config),
            "sizes": asdict(sizes),
            "text": {},
            "vocabulary": {},
            "fingerprints": found,
        }
        run.save(BEST, {f"model.{k}": v for k, v in model.state_dict().items()}, meta)
        retriever = MomentRetriever.from_checkpoint(run.path, device, sources)
    row: dict[str, Any] = {"bench": "ground", "device": device_name(device)}
    for label, rows in (("minute", 60), ("two_hours", 7200)):
        features = np.random.default_rng(0).standard_normal((rows, video_encoders[0].dim), np.float32)
        video = EncodedVideo(Path("film.mp4"), float(rows), (features,))
        clock = Clock(device)
        retriever.ground(video, "a warm-up")
        times = [clock(lambda v=video: retriever.ground(v, "a person opens the door")) for _ in range(options.repeats)]  # type: ignore[misc]
        row |= {f"{label}_ms_per_query": round(statistics.median(times), 1)}
    return row


def show(row: dict[str, Any], as_json: bool) -> None:
    """Print one result: a JSON line, or names and figures."""
    print(json.dumps(row) if as_json else ", ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark; exit code 1 when the two forms do not agree."""
    parser = argparse.ArgumentParser(
        prog="python -m mesm.tools.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", choices=("train-step", "infer", "epoch", "evaluate", "ground"))
    parser.add_argument("--setting", default="charades-clip-slowfast", choices=(*SHAPES, "all"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; in each the plain form runs once")
    parser.add_argument("--inner", type=int, default=3, help="runs of ours in a round")
    parser.add_argument("--videos", type=int, default=120, help="videos of `epoch`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="run ours through torch.compile")
    parser.add_argument("--reference", action=argparse.BooleanOptionalAction, default=True, help="run the plain form")
    parser.add_argument("--json", action="store_true", help="one JSON line a result")
    options = parser.parse_args(arguments)
    settings: Iterable[str] = SHAPES if options.setting == "all" else (options.setting,)
    if options.bench in ("train-step", "infer"):
        for setting in settings:
            show(bench_network(options.bench, setting, options), options.json)
    elif options.bench == "epoch":
        for setting in settings:
            show(bench_epoch(setting, options), options.json)
    else:
        show((bench_evaluate if options.bench == "evaluate" else bench_ground)(options), options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
