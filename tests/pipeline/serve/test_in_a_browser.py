"""The page in a real browser. Slow; skipped without Gradio, playwright and a Chromium."""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import imageio_ffmpeg
import pytest
from colours import BLUE, GREEN, GREY, RED, colour_model, write_film
from serving import Server, serving

from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.index.video_index import VideoIndex

CHROMIUM = next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), "")
MISSING = [name for name in ("gradio", "fastapi", "uvicorn", "playwright") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) or not CHROMIUM, reason=f"needs {', '.join(MISSING) or 'a Chromium'}"),
    pytest.mark.timeout(600),
]
HOSTILE = "<img src=x onerror=alert(1)>"
QUESTION = "#question textarea, #question input"


def ffmpeg(*arguments: str) -> None:
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments], check=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of every kind that the page has to show."""
    folder = tmp_path_factory.mktemp("films")
    plain = write_film(folder / "it's a film.mp4", (10, GREY), (8, RED), (12, GREEN), (6, GREY))
    write_film(folder / f"{HOSTILE}.mp4", (20, GREY), (10, BLUE), (10, GREY))
    sound = ("-f", "lavfi", "-i", "sine=300:duration=36", "-shortest")
    hevc = ("-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "aac")
    ffmpeg("-i", str(plain), *sound, "-vf", "scale=320:240", *hevc, str(folder / "new.mkv"))
    ffmpeg("-i", str(plain), "-vf", "scale=180:320", "-c:v", "libx264", str(folder / "portrait.mp4"))
    write_film(folder / "hour.mp4", (3000, GREY), (20, RED), (580, GREY))
    return folder


@pytest.fixture(scope="module")
def server(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("index")
    model = colour_model()
    VideoIndex(IndexStore.create_or_open(folder / "index", "colours", [model.encoder]), model).add([films])
    limits = ("--uploads", "2", "--upload-mb", "1", "--upload-minutes", "0.5")
    with serving(folder / "tmp", "--index", str(folder / "index"), *limits) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


class Visitor:
    """One person with a browser of their own."""

    def __init__(self, browser: Any, server: Server) -> None:
        self.server = server
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("console", lambda one: self.said.append(one.text) if one.type == "error" else None)
        self.page.on("request", lambda one: self._note(one.url))
        self.page.goto(server.address)
        self.page.wait_for_selector(QUESTION, timeout=60_000)
        self.page.wait_for_selector(".masthead", timeout=60_000)

    def _note(self, address: str) -> None:
        if urlsplit(address).hostname not in ("127.0.0.1", None):
            self.elsewhere.append(address)

    def choose(self, name: str) -> None:
        self.page.click("#film input")
        self.page.locator("[role=option]").filter(has_text=name).first.click()
        self.page.wait_for_selector(".served .strip", timeout=60_000)

    def ask(self, text: str) -> float:
        """Ask, and return the seconds until the answer is there."""
        old = self.page.locator(".served h3").count()
        mark = f"mark{time.monotonic_ns()}"
        if old:
            self.page.evaluate(f"document.querySelector('.served').dataset.old = '{mark}'")
        self.page.fill(QUESTION, text)
        started = time.monotonic()
        self.page.click("#find")
        self.page.wait_for_selector(".served:not([data-old]) h3", timeout=120_000)
        return time.monotonic() - started

    def upload(self, path: Path) -> str:
        """Upload a file, and return what is said against it."""
        self.page.set_input_files("#uploader input[type=file]", str(path))
        self.wait(lambda: "busy" not in self.page.get_attribute("#uploader", "class"), 120)
        notice = self.page.locator("#uploader .notice")
        if notice.is_visible():
            return str(notice.inner_text())
        self.wait(lambda: "(yours)" in self.page.input_value("#film input"), 60)
        return ""

    def video(self, what: str) -> Any:
        return self.page.evaluate(f"document.querySelector('#player video').{what}")

    def click(self, tile: int) -> tuple[float, float]:
        """Click a moment; return its start, and the seconds until its picture is shown."""
        jump = self.page.locator("a.moment-tile").nth(tile)
        start = float(jump.get_attribute("data-start"))
        took = jump.evaluate(
            """(jump) => new Promise((done) => {
                const video = document.querySelector('#player video'), begun = performance.now();
                const shown = () => done((performance.now() - begun) / 1000);
                video.addEventListener('seeked', () => video.requestVideoFrameCallback(shown), { once: true });
                jump.click();
                setTimeout(() => done(99), 20000);
            })"""
        )
        return start, took

    def wait(self, condition: Callable[[], bool], limit_s: float = 30) -> None:
        for _ in range(int(limit_s / 0.05)):
            if condition():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("it did not come about")

    def leave(self) -> None:
        self.context.close()


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Callable[[], Visitor]]:
    here: list[Visitor] = []

    def enter() -> Visitor:
        here.append(Visitor(browser, server))
        return here[-1]

    yield enter
    for visitor in here:
        visitor.leave()


def picture(visitor: Visitor) -> tuple[int, int, int]:
    """The colour in the middle of what the player shows."""
    return tuple(
        visitor.page.evaluate(
            """() => { const video = document.querySelector('#player video'), canvas = document.createElement('canvas');
            canvas.width = canvas.height = 1; const context = canvas.getContext('2d');
            context.drawImage(video, video.videoWidth / 2, video.videoHeight / 2, 1, 1, 0, 0, 1, 1);
            return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3); }"""
        )
    )


@pytest.mark.parametrize("name", ["it's a film.mp4", "portrait.mp4", HOSTILE, "hour.mp4"])
def test_a_click_shows_the_moment_within_a_second(visit: Callable[[], Visitor], name: str) -> None:
    visitor, colour = visit(), "blue" if name == HOSTILE else "red"
    visitor.choose(name)
    visitor.ask(f"something {colour}")
    visitor.wait(lambda: visitor.video("readyState") >= 2)
    tiles = visitor.page.locator("a.moment-tile").count()
    taken = []
    for tile in [*range(min(tiles, 4)), 0]:
        start, took = visitor.click(tile)
        # It plays on from there while this is asked.
        assert -0.1 < visitor.video("currentTime") - start < 1
        taken.append(took)
    print(f"{name}: click to picture {median(taken):.3f} s, at most {max(taken):.3f} s")
    assert median(taken) < 1
    visitor.video("pause()")
    visitor.page.evaluate("document.querySelector('#player video').currentTime += 3")
    visitor.wait(lambda: not visitor.video("seeking"))
    shown = picture(visitor)
    assert shown.index(max(shown)) == ("red", "green", "blue").index(colour)
    assert visitor.said == []
    assert visitor.elsewhere == []


def test_the_second_question_needs_no_waiting(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.choose("hour.mp4")
    visitor.ask("something red")
    took = [visitor.ask(f"something {colour}") for colour in ("green", "blue", "red")]
    print(f"further questions about an hour: {', '.join(f'{one:.2f} s' for one in took)}")
    assert median(took) < 5


def test_films_that_browsers_do_not_play_have_previews(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.choose("new.mkv")
    visitor.ask("something red")
    visitor.page.locator("a.moment-tile").first.click()
    visitor.wait(
        lambda: visitor.video("currentTime") > 0.2 and "ready" in visitor.page.get_attribute("#player", "class")
    )
    assert "/previews/" in visitor.video("currentSrc")
    start = float(visitor.page.locator("a.moment-tile").first.get_attribute("data-start"))
    offset = float(re.search(r"start=([\d.]+)", visitor.video("currentSrc"))[1])
    assert start - 0.1 <= offset + visitor.video("currentTime") < start + 3
    visitor.wait(lambda: re.match(r"0:\d\d of 0:36", visitor.page.inner_text(".playing-time")) is not None)
    visitor.page.evaluate(f"document.querySelector('#player video').currentTime = {14 - offset}")
    visitor.wait(lambda: not visitor.video("seeking"))
    shown = picture(visitor)
    assert shown[0] > 150 > shown[1]


def test_a_search_leads_into_the_film(visit: Callable[[], Visitor]) -> None:
    visitor = visit()
    visitor.ask("something blue")
    first = visitor.page.locator(".moment-tiles li").first
    assert HOSTILE in first.inner_text()
    assert visitor.page.locator(".moment-tiles img").first.evaluate(
        "async (i) => { await i.decode(); return i.naturalWidth }"
    )
    first.locator("a.moment-tile").click()
    visitor.wait(lambda: visitor.video("currentTime") > 17)
    assert HOSTILE in visitor.page.inner_text("#player .playing-name")
    with visitor.page.expect_download(timeout=60_000) as waiting:
        first.locator("a.get").click()
    assert waiting.value.suggested_filename.endswith(".mp4")
    assert Path(waiting.value.path()).stat().st_size > 500
    assert visitor.said == []


def test_nothing_is_run_that_somebody_wrote(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    visitor = visit()
    for name in ("All ", HOSTILE):
        if name != "All ":
            visitor.choose(name)
        for text in (HOSTILE, "<script>alert(2)</script> ${alert(3)} {{7*7}}", "javascript:alert(4)"):
            visitor.ask(text)
            assert text in visitor.page.inner_text(".served h3")
    film = write_film(tmp_path / f"{HOSTILE}'\".mp4", (4, GREY), (4, RED))
    assert visitor.upload(film) == ""
    visitor.ask("something red")
    visitor.page.wait_for_timeout(500)
    assert HOSTILE in visitor.page.inner_text("#player .playing-name")
    assert visitor.said == []


def test_two_people_have_their_own_films(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    one, other = visit(), visit()
    assert one.upload(write_film(tmp_path / "first.mp4", (5, GREY), (5, RED), (5, GREY))) == ""
    assert other.upload(write_film(tmp_path / "second.mp4", (5, BLUE), (5, GREY))) == ""
    for visitor, text in ((one, "something red"), (other, "something blue")):
        visitor.page.fill(QUESTION, text)
    one.page.click("#find")
    other.page.click("#find")
    for visitor, name in ((one, "first.mp4"), (other, "second.mp4")):
        visitor.page.wait_for_selector(".served h3", timeout=60_000)
        visitor.page.wait_for_function("document.querySelector('#player video').readyState >= 2")
        assert visitor.page.inner_text("#player .playing-name") == name
    key = one.page.get_attribute(".served[data-key]", "data-key")
    assert one.context.request.get(f"{one.server.address}films/{key}").status == 200
    for place in ("films/{}", "stills/{}?at=1", "previews/{}?start=0&end=2", "cuts/{}?start=0&end=2"):
        assert other.context.request.get(f"{one.server.address}{place.format(key)}").status == 404
    assert "second.mp4" not in one.page.content()


def test_uploads_that_are_refused_say_why(visit: Callable[[], Visitor], tmp_path: Path) -> None:
    visitor = visit()
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1024 * 1024 + 1))
    text = tmp_path / "text.mp4"
    text.write_text("no film at all\n" * 100)
    good = write_film(tmp_path / "good.mp4", (3, RED))
    assert "at most 1 MB" in visitor.upload(large)
    assert "no film that can be read" in visitor.upload(text)
    assert "at most 30 s" in visitor.upload(write_film(tmp_path / "long.mp4", (31, GREY)))
    assert [visitor.upload(good), visitor.upload(good)] == ["", ""]
    assert "at most 2" in visitor.upload(good)
    assert len(os.listdir(next(visitor.server.temporary.glob("mesm-serve-*")) / "uploads")) >= 2


def test_nothing_else_of_this_machine_can_be_read(visit: Callable[[], Visitor], films: Path) -> None:
    visitor = visit()
    host, port = urlsplit(visitor.server.address).hostname, urlsplit(visitor.server.address).port
    cookie = "; ".join(f"{one['name']}={one['value']}" for one in visitor.context.cookies())
    places = ["/etc/passwd", f"{films}/portrait.mp4", f"{films}/../films/portrait.mp4", "../../../../etc/passwd"]
    starts = [
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/file=",
        "/films/",
        "/stills/",
        "/static/",
        "/assets/",
        "/svelte/",
        "/",
    ]
    for start in starts:
        for place in places:
            for written in (place, place.replace("..", "%2e%2e"), place.replace("/", "%2f")):
                answer = _plainly(host, port, f"GET {start}{written} HTTP/1.1", cookie)
                assert not answer.startswith(b"HTTP/1.1 200"), start + written
                assert b"root:" not in answer
    asked = '{"data": ["/etc/passwd", "x"], "fn_index": 1, "session_hash": "x"}'
    for path in ("/gradio_api/upload", "/gradio_api/run/predict", "/gradio_api/api/predict", "/gradio_api/call/ask"):
        answer = _plainly(host, port, f"POST {path} HTTP/1.1", cookie, asked)
        assert answer.startswith(b"HTTP/1.1 404")


def _plainly(host: str, port: int, line: str, cookie: str, body: str = "") -> bytes:
    """Send a request as it is written, which clients would tidy, and return the answer."""
    with socket.create_connection((host, port), timeout=20) as connection:
        head = f"Host: {host}:{port}\r\nCookie: {cookie}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(f"{line}\r\n{head}{body}".encode())
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def test_films_go_when_their_visitor_leaves(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "tmp") as server:
        visitor = Visitor(browser, server)
        assert visitor.upload(write_film(tmp_path / "film.mp4", (4, GREY), (4, RED))) == ""
        visitor.ask("something red")
        place = next(server.temporary.glob("mesm-serve-*")) / "uploads"
        assert len(os.listdir(place)) == 1
        visitor.leave()
        for _ in range(600):
            if not os.listdir(place):
                break
            time.sleep(0.1)
        assert os.listdir(place) == []
        assert server.end() == 143
        assert not list(server.temporary.glob("mesm-*"))


def test_a_server_that_is_killed_while_a_film_comes_leaves_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path / "tmp")
    parts = urlsplit(server.address)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = (
            f"Host: {parts.netloc}\r\nCookie: mesm_visitor_{parts.port}={'a' * 32}\r\nContent-Length: 1000000\r\n\r\n"
        )
        connection.sendall(f"POST /uploads?name=film.mp4 HTTP/1.1\r\n{head}".encode() + bytes(400_000))
        for _ in range(200):
            coming = [path.stat().st_size for path in server.temporary.glob("mesm-serve-*/uploads/*/film.mp4")]
            if coming:
                break
            time.sleep(0.05)
        assert coming
        server.kill()
    for _ in range(200):
        if not list(server.temporary.glob("mesm-serve-*")):
            break
        time.sleep(0.05)
    assert not list(server.temporary.glob("mesm-serve-*"))


def test_who_breaks_off_leaves_nothing(server: Server) -> None:
    parts = urlsplit(server.address)
    place = next(server.temporary.glob("mesm-serve-*")) / "uploads"
    before = set(os.listdir(place))
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        visitor = f"mesm_visitor_{parts.port}={'b' * 32}"
        head = f"Host: {parts.netloc}\r\nCookie: {visitor}\r\nContent-Length: 900000\r\n\r\n"
        connection.sendall(f"POST /uploads?name=film.mp4 HTTP/1.1\r\n{head}".encode() + bytes(100_000))
        for _ in range(200):
            if set(os.listdir(place)) - before:
                break
            time.sleep(0.05)
        assert set(os.listdir(place)) - before
    for _ in range(200):
        if not set(os.listdir(place)) - before:
            break
        time.sleep(0.05)
    assert not set(os.listdir(place)) - before


def test_a_token_opens_the_page(browser: Any, tmp_path: Path) -> None:
    with serving(tmp_path / "tmp", "--token", "sesame") as server:
        assert server.address.endswith("/?token=sesame")
        context = browser.new_context()
        page = context.new_page()
        bare = server.address.partition("?")[0]
        assert page.goto(bare).status == 401
        for path in ("config", "gradio_api/startup-events", "theme.css"):
            assert context.request.get(bare + path).status == 401
        page.fill("input[name=token]", "open")
        page.click("button")
        assert "not the token" in page.inner_text("main")
        page.fill("input[name=token]", "sesame")
        page.click("button")
        page.wait_for_selector(QUESTION, timeout=60_000)
        assert "token" not in page.url
        context.close()
