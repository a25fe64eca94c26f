"""`features`, `verify` and `compact`: folders of features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.output import OK, SOME_FAILED, print_json, show
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.run.shown_text import one_line

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look into folders of features, or export them.\n\nExample: mesm-pipeline features list features",
)


@app.command("list")
def features_list(place: Annotated[Path, typer.Argument(help="Folder of features.")] = Path("features")) -> int:
    """List the folders of features with their sizes."""
    from mesm.pipeline.data.stored import list_features

    for s in list_features(place):
        shapes = ", ".join(f"{name} {shape}" for name, shape in s.shapes.items())
        show(f"{s.path}\t{s.records} records\t{s.rows} rows\t{s.bytes / 2**20:.1f} MiB\t{s.shards} shards\t{shapes}")
    return OK


@app.command("show")
def features_show(
    folder: Annotated[Path, typer.Argument(help="One folder of features.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Videos.")] = None,
) -> int:
    """Show what a folder's features were made with, and its records."""
    import dataclasses

    from mesm.pipeline.data.stored import show_features

    details = show_features(folder, keys or [])
    records = [{**dataclasses.asdict(r), "fps": str(r.fps)} for r in details.records]
    print_json({"fingerprint": details.summary.fingerprint, "spec": details.spec, "records": records})
    return OK


@app.command("export")
def features_export(
    folder: Annotated[Path, typer.Argument(help="One folder of features.")],
    target: Annotated[Path, typer.Argument(help="HDF5 file, or folder of npz files.")],
    layout: Annotated[str, typer.Option(help="hdf5 or npz.")] = "hdf5",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> int:
    """Write features in the released layouts, for others' training code."""
    from mesm.pipeline.data.stored import export_features

    if layout not in ("hdf5", "npz"):
        raise PipelineError(f"--layout {layout}: expected hdf5 or npz")
    show(f"{export_features(folder, target, layout, overwrite=overwrite)} records in {target}")  # type: ignore[arg-type]
    return OK


def verify(
    place: Annotated[Path, typer.Argument(help="Folder of features, or run directory.")] = Path("features"),
    remove_damaged: Annotated[
        bool, typer.Option("--remove-damaged", help="Rename damaged shards; extract makes them anew.")
    ] = False,
) -> int:
    """Read all features, or a run, again and compare with their hashes.

    Example: mesm-pipeline verify features
    """
    from mesm.pipeline.data.stored import verify_features
    from mesm.pipeline.data.stored_runs import is_run, verify_run

    bad = 0
    if is_run(place):
        for finding in verify_run(place):
            bad += bool(finding.problem)
            show(f"{finding.path}: {one_line(finding.problem) or 'ok'}{finding.note and f' ({finding.note})'}")
        return SOME_FAILED if bad else OK
    for folder in verify_features(place, remove_damaged=remove_damaged):
        bad += len(folder.problems)
        show(f"{folder.path}: {folder.records} records, {len(folder.problems)} problems")
        for problem in folder.problems:
            show(f"  {one_line(str(problem))}")
    return SOME_FAILED if bad else OK


def compact(place: Annotated[Path, typer.Argument(help="Folder of features.")] = Path("features")) -> int:
    """Merge small shards into larger ones.

    Example: mesm-pipeline compact features
    """
    from mesm.pipeline.data.stored import compact_features

    for folder, fewer in compact_features(place).items():
        show(f"{folder}: {fewer} files fewer")
    return OK
