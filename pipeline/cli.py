"""The command line: `mesm-pipeline COMMAND`. Results go to stdout, everything else to stderr.

Exit codes: 0 all done; 1 finished, but some items failed; 2 wrong usage or configuration; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mesm.datasets.errors import DatasetError
from mesm.extractors.errors import ExtractorError
from mesm.pipeline._version import __version__
from mesm.pipeline.console import say
from mesm.pipeline.errors import PipelineError

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
USAGE_ERROR: Any = next(base for base in reversed(typer.BadParameter.__mro__) if hasattr(base, "show"))
"""Base of all errors in the use of the command line; newer typers bring a click of their own."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Find the moment in a video that a sentence describes.\n\nExample: mesm-pipeline demo --out mesm-demo",
)
features_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look into folders of features, or export them.\n\nExample: mesm-pipeline features list features",
)
weights_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Weights of the encoders.\n\nExample: mesm-pipeline weights get openai-clip-vit-b-32",
)
app.add_typer(features_app, name="features")
app.add_typer(weights_app, name="weights")

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="Shipped configuration, or a .yaml file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
FeaturesOption = Annotated[Path, typer.Option("--features", help="Folder of features.")]
AnnotationsOption = Annotated[Path | None, typer.Option("--annotations", help="Folder or file of the annotations.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
SelectOption = Annotated[str, typer.Option(help="Choose the best epoch on this split.")]
WeightsOption = Annotated[
    list[str] | None, typer.Option("--weights", metavar="NAME=PATH", help="Use this file of weights.")
]
TrustOption = Annotated[bool, typer.Option("--trust-pickle", help="Open weights that need Python's pickle.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line and exit with its code; a user's mistake is one message, never a traceback."""
    sys.exit(run(sys.argv[1:]))


def _interrupted() -> int:
    say("interrupted; run the same command again to go on")
    return INTERRUPTED


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="mesm-pipeline")
    except typer.Exit as error:
        result = error.exit_code
    except USAGE_ERROR as error:
        error.show()
        return USAGE
    except (PipelineError, DatasetError, ExtractorError) as error:
        say(f"error: {error}")
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except BrokenPipeError:
        return OK
    except OSError as error:
        say(f"error: {error.filename or 'file'}: {error.strerror or error}")
        return USAGE
    code = int(result or OK)
    # Newer typers turn Ctrl-C into this exit code themselves.
    return _interrupted() if code == INTERRUPTED else code


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PipelineError(f"--device {name}: expected cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PipelineError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return device


def _sources(weights: list[str] | None, trust_pickle: bool) -> Any:
    from mesm.extractors.weights import WEIGHTS, WeightSources

    files = {}
    for entry in weights or []:
        name, equals, path = entry.partition("=")
        if not equals or name not in WEIGHTS:
            raise PipelineError(f"--weights {entry}: expected NAME=PATH with one of {', '.join(sorted(WEIGHTS))}")
        files[name] = Path(path)
    return WeightSources(files=files, trust_pickle=trust_pickle)


def _annotations(given: Path | None, config: Any) -> Path:
    place = given or (Path(config.dataset.annotations) if config.dataset.annotations else None)
    if place is None:
        raise PipelineError("no annotations were given: use --annotations with their folder or file")
    if not place.exists():
        raise PipelineError(f"there is no {place}; give the folder or file of the annotations by --annotations")
    return place


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def _print_table(table: Any, title: str) -> None:
    from mesm.pipeline.tables import render_rich, render_text

    if sys.stdout.isatty():
        Console().print(render_rich(table, title))
    else:
        print(f"{title}\n{render_text(table)}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def extract(
    videos: Annotated[
        Path | None, typer.Option("--videos", help="Folder of video files; without it, only queries are encoded.")
    ] = None,
    config: ConfigOption = "charades-clip-slowfast",
    features: FeaturesOption = Path("features"),
    annotations: AnnotationsOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Decoding processes; 0: as configured.")] = 0,
    device: DeviceOption = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16; empty: as configured.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="Only the first videos by name; 0: all.")] = 0,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th video from the I-th, 0-based.")] = "",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> int:
    """Encode videos, and the annotations' queries, into feature shards.

    Videos that are there already are skipped; run it again after an interruption or for new videos.

    Example: mesm-pipeline extract --videos videos --config charades-clip-slowfast
    """
    from mesm.pipeline import extract_stage
    from mesm.pipeline.config import load_config

    changes = list(overrides or [])
    if workers:
        changes.append(f"extract.workers={workers}")
    settings = load_config(config, changes)
    if precision:
        count = len(settings.features.video)
        settings = load_config(config, [*changes, *(f"features.video.{i}.precision={precision}" for i in range(count))])
    place = _annotations(annotations, settings) if annotations or settings.dataset.annotations else None
    report = extract_stage.extract(
        settings, videos, features, place, _device(device), _sources(weights, trust_pickle), limit, shard
    )
    summary = report.videos
    for line in extract_stage.describe_failures(summary.failed, report.missing):
        say(f"failed: {line}")
    if as_json:
        failed = [{"video": f.video_id, "reason": f.reason, "message": f.message} for f in summary.failed]
        _print_json(
            {
                "done": summary.done,
                "skipped": summary.skipped,
                "failed": failed,
                "rows": summary.rows,
                "texts": report.texts,
                "missing": report.missing,
                "seconds": round(summary.seconds, 2),
            }
        )
    elif videos is None:
        print(f"{report.texts} queries encoded")
    elif not summary.done and not summary.failed:
        print(f"nothing to do: all {summary.skipped} videos are there")
    else:
        print(
            f"{summary.done} videos extracted ({summary.rows} rows, {summary.seconds:.1f} s), "
            f"{summary.skipped} were there, {len(summary.failed)} failed"
        )
    return OK if report.complete else SOME_FAILED


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Run directory; an unfinished run goes on.")],
    config: ConfigOption = "charades-clip-slowfast",
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    device: DeviceOption = "auto",
    select_on: SelectOption = "",
    recipe: Annotated[str, typer.Option(help="How to train: `fast`, or a .yaml file; default: as published.")] = "",
    seeds: Annotated[str, typer.Option(help="Train several, such as 0,1,2, in folders below --out.")] = "",
    overrides: SetOption = None,
) -> int:
    """Train MESM on feature shards; the same command again resumes.

    The best epoch is chosen on queries held back from the training split, unless --select-on names one.

    Example: mesm-pipeline train --config charades-mini --annotations charades --out runs/a
    """
    from mesm.pipeline.config import load_config
    from mesm.pipeline.training import train as run_training

    settings = load_config(config, overrides or [], recipe)
    place = _annotations(annotations, settings)
    if not seeds:
        run_training(settings, place, features, out, _device(device), select_on)
        print(out)
        return OK
    from mesm.pipeline.seeds import best_figures, parse_seeds, summary, train_seeds

    runs = train_seeds(settings, place, features, out, _device(device), parse_seeds(seeds), select_on)
    _print_table(summary({f"seed {seed}": best_figures(run) for seed, run in runs.items()}), "best epochs, validation")
    return OK


@app.command()
def reproduce(
    setting: Annotated[str, typer.Argument(metavar="SETTING", help="Setting of the paper, such as tacos-c3d-glove.")],
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the runs; default: runs/SETTING.")] = None,
    device: DeviceOption = "auto",
    seeds: Annotated[str, typer.Option(help="Seeds to train.")] = "",
    select_on: SelectOption = "",
    as_published: Annotated[
        bool, typer.Option("--as-published", help="Best epoch on the test split, and rounding, as the published code.")
    ] = False,
    check_only: Annotated[bool, typer.Option("--check", help="Only say what is there and what is missing.")] = False,
    overrides: SetOption = None,
) -> int:
    """Train a setting of the paper and print its table row beside ours.

    First says whether annotations and features are complete, and how to get what is missing.

    Example: mesm-pipeline reproduce charades-clip-slowfast --annotations charades --seeds 0,1,2
    """
    from mesm.pipeline import reproduce as stage
    from mesm.pipeline.seeds import parse_seeds

    config = stage.setting_config(setting, as_published, overrides or [])
    place = _annotations(annotations, config)
    if check_only:
        rows = stage.check(config, place, features)
        print(stage.describe(rows))
        return OK if all(row.found for row in rows) else SOME_FAILED
    chosen = select_on or (stage.SELECT_ON.get(setting, "") if as_published else "")
    numbers = parse_seeds(seeds) if seeds else [config.train.seed]
    folder = out or Path("runs") / setting
    tables = stage.reproduce(setting, config, place, features, folder, _device(device), numbers, chosen)
    for split, table in tables.items():
        _print_table(table, f"{setting}, {split}")
    return OK


@app.command()
def evaluate(
    run_directory: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Run directory.")] = None,
    annotations: AnnotationsOption = None,
    features: FeaturesOption = Path("features"),
    split: Annotated[
        list[str] | None, typer.Option(help="Split; may be repeated; `validation`: what training held back.")
    ] = None,
    controls: Annotated[
        bool, typer.Option("--controls", help="Also score answers without the video, and with another one.")
    ] = False,
    predictions: Annotated[Path | None, typer.Option(help="Score this file instead of a run.")] = None,
    reader: Annotated[str, typer.Option(help="Annotation format that --predictions belong to.")] = "",
    published: Annotated[bool, typer.Option("--published", help="Round and clamp as the published code.")] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> int:
    """Print the figures of a run, or of anybody's predictions, beside two baselines.

    --predictions takes the QVHighlights submission format, one JSON object a line.

    Example: mesm-pipeline evaluate runs/a --annotations charades --split test
    """
    from mesm.pipeline import evaluate_stage

    if (run_directory is None) == (predictions is None):
        raise PipelineError("give either a run directory or --predictions with --annotations")
    if predictions is not None:
        results = evaluate_stage.score_file(predictions, annotations, reader, split or [])
    else:
        assert run_directory is not None
        results = evaluate_stage.evaluate(
            run_directory, annotations, features, split or [], _device(device), published, controls
        )
    if as_json:
        _print_json({r.split: {name: s.as_record() for name, s in r.scores.items()} for r in results})
        return OK
    from mesm.pipeline.tables import length_table, metrics_table

    for result in results:
        _print_table(metrics_table(result.scores), result.split)
        _print_table(length_table(next(iter(result.scores.values()))), "by length of the moment")
    return OK


@app.command()
def ground(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="Video file.")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The sentence.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Run directory; default: the only one here.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Number of answers.")] = 5,
    features: Annotated[Path | None, typer.Option(help="Look for, and keep, features here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with the video's frames.")] = None,
    device: DeviceOption = "auto",
    weights: WeightsOption = None,
    trust_pickle: TrustOption = False,
    as_json: JsonOption = False,
) -> int:
    """Find the moment of a video that a sentence describes.

    Example: mesm-pipeline ground video.mp4 "a person opens the door" --checkpoint runs/a
    """
    if not query.strip():
        raise PipelineError("the query is empty; describe the moment in a sentence")
    from mesm.pipeline import grounding

    place = grounding.find_checkpoint(checkpoint)
    sources = _sources(weights, trust_pickle)
    retriever = grounding.MomentRetriever.from_checkpoint(place, _device(device), sources, features)
    encoded = retriever.encode_video(video, cache=features)
    result = retriever.ground(encoded, query, top_k)
    if result.words_cut:
        say(f"note: the network reads {retriever.config.dataset.max_words} words; the rest of the query was left out")
    if html is not None:
        from mesm.pipeline.pages import write_grounding_page

        say(f"page: {write_grounding_page(html, encoded, result)}")
    if as_json:
        _print_json(
            {
                "video": str(video),
                "query": result.query,
                "duration_s": round(encoded.duration_s, 3),
                "moments": [{"start_s": m.start_s, "end_s": m.end_s, "score": m.score} for m in result.moments],
            }
        )
        return OK
    from rich.table import Table

    table = Table("start", "end", "score", box=None, header_style="bold")
    for moment in result.moments:
        table.add_row(_clock(moment.start_s), _clock(moment.end_s), f"{moment.score:.3f}")
    Console(highlight=False).print(table)
    return OK


def _clock(seconds: float) -> str:
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{int(hours)}:{int(minutes):02d}:{rest:05.2f}" if hours else f"{int(minutes)}:{rest:05.2f}"


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the demo; an unfinished demo goes on.")] = Path(
        "mesm-demo"
    ),
    videos: Annotated[int, typer.Option(min=10, help="Videos to generate.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the generated videos.")] = 0,
) -> int:
    """Run the whole pipeline on generated videos: no download, minutes on a CPU.

    Example: mesm-pipeline demo --out mesm-demo
    """
    from mesm.pipeline.demo import run_demo

    run_demo(out, videos, seed)
    return OK


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="CKPT", help="Released model_*_best.ckpt.")],
    out: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    opt: Annotated[Path | None, typer.Option(help="The opt.json beside it.")] = None,
    annotations: AnnotationsOption = None,
    setting: Annotated[str, typer.Option(help="Shipped configuration; empty: recognised.")] = "",
    trust_pickle: TrustOption = False,
) -> int:
    """Turn a released checkpoint of the published code into a run directory.

    Example: mesm-pipeline import-checkpoint model_test_best.ckpt --trust-pickle --out runs/x
    """
    from mesm.tools import import_checkpoint as importer

    importer.import_checkpoint(
        source, out, opt=opt, trust_pickle=trust_pickle, setting=setting or None, annotations=annotations
    )
    print(out)
    return OK


