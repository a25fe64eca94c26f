"""The configuration of a run: frozen dataclasses whose fields say what they may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le

from mesm.datasets.annotations.registry import Reader, find_reader
from mesm.model.network_config import NetworkConfig
from mesm.model.registry import DEFAULT, find_network


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
    validation_fraction: Annotated[float, Ge(0.001), Le(0.9)] = 0.1
    """Share of the training videos that is carved off when there is no validation split."""
    validation_seed: int = 0
    train_share: Annotated[float, Ge(0.001), Le(1)] = 1.0
    """Share of the training videos that is trained on, after those that are held back; a larger share holds all of a
    smaller one (learning curves)."""
    group_by: Literal["video", "youtube-id", "query"] = "video"
    """What a batch counts: videos with all their queries, YouTube videos with those of all their clips, or queries."""
    max_queries_per_group: Annotated[int, Ge(0)] = 0
    """Cut the queries of a video into groups of at most this many (TACoS: 10); 0: all together."""
    max_rows: Annotated[int, Ge(1)] = 194
    rows: Literal["pool", "max", "truncate"] = "pool"
    """More feature rows than `max_rows` are averaged into that many, give their maxima, or are cut off
    (QVHighlights)."""
    normalise_rows: bool = True
    """Each row of each stream of frame features gets the length 1."""
    clip_len: float = 1.0
    """Seconds that a feature row stands for when moments are turned into rows; -1: rows share the duration."""
    max_words: Annotated[int, Ge(3)] = 16
    max_windows: Annotated[int, Ge(1)] = 5
    """Windows of a query that are trained on at a time."""
    length_from_rows: bool = False
    """Windows are fractions of rows * clip_len instead of the annotated duration (QVHighlights)."""


@dataclass(frozen=True)
class VideoFeatureConfig:
    """One stream of video features: an encoder and everything that shapes its numbers."""

    encoder: str = "clip"
    weights: str = "default"
    clip_len: Annotated[float, Ge(0.01)] = 1.0
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
    words: Literal["letters", "alphanumeric", "treebank", "punctuation-spaces", "nltk"] = "alphanumeric"
    """How sentences are cut into words (GloVe only; CLIP has its own pieces)."""
    unknown_words: Literal["drop", "vector", "zeros"] = "drop"
    """Words without a vector are dropped, get one shared random vector (TACoS), or zeros, in whose place networks with
    a vector of their own for such words put that (GloVe only)."""
    normalise: bool = True
    """Each word's vector gets the length 1."""
    vocabulary_size: Annotated[int, Ge(1)] = 1111
    """Words that the rebuilding of masked words tells apart, if these are the most frequent ones."""
    vocabulary: Literal["frequent", "all"] = "frequent"
    """The most frequent words are told apart, by published counts where these are at hand, or all words of the training
    split, in the order of their appearance (GloVe only; MSAT)."""
    word_weights: Literal["closed-class", "nltk"] = "closed-class"


@dataclass(frozen=True)
class NarrationConfig:
    """What a narrator says of the videos, for networks that read it."""

    fingerprint: str = ""
    """Start of the fingerprint of the narrations, when the folder holds several."""
    allow_missing: bool = False
    """Videos without a narration have zeros, instead of being refused."""


@dataclass(frozen=True)
class FeaturesConfig:
    """The streams that are joined into the network's input, in this order."""

    video: tuple[VideoFeatureConfig, ...] = (VideoFeatureConfig(),)
    text: TextFeatureConfig = TextFeatureConfig()
    narration: NarrationConfig = NarrationConfig()


