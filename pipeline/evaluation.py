"""From a network and a split to predictions and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.annotations import Annotation
from mesm.datasets.vocabulary import Vocabulary
from mesm.datasets.word_vectors import WordVectors
from mesm.model import Mesm, span_scores
from mesm.pipeline.baselines import WHOLE_VIDEO, fit_fixed_window
from mesm.pipeline.batching import FrameTable, MomentData
from mesm.pipeline.config import Config, config_from_plain
from mesm.pipeline.console import say
from mesm.pipeline.distributed import ALONE, World
from mesm.pipeline.errors import PipelineError
from mesm.pipeline.metrics import Scores, evaluate_predictions
from mesm.pipeline.postprocessing import windows_from_spans
from mesm.pipeline.precision import half_precision
from mesm.pipeline.predictions import Prediction, save_predictions
from mesm.pipeline.protocols import Protocol, find_protocol
from mesm.pipeline.queries import (
    WORD_TABLE_FILE,
    StoredText,
    TextSource,
    VectorText,
    find_features,
    open_streams,
    table_fingerprint,
)
from mesm.pipeline.runs import Checkpoint, load_checkpoint

_FAMILIES = {"tacos": "tacos", "qvhighlights": "qvhighlights"}


def protocol_of(config: Config) -> Protocol:
    """Return how this configuration's predictions are post-processed and scored."""
    dataset = config.dataset
    family = _FAMILIES.get(dataset.reader, "charades")
    protocol = find_protocol(family, published=config.evaluate.published, clip_len_s=dataset.clip_len)
    return replace(protocol, nms_iou=config.evaluate.nms if config.evaluate.nms >= 0 else None)


@torch.inference_mode()
def predict(model: Mesm, data: MomentData, config: Config, world: World = ALONE) -> list[Prediction]:
    """Answer every query of a split, in the order of its annotations; several processes share the work."""
    protocol, size = protocol_of(config), config.evaluate.batch_groups
    device = next(model.parameters()).device
    predictions: dict[int, Prediction] = {}
    numbers = world.share(_by_length(data))
    for start in range(0, len(numbers), size):
        indices, groups = data.queries_of(numbers[start : start + size])
        with half_precision(device, config.train.precision):
            batch = data.batch(indices, groups)
            output = model(batch).float()
        scores = span_scores(output, batch, config.ranks_by_frames).cpu().numpy()
        spans, saliency = output.spans[0].cpu().numpy(), output.saliency.cpu().numpy()
        durations = np.array([data.duration(i) for i in indices])
        windows = windows_from_spans(spans, scores, durations, protocol)
        for row, i in enumerate(indices):
            annotation = data.annotations[i]
            rows = data.frames.lengths[annotation.video_id]
            predictions[i] = Prediction(
                annotation.query_id,
                annotation.query,
                annotation.video_id,
                windows[row],
                saliency[row, :rows].astype(np.float64),
            )
    for others in world.gather_objects(predictions):
        predictions |= others
    return [predictions[i] for i in range(len(data))]


def _by_length(data: MomentData) -> list[int]:
    """Group numbers, videos of similar length together: no answer depends on it, and less padding is computed.

    The published QVHighlights mode reads all clips of a group, which stay in one batch this way, too.
    """
    lengths = data.lengths_of_groups()
    return sorted(range(len(lengths)), key=lambda number: lengths[number])


def evaluate_split(model: Mesm, data: MomentData, config: Config, world: World = ALONE) -> Scores:
    """Score the answers to a split."""
    return evaluate_predictions(predict(model, data, config, world), data.annotations, protocol_of(config))


def baseline_scores(
    train: Sequence[Annotation],
    test: Sequence[Annotation],
    config: Config,
    durations: Mapping[str, float] | None = None,
) -> dict[str, Scores]:
    """Score the best fixed window, fitted on the training queries if there are any, and the whole video."""
    protocol = protocol_of(config)
    fixed = [fit_fixed_window(train, durations_s=durations)] if train else []
    return {
        baseline.name: evaluate_predictions(baseline.predict(test, durations), test, protocol)
        for baseline in (*fixed, WHOLE_VIDEO)
    }


def _training_durations(train: Sequence[Annotation], config: Config, features: Path) -> dict[str, float]:
    """Seconds of the training videos: as annotated, else as long as their features are, if these are here."""
    durations = {a.video_id: a.duration_s for a in train if a.duration_s is not None}
    folder = open_streams(config.features.video, features)[0]
    unknown = {a.video_id for a in train} - set(durations)
    return durations | {v: folder.record(v).rows * config.dataset.clip_len for v in unknown if v in folder}


@dataclass(frozen=True)
class TrainedModel:
    """A network from a checkpoint, ready to answer, and what it was trained with."""

    model: Mesm
    config: Config
    checkpoint: Checkpoint
    path: Path

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of its training."""
        return Vocabulary.from_json(self.checkpoint.meta["vocabulary"])

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_imported(self) -> bool:
        """Whether the network is a released one: what features it was trained on is not known then."""
        return "imported" in self.checkpoint.meta

    def word_table(self, features: Path | None = None) -> WordVectors:
        """The word vectors that were kept with the run; a released network's stand in the folder of features."""
        kept = self.folder / WORD_TABLE_FILE
        if self.is_imported and features is not None and not kept.exists():
            kept = features / WORD_TABLE_FILE
        if self.is_imported and not kept.exists():
            raise PipelineError(
                f"{self.folder} is an imported network and has no word vectors: import them by `mesm-pipeline "
                f"import-features glove.pkl --name glove`, and give that folder by --features, or copy its "
                f"{WORD_TABLE_FILE} into {self.folder}"
            )
        return WordVectors.load(kept)


