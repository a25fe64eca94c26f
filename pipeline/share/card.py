"""The card of a trained network: what it is, what was measured of it, and under which licences its parts are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mesm.datasets.plain_text import read_json
from mesm.extractors.encoders.registry import ENCODERS
from mesm.extractors.weights.table import WEIGHTS
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.run.package import FIGURES

UNSTATED = "other"
"""The hub's word for a licence that is none of its list."""

Figures = Mapping[str, tuple[int, str, Mapping[str, float]]]
"""Split -> queries, protocol, and figures in per cent by name."""


def read_figures(folder: Path) -> Figures:
    """Return what `evaluate` measured of a run; empty when it was not evaluated. PipelineError for a damaged file."""
    path = folder / FIGURES
    if not path.is_file():
        return {}
    found = {}
    try:
        for split, entries in read_json(path).items():
            scores = next(iter(entries.values()))
            figures = {name: float(value) for name, value in scores["brief"].items() if value is not None}
            if figures:
                found[split] = (int(scores["queries"]), str(scores["protocol"]), figures)
    except (ValueError, KeyError, AttributeError, TypeError, StopIteration) as error:
        raise PipelineError(f"{path} is no evaluation of this program; evaluate the run again ({error!r})") from error
    return found


def write_card(
    config: Config,
    figures: Figures,
    licence: str,
    calibration: Mapping[str, Any] | None,
    imported: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown with the hub's front matter.

    imported: what is known of the released file that the weights were taken from; None for a network trained here.
    """
    name = f"{config.model.name}, {config.name}"
    front = yaml.safe_dump(_front_matter(config, figures, licence, name), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n",
        f"# {name}\n",
        f"Finds the moment of a video that a sentence describes. {_origin(imported)}\n",
        "```python\nfrom mesm.pipeline.grounding import MomentRetriever\n\n"
        'retriever = MomentRetriever.from_pretrained("FOLDER or owner/name")\n'
        'video = retriever.encode_video("kitchen.mp4")\n'
        'print(retriever.ground(video, "a person opens the fridge").moments)\n```\n',
        "## Figures\n",
        "\n".join(_figure_lines(figures)),
        "## Scores\n",
        _scores(calibration),
        "## Licences\n",
        "\n".join(_licence_lines(config, licence)),
    ]
    return "\n".join(parts)


def _origin(imported: Mapping[str, Any] | None) -> str:
    if imported is None:
        return "Trained with mesm-pipeline."
    return f"Taken from a released file, `{imported['source']}`, sha256 {imported['sha256']}."


def _front_matter(config: Config, figures: Figures, licence: str, name: str) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "mesm-pipeline",
        "license": licence or UNSTATED,
        "tags": ["video-moment-retrieval", "temporal-grounding", config.model.name],
    }
    if figures:
        front["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "video-moment-retrieval"},
                        "dataset": {"type": config.dataset.reader, "name": config.name, "split": split},
                        "metrics": [{"type": kind, "value": value} for kind, value in values.items()],
                    }
                    for split, (_, _, values) in figures.items()
                ],
            }
        ]
    return front


def _figure_lines(figures: Figures) -> Iterator[str]:
    if not figures:
        yield "None was measured: run `mesm-pipeline evaluate` before the export.\n"
    for split, (queries, protocol, values) in figures.items():
        yield f"Split `{split}`, {queries} queries, per cent, as measured by `mesm-pipeline evaluate`; {protocol}\n"
        yield "| figure | value |\n|---|---|"
        yield "\n".join(f"| {kind} | {value:.2f} |" for kind, value in values.items()) + "\n"


def _scores(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "Not calibrated: a higher score is better, and no more is known of it.\n"
    return (
        f"Calibrated on {calibration['queries']} queries that were held back from training "
        f"(temperature {calibration['temperature']:.3f}, offset {calibration['offset']:.3f}): the share of answers "
        "with that score whose IoU with the moment is 0.5 or more.\n"
    )


def _licence_lines(config: Config, licence: str) -> Iterator[str]:
    stated = licence or "not stated by who exported it"
    yield f"* These weights: {stated}. The annotations and videos that they were trained on have licences of their own."
    yield "* mesm-pipeline: MIT."
    streams = [(one.encoder, one.weights) for one in config.features.video]
    for encoder, weights in (*streams, (config.features.text.encoder, config.features.text.weights)):
        entry = ENCODERS.get(encoder)
        names = [] if entry is None else [name for name in entry.weights if name in WEIGHTS]
        if weights != "default":
            yield f"* Encoder `{encoder}`, weights `{weights}`: see where these come from."
        elif names:
            yield f"* Encoder `{encoder}`, not part of this package: {WEIGHTS[names[0]].licence}."
        else:
            yield f"* Encoder `{encoder}`, not part of this package."
