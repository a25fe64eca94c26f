"""Players, stills and the page: what is started, which pictures are chosen, what the page may and may not run."""

from __future__ import annotations

import html.parser
import inspect
import os
import re
import stat
import sys
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from films import film, found, numbers_in
from media import B_FRAMES, FILMS, Film, make_film, read_number, x264
from PIL import Image

from mesm.extractors.errors import ProbeError
from mesm.pipeline import cli
from mesm.pipeline.commands.showing import Showing, with_showing
from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.ground.answer_lines import answer_line
from mesm.pipeline.show.clips import Sources
from mesm.pipeline.show.page import relative_link, write_page
from mesm.pipeline.show.player import play, player_command
from mesm.pipeline.show.source import Source
from mesm.pipeline.show.stills import best_frames, quality, write_stills


@pytest.mark.parametrize(
    ("player", "arguments"),
    [
        ("mpv", ["--start=12.500", "--", "/films/-a b.mp4"]),
        ("vlc", ["--start-time=12.500", "/films/-a b.mp4"]),
        ("ffplay", ["-v", "error", "-autoexit", "-ss", "12.500", "-i", "file:/films/-a b.mp4"]),
    ],
)
def test_each_player_starts_at_the_second(player: str, arguments: list[str]) -> None:
    here = {player: f"/usr/bin/{player}"}
    assert player_command(Path("/films/-a b.mp4"), 12.5, here.get) == [f"/usr/bin/{player}", *arguments]
    assert player_command(Path("/films/a.mp4"), 12.5, {}.get) is None


