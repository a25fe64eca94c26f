"""Find spans in real image-text vectors, with the code that answers without a checkpoint.

    python -m mesm.tools.trial_spans PAIRS.npz FEATURES.h5 NOUN_VECTORS.npz --out answers.jsonl

PAIRS.npz: `video_id`, `noun` and `duration_s` of each pair; FEATURES.h5: (rows, D) vectors of each video, one row a
second, row t the picture at t; NOUN_VECTORS.npz: `names` and `vectors` (nouns, D), whose mean is what fits any picture.
Writes one line a pair, in order: {"windows": [[start s, end s, score], ...]}, best first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from mesm.model.curves.decoders import DECODERS, DEFAULT, make_decoder
from mesm.model.curves.video import Reading, find_spans, in_seconds, similarity

ROW_S = 1.0
ROW_OFFSET = -0.5
"""Row t is the picture at t, and stands for the second around it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the answers; 0 when done, 2 when a file or an option cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m mesm.tools.trial_spans", description=__doc__)
    parser.add_argument("pairs", type=Path, metavar="PAIRS.npz")
    parser.add_argument("features", type=Path, metavar="FEATURES.h5")
    parser.add_argument("nouns", type=Path, metavar="NOUN_VECTORS.npz")
    parser.add_argument("--out", type=Path, required=True, metavar="ANSWERS.jsonl")
    parser.add_argument("--decoder", default=DEFAULT, choices=sorted(DECODERS))
    parser.add_argument("--set", action="append", default=[], metavar="CONSTANT=NUMBER", help="try another constant")
    options = parser.parse_args(arguments)
    try:
        reading = make_reading(options.decoder, dict(_constant(text) for text in options.set))
        lines = [json.dumps({"windows": windows}) for windows in answers(options, reading)]
        options.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(lines)} pairs: {options.out}", file=sys.stderr)
    return 0


def make_reading(decoder: str, constants: Mapping[str, float]) -> Reading:
    """Build a reading of curves: constants of the procedure, and those common to all procedures, by name."""
    common = {field.name for field in dataclasses.fields(Reading)} - {"decoder"}
    own = {name: value for name, value in constants.items() if name not in common}
    shared = {name: value for name, value in constants.items() if name in common}
    return Reading(make_decoder(decoder, own), **shared)


def answers(options: argparse.Namespace, reading: Reading) -> Iterator[list[list[float]]]:
    """Yield the windows of each pair, in seconds, best first."""
    with np.load(options.nouns) as archive:
        names, vectors = archive["names"], archive["vectors"].astype(np.float64)
    noun_rows, generic = {str(name): row for row, name in enumerate(names)}, vectors.mean(0)
    with np.load(options.pairs) as pairs, h5py.File(options.features) as features:
        for video, noun, duration in zip(pairs["video_id"], pairs["noun"], pairs["duration_s"], strict=True):
            rows = features[str(video)][()]
            curve = similarity(rows, vectors[noun_rows[str(noun)]], generic)
            spans = find_spans(curve, ROW_S, reading, rows)
            yield in_seconds(spans, ROW_S, float(duration), ROW_OFFSET).tolist()


def _constant(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected CONSTANT=NUMBER")
    return name, float(value)


if __name__ == "__main__":
    sys.exit(main())
