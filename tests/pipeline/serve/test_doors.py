"""What stands between the page and the world: the guard, ranges, the folder that goes with its server."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mesm.pipeline.report.served_page import thinned
from mesm.pipeline.serve.guard import Guard, visitor_of
from mesm.pipeline.serve.made import BusyError, Made
from mesm.pipeline.serve.ranges import UnsatisfiableError, part_of
from mesm.pipeline.serve.scratch import Scratch, remove_left_behind

HOME = {"host": "127.0.0.1:7860"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(
    path: str = "/", method: str = "GET", token: str = "", host: str = "127.0.0.1", query: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """The guard's answer to one request: status, headers, body."""
    said: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        said.append(message)

    given = {**HOME, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(Guard(application, host, 7860, token)(scope, None, send))
    found = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return said[0]["status"], found, said[1]["body"]


def test_a_visitor_gets_a_name_and_keeps_it() -> None:
    status, headers, body = ask()
    assert (status, body) == (200, b"inside")
    assert "default-src 'self'" in headers["content-security-policy"]
    name, _, value = headers["set-cookie"].partition(";")[0].partition("=")
    assert "HttpOnly" in headers["set-cookie"]
    assert visitor_of({name: value}, 7860) == value
    assert visitor_of({name: value}, 7861) == ""
    assert "set-cookie" not in ask(cookie=f"{name}={value}")[1]
    assert visitor_of({name: "../../etc"}, 7860) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=http://example.org",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/upload_progress",
        "/docs",
        "/monitoring",
        "/films/../../etc/passwd",
        "/films//etc/passwd",
        "/films/" + "0" * 31,
        "/films/" + "0" * 32 + "/x",
        "/films/" + "0" * 32 + "\n",
        "//etc/passwd",
    ],
)
def test_what_the_page_does_not_use_is_closed(path: str) -> None:
    assert ask(path)[0] == 404
    assert ask(path, "POST", content_length="0")[0] == 404


def test_gradio_takes_no_uploads() -> None:
    assert ask("/gradio_api/upload", "POST", content_length="10")[0] == 404
    assert ask("/uploads", "POST", content_length="9999999")[0] == 200
    assert ask("/uploads")[0] == 404
    assert ask("/gradio_api/queue/join", "POST", content_length="10")[0] == 200
    assert ask("/gradio_api/queue/join", "POST", content_length="99999")[0] == 413
    assert ask("/gradio_api/queue/join", "POST")[0] == 413
    assert ask("/", "DELETE")[0] == 404


def test_other_sites_get_nothing() -> None:
    assert ask(host="127.0.0.1")[0] == 200
    for name in ("evil.example:7860", "127.0.0.1.evil.example", "", "[", "localhost.evil.example"):
        status, _, body = _asked_as(name)
        assert status == 421
        assert body != b"inside"
    assert _asked_as("localhost:7860")[0] == 200
    assert _asked_as("[::1]:7860")[0] == 200
    sent = {"content_length": "5", "origin": "http://evil.example"}
    assert ask("/uploads", "POST", **sent)[0] == 403
    assert ask("/uploads", "POST", content_length="5", origin="http://127.0.0.1:7860")[0] == 200


def _asked_as(name: str) -> tuple[int, dict[str, str], bytes]:
    kept = HOME["host"]
    HOME["host"] = name
    try:
        return ask()
    finally:
        HOME["host"] = kept


def test_without_the_token_nothing_is_had() -> None:
    for path in ("/", "/config", "/theme.css", "/films/" + "0" * 32, "/gradio_api/startup-events"):
        status, _, body = ask(path, token="sesame")
        assert status == 401
        assert body != b"inside"
    assert ask("/uploads", "POST", token="sesame", content_length="5")[0] == 401
    assert b"That is not the token" in ask("/", token="sesame", query="token=open")[2]
    status, headers, _ = ask("/", token="sesame", query="token=sesame")
    assert (status, headers["location"]) == (303, "./")
    cookie = headers["set-cookie"].partition(";")[0]
    assert ask("/config", token="sesame", cookie=cookie)[0] == 200
    assert ask("/config", token="other", cookie=cookie)[0] == 401
    assert ask("/config", token="sesame", query="token=sesame")[0] == 401


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("", None),
        ("bytes=0-", (0, 10)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-99", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=5-2", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
        ("bytes=-", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_ranges(header: str, part: tuple[int, int] | None) -> None:
    assert part_of(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_ranges_behind_the_end(header: str) -> None:
    with pytest.raises(UnsatisfiableError):
        part_of(header, 10)


def test_what_is_made_is_made_once_and_goes_when_there_is_no_room(tmp_path: Path) -> None:
    made, calls = Made(tmp_path, 25, 2), []

    def make(path: Path) -> None:
        calls.append(path.name)
        path.write_bytes(b"0123456789")

    for name in ("a-1", "a-1", "b-1", "a-1", "c-1"):
        with made.open(name, make) as file:
            assert file.read() == b"0123456789"
    assert calls == ["a-1", "b-1", "c-1"]
    assert sorted(os.listdir(tmp_path)) == ["a-1", "c-1"]
    made.forget("a")
    assert os.listdir(tmp_path) == ["c-1"]


def test_who_would_wait_too_long_is_refused(tmp_path: Path) -> None:
    made, go, begun = Made(tmp_path, 1000, 1), threading.Event(), threading.Event()

    def make(path: Path) -> None:
        begun.set()
        go.wait(10)
        path.write_bytes(b"0")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(made.open, "a", make)
        begun.wait(10)
        second = pool.submit(made.open, "a", make)
        while made._asking < 2:
            time.sleep(0.005)
        with pytest.raises(BusyError):
            made.open("b", make)
        go.set()
        for waiting in (first, second):
            with waiting.result() as file:
                assert file.read() == b"0"


def test_a_large_file_is_sent_though_it_cannot_be_kept(tmp_path: Path) -> None:
    made = Made(tmp_path, 5, 2)
    with made.open("a", lambda path: path.write_bytes(b"0123456789")) as file:
        assert file.read() == b"0123456789"
    assert os.listdir(tmp_path) == []


def test_a_killed_server_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from mesm.pipeline.serve.scratch import Scratch\n"
        "scratch = Scratch(Path(sys.argv[1])); (scratch.folder('uploads') / 'half').write_bytes(bytes(1000))\n"
        "print(scratch.path, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    folder = Path(child.stdout.readline().strip())
    assert (folder / "uploads" / "half").exists()
    assert remove_left_behind(tmp_path) == []
    child.send_signal(signal.SIGKILL)
    child.wait()
    for _ in range(100):
        if not folder.exists():
            break
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []


def test_the_next_server_removes_what_dead_ones_left(tmp_path: Path) -> None:
    dead = tmp_path / "mesm-serve-dead"
    (dead / "uploads").mkdir(parents=True)
    (dead / ".lock").touch()
    (tmp_path / "other").mkdir()
    elsewhere = tmp_path / "mesm-serve-link"
    elsewhere.symlink_to(tmp_path / "other")
    with Scratch(tmp_path) as first:
        assert not dead.exists()
        with Scratch(tmp_path) as second:
            assert first.path.exists()
            assert second.path.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(tmp_path)) == ["mesm-serve-link", "other"]


def test_a_long_curve_keeps_its_peaks() -> None:
    values = [0.0] * 5000
    values[3333] = 1.0
    times, shown = thinned([float(n) for n in range(5000)], values)
    assert len(times) == len(shown) <= 1500
    assert times[shown.index(1.0)] == 3333.0
