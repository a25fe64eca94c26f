"""`serve` in a process of its own, answering by colours; as a program, that process.

python serving.py serve --index INDEX ...
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
START_S = 120


class Server:
    """A running page."""

    def __init__(self, temporary: Path, *options: str) -> None:
        """Start it and wait for its address; uploads lie in `temporary`."""
        temporary.mkdir(exist_ok=True)
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "serve", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=temporary,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        self.said: list[str] = []
        lines: queue.Queue[str] = queue.Queue()
        for stream, take in ((self.process.stdout, lines.put), (self.process.stderr, self.said.append)):
            threading.Thread(target=_read, args=(stream, take), daemon=True).start()
        try:
            self.address = lines.get(timeout=START_S).strip()
        except queue.Empty:
            self.end()
            raise AssertionError(f"the server did not start: {self.said}") from None

    def kill(self) -> None:
        """Kill it, so that it can do nothing more."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """End it as a user does; returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


def _read(stream: Iterable[str], take: Callable[[str], object]) -> None:
    for line in stream:
        take(line)


@contextmanager
def serving(temporary: Path, *options: str) -> Iterator[Server]:
    """Serve while a test runs."""
    server = Server(temporary, *options)
    try:
        yield server
    finally:
        server.end()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    from colours import colour_model

    from mesm.pipeline.cli import main
    from mesm.pipeline.ground.zero_shot import ZeroShot

    ZeroShot.from_model = classmethod(lambda cls, *_, **__: colour_model())
    main()
