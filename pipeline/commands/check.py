"""`check`: annotations, before anything is trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesm.pipeline.commands.options import ConfigOption, SetOption
from mesm.pipeline.commands.output import OK, print_table, show

if TYPE_CHECKING:
    from mesm.pipeline.evaluate.annotation_check import Doubt

SHOWN = 20
"""Doubts of each kind, and words, that are printed; --all prints every one."""


def check(
    annotations: Annotated[Path, typer.Argument(help="Folder or file of the annotations.")],
    config: ConfigOption = "charades-clip-slowfast",
    features: Annotated[Path | None, typer.Option("--features", help="Hold them against these features, too.")] = None,
    split: Annotated[str, typer.Option(help="Split; default: the one to train on.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Print every doubt.")] = False,
    overrides: SetOption = None,
) -> int:
    """Look through annotations: counts, lengths, doubtful moments, and what a guess reaches.

    Example: mesm-pipeline check charades --config charades-mini --features features
    """
    from mesm.pipeline.config.load import load_config
    from mesm.pipeline.data.splits import load_split
    from mesm.pipeline.evaluate.annotation_check import check_annotations, check_features, known_durations
    from mesm.pipeline.evaluate.predict import protocol_of

    settings = load_config(config, overrides or [])
    queries = load_split(settings, annotations, split or settings.dataset.train_split)
    durations = known_durations(queries)
    doubts: list[Doubt] = []
    facts: dict[str, str] = {}
    if features is not None:
        durations, doubts, unknown = check_features(queries, settings, features)
        if unknown is not None:
            words = [f"{word} ({count})" for word, count in unknown.most_common(None if every else SHOWN)]
            facts["words without a vector"] = f"{len(unknown)}{': ' if words else ''}{', '.join(words)}"
    found = check_annotations(queries, durations, protocol_of(settings))
    for name, fact in {**found.facts, **facts}.items():
        show(f"{name:24}{fact}")
    kinds: dict[str, list[str]] = {}
    for doubt in [*doubts, *found.doubts]:
        kinds.setdefault(doubt.kind, []).append(str(doubt))
    for kind, lines in kinds.items():
        show(f"\n{kind}: {len(lines)}")
        show("\n".join(f"  {line}" for line in (lines if every else lines[:SHOWN])))
    if found.guesses is not None:
        print_table(found.guesses, "\nreached without looking; a fifth of the videos is guessed by the others")
    return OK
