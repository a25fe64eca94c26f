"""What a person sees while a stage runs: a bar on a terminal, plain lines otherwise; all of it on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mesm.pipeline.run.shown_text import visible

PLAIN_INTERVAL_S = 15.0

messages = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print one message for the user; what names in it would do to a terminal is written as an escape."""
    messages.print(visible(text), markup=False, emoji=False)


def silence() -> None:
    """Say nothing more: another process talks for this one, too."""
    messages.quiet = True


class ProgressBar:
    """Counts steps towards a total; without a terminal it prints a line every 15 seconds."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        """Start at `done`, which earlier runs did: the time left is judged by this run's pace."""
        self.what, self.total, self.done, self.note = what, total, done, ""
        self._first = done
        self._bar: Progress | None = None
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=messages, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total, completed=self._first, note="")
        return self

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done."""
        self.done, self.note = done, note
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._line()

    def _line(self) -> None:
        self._printed = time.monotonic()
        elapsed = self._printed - self._started
        left = elapsed / max(self.done - self._first, 1) * (self.total - self.done)
        say(f"{self.what}: {self.done}/{self.total}, {elapsed:.0f} s, about {left:.0f} s left {self.note}".rstrip())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