def load_trained(path: Path, device: torch.device) -> TrainedModel:
    """Load a run directory's best checkpoint, or a checkpoint file."""
    checkpoint = load_checkpoint(path)
    meta = checkpoint.meta
    config = config_from_plain(meta["config"], str(path))
    model = Mesm(replace(config.model, **meta["sizes"]))
    model.load_state_dict(checkpoint.part("model"))
    return TrainedModel(model.to(device).eval(), config, checkpoint, path)


def load_evaluation_data(
    trained: TrainedModel, annotations: Sequence[Annotation], features: Path, device: torch.device
) -> MomentData:
    """Prepare a split for a trained network; PipelineError when the features are not those of its training."""
    config = trained.config
    folders = open_streams(config.features.video, features)
    found = {folder.name: folder.fingerprint for folder in folders}
    text: TextSource
    if config.features.text.encoder == "glove":
        table = trained.word_table(features)
        text = VectorText(table, config.features.text, config.dataset.max_words, trained.checkpoint.meta["text"])
        found["glove"] = table_fingerprint(table)
    else:
        folder = find_features(features, config.features.text.encoder, config.features.text.fingerprint)
        text = StoredText(folder, config.features.text, config.dataset.max_words)
        found[folder.name] = folder.fingerprint
    refuse_other_features(trained.checkpoint.meta["fingerprints"], found, trained.path)
    if trained.is_imported:
        say(f"warning: the released checkpoint does not say which features it was trained on; {features} may be others")
    frames = FrameTable.load(folders, [a.video_id for a in annotations], config.dataset, device)
    _refuse_other_sizes(trained, frames.dim, text.dim)
    return MomentData(annotations, frames, text, trained.vocabulary, config.dataset)


def _refuse_other_sizes(trained: TrainedModel, video_dim: int, text_dim: int) -> None:
    """Raise PipelineError when the network cannot read features of these widths."""
    network = trained.model.config
    if (video_dim, text_dim) != (network.video_dim, network.text_dim):
        raise PipelineError(
            f"{trained.path} reads frames of {network.video_dim} numbers (2 of them temporal) and words of "
            f"{network.text_dim}, the features have {video_dim} and {text_dim}; give the features of its setting"
        )


def refuse_other_features(expected: Mapping[str, str], found: Mapping[str, str], path: Path) -> None:
    """Raise PipelineError unless the features have the fingerprints that the checkpoint was trained with."""
    wrong = [
        f"{name}: trained with {fingerprint[:12]}, found {found.get(name, 'none')[:12]}"
        for name, fingerprint in expected.items()
        if found.get(name) != fingerprint
    ]
    if wrong:
        raise PipelineError(
            f"{path} was trained on other features ({'; '.join(wrong)}); extract with the configuration that it was "
            "trained with, or import the same files"
        )


def control_scores(trained: TrainedModel, data: MomentData) -> dict[str, Scores]:
    """Score answers given without the video and with another video of the split."""
    frames = {"without the video": data.frames.blanked()}
    if len(data.frames.lengths) > 1:
        frames["with another video"] = data.frames.exchanged()
    fixed = _with_durations(data)
    return {
        name: evaluate_predictions(
            predict(trained.model, fixed.with_frames(table), trained.config),
            data.annotations,
            protocol_of(trained.config),
        )
        for name, table in frames.items()
    }


def _with_durations(data: MomentData) -> MomentData:
    """Write durations that follow from the frames into the annotations, so that other frames do not change them."""
    fixed = data.with_frames(data.frames)
    fixed.annotations = [replace(a, duration_s=data.duration(i)) for i, a in enumerate(data.annotations)]
    return fixed


@dataclass(frozen=True)
class Evaluation:
    """Figures of one split, with the baselines fitted on the training split."""

    split: str
    scores: dict[str, Scores]
    predictions: Path


def evaluate_run(
    path: Path,
    annotations: Mapping[str, Sequence[Annotation]],
    train: Sequence[Annotation],
    features: Path,
    device: torch.device,
    published: bool = False,
    controls: bool = False,
) -> list[Evaluation]:
    """Evaluate a run on splits (name -> queries), write its predictions, and score the baselines beside it.

    controls: also score its answers when it sees nothing, and when it sees another video: what is left then was guessed
    from the sentence and from where moments usually lie.
    """
    trained = load_trained(path, device)
    if published:
        trained = replace(
            trained, config=replace(trained.config, evaluate=replace(trained.config.evaluate, published=True))
        )
    results = []
    for split, queries in annotations.items():
        data = load_evaluation_data(trained, queries, features, device)
        predictions = predict(trained.model, data, trained.config)
        file = trained.folder / f"predictions-{split}.jsonl"
        save_predictions(file, predictions)
        durations = _training_durations(train, trained.config, features)
        durations |= {a.video_id: data.duration(i) for i, a in enumerate(data.annotations)}
        scores = {trained.config.name: evaluate_predictions(predictions, queries, protocol_of(trained.config))}
        if controls:
            scores |= control_scores(trained, data)
        fitted = [a for a in train if a.video_id in durations]
        scores |= baseline_scores(fitted, queries, trained.config, durations)
        say(f"{split}: {len(queries)} queries; predictions in {file}")
        results.append(Evaluation(split, scores, file))
    return results
