"""The page of `serve`: Gradio draws it and has questions wait in a queue, FastAPI sends films and takes uploads.

All that it does is done by the desk and the workshop, which know nothing of either.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import fastapi
import gradio as gr
import uvicorn
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mesm.extractors.errors import VideoError
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.extract.videos import VIDEO_SUFFIXES
from mesm.pipeline.report.served_page import render_player, render_uploader, script, style
from mesm.pipeline.serve.films import GoneError
from mesm.pipeline.serve.guard import Guard, visitor_of
from mesm.pipeline.serve.made import BusyError
from mesm.pipeline.serve.ranges import UnsatisfiableError, part_of
from mesm.pipeline.serve.uploads import UploadError

if TYPE_CHECKING:
    from mesm.pipeline.serve.desk import Desk
    from mesm.pipeline.serve.workshop import Workshop

TITLE = "Find the moment"
ASKING = 8
"""Questions that are past the queue: one is answered, the others may wait for their films to be read."""
BLOCK = 256 * 1024
TYPES = {".webm": "video/webm", ".mkv": "video/x-matroska", ".jpg": "image/jpeg"}


def make_app(desk: Desk, workshop: Workshop, host: str, port: int, token: str = "") -> Guard:
    """Return the application, behind its guard."""
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _Routes(desk, workshop, port).add_to(app)
    page = _page(desk, port)
    page.queue(max_size=desk.limits.waiting, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        allowed_paths=[],
        max_file_size=1,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"], primary_hue="orange"),
        # Gradio would rewrite a style sheet that it is given, and lose what holds for dark screens.
        head=f"<style>{style()}</style><script>{script()}</script>",
    )
    return Guard(app, host, port, token)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; PipelineError when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise PipelineError(
            f"{host}:{port} cannot be listened on: {error.strerror or error}; give another by --port or --host"
        ) from error


def run(app: Guard, listening: socket.socket, ready: Callable[[], object]) -> None:
    """Answer requests until the program is told to end; `ready` is called when the first one can come."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False)
    Server(config).run([listening])


def _page(desk: Desk, port: int) -> Any:
    """Return what Gradio draws. Names of events are private: nobody can look them up."""

    def visitor(request: gr.Request) -> str:
        return visitor_of(dict(request.cookies), port)

    def enter(request: gr.Request) -> tuple[Any, ...]:
        desk.enter(visitor(request))
        desk.refresh()
        choices = desk.choices(visitor(request))
        first = choices[0][1] if choices else None
        return desk.head(), gr.Dropdown(choices, value=first), desk.choose(first or "", visitor(request))

    def leave(request: gr.Request) -> None:
        desk.leave(visitor(request))

    def choose(key: str, request: gr.Request) -> str:
        return desk.choose(key, visitor(request))

    def arrived(request: gr.Request) -> tuple[Any, str]:
        choices = desk.choices(visitor(request))
        newest = choices[0][1] if choices else ""
        return gr.Dropdown(choices, value=newest), desk.choose(newest, visitor(request))

    def ask(key: str, text: str, request: gr.Request) -> Iterator[str]:
        yield from desk.ask(key, text, visitor(request))

    limits, private = desk.limits, {"api_visibility": "private"}
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        head = gr.HTML(padding=False)
        with gr.Row(elem_id="ask"):
            question = gr.Textbox(
                show_label=False,
                label="Question",
                placeholder="What happens? For example: a person opens the door",
                max_length=limits.words,
                autofocus=True,
                scale=6,
                elem_id="question",
            )
            find = gr.Button("Find", variant="primary", scale=0, min_width=120, elem_id="find")
        with gr.Row(elem_id="where"):
            film = gr.Dropdown([], show_label=False, label="Film", elem_id="film", scale=1, interactive=True)
            if limits.uploads:
                text = {"text": limits.text}
                gr.HTML(render_uploader(text, ",".join(sorted(VIDEO_SUFFIXES))), padding=False, elem_id="bring")
        gr.HTML(render_player(desk.hint), padding=False, elem_id="stage")
        results = gr.HTML(padding=False, elem_id="results")
        new = gr.Button(visible="hidden", elem_id="uploaded")
        page.load(enter, None, [head, film, results], show_progress="hidden", **private)
        page.unload(leave)
        film.input(choose, film, results, show_progress="hidden", **private)
        new.click(arrived, None, [film, results], show_progress="hidden", **private)
        asking = {"concurrency_limit": ASKING, "concurrency_id": "ask", "trigger_mode": "once", **private}
        gr.on([find.click, question.submit], ask, [film, question], results, **asking)
    return page


