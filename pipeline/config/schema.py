"""The configuration of a run: frozen dataclasses whose fields say what they may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from mesm.model import LossConfig, MesmConfig


def _number(default: float, minimum: float, maximum: float = float("inf")) -> Any:
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


@dataclass(frozen=True)
class DatasetConfig:
    """Which annotations, and how they become queries and rows."""

    reader: str = "jsonl"
    """Name of an annotation reader of `mesm.datasets.annotations.registry`."""
    annotations: str = ""
    """Folder or file of the annotations; the command line's --annotations goes before it."""
    train_split: str = "train"
    validation_split: str = ""
    """Split that chooses the best epoch; empty: carved by video from the training split."""
    test_splits: tuple[str, ...] = ("test",)
    validation_fraction: float = _number(0.1, 0.001, 0.9)
    """Share of the training videos that is carved off when there is no validation split."""
    validation_seed: int = 0
    group_by: Literal["video", "youtube-id"] = "video"
    max_queries_per_group: int = _number(0, 0)
    """Cut the queries of a video into groups of at most this many (TACoS: 10); 0: all together."""
    max_rows: int = _number(194, 1)
    rows: Literal["pool", "truncate"] = "pool"
    """More feature rows than `max_rows` are averaged into that many, or cut off (QVHighlights)."""
    clip_len: float = 1.0
    """Seconds that a feature row stands for when moments are turned into rows; -1: rows share the duration."""
    max_words: int = _number(16, 3)
    max_windows: int = _number(5, 1)
    """Windows of a query that are trained on at a time."""
    length_from_rows: bool = False
    """Windows are fractions of rows * clip_len instead of the annotated duration (QVHighlights)."""


@dataclass(frozen=True)
class VideoFeatureConfig:
    """One stream of video features: an encoder and everything that shapes its numbers."""

    encoder: str = "clip"
    weights: str = "default"
    clip_len: float = _number(1.0, 0.01)
    sampling: Literal["clean", "parity"] = "clean"
    resize: Literal["device", "swscale", "pil"] = "device"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Start of the fingerprint of the features to train on, when the folder holds several of this encoder."""


@dataclass(frozen=True)
class TextFeatureConfig:
    """Features of the queries' words."""

    encoder: str = "clip-text"
    weights: str = "default"
    options: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    words: Literal["letters", "alphanumeric", "treebank", "nltk"] = "alphanumeric"
    """How sentences are cut into words (GloVe only; CLIP has its own pieces)."""
    unknown_words: Literal["drop", "vector"] = "drop"
    """Words without a vector are dropped, or get one shared random vector (GloVe only; TACoS)."""
    vocabulary_size: int = _number(1111, 1)
    """Words that the rebuilding of masked words tells apart."""
    word_weights: Literal["closed-class", "nltk"] = "closed-class"


@dataclass(frozen=True)
class FeaturesConfig:
    """The streams that are joined into the network's input, in this order."""

    video: tuple[VideoFeatureConfig, ...] = (VideoFeatureConfig(),)
    text: TextFeatureConfig = TextFeatureConfig()


@dataclass(frozen=True)
class ExtractConfig:
    """How extraction runs; nothing here changes a number."""

    workers: int = _number(2, 1)
    """Decoding processes."""
    batch_size: int = _number(32, 1)
    timeout_s: float = _number(60.0, 1)
    """A video whose decoding makes no progress for this long is given up."""
    flush_rows: int = _number(4096, 1)
    """Rows after which a shard is published; at most this much is lost when the run is killed."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. The defaults are the published recipe."""

    epochs: int = _number(200, 1)
    batch_groups: int = _number(12, 1)
    lr: float = _number(2e-4, 0)
    weight_decay: float = _number(1e-4, 0)
    clip_norm: float = _number(0.1, 0)
    """Largest global norm of the gradient; 0: no clipping."""
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = _number(0, 0)
    crop: float = _number(0.0, 0, 1)
    """Probability that a step sees a random part of a video only, which holds the moments of all its queries; so that
    it is less easily learnt by heart where moments lie (not in the paper)."""
    ema: float = _number(0.0, 0, 0.99999)
    """Decay of the exponential moving average of the weights that is validated and saved as best; 0: none."""
    seed: int = 2019
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: torch's autocast, in training and for answers."""
    compile: bool = False
    """Compile the network and its losses (`torch.compile`); meant for GPUs, as steps on a CPU become slower."""
    group_by_length: bool = False
    """Batch videos of similar length, which cuts padding; batches are still drawn at random."""
    validate_every: int = _number(1, 1)
    """Epochs between validations."""
    checkpoint_every_s: float = _number(60.0, 0)
    """Seconds between checkpoints inside an epoch; one is written after every epoch anyway."""
    select_by: Literal["mAP", "mIoU", "R1@0.5", "R1@0.7"] = "mAP"


@dataclass(frozen=True)
class EvaluateConfig:
    """From predicted spans to the numbers of the table."""

    batch_groups: int = _number(30, 1)
    rank_by: Literal["class", "frames", "auto"] = "class"
    """Answers are ordered by the class head's probability (published), or by that times their overlap with the frames
    that the frame classifier finds (`frames`: needs `model.encoder_loss: bce`, and takes one moment a query for
    granted). `auto`: by the frames, but for the saliency loss and for the reader `qvhighlights`."""
    published: bool = False
    """Clamp and round predicted times as the published protocol of the dataset does."""
    nms: float = _number(-1.0, -1, 1)
    """IoU above which a lower-scored window is suppressed; -1: none."""


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from."""

    name: str = "custom"
    dataset: DatasetConfig = DatasetConfig()
    features: FeaturesConfig = FeaturesConfig()
    extract: ExtractConfig = ExtractConfig()
    model: MesmConfig = field(default_factory=MesmConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def ranks_by_frames(self) -> bool:
        """Whether answers are ordered by the frame classifier too, see `EvaluateConfig.rank_by`."""
        rank_by = self.evaluate.rank_by
        return rank_by == "frames" or (rank_by == "auto" and next(self.hindrances_to_rank_by_frames(), None) is None)

    def ties_between_queries(self) -> list[str]:
        """Return the options under which a query's answer depends on the other queries of its batch."""
        model = self.model
        ties = {
            "model.masks=official": model.masks == "official",
            "model.context=attention": model.context == "attention",
            "model.segment_context=group": model.segment_context == "group",
        }
        return [name for name, tied in ties.items() if tied]

    def hindrances_to_rank_by_frames(self) -> Iterator[str]:
        """Say why answers cannot be ordered by the frame classifier, if so."""
        if self.model.encoder_loss != "bce":
            yield f"evaluate.rank_by: frames needs model.encoder_loss bce, found {self.model.encoder_loss}"
        if self.dataset.reader == "qvhighlights":
            yield "evaluate.rank_by: frames takes one moment a query for granted, qvhighlights has several; use class"

    def to_yaml(self) -> str:
        """Write the complete configuration, such that `load_config` reads it back."""
        return yaml.safe_dump(to_plain(self), sort_keys=False, width=100)


DERIVED = ("video_dim", "text_dim", "word_classes")
"""Sizes of the network that follow from the features and cannot be set."""


def to_plain(value: Any) -> Any:
    """Turn dataclasses into what YAML and JSON can hold, without derived sizes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.name not in DERIVED]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value
