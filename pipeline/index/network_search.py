"""Asking an index by a trained network: alone, over vectors of its own, or after the search without training.

A network that was trained on videos which show what is asked has a sure answer in every film. What tells films apart is
how salient an answer's rows are among those of all films that were looked at, by the rule that ranks the pieces of one
long video (`mesm.pipeline.ground.pieces`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import EncodedVideo, Evidence, FoundMoment, GroundingResult
from mesm.pipeline.ground.pieces import weigh
from mesm.pipeline.ground.questions import Question
from mesm.pipeline.index.search import Filter, SearchResult, files_of, present_file
from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.run.console import say

if TYPE_CHECKING:
    from mesm.pipeline.ground.retriever import MomentRetriever

MOMENTS_OF_FILM = 5
"""Answers of one film that are ranked among those of the others."""
FILMS = 20
"""Films that a network looks at again, the best of the search without training."""


@dataclass(frozen=True)
class _Looked:
    file: Path
    notes: tuple[str, ...]
    result: GroundingResult
    rows: int


def search_by_network(
    index: IndexStore, retriever: MomentRetriever, question: Question, count: int, allowed: Filter | None = None
) -> SearchResult:
    """Ask a network about every film of an index of its own vectors.

    Raises PipelineError for an empty question, for one that is no sentence, and for an index of other vectors.
    """
    _refuse_pictures(question)
    names = tuple(folder.path.name for folder in index.folders)
    if not index.facts.network or names != retriever.folder_names:
        raise PipelineError(
            f"{index.path} was made by {index.facts.model}; {retriever.model} reads other vectors. Make an index by "
            f"--checkpoint {retriever.model}, or search this one without"
        )
    files, films = files_of(index, allowed or Filter()), index.catalogue.films()
    here = {film: present_file(of_film) for film, of_film in files.items() if index.has(film)}

    def videos() -> Iterator[tuple[EncodedVideo, tuple[str, ...]]]:
        for film, (file, state) in here.items():
            yield index.encoded_film(file.path, film, films[film].duration_s), (state,) if state else ()

    moments, cut = rank_films(videos(), retriever, question, count)
    return SearchResult(question.name, moments, True, cut, len(here), {}, _thumbnails(index, moments))


def look_again(
    index: IndexStore, retriever: MomentRetriever, question: Question, first: SearchResult, count: int
) -> SearchResult:
    """Ask a network about the best films of a search; films whose features it needs are decoded for it, and kept.

    An answer keeps what the search found in its film as evidence.
    """
    _refuse_pictures(question)
    found = list(dict.fromkeys(moment.file for moment in first.moments))[:FILMS]

    def videos() -> Iterator[tuple[EncodedVideo, tuple[str, ...]]]:
        for file in found:
            try:
                yield retriever.encode_video(file, cache=index.path / "features"), ()
            except VideoError as error:
                say(f"failed: {file}: {error}")

    moments, cut = rank_films(videos(), retriever, question, count)
    with_evidence = [
        replace(moment, evidence=(*moment.evidence, *_evidence_of(moment, first.moments))) for moment in moments
    ]
    return replace(first, moments=with_evidence, words_cut=cut, alike={}, thumbnails=_thumbnails(index, with_evidence))


def rank_films(
    videos: Iterable[tuple[EncodedVideo, tuple[str, ...]]], retriever: MomentRetriever, question: Question, count: int
) -> tuple[list[FoundMoment], bool]:
    """Return the best moments of films, with what is to be noted of each film, and whether the question was cut.

    PipelineError for an empty question.
    """
    looked = []
    for video, notes in videos:
        result = retriever.ground(video, question.text, MOMENTS_OF_FILM)
        looked.append(_Looked(video.path, notes, result, video.rows))
    if not looked:
        return [], False
    saliency = np.concatenate([one.result.saliency for one in looked]).astype(np.float64)
    mean, deviation = float(saliency.mean()), max(float(saliency.std()), 1e-12)
    found = []
    for one in looked:
        sums = np.concatenate([[0.0], np.cumsum(one.result.saliency, dtype=np.float64)])
        for moment in one.result.moments:
            start = min(int(moment.start_s / one.result.row_s), one.rows - 1)
            end = max(start + 1, min(one.rows, int(np.ceil(moment.end_s / one.result.row_s))))
            salient = ((sums[end] - sums[start]) / (end - start) - mean) / deviation
            score = float(weigh(np.array([moment.score]), np.array([salient]))[0])
            found.append(
                FoundMoment(
                    one.file,
                    moment.start_s,
                    moment.end_s,
                    score,
                    question.name,
                    "salient",
                    retriever.model,
                    (Evidence("network", moment.score),),
                    (*one.notes, *(["query cut"] if one.result.words_cut else [])),
                    retriever.method,
                )
            )
    best = sorted(found, key=lambda moment: -moment.score)[:count]
    return best, any(one.result.words_cut for one in looked)


def _evidence_of(moment: FoundMoment, first: list[FoundMoment]) -> tuple[Evidence, ...]:
    return next((one.evidence for one in first if one.file == moment.file), ())


def _thumbnails(index: IndexStore, moments: list[FoundMoment]) -> list[bytes | None]:
    films = {path: file.film_id for path, file in index.catalogue.files().items()}
    return [
        index.catalogue.thumbnail(films[moment.file], (moment.start_s + moment.end_s) / 2)
        if moment.file in films
        else None
        for moment in moments
    ]


def _refuse_pictures(question: Question) -> None:
    if not question.text.strip():
        raise PipelineError("the query is empty; a network is asked by a sentence")
    if not question.plain:
        raise PipelineError("--image and --without ask without a run; leave --checkpoint out")
