"""Who answers: a model, or a trained network, about single films and about a whole index."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesm.pipeline.ground.answers import EncodedVideo, FoundMoment, GroundingResult
from mesm.pipeline.ground.grounder import Grounder, found_moments
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.ground.retriever import MomentRetriever
from mesm.pipeline.ground.zero_shot import DEFAULT_MODEL, ZeroShot
from mesm.pipeline.index.network_search import FILMS, look_again, search_by_network
from mesm.pipeline.index.search import SearchResult, search
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.serve.films import ServedFilm

KEPT_FILMS = 32
"""Indexed films whose vectors stay in memory."""


class Asker:
    """Answers questions. All is done by one thread, which also makes it: the index's database belongs to that."""

    def __init__(self, grounder: Grounder, index: IndexStore | None = None, finder: ZeroShot | None = None) -> None:
        """grounder: answers about single films, and encodes them; finder: searches an index without a network."""
        self.grounder, self.index, self.finder = grounder, index, finder
        self._kept: OrderedDict[tuple[str, int], EncodedVideo] = OrderedDict()
        for model in (grounder, finder):
            if isinstance(model, ZeroShot):
                # Before it is first asked, and in no folder of a film that is removed.
                _ = model.generic_vectors

    @property
    def model(self) -> str:
        """What answers, without the folders that lie before it."""
        is_run = isinstance(self.grounder, MomentRetriever)
        return Path(self.grounder.model).name if is_run else self.grounder.model

    def encode(self, path: Path, cache: Path) -> EncodedVideo:
        """Decode and encode an upload; another thread may do this. VideoError."""
        return self.grounder.encode_video(path, cache)

    def encoded(self, film: ServedFilm) -> EncodedVideo:
        """Return the vectors of an indexed film; VideoError when it has to be decoded for this, and cannot."""
        assert self.index is not None
        place = (film.key, film.modified_ns)
        if place not in self._kept:
            is_run = isinstance(self.grounder, MomentRetriever)
            if is_run == self.index.facts.network:
                found = self.index.encoded_film(film.path, film.film_id, film.duration_s)
            else:
                found = self.grounder.encode_video(film.path, cache=self.index.path / "features")
            self._kept[place] = found
            if len(self._kept) > KEPT_FILMS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(place)
        return self._kept[place]

    def ask(self, video: EncodedVideo, text: str, count: int) -> tuple[GroundingResult, list[FoundMoment]]:
        """Answer a question about one film; PipelineError when the question is empty."""
        result = self.grounder.ground(video, text, count)
        return result, found_moments(self.grounder, video, result)

    def search(self, text: str, count: int) -> SearchResult:
        """Answer a question about all films; PipelineError when the question is empty."""
        assert self.index is not None
        question = Question(text)
        retriever: Any = self.grounder if isinstance(self.grounder, MomentRetriever) else None
        if retriever is not None and self.index.facts.network:
            return search_by_network(self.index, retriever, question, count)
        assert self.finder is not None
        if retriever is None:
            return search(self.index, self.finder, question, count)
        first = search(self.index, self.finder, question, max(count, 2 * FILMS))
        return look_again(self.index, retriever, question, first, count)


def open_asker(index: Path | None, checkpoint: Path | None, device: Any, sources: Any) -> Asker:
    """Open what `serve` is told to use; errors as those of `search` and `ground`."""
    store = IndexStore.open(index) if index is not None else None
    grounder: Grounder | None = None
    if checkpoint is not None:
        grounder = MomentRetriever.from_checkpoint(checkpoint, device, sources)
        if store is not None and store.facts.network:
            _refuse_other_network(store, grounder)
            return Asker(grounder, store)
    if store is not None:
        store.refuse_network()
    if store is None and grounder is not None:
        return Asker(grounder)
    finder = ZeroShot.from_model(store.facts.model if store is not None else DEFAULT_MODEL, device, sources)
    if store is not None:
        store.refuse_other_model(finder.model, finder.text.spec)
    return Asker(grounder or finder, store, finder)


def _refuse_other_network(store: IndexStore, retriever: MomentRetriever) -> None:
    from mesm.pipeline.config.errors import PipelineError

    if tuple(folder.path.name for folder in store.folders) != retriever.folder_names:
        raise PipelineError(
            f"{store.path} was made by {store.facts.model}; {retriever.model} reads other vectors. Make an index by "
            f"--checkpoint {retriever.model}"
        )


Opener = Callable[[], Asker]
"""Makes an asker in the thread that is to use it."""
