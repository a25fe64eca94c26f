"""What the page does, without the page: films, questions, moments, uploads, previews, cuts.

Its methods may be called by any number of threads at a time. Questions are answered one after the other.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from mesm.datasets.errors import DatasetError
from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answers import NO_MATCH, UNTRAINED, EncodedVideo, FoundMoment
from mesm.pipeline.report.answer_page import ShownAnswer, ShownMoment
from mesm.pipeline.report.served_page import (
    ShownHit,
    render_answer,
    render_film,
    render_gallery,
    render_head,
    render_hits,
    render_notice,
    thinned,
)
from mesm.pipeline.run.console import say
from mesm.pipeline.serve.films import GoneError, IndexedFilms, ServedFilm, uploaded
from mesm.pipeline.serve.limits import Limits
from mesm.pipeline.serve.scratch import Scratch
from mesm.pipeline.serve.uploads import Upload, Uploads

if TYPE_CHECKING:
    from mesm.pipeline.serve.asking import Asker, Opener

EVERYTHING = "*"
"""Stands for all films of the index where a film is chosen."""
FRAMES = 12
"""Pictures along a film."""
SHOWN_FILMS = 12
"""Films whose pictures are shown before anything is asked."""
AWAY_S = 30.0
"""So long after its last window was closed a visitor's films are kept: a page that is loaded anew closes and opens."""
SWEEP_S = 5.0
GONE = "This film is not here any more. Choose another one."