class _Routes:
    """Films, pictures, previews, cuts and uploads. Each is asked for by a film's key; no path comes from outside."""

    def __init__(self, desk: Desk, workshop: Workshop, port: int) -> None:
        self._desk, self._workshop, self._port = desk, workshop, port

    def add_to(self, app: fastapi.FastAPI) -> None:
        """Add the routes to an application."""
        routes: dict[str, Callable[[str, fastapi.Request], Response]] = {
            "/films/{key}": self._film,
            "/stills/{key}": self._still,
            "/previews/{key}": self._preview,
            "/cuts/{key}": self._cut,
        }
        for path, answer in routes.items():
            app.add_api_route(path, partial(_answered, answer), methods=["GET", "HEAD"])
        app.add_api_route("/uploads", self._upload, methods=["POST"])

    def _visitor(self, request: fastapi.Request) -> str:
        return visitor_of(request.cookies, self._port)

    def _film(self, key: str, request: fastapi.Request) -> Response:
        film = self._desk.film(key, self._visitor(request))
        return _send(film.open(), TYPES.get(film.path.suffix.lower(), "video/mp4"), request)

    def _still(self, key: str, request: fastapi.Request) -> Response:
        film = self._desk.film(key, self._visitor(request))
        return _send(self._workshop.still(film, request.query_params.get("at", "")), "image/jpeg", request)

    def _preview(self, key: str, request: fastapi.Request) -> Response:
        film, asked = self._desk.film(key, self._visitor(request)), request.query_params
        return _send(self._workshop.preview(film, asked.get("start", ""), asked.get("end", "")), "video/mp4", request)

    def _cut(self, key: str, request: fastapi.Request) -> Response:
        film, asked = self._desk.film(key, self._visitor(request)), request.query_params
        file, name = self._workshop.cut(film, asked.get("start", ""), asked.get("end", ""))
        answer = _send(file, "video/mp4", request)
        answer.headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(name)}"
        return answer

    async def _upload(self, request: fastapi.Request) -> Response:
        visitor, uploads = self._visitor(request), self._desk.uploads
        if not visitor:
            return JSONResponse({"problem": "Open the page first."}, 403)
        size = request.headers.get("content-length", "")
        try:
            upload = uploads.begin(visitor, request.query_params.get("name", ""), int(size) if size.isdigit() else -1)
            try:
                async for block in request.stream():
                    uploads.write(upload, block)
                film = await run_in_threadpool(self._desk.take, upload)
            except BaseException:
                uploads.drop(upload)
                raise
        except UploadError as error:
            return JSONResponse({"problem": str(error)}, error.status)
        return JSONResponse({"key": film.key, "name": film.name})


async def _answered(answer: Callable[[str, fastapi.Request], Response], key: str, request: fastapi.Request) -> Response:
    """Answer in another thread; what is wrong is said."""
    try:
        return await run_in_threadpool(answer, key, request)
    except GoneError as error:
        return PlainTextResponse(str(error), 404)
    except BusyError:
        return PlainTextResponse("Too many are waiting; try again later.", 503)
    except UnsatisfiableError:
        return PlainTextResponse("The file ends before.", 416)
    except (PipelineError, VideoError):
        # What ffmpeg says names paths of this machine.
        return PlainTextResponse("This cannot be made of the film.", 422)


def _send(file: BinaryIO, kind: str, request: fastapi.Request) -> Response:
    """Return an open file, or the part of it that is asked for."""
    size = os.fstat(file.fileno()).st_size
    try:
        part = part_of(request.headers.get("range", ""), size)
    except UnsatisfiableError:
        file.close()
        raise
    begin, end = part or (0, size)
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(end - begin),
        "cache-control": "private, max-age=3600" if kind == "image/jpeg" else "no-store",
    }
    if part is not None:
        headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    if request.method == "HEAD":
        file.close()
        return Response(None, 206 if part else 200, headers, kind)
    return StreamingResponse(_blocks(file, begin, end), 206 if part else 200, headers, kind)


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    with file:
        file.seek(begin)
        while begin < end and (block := file.read(min(BLOCK, end - begin))):
            begin += len(block)
            yield block