def test_the_player_is_started_without_a_shell(tmp_path: Path) -> None:
    source = film(tmp_path, "a $(touch ran); 'b'.mp4")
    told = tmp_path / "told"
    program = tmp_path / "mpv"
    program.write_text(f"#!{sys.executable}\nimport sys\nopen({str(told)!r}, 'w').write('\\n'.join(sys.argv[1:]))\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    os.mkfifo(tmp_path / "done")
    program.write_text(program.read_text() + f"open({str(tmp_path / 'done')!r}, 'w').close()\n")
    assert play(source.path, 1.25, which={"mpv": str(program)}.get) == "mpv"
    (tmp_path / "done").read_text()
    assert told.read_text().split("\n") == ["--start=1.250", "--", str(source.path)]
    assert not Path("ran").exists()


def test_the_browser_plays_where_no_player_is(tmp_path: Path) -> None:
    source, asked = film(tmp_path, "a#b?.mp4"), []

    def browse(address: str) -> bool:
        asked.append(address)
        return len(asked) < 3

    assert play(source.path, 1.25, which={}.get, browse=browse) == "the browser"
    assert play(source.path, 1.25, tmp_path / "page.html", {}.get, browse) == "the browser"
    assert asked == [f"file://{tmp_path}/a%23b%3F.mp4#t=1.250", f"file://{tmp_path}/page.html"]
    with pytest.raises(PipelineError, match="none of mpv, vlc, ffplay is here"):
        play(source.path, 1.25, which={}.get, browse=browse)


def test_only_films_are_played(tmp_path: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{film(tmp_path).path}\n")
    for path in (playlist, tmp_path / "gone.mp4", tmp_path):
        with pytest.raises(ProbeError, match=path.name):
            play(path, 1.25, which={"mpv": "/no/such/player"}.get)


def test_sharp_pictures_are_better_than_blurred_dark_and_blown_out_ones() -> None:
    sharp = np.random.default_rng(0).integers(30, 220, (60, 80, 3), np.uint8)
    blurred = np.array(Image.fromarray(sharp).resize((20, 15)).resize((80, 60)))
    assert quality(sharp) > quality(blurred) > quality(np.full_like(sharp, 120))
    assert quality(sharp) > quality(np.where(np.arange(80)[None, :, None] < 50, 0, sharp).astype(np.uint8))
    assert quality(np.zeros((2, 1, 3), np.uint8)) == 0


def test_stills_are_spread_over_the_moment_and_true_to_their_second(tmp_path: Path) -> None:
    source = film(tmp_path, frames=200)
    written = write_stills(source, 1.0, 7.0, tmp_path / "stills", "a", force=False)
    numbers = [read_number(np.array(Image.open(path))) for path in written]
    assert [path.name for path in written] == [f"a_at_{number / 25:.2f}.jpg" for number in numbers]
    assert len(numbers) == 5
    parts = [(number - 25 - 7) * 5 // (175 - 25 - 14) for number in numbers if number is not None]
    assert parts == [0, 1, 2, 3, 4]
    with pytest.raises(PipelineError, match="--force"):
        write_stills(source, 1.0, 7.0, tmp_path / "stills", "a", force=False)
    assert write_stills(source, 1.0, 7.0, tmp_path / "stills", "a", force=True) == written


def test_the_best_still_of_each_part_is_the_sharp_one(tmp_path: Path) -> None:
    """Of frames that are grey but for one in each fifth, that one is chosen."""
    import av

    path, sharp = tmp_path / "a.mp4", {4, 14, 27, 31, 44}
    noise = np.random.default_rng(1).integers(40, 200, (64, 96, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(50):
            picture = noise if number in sharp else np.full_like(noise, 100)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert [number for number, _ in best_frames(Source.of(path), 0, 2)] == sorted(sharp)


def test_a_moment_of_few_frames_has_fewer_stills(tmp_path: Path) -> None:
    assert [number for number, _ in best_frames(film(tmp_path), 0.4, 0.48)] == [10, 11]


@pytest.mark.parametrize("kind", ["h264 open gop", "h264 avi", "h264 ts", "mpeg2 ts", "h264 edit list", "h264 vfr mkv"])
def test_frames_are_found_by_seeking(kind: str, tmp_path: Path) -> None:
    subject = FILMS[kind]
    source = Source.of(make_film(subject, tmp_path))
    with source.open() as stream:
        for wanted in ([30, 3, 17], [31], [0], range(source.info.frame_count)):
            shown = {number: read_number(picture) for number, picture in stream.pictures_of(wanted)}
            assert shown == {number: subject.numbers[number] for number in sorted(wanted)}
        small = dict(stream.pictures_of([5], (32, 48)))
    assert small[5].shape == (32, 48, 3)


class Parts(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in {"script", "style"}:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


HOSTILE = "</script><img src=x onerror=alert(1)> \"' {{ 7 * 7 }} & <b>"


def test_the_page_shows_hostile_text_and_runs_none(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(2)> 'a' #1?.mp4"
    source = film(tmp_path, name)
    from mesm.pipeline.ground.answers import Evidence

    moments = [found(source.path, 0.4, 1.2, HOSTILE, evidence=(Evidence("words", 1.0, HOSTILE),), notes=(HOSTILE,))]
    out = tmp_path / "pages" / "page.html"
    write_page(out, moments, Sources(), {(source.path, HOSTILE): ([0.5, 1.5], [0.1, 0.9])})
    page = Parts(out.read_text("utf-8"))
    assert page.text.count(HOSTILE) == 3
    assert name in page.text
    assert len(page.named("script")) == 1
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert all(image["src"].startswith("data:image/") for image in page.named("img"))  # type: ignore[union-attr]
    policy = next(meta["content"] for meta in page.named("meta") if meta.get("http-equiv"))
    assert re.search(r"default-src 'none';.* script-src 'sha256-[\w+/=]+'", str(policy))
    (video,) = page.named("video")
    path, _, fragment = str(video["src"]).partition("#")
    assert fragment == "t=0.400"
    assert (out.parent / urllib.parse.unquote(path)).samefile(source.path)
    assert [(a["data-start"], a["data-end"]) for a in page.named("a")] == [("0.400", "1.200")] * 2


def test_the_script_is_the_one_that_the_policy_allows(tmp_path: Path) -> None:
    import base64
    import hashlib

    out = tmp_path / "page.html"
    write_page(out, [found(film(tmp_path).path, 0, 1)], Sources())
    text = out.read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = re.search(r"script-src 'sha256-([^']+)'", text)
    assert script is not None
    assert allowed is not None
    assert base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode() == allowed[1].replace("&#43;", "+")


def test_links_are_relative_and_hold_any_name(tmp_path: Path) -> None:
    page = tmp_path / "a" / "page.html"
    assert relative_link(tmp_path / "b" / "x y.mp4", page) == "./../b/x%20y.mp4"
    assert relative_link(tmp_path / "a" / "http:x.mp4", page) == "./http%3Ax.mp4"
    assert relative_link(tmp_path / "a" / os.fsdecode(b"\xff.mp4"), page) == "./%FF.mp4"


def test_films_that_cannot_be_shown_are_named_and_the_others_shown(tmp_path: Path) -> None:
    source = film(tmp_path)
    hevc = make_film(FILMS["hevc rotated mkv"], tmp_path)
    moments = [found(tmp_path / "gone.mp4", 0, 1), found(source.path, 0, 1), found(hevc, 0, 1)]
    out = tmp_path / "page.html"
    write_page(out, moments, Sources())
    page = Parts(out.read_text("utf-8"))
    assert len(page.named("video")) == 2
    assert "This film cannot be shown" in page.text
    assert "hevc in mkv: not every browser plays this film" in page.text
    assert "3 moments in 3 films" in page.text


def test_show_does_all_that_is_asked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, answers = film(tmp_path), tmp_path / "answers.jsonl"
    moments = [found(source.path, 0.4, 1.2, score=0.9), found(source.path, 0, 0.4, score=0.2)]
    answers.write_text("".join(answer_line(moment) + "\n" for moment in moments))
    wanted = {kind: str(tmp_path / kind) for kind in ("html", "srt", "chapters", "edl", "stills", "cut")}
    options = [word for kind, place in wanted.items() for word in (f"--{kind}", place)]
    assert cli.run(["show", str(answers), *options, "--reencode", "--min-score", "0.5"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(r"cut/film_0\.40-1\.20\.mp4 +0\.400 +1\.200\n", printed.err)
    assert numbers_in(tmp_path / "cut" / "film_0.40-1.20.mp4") == list(range(10, 30))
    assert (tmp_path / "srt").read_text().count("-->") == 1
    assert len(os.listdir(wanted["stills"])) == 5
    assert cli.run(["show", str(answers), "--srt", wanted["srt"], "--min-score", "2"]) == 0
    assert "no moment" in capsys.readouterr().err


def test_a_command_takes_the_bundle_in_the_place_of_a_parameter(tmp_path: Path) -> None:
    def find(film: Path, count: int = 3, *, showing: Showing) -> int:
        """Find."""
        return count if showing.html == film and showing.force else -1

    bundled = with_showing(find)
    names = list(inspect.signature(bundled).parameters)
    assert names[:2] == ["film", "count"]
    assert {"cut", "html", "edl", "otio", "srt", "chapters", "stills", "open", "min_score"} <= set(names)
    assert bundled(film=tmp_path, html=tmp_path, force=True, count=7) == 7

    def clashing(html: str, showing: Showing) -> int:
        return 0

    with pytest.raises(TypeError, match="html"):
        with_showing(clashing)


@pytest.mark.slow
def test_the_page_plays_in_a_browser(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)
    if browser_path is None:
        pytest.skip("there is no Chromium here")
    source = Source.of(make_film(Film("it's <i>a film.mp4", x264(B_FRAMES), frames=250), tmp_path))
    out = tmp_path / "page.html"
    moments = [found(source.path, 2.0, 3.0, HOSTILE), found(source.path, 6.0, 9.0, HOSTILE)]
    write_page(out, moments, Sources())
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.goto(out.as_uri())
        for card, start in ((0, 2.0), (1, 6.0), (0, 2.0)):
            page.locator(".card").nth(card).click()
            for _ in range(100):
                time_s = page.evaluate("document.querySelector('video').currentTime")
                if abs(time_s - start) < 0.5:
                    break
                page.wait_for_timeout(20)
            assert start - 0.05 <= time_s < start + 0.5
        page.wait_for_timeout(1800)
        assert page.evaluate("document.querySelector('video').paused")
        assert said == []
        browser.close()