@app.command("import-features")
def import_features(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="HDF5 file, folder of npz or npy, or word vectors.")],
    name: Annotated[str, typer.Option(help="Encoder that made them, such as clip; glove for word vectors.")],
    features: FeaturesOption = Path("features"),
    clip_len: Annotated[float | None, typer.Option(help="Seconds a row; default: duration / rows.")] = None,
    layout: Annotated[str, typer.Option(help="auto, hdf5, npz or npy.")] = "auto",
    config: Annotated[str, typer.Option("--config", "-c", help="Configuration, to know the durations.")] = "",
    annotations: AnnotationsOption = None,
) -> int:
    """Copy released features into shards; their fingerprint says that they were imported.

    Example: mesm-pipeline import-features slowfast.hdf5 --name slowfast-8x8-r50 --clip-len 1
    """
    from mesm.pipeline import import_stage

    print(import_stage.import_any(source, features, name, clip_len, layout, config, annotations))
    return OK


@features_app.command("list")
def features_list(place: Annotated[Path, typer.Argument(help="Folder of features.")] = Path("features")) -> int:
    """List the folders of features with their sizes."""
    from mesm.pipeline.feature_commands import list_features

    for s in list_features(place):
        shapes = ", ".join(f"{name} {shape}" for name, shape in s.shapes.items())
        print(f"{s.path}\t{s.records} records\t{s.rows} rows\t{s.bytes / 2**20:.1f} MiB\t{s.shards} shards\t{shapes}")
    return OK