class Desk:
    """Answers what visitors ask of films; a context manager that ends its threads."""

    def __init__(
        self,
        opener: Opener,
        scratch: Scratch,
        limits: Limits | None = None,
        forget: Callable[[str], object] = lambda key: None,
    ) -> None:
        """Open an asker; its errors pass through. forget: called with the key of each upload that was removed."""
        self._forget = forget
        self.limits = limits or Limits()
        self.uploads = Uploads(scratch.folder("uploads"), self.limits)
        self._films = IndexedFilms()
        self._reading: dict[str, Future[EncodedVideo]] = {}
        self._windows: dict[str, tuple[int, float]] = {}
        """Of each visitor: how many are open, and when the last one was closed."""
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._answers, self._readers = ThreadPoolExecutor(1, "answers"), ThreadPoolExecutor(1, "reading")
        try:
            self._asker: Asker = self._answers.submit(opener).result()
            self.refresh().result()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._sweep, name="sweep", daemon=True).start()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop taking work; what runs comes to its end."""
        self._ended.set()
        for pool in (self._answers, self._readers):
            pool.shutdown(wait=False, cancel_futures=True)

    # Films

    def refresh(self) -> Future[None]:
        """See what was added to the index since, when the questions that wait are answered."""
        return self._answers.submit(self._see)

    def _see(self) -> None:
        index = self._asker.index
        if index is not None:
            self._films.update(index.catalogue.files().values(), index.catalogue.films())

    @property
    def hint(self) -> str:
        """What is to be done first."""
        return "Choose a film and ask." if len(self._films) else "Upload a film, then ask."

    def head(self) -> str:
        """Return the head of the page."""
        hours = sum({film.film_id: film.duration_s for film in self._films.all()}.values()) / 3600
        return render_head(len(self._films), hours, self._asker.model)

    def choices(self, visitor: str) -> list[tuple[str, str]]:
        """Return what a visitor can choose: names and keys; their own films first."""
        own = [(f"{one.name} (yours)", one.key) for one in reversed(self.uploads.of(visitor))]
        films = [(film.name, film.key) for film in self._films.all()]
        every = [(f"All {len(films)} films", EVERYTHING)] if len(films) > 1 else []
        return [*own, *every, *films]

    def film(self, key: str, visitor: str) -> ServedFilm:
        """Return a film that a visitor may see; GoneError for any other key."""
        found = self._films.get(key)
        if found is None:
            upload = self.uploads.get(key, visitor)
            found = uploaded(upload) if upload is not None else None
        if found is None:
            raise GoneError(GONE)
        return found

    def choose(self, key: str, visitor: str) -> str:
        """Return what is shown of a film before anything is asked."""
        if not key or key == EVERYTHING:
            films = self._films.all()[:SHOWN_FILMS]
            return render_gallery([(film.played, _picture(film, film.duration_s / 2)) for film in films])
        try:
            film = self.film(key, visitor)
        except GoneError as error:
            return render_notice(str(error))
        return render_film(film.played, _frames(film))

    # Questions

    def ask(self, key: str, text: str, visitor: str) -> Iterator[str]:
        """Yield HTML: what is to be waited for, if anything, then the answers, or why there are none."""
        text = text.strip()[: self.limits.words] if isinstance(text, str) else ""
        if not text:
            yield render_notice("Describe the moment in a sentence.")
            return
        try:
            if key == EVERYTHING and len(self._films):
                yield self._answers.submit(self._search, text).result()
                return
            film = self.film(key if isinstance(key, str) else "", visitor)
            with self._lock:
                reading = self._reading.get(film.key)
            if reading is not None and not reading.done():
                yield render_notice(f"{film.name} is being read; the answer follows.")
            video = reading.result() if reading is not None else None
            yield self._answers.submit(self._answer, film, video, text).result()
        except GoneError as error:
            yield render_notice(str(error))
        except _FAULTS as error:
            # What is wrong names places of this machine, which are no visitor's business.
            say(f"error: {error}")
            yield render_notice("This could not be answered. Who runs this page can see why.")

    def _answer(self, film: ServedFilm, video: EncodedVideo | None, text: str) -> str:
        encoded = video if video is not None else self._asker.encoded(film)
        result, moments = self._asker.ask(encoded, text, self.limits.moments)
        curve = thinned(result.times.tolist(), result.saliency.tolist())
        shown = [replace(_shown(moment), picture=_still(film, moment)) for moment in moments]
        kind = moments[0].score_kind if moments else ""
        answer = ShownAnswer(result.query, shown, kind, self._asker.model, curve)
        return render_answer(film.played, answer, _frames(film), self._notices(moments))

    def _search(self, text: str) -> str:
        result = self._asker.search(text, self.limits.hits)
        hits = []
        for moment in result.moments:
            film = self._films.at(moment.file)
            here = film is not None and not {"missing", "changed"} & set(moment.notes)
            picture = _still(film, moment) if film is not None and here else None
            shown = replace(_shown(moment), picture=picture)
            name = film.name if film is not None else moment.file.name
            hits.append(ShownHit(film.played if film is not None and here else None, name, shown))
        return render_hits(result.query, hits, result.searched, self._asker.model, self._notices(result.moments))

    def _notices(self, moments: Sequence[FoundMoment]) -> list[str]:
        notes = {note for moment in moments for note in moment.notes}
        return [text for note, text in _NOTICES.items() if note in notes]

    # Uploads

    def take(self, upload: Upload) -> ServedFilm:
        """Look at a film that came, and begin to read it; UploadError when it is refused."""
        self.uploads.finish(upload)
        with self._lock:
            self._reading[upload.key] = self._readers.submit(self._read, upload)
        return uploaded(upload)

    def _read(self, upload: Upload) -> EncodedVideo:
        try:
            return self._asker.encode(upload.path, upload.folder / "features")
        except (*_FAULTS, OSError) as error:
            raise GoneError(f"{upload.name} could not be read to its end.") from error
        finally:
            if self.uploads.get(upload.key, upload.visitor) is None:
                self.uploads.drop(upload)

    # Visitors

    def enter(self, visitor: str) -> None:
        """Count a window of a visitor."""
        with self._lock:
            count, _ = self._windows.get(visitor, (0, 0.0))
            self._windows[visitor] = count + 1, time.monotonic()

    def leave(self, visitor: str) -> None:
        """Count a window that was closed; when it stays the last one, the visitor's films are removed."""
        with self._lock:
            count, _ = self._windows.get(visitor, (1, 0.0))
            self._windows[visitor] = max(count - 1, 0), time.monotonic()

    def sweep(self) -> None:
        """Remove the films of visitors who left."""
        bound = time.monotonic() - AWAY_S
        with self._lock:
            away = [one for one, (count, last) in self._windows.items() if count == 0 and last < bound]
            for one in away:
                del self._windows[one]
        gone = [upload for one in away for upload in self.uploads.leave(one)] + self.uploads.remove_idle()
        for upload in gone:
            with self._lock:
                reading = self._reading.pop(upload.key, None)
            if reading is not None:
                reading.cancel()
            self._forget(upload.key)

    def _sweep(self) -> None:
        while not self._ended.wait(SWEEP_S):
            with contextlib.suppress(OSError):
                self.sweep()


_FAULTS = (PipelineError, VideoError, DatasetError)
_NOTICES = {
    NO_MATCH: "Nothing stands out for this sentence; these are guesses.",
    UNTRAINED: "The model's weights are random: these answers mean nothing.",
    "query cut": "The sentence is longer than the model reads; its end was left out.",
}


def _shown(moment: FoundMoment) -> ShownMoment:
    words = " ".join(one.text for one in moment.evidence if one.text)
    notes = tuple(note for note in moment.notes if note not in _NOTICES)
    return ShownMoment(moment.start_s, moment.end_s, moment.score, None, words, notes)


def _still(film: ServedFilm, moment: FoundMoment) -> str:
    return _picture(film, (moment.start_s + moment.end_s) / 2)


def _frames(film: ServedFilm) -> list[tuple[float, str]]:
    times = [(number + 0.5) / FRAMES * film.duration_s for number in range(FRAMES)]
    return [(time_s, _picture(film, time_s)) for time_s in times]


def _picture(film: ServedFilm, second: float) -> str:
    return f"stills/{film.key}?at={second:.2f}"
