"""An archive of films from Python: encoded once, asked as often as one likes.

index = VideoIndex.open("mesm-index")
index.add(["films"])
for moment in index.search("a person opens the door").moments:
    print(moment.file, moment.start_s, moment.end_s)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from mesm.extractors.weights.sources import WeightSources
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import EncodedVideo, GroundingResult
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.zero_shot import DEFAULT_MODEL, ZeroShot
from mesm.pipeline.index.adaptive import AdaptiveEncoder
from mesm.pipeline.index.build import DecodeSettings, IndexReport, add_files, remove
from mesm.pipeline.index.search import Filter, SearchResult, note_generic_peak, search
from mesm.pipeline.index.store import INDEX_FILE, IndexStore, read_facts


class VideoIndex:
    """An index with the model that made it."""

    def __init__(self, store: IndexStore, grounder: ZeroShot) -> None:
        """Put an open index and its model together; PipelineError when they do not belong together."""
        store.refuse_other_model(grounder.model, grounder.text.spec)
        self.store, self.grounder = store, grounder
        self._encoder = AdaptiveEncoder(grounder.encoder) if store.facts.adaptive else grounder.encoder

    @classmethod
    def open(
        cls,
        path: str | Path,
        model: str = "",
        device: str | torch.device = "cpu",
        sources: WeightSources | None = None,
        adaptive: bool = False,
    ) -> VideoIndex:
        """Open an index, or make an empty one; model: of a new one, as `ZeroShot.from_model` takes it.

        adaptive: a new one leaves out rows that look like the one before. Raises PipelineError when it was made by
        another model, or with every row where `adaptive` is asked for, is damaged or newer, and the extractors'
        WeightsError when the model's weights are not to be had.
        """
        place = Path(path)
        facts = read_facts(place) if (place / INDEX_FILE).exists() else None
        if adaptive and facts is not None and not facts.adaptive:
            raise PipelineError(
                f"{place} keeps every row; --adaptive is chosen when an index is made: make another one by --index"
            )
        grounder = ZeroShot.from_model(model or (facts.model if facts else DEFAULT_MODEL), device, sources)
        adaptive = adaptive or (facts is not None and facts.adaptive)
        encoder = AdaptiveEncoder(grounder.encoder) if adaptive else grounder.encoder
        return cls(IndexStore.create_or_open(place, grounder.model, [encoder]), grounder)

    def add(
        self, places: Sequence[str | Path], prune: bool = False, settings: DecodeSettings | None = None
    ) -> IndexReport:
        """Add the videos of files and folders that are new or changed; see `add_files`."""
        paths = [Path(place) for place in places]
        report = add_files(self.store, paths, [self._encoder], self.grounder.device, settings, prune)
        if report.encoded or report.pruned:
            note_generic_peak(self.store, self.grounder)
        return report

    def remove(self, place: str | Path) -> int:
        """Forget a file, or all files of a folder; returns how many."""
        return remove(self.store, Path(place))

    def search(
        self, query: str | Question, count: int = 10, allowed: Filter | None = None, dedupe: bool = True
    ) -> SearchResult:
        """Return the best moments of all films."""
        question = query if isinstance(query, Question) else Question(query)
        return search(self.store, self.grounder, question, count, allowed, dedupe)

    def encode_video(self, path: str | Path, cache: Path | None = None) -> EncodedVideo:
        """Return the rows of a film that the index has; PipelineError when it has it not, or not as it is now."""
        found = self.store.encoded(Path(path))
        if found is None:
            raise PipelineError(f"{path} is not in {self.store.path}, or changed since; add it first")
        return found

    def ground(self, video: EncodedVideo, query: str | Question, top_k: int = 5) -> GroundingResult:
        """Answer a question about one film."""
        return self.grounder.ground(video, query, top_k)

    def ground_many(self, video: EncodedVideo, queries: Sequence[str], top_k: int = 5) -> Iterator[GroundingResult]:
        """Answer questions about one film."""
        return self.grounder.ground_many(video, queries, top_k)

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()
