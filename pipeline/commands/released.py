"""`import-checkpoint` and `import-features`: what others released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mesm.pipeline.commands.options import (
    AnnotationsOption,
    FeaturesOption,
    TrustOption,
)
from mesm.pipeline.commands.output import OK, SOME_FAILED, show
from mesm.pipeline.run.console import say


def import_checkpoint(
    source: Annotated[Path, typer.Argument(metavar="CKPT", help="Released model_*_best.ckpt.")],
    out: Annotated[Path, typer.Option("--out", help="Run directory to write.")],
    opt: Annotated[Path | None, typer.Option(help="The opt.json beside it.")] = None,
    annotations: AnnotationsOption = None,
    word_vectors: Annotated[
        Path | None, typer.Option(help="Table of the word vectors that it holds: a glove.safetensors.")
    ] = None,
    setting: Annotated[str, typer.Option(help="Shipped configuration; empty: recognised.")] = "",
    trust_pickle: TrustOption = False,
) -> int:
    """Turn a released checkpoint of the published code into a run directory.

    Example: mesm-pipeline import-checkpoint model_test_best.ckpt --trust-pickle --out runs/x
    """
    from mesm.pipeline.importers import checkpoint as importer

    importer.import_checkpoint(
        source,
        out,
        opt=opt,
        trust_pickle=trust_pickle,
        setting=setting or None,
        annotations=annotations,
        word_vectors=word_vectors,
    )
    show(out)
    return OK


def import_features(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE [SOURCE ...]", help="HDF5 files, folders of npz or npy, or one of word vectors."
        ),
    ],
    name: Annotated[str, typer.Option(help="Encoder that made them, such as clip; glove for word vectors.")],
    features: FeaturesOption = Path("features"),
    clip_len: Annotated[float | None, typer.Option(help="Seconds a row; default: duration / rows.")] = None,
    layout: Annotated[str, typer.Option(help="auto, hdf5, npz or npy.")] = "auto",
    config: Annotated[str, typer.Option("--config", "-c", help="Configuration, to know the durations.")] = "",
    annotations: AnnotationsOption = None,
) -> int:
    """Copy released features into shards; their fingerprint says that they were imported.

    Several sources, in any order, become one set. With one source more they are another set, beside the first one.

    Example: mesm-pipeline import-features train.h5 test.h5 --name slowfast-8x8-r50 --clip-len 1
    """
    from mesm.pipeline.importers import stage as import_stage
    from mesm.pipeline.importers.features import IncompleteImportError

    try:
        show(import_stage.import_any(sources, features, name, clip_len, layout, config, annotations))
    except IncompleteImportError as error:
        say(f"failed: {error}")
        show(error.folder.path)
        return SOME_FAILED
    return OK