@features_app.command("show")
def features_show(
    folder: Annotated[Path, typer.Argument(help="One folder of features.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Videos.")] = None,
) -> int:
    """Show what a folder's features were made with, and its records."""
    import dataclasses

    from mesm.pipeline.feature_commands import show_features

    details = show_features(folder, keys or [])
    records = [{**dataclasses.asdict(r), "fps": str(r.fps)} for r in details.records]
    _print_json({"fingerprint": details.summary.fingerprint, "spec": details.spec, "records": records})
    return OK


@features_app.command("export")
def features_export(
    folder: Annotated[Path, typer.Argument(help="One folder of features.")],
    target: Annotated[Path, typer.Argument(help="HDF5 file, or folder of npz files.")],
    layout: Annotated[str, typer.Option(help="hdf5 or npz.")] = "hdf5",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> int:
    """Write features in the released layouts, for others' training code."""
    from mesm.pipeline.feature_commands import export_features

    if layout not in ("hdf5", "npz"):
        raise PipelineError(f"--layout {layout}: expected hdf5 or npz")
    print(f"{export_features(folder, target, layout, overwrite=overwrite)} records in {target}")  # type: ignore[arg-type]
    return OK


@app.command()
def verify(
    place: Annotated[Path, typer.Argument(help="Folder of features.")] = Path("features"),
    remove_damaged: Annotated[
        bool, typer.Option("--remove-damaged", help="Rename damaged shards; extract makes them anew.")
    ] = False,
) -> int:
    """Read all features again and compare with their hashes.

    Example: mesm-pipeline verify features
    """
    from mesm.pipeline.feature_commands import verify_features

    bad = 0
    for folder in verify_features(place, remove_damaged=remove_damaged):
        bad += len(folder.problems)
        print(f"{folder.path}: {folder.records} records, {len(folder.problems)} problems")
        for problem in folder.problems:
            print(f"  {problem}")
    return SOME_FAILED if bad else OK


@app.command()
def compact(place: Annotated[Path, typer.Argument(help="Folder of features.")] = Path("features")) -> int:
    """Merge small shards into larger ones.

    Example: mesm-pipeline compact features
    """
    from mesm.pipeline.feature_commands import compact_features

    for folder, fewer in compact_features(place).items():
        print(f"{folder}: {fewer} files fewer")
    return OK


@app.command()
def extractors(as_json: JsonOption = False) -> int:
    """List the encoders with their weights and licences.

    Example: mesm-pipeline extractors
    """
    import dataclasses

    from mesm.extractors.registry import describe_encoders

    rows = describe_encoders()
    if as_json:
        _print_json([dataclasses.asdict(row) for row in rows])
        return OK
    from rich.table import Table

    table = Table("encoder", "kind", "dim", "clip s", "weights", "here", "licence", box=None, header_style="bold")
    for row in rows:
        table.add_row(
            row.name,
            row.kind,
            str(row.dim or "-"),
            f"{row.clip_len_s:g}" if row.clip_len_s else "-",
            row.weights or "-",
            "yes" if row.available else "no",
            row.licence or "-",
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return OK


@weights_app.command("list")
def weights_list() -> int:
    """List the files of weights, and which are here."""
    from mesm.extractors.weights import WEIGHTS, WeightSources, local_path

    for entry in WEIGHTS.values():
        here = local_path(entry, WeightSources())
        print(f"{entry.name}\t{here or 'not here'}\t{entry.licence}\t{entry.url}")
    return OK


@weights_app.command("get")
def weights_get(names: Annotated[list[str], typer.Argument(help="Names of the table.")]) -> int:
    """Download files of weights into the cache and check them."""
    from mesm.extractors.weights import WEIGHTS, WeightSources, find_weights

    for name in names:
        if name not in WEIGHTS:
            raise PipelineError(f"no weights are called {name!r}; expected one of {', '.join(WEIGHTS)}")
        say(f"{name}: licence {WEIGHTS[name].licence}")
        print(find_weights(name, WeightSources()).path)
    return OK


@weights_app.command("check")
def weights_check() -> int:
    """Check the files in the cache against their published checksums."""
    from mesm.extractors.weights import WEIGHTS, WeightSources, local_path, verify_weights

    bad = 0
    for entry in WEIGHTS.values():
        path = local_path(entry, WeightSources())
        if path is None:
            continue
        problems = verify_weights(entry, path)
        bad += bool(problems)
        print(f"{entry.name}: {'; '.join(problems) or 'ok'}")
    return SOME_FAILED if bad else OK


@app.command()
def configs(name: Annotated[str, typer.Argument(help="Print this one completely.")] = "") -> int:
    """List the shipped configurations, or print one with every value.

    Example: mesm-pipeline configs demo
    """
    from mesm.pipeline.config import load_config, shipped_configs, shipped_recipes

    if name:
        print(load_config(name).to_yaml(), end="")
        return OK
    for shipped, purpose in shipped_configs().items():
        print(f"{shipped:28} {purpose}")
    for recipe, purpose in shipped_recipes().items():
        print(f"{'--recipe ' + recipe:28} {purpose}")
    return OK


@app.command()
def doctor() -> int:
    """Check this machine: packages, decoders, device, cache.

    Example: mesm-pipeline doctor
    """
    from mesm.pipeline.doctor import examine

    failed = False
    for name, passed, finding in examine():
        failed = failed or not passed
        print(f"{'ok' if passed else 'PROBLEM':8}{name:16}{finding}")
    return SOME_FAILED if failed else OK


if __name__ == "__main__":
    main()
