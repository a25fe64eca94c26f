"""Playing a film from a moment on, with what is there: mpv, vlc or ffplay, else the browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import webbrowser
from collections.abc import Callable
from pathlib import Path

from mesm.extractors.decoding.containers import open_container
from mesm.extractors.decoding.packets import video_streams
from mesm.pipeline.config.errors import PipelineError

PLAYERS: dict[str, Callable[[str, str], list[str]]] = {
    "mpv": lambda film, start: [f"--start={start}", "--", film],
    "vlc": lambda film, start: [f"--start-time={start}", film],
    "ffplay": lambda film, start: ["-v", "error", "-autoexit", "-ss", start, "-i", f"file:{film}"],
}
"""Arguments of each player, in the order in which they are looked for: an absolute path and seconds."""


def player_command(film: Path, start_s: float, which: Callable[[str], str | None] = shutil.which) -> list[str] | None:
    """Return the command that plays a film from a second on; None when no player is here."""
    path = os.path.abspath(film)
    for name, arguments in PLAYERS.items():
        program = which(name)
        if program is not None:
            return [program, *arguments(path, f"{start_s:.3f}")]
    return None


def play(
    film: Path,
    start_s: float,
    page: Path | None = None,
    which: Callable[[str], str | None] = shutil.which,
    browse: Callable[[str], bool] = webbrowser.open,
) -> str:
    """Start to play, without waiting for the end, and return by what.

    page: what the browser is to open instead of the film. ProbeError for what is no film, such as a playlist, which
    players would follow; PipelineError when there is no player and no browser.
    """
    with open_container(film) as container:
        video_streams(container, film)
    command = player_command(film, start_s, which)
    if command is not None:
        nothing = subprocess.DEVNULL
        subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        return Path(command[0]).name
    address = page.absolute().as_uri() if page is not None else f"{film.absolute().as_uri()}#t={start_s:.3f}"
    if not browse(address):
        raise PipelineError(f"none of {', '.join(PLAYERS)} is here, and no browser; open {address}")
    return "the browser"