@dataclass(frozen=True)
class ExtractConfig:
    """How extraction runs; nothing here changes a number."""

    workers: Annotated[int, Ge(1)] = 2
    """Decoding processes."""
    batch_size: Annotated[int, Ge(1)] = 32
    timeout_s: Annotated[float, Ge(1), Le(1e6)] = 60.0
    """A video whose decoding makes no progress for this long is given up."""
    flush_rows: Annotated[int, Ge(1)] = 4096
    """Rows after which a shard is published; at most this much is lost when the run is killed."""
    spool_gib: Annotated[float, Gt(0)] = 20.0
    """Room for films that are fetched from object storage; they are removed as soon as they are encoded."""


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation. The defaults are the published recipe."""

    epochs: Annotated[int, Ge(1)] = 200
    batch_groups: Annotated[int, Ge(1)] = 12
    lr: Annotated[float, Ge(0)] = 2e-4
    weight_decay: Annotated[float, Ge(0)] = 1e-4
    clip_norm: Annotated[float, Ge(0)] = 0.1
    """Largest global norm of the gradient; 0: no clipping."""
    optimiser: Literal["adamw", "adamw-decay-after"] = "adamw"
    """torch's AdamW, or the AdamW that transformers had up to version 4: epsilon beside the uncorrected root, decay
    after the step, and none for biases and `layer_norm`."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: as it is, or falling to 0 at the last step."""
    warmup_steps: Annotated[int, Ge(0)] = 0
    """Steps in which the rate grows to `lr`; with a cosine schedule at most a third of all steps."""
    crop: Annotated[float, Ge(0), Le(1)] = 0.0
    """Probability that a step sees a random part of a video only, which holds the moments of all its queries; so that
    it is less easily learnt by heart where moments lie (not in the paper)."""
    ema: Annotated[float, Ge(0), Le(0.99999)] = 0.0
    """Decay of the exponential moving average of the weights that is validated and saved as best; 0: none."""
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 2019
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: torch's autocast, in training and for answers."""
    compile: bool = False
    """Compile the network and its losses (`torch.compile`); meant for GPUs, as steps on a CPU become slower."""
    group_by_length: bool = False
    """Batch videos of similar length, which cuts padding; batches are still drawn at random."""
    validate_every: Annotated[int, Ge(1)] = 1
    """Epochs between validations."""
    checkpoint_every_s: Annotated[float, Ge(0)] = 60.0
    """Seconds between checkpoints inside an epoch; one is written after every epoch anyway."""
    select_by: Literal["mAP", "mIoU", "R1@0.5", "R1@0.7", "R1+mIoU"] = "mAP"
    """The figure that chooses the best epoch; `R1+mIoU`: the sum of R1@0.3, R1@0.5, R1@0.7 and mIoU."""
    log: Literal["jsonl", "tensorboard"] = "jsonl"
    """Where figures go: to metrics.jsonl, always, or also to TensorBoard, whose package is an extra."""


@dataclass(frozen=True)
class EvaluateConfig:
    """From predicted spans to the numbers of the table."""

    batch_groups: Annotated[int, Ge(1)] = 30
    rank_by: Literal["class", "frames", "auto"] = "class"
    """Answers are ordered by the class head's probability (published), or by that times their overlap with the frames
    that the network finds (`frames`: with `model.encoder_loss: bce`; takes one moment a query for granted).
    `auto`: by the frames where the network can and the dataset has one moment a query."""
    published: bool = False
    """Clamp and round predicted times as the published protocol of the dataset does."""
    nms: Annotated[float, Ge(-1), Le(1)] = -1.0
    """IoU above which a lower-scored window is suppressed; -1: none."""


def _default_model() -> NetworkConfig:
    return find_network(DEFAULT).config_class()()


def _default_loss() -> Any:
    return find_network(DEFAULT).losses_class()()


@dataclass(frozen=True)
class Config:
    """Everything that a run is made from."""

    name: str = "custom"
    dataset: DatasetConfig = DatasetConfig()
    features: FeaturesConfig = FeaturesConfig()
    extract: ExtractConfig = ExtractConfig()
    model: NetworkConfig = field(default_factory=_default_model)
    """The configuration of the network that `model.network` names."""
    loss: Any = field(default_factory=_default_loss)
    """The losses' weights of that network."""
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def reader(self) -> Reader:
        """The row of the annotations' reader; AnnotationError when there is none of that name."""
        return find_reader(self.dataset.reader)

    @property
    def ranking(self) -> str:
        """By what answers are ordered, see `EvaluateConfig.rank_by`: one of the network's rankings."""
        if self.evaluate.rank_by != "auto":
            return self.evaluate.rank_by
        return "class" if any(self.hindrances_to_rank_by_frames()) else "frames"

    def hindrances_to_rank_by_frames(self) -> Iterator[str]:
        """Say why answers cannot be ordered by the frames that the network finds, if so."""
        if "frames" not in self.model.rankings():
            yield "evaluate.rank_by: frames needs a network that tells them, such as one with model.encoder_loss bce"
        if self.reader.several_moments:
            yield (
                "evaluate.rank_by: frames takes one moment a query for granted, "
                f"{self.dataset.reader} has several; use class"
            )

    def to_yaml(self) -> str:
        """Write the complete configuration, such that `load_config` reads it back."""
        return yaml.safe_dump(to_plain(self), sort_keys=False, width=100)


def to_plain(value: Any) -> Any:
    """Turn dataclasses into what YAML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    return value
