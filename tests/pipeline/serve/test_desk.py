"""The page's logic, without Gradio: films, questions, uploads, what is made of films, who may see what."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from colours import BLUE, GREEN, GREY, RED, colour_model, write_film
from kept_pool import KeptPool, kept_pools

from mesm.pipeline.index.store import IndexStore
from mesm.pipeline.index.video_index import VideoIndex
from mesm.pipeline.serve import desk as desk_module
from mesm.pipeline.serve import uploads as uploads_module
from mesm.pipeline.serve.asking import Asker
from mesm.pipeline.serve.desk import EVERYTHING, Desk
from mesm.pipeline.serve.films import GoneError
from mesm.pipeline.serve.limits import Limits
from mesm.pipeline.serve.scratch import Scratch
from mesm.pipeline.serve.uploads import UploadError
from mesm.pipeline.serve.workshop import Workshop
from mesm.pipeline.show.source import Source

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    with kept_pools(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads_module, "DecodePool", KeptPool.of)
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    films = folder / "films"
    films.mkdir()
    write_film(films / "it's a film.mp4", (10, GREY), (8, RED), (12, GREEN), (6, GREY))
    write_film(films / f"{HOSTILE}.mp4", (30, GREY), (10, BLUE), (10, GREY))
    model = colour_model()
    VideoIndex(IndexStore.create_or_open(folder / "index", "colours", [model.encoder]), model).add([films])
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    with Scratch(tmp_path) as scratch:
        yield scratch


@pytest.fixture
def desk(archive: Path, scratch: Scratch) -> Iterator[Desk]:
    with open_desk(archive, scratch, Limits(uploads=2)) as desk:
        yield desk


def open_desk(archive: Path | None, scratch: Scratch, limits: Limits) -> Desk:
    def opener() -> Asker:
        model = colour_model()
        return Asker(model, IndexStore.open(archive / "index") if archive else None, model)

    return Desk(opener, scratch, limits)


def key_of(desk: Desk, name: str, visitor: str = "a") -> str:
    return next(key for shown, key in desk.choices(visitor) if name in shown)


def upload(desk: Desk, path: Path, visitor: str = "a", name: str = "") -> str:
    content = path.read_bytes()
    coming = desk.uploads.begin(visitor, name or path.name, len(content))
    desk.uploads.write(coming, content)
    return desk.take(coming).key


def test_a_question_about_one_film_has_its_moment_first(desk: Desk) -> None:
    key = key_of(desk, "it's a film")
    (page,) = desk.ask(key, " something green ", "a")
    start, end = map(float, re.search(r'data-first="([\d.]+)" data-last="([\d.]+)"', page).groups())
    assert abs(start - 18) <= 2.0
    assert abs(end - 30) <= 2.0
    assert f'data-key="{key}"' in page
    assert "“something green”" in page
    assert page.count(f"stills/{key}?at=") > 12
    assert '<polyline class="line"' in page


def test_a_search_finds_the_film(desk: Desk) -> None:
    assert desk.choices("a")[0] == ("All 2 films", EVERYTHING)
    (page,) = desk.ask(EVERYTHING, "blue", "a")
    first = re.search(r'<li data-key="(\w+)".*?data-start="([\d.]+)"', page, re.DOTALL)
    assert first[1] == key_of(desk, HOSTILE)
    assert abs(float(first[2]) - 30) <= 2.0


def test_nothing_that_visitors_or_files_say_is_html(desk: Desk) -> None:
    pages = [*desk.ask(EVERYTHING, HOSTILE, "a"), *desk.ask(key_of(desk, HOSTILE), HOSTILE, "a")]
    pages.append(desk.choose(key_of(desk, HOSTILE), "a"))
    for page in pages:
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page


@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "", None, 7, "0" * 32, ["*"]])
def test_films_are_known_by_keys_alone(desk: Desk, key: object) -> None:
    (page,) = desk.ask(key, "green", "a")
    assert "notice" in page
    with pytest.raises(GoneError):
        desk.film(key if isinstance(key, str) else "", "a")


@pytest.mark.parametrize("text", ["", "  ", None, 5])
def test_an_empty_question_is_said(desk: Desk, text: object) -> None:
    (page,) = desk.ask(EVERYTHING, text, "a")
    assert "Describe the moment" in page


def test_a_file_that_was_exchanged_is_not_sent(archive: Path, desk: Desk, tmp_path: Path) -> None:
    film = desk.film(key_of(desk, "it's a film"), "a")
    with film.open() as file:
        assert file.read() == film.path.read_bytes()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    kept = film.path.rename(film.path.with_suffix(".kept"))
    try:
        film.path.symlink_to(secret)
        with pytest.raises(GoneError, match="changed"):
            film.open()
        workshop = Workshop(Scratch(tmp_path / "other"), Limits())
        with pytest.raises(GoneError):
            workshop.still(film, "1")
        film.path.unlink()
        with pytest.raises(GoneError, match="not there"):
            film.open()
        (page,) = desk.ask(EVERYTHING, "green", "a")
        assert "missing" in page
        assert f'data-key="{film.key}"' not in page
    finally:
        kept.rename(film.path)


def test_an_upload_is_its_visitors_own_and_goes_with_them(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_film(tmp_path / "my.mp4", (6, GREY), (6, RED), (6, GREY))
    desk.enter("a")
    key = upload(desk, film, name=f"../../{HOSTILE}.mp4")
    assert desk.choices("a")[0] == (f"{HOSTILE}.mp4 (yours)", key)
    assert all(key != other for _, other in desk.choices("b"))
    with pytest.raises(GoneError):
        desk.film(key, "b")
    (answer,) = list(desk.ask(key, "red", "b"))
    assert "not here" in answer
    *_, page = desk.ask(key, "red", "a")
    assert abs(float(re.search(r'data-first="([\d.]+)"', page)[1]) - 6) <= 2.0
    place = desk.film(key, "a").path
    assert place.is_relative_to(tmp_path)
    desk.leave("a")
    desk.sweep()
    assert place.exists()
    monkeypatch.setattr(desk_module, "AWAY_S", -1.0)
    desk.sweep()
    assert not place.parent.exists()
    with pytest.raises(GoneError):
        desk.film(key, "a")


def test_a_second_question_decodes_nothing(desk: Desk, tmp_path: Path) -> None:
    key = upload(desk, write_film(tmp_path / "my.mp4", (6, GREY), (6, RED), (6, GREY)))
    list(desk.ask(key, "red", "a"))
    desk.film(key, "a").path.write_bytes(b"gone")
    started = time.process_time()
    *_, page = desk.ask(key, "grey", "a")
    assert time.process_time() - started < 0.5
    assert "“grey”" in page


def test_a_film_beside_no_index_can_be_asked(scratch: Scratch, tmp_path: Path) -> None:
    with open_desk(None, scratch, Limits()) as desk:
        assert desk.choices("a") == []
        key = upload(desk, write_film(tmp_path / "my.webm.mp4", (6, GREY), (6, BLUE)))
        *_, page = desk.ask(key, "blue", "a")
        assert "data-first" in page
        (page,) = desk.ask(EVERYTHING, "blue", "a")
        assert "not here" in page


def test_previews_and_cuts_begin_where_they_are_asked_to(desk: Desk, scratch: Scratch) -> None:
    workshop, film = Workshop(scratch, Limits(cut_s=20, preview_s=20)), desk.film(key_of(desk, "it's a film"), "a")
    for _ in range(2):
        with workshop.preview(film, "17", "20") as preview:
            made = Source.of(Path(f"/proc/self/fd/{preview.fileno()}").resolve())
        assert abs(made.info.duration_s - 3) < 0.1
    file, name = workshop.cut(film, "18.0", "99")
    with file:
        assert abs(Source.of(Path(f"/proc/self/fd/{file.fileno()}").resolve()).info.duration_s - 18) < 0.11
    assert name == "it_s a film_18.00-36.00.mp4"
    for start, end in (
        ("0", "30"),
        ("5", "5"),
        ("9", "3"),
        ("nan", "3"),
        ("-1", "3"),
        ("0", "inf"),
        ("x", ""),
        ("99", "100"),
    ):
        with pytest.raises(desk_module.PipelineError):
            workshop.preview(film, start, end)
    with workshop.still(film, "20") as still:
        assert still.read(2) == b"\xff\xd8"
    workshop.forget(film.key)
    assert not [*(scratch.path / "made").iterdir(), *(scratch.path / "stills").iterdir()]


def test_uploads_are_bounded(scratch: Scratch, tmp_path: Path) -> None:
    film = write_film(tmp_path / "my.mp4", (6, GREY))
    size = film.stat().st_size
    limits = Limits(upload_bytes=size, upload_s=5.0, uploads=2, all_bytes=3 * size)
    with open_desk(None, scratch, limits) as desk:
        for wrong, status in ((size + 1, 413), (0, 415), (-1, 411)):
            with pytest.raises(UploadError) as refused:
                desk.uploads.begin("a", "my.mp4", wrong)
            assert refused.value.status == status
        with pytest.raises(UploadError, match="6 s") as refused:
            upload(desk, film)
        assert refused.value.status == 422
        first = desk.uploads.begin("a", "x", size)
        desk.uploads.begin("a", "x", size)
        with pytest.raises(UploadError, match="2 films") as refused:
            desk.uploads.begin("a", "x", size)
        assert refused.value.status == 429
        desk.uploads.begin("b", "x", size)
        with pytest.raises(UploadError, match="no room") as refused:
            desk.uploads.begin("b", "x", size)
        assert refused.value.status == 507
        with pytest.raises(UploadError, match="announced"):
            desk.uploads.write(first, bytes(size + 1))
        desk.uploads.write(first, bytes(size - 1))
        with pytest.raises(UploadError, match="whole"):
            desk.uploads.finish(first)
        assert not first.folder.exists()
        assert len(list((scratch.path / "uploads").iterdir())) == 2


@pytest.mark.parametrize("content", [b"just text, whatever it is called\n" * 50, b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"])
def test_an_upload_is_judged_by_its_content(scratch: Scratch, content: bytes) -> None:
    with open_desk(None, scratch, Limits()) as desk:
        coming = desk.uploads.begin("a", "film.mp4", len(content))
        desk.uploads.write(coming, content)
        with pytest.raises(UploadError, match="no film") as refused:
            desk.take(coming)
        assert refused.value.status == 415
        assert not coming.folder.exists()


def test_visitors_who_give_no_sign_lose_their_films(
    scratch: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "SWEEP_S", 1000.0)
    with open_desk(None, scratch, Limits(idle_s=0.0)) as desk:
        key = upload(desk, write_film(tmp_path / "my.mp4", (3, GREY)))
        list(desk.ask(key, "red", "a"))
        time.sleep(0.01)
        desk.sweep()
        assert desk.choices("a") == []
        assert os.listdir(scratch.path / "uploads") == []
