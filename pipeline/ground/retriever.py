"""Find moments in a video file: encode it once, then ask as often as you like.

    retriever = MomentRetriever.from_checkpoint("runs/a")
    video = retriever.encode_video("kitchen.mp4")
    for moment in retriever.ground(video, "a person opens the fridge", top_k=5).moments:
        print(moment.start_s, moment.end_s, moment.score)

A video with more feature rows than the network was trained on is searched in overlapping pieces of that length, so that
an hour is looked at as closely as a minute; see `mesm.pipeline.ground.pieces`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mesm.datasets.annotations.records import shorten
from mesm.datasets.shards.folder import folder_path
from mesm.extractors.contracts import VideoEncoder
from mesm.extractors.weights.sources import WeightSources
from mesm.model.batch import Batch, Words
from mesm.model.layouts import Layout
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.config.schema import Config
from mesm.pipeline.data.text_kinds import text_kind
from mesm.pipeline.data.texts import TextSource, has_words
from mesm.pipeline.evaluate.calibration import read_calibration
from mesm.pipeline.evaluate.postprocessing import windows_in_seconds
from mesm.pipeline.evaluate.predict import answer, host_windows, protocol_of
from mesm.pipeline.evaluate.trained import TrainedModel, load_trained
from mesm.pipeline.extract.encoders import build_video_encoders, encoder_fingerprint
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult, Moment
from mesm.pipeline.ground.encoding import encode_video
from mesm.pipeline.ground.pieces import SHORTEST_MOMENT_S, Pieces, merge_windows, stretch
from mesm.pipeline.run.checkpoint import BEST, refuse_other_features
from mesm.pipeline.run.console import say
from mesm.pipeline.run.directory import RunDirectory
from mesm.pipeline.run.shown_text import one_line
from mesm.pipeline.share.export import export_run
from mesm.pipeline.share.hub import find_package, push


def find_checkpoint(given: Path | None) -> Path | None:
    """Return the run to ground with: the given one, $MESM_CHECKPOINT, or the only one below runs/ and mesm-demo/.

    None when there is none; PipelineError when there are several.
    """
    if given is not None:
        return given
    if os.environ.get("MESM_CHECKPOINT"):
        return Path(os.environ["MESM_CHECKPOINT"])
    found = sorted(
        run
        for place in (Path("runs"), Path("mesm-demo"))
        if place.is_dir()
        for run in place.iterdir()
        if RunDirectory(run).checkpoint_path(BEST).exists()
    )
    if len(found) > 1:
        raise PipelineError(
            "there are several runs: use --checkpoint RUN with one of "
            f"{', '.join(one_line(str(run)) for run in found)}, or --zero-shot to answer with none"
        )
    return found[0] if found else None


class MomentRetriever:
    """A trained network with the encoders that its features came from."""

    def __init__(self, trained: TrainedModel, encoders: Sequence[VideoEncoder], text: TextSource) -> None:
        self.trained, self.encoders, self.text = trained, list(encoders), text
        self.device = next(trained.network.parameters()).device
        self.calibration = read_calibration(trained)
        self.commit = ""
        """Of the hub, where it came from one."""

    @property
    def config(self) -> Config:
        """The configuration of the training."""
        return self.trained.config

    score_kind = "probability"
    untrained = False

    @property
    def model(self) -> str:
        """The run that answers."""
        return str(self.trained.path)

    @property
    def method(self) -> dict[str, str]:
        """What answers say of how they were made."""
        return {"name": self.config.model.name}

    @property
    def folder_names(self) -> tuple[str, ...]:
        """Names of the folders of features that its encoders fill."""
        return tuple(folder_path(Path(), encoder.name, encoder.spec).name for encoder in self.encoders)

    @property
    def max_words(self) -> int:
        """Words of a query that the network reads, without the tokens of its start and its end."""
        markers = text_kind(self.config.features.text.encoder).markers
        return self.config.dataset.max_words - sum(marker is not None for marker in markers)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device = "cpu",
        sources: WeightSources | None = None,
        features: Path | None = None,
    ) -> MomentRetriever:
        """Load a run directory, or a checkpoint file, and build its encoders.

        features: a folder of features in which the word vectors of an imported network stand.

        Raises PipelineError when there is none, or when the encoders' weights make other features than it was trained
        on, and the extractors' WeightsError when weights are not to be had.
        """
        device, sources = torch.device(device), sources or WeightSources()
        trained = load_trained(Path(path), device)
        config = trained.config
        if config.model.reads_narration():
            raise PipelineError(
                f"{path} is a network {config.model.name}, which reads narratives; single files are not narrated on "
                "the way: narrate and extract a folder, and use evaluate, or take a network that reads frames alone"
            )
        encoders = build_video_encoders(config, device, sources, deferred=True)
        found = {encoder.name: encoder_fingerprint(encoder) for encoder in encoders}
        text = text_kind(config.features.text.encoder).live(trained.text, features, config, device, sources)
        found[text.encoder] = text.fingerprint
        try:
            refuse_other_features(trained.checkpoint.meta["fingerprints"], found, trained.path)
        except PipelineError as error:
            # Imported features come from encoders whose fingerprint nobody knows; the configuration names them.
            if "imported" not in trained.checkpoint.meta and not trained.checkpoint.meta.get("imported_features"):
                raise
            say(f"warning: {error}")
        return cls(trained, encoders, text.source)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        sources: WeightSources | None = None,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> MomentRetriever:
        """Load an exported package: a folder, or `owner/name` of a hub at a branch, tag or commit.

        endpoint: the hub's address, by default $HF_ENDPOINT or the public one. Raises PipelineError also when a file is
        not the one that was exported; otherwise as `from_checkpoint`.
        """
        folder, commit = find_package(source, revision, endpoint, token)
        retriever = cls.from_checkpoint(folder, device, sources)
        retriever.commit = commit
        return retriever

    def push_to_hub(
        self,
        repository: str,
        *,
        licence: str = "",
        revision: str | None = None,
        private: bool = False,
        force: bool = False,
        endpoint: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload this network as a package to `owner/name`, and return the commit's address.

        PipelineError when no figures were measured and not `force`, or when the hub refuses; see `share.hub.push`.
        """
        with tempfile.TemporaryDirectory(prefix="mesm-package-") as folder:
            package = export_run(self.trained.path, Path(folder) / "package", licence)
            return push(
                package, repository, revision=revision, private=private, force=force, endpoint=endpoint, token=token
            )

    def encode_video(self, path: str | Path, cache: Path | None = None) -> EncodedVideo:
        """Decode a video once and encode it with every encoder.

        cache: a folder of features in which to look first and to keep the result. Raises a VideoError that says why the
        file cannot be read.
        """
        return encode_video(path, self.encoders, self.device, self.config.extract, cache)

    @torch.inference_mode()
    def ground(self, video: EncodedVideo, query: str, top_k: int = 5) -> GroundingResult:
        """Answer a query: the `top_k` best windows.

        A query longer than the network reads is cut, which the result says; an empty one is a PipelineError.
        """
        if not query.strip():
            raise PipelineError("the query is empty; describe the moment in a sentence")
        if not has_words(self.text, query):
            raise PipelineError(f"no word of the query {shorten(query)} is left; describe the moment in a sentence")
        words = self.text.words(query.strip())
        pieces = Pieces.of(video.rows, self.trained.longest_rows, self.config.dataset.max_rows)
        find = self._of_one if len(pieces.starts) == 1 else self._of_several
        best, saliency = find(video, words.vectors, pieces)
        if self.calibration is not None:
            best[:, 2] = self.calibration.apply(best[:, 2])
        moments = [Moment(*(round(float(x), 4) for x in row)) for row in best[:top_k]]
        return GroundingResult(query, moments, saliency, video.row_s, words.cut)

    def _of_one(self, video: EncodedVideo, words: np.ndarray, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows (k, 3) in seconds of a video that is one piece, as evaluation does, and its saliency."""
        frames = pieces.frames(video, 0, self.config)
        answers = answer(self.trained.network, self._batch([frames], words), self.config)
        duration, protocol = np.array([video.duration_s]), protocol_of(self.config)
        fractions, scores, counts = host_windows(answers)
        windows = windows_in_seconds(fractions, scores, duration, protocol, counts)[0]
        saliency = stretch(answers.saliency[0, : len(frames)].cpu().numpy(), video.rows)
        return windows[windows[:, 1] - windows[:, 0] >= SHORTEST_MOMENT_S], saliency

    def _of_several(self, video: EncodedVideo, words: np.ndarray, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows (k, 3) in seconds, and the saliency, of a video that is searched in pieces."""
        saliency, count = np.zeros(video.rows, np.float32), np.zeros(video.rows, np.float32)
        found = []
        for numbers in pieces.batches():
            frames = [pieces.frames(video, number, self.config) for number in numbers]
            answers = answer(self.trained.network, self._batch(frames, words), self.config)
            windows, scores, counts = host_windows(answers)
            kept = np.full(len(scores), scores.shape[1]) if counts is None else counts
            parts = (windows, scores, kept, answers.saliency.cpu().numpy())
            for number, rows, own, of_own, most, shown in zip(numbers, frames, *parts, strict=True):
                found.append(pieces.windows(number, own[:most], of_own[:most]))
                part = slice(pieces.starts[number], pieces.starts[number] + pieces.size)
                saliency[part] += stretch(shown[: len(rows)], pieces.size)
                count[part] += 1
        saliency /= count
        settled = pieces.comparable(pieces.settle(np.concatenate(found)), saliency)
        return merge_windows(settled * (video.row_s, video.row_s, 1.0), video.duration_s), saliency

    def ground_many(self, video: EncodedVideo, queries: Sequence[str], top_k: int = 5) -> Iterator[GroundingResult]:
        """Answer queries one after the other."""
        return (self.ground(video, query, top_k) for query in queries)

    def _batch(self, pieces: Sequence[np.ndarray], words: np.ndarray) -> Batch:
        n = len(pieces)
        frames = Layout([len(piece) for piece in pieces], self.device)
        vectors = torch.from_numpy(words).to(self.device)[None].expand(n, -1, -1)
        return Batch(
            video=torch.from_numpy(np.concatenate(pieces)).to(self.device),
            frames=frames,
            video_of_query=tuple(range(n)),
            group_of_query=tuple(range(n)),
            words=Words(vectors, torch.ones(n, len(words), dtype=torch.bool, device=self.device), (len(words),) * n),
        )
