"""Films into an index: each content once, whatever is broken, moved, copied, changed or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from colours import BLUE, GREY, RED, ColourFrames, write_film

from mesm.pipeline.config.errors import PipelineError
from mesm.pipeline.index import build
from mesm.pipeline.index.build import add_files, remove
from mesm.pipeline.index.catalogue import CATALOGUE_FILE, Catalogue, Cue, Film, IndexedFile
from mesm.pipeline.index.store import INDEX_FILE, IndexStore
from mesm.pipeline.run.text_files import publish_facts, read_facts


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "a.mp4", (8, GREY), (6, RED), (8, GREY))
    write_film(folder / "b.mp4", (6, BLUE), (14, GREY))
    return folder


@pytest.fixture
def place(films: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(films, tmp_path / "films"))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexStore]:
    opened = IndexStore.create_or_open(tmp_path / "index", "colours", [ColourFrames()])
    yield opened
    opened.close()


def names(index: IndexStore) -> list[str]:
    films = index.catalogue.films()
    return sorted(file.path.name for file in index.catalogue.files().values() if file.film_id in films)


def test_a_folder_is_added_once(index: IndexStore, place: Path) -> None:
    first = add_files(index, [place], [ColourFrames()])
    assert (first.encoded, first.failed, names(index)) == (2, [], ["a.mp4", "b.mp4"])
    assert len(index.matrix) == 22 + 20
    again = add_files(index, [place], [ColourFrames()])
    assert (again.encoded, again.known, again.unchanged) == (0, 0, 2)
    film = next(file.film_id for file in index.catalogue.files().values() if file.path.name == "a.mp4")
    assert index.catalogue.films()[film] == Film(film, (place / "a.mp4").stat().st_size, 22.0, 64, 48)
    picture = index.catalogue.thumbnail(film, 16.0)
    assert picture is not None
    assert picture[:2] == b"\xff\xd8"


def test_moved_and_copied_films_are_not_decoded_again(
    index: IndexStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(index, [place], [ColourFrames()])
    (place / "a.mp4").rename(place / "c.mp4")
    shutil.copy(place / "b.mp4", place / "-b again.mp4")
    monkeypatch.setattr(ColourFrames, "encode", lambda *_: pytest.fail("encoded again"))
    report = add_files(index, [place], [ColourFrames()], prune=True)
    assert (report.encoded, report.known, report.pruned) == (0, 2, 1)
    assert names(index) == ["-b again.mp4", "b.mp4", "c.mp4"]


def test_what_is_gone_stays_until_it_is_pruned(index: IndexStore, place: Path) -> None:
    add_files(index, [place], [ColourFrames()])
    (place / "a.mp4").unlink()
    assert [path.name for path in add_files(index, [place], [ColourFrames()]).gone] == ["a.mp4"]
    assert names(index) == ["a.mp4", "b.mp4"]
    add_files(index, [place], [ColourFrames()], prune=True)
    assert names(index) == ["b.mp4"]
    assert len(index.matrix) == 20
    with pytest.raises(PipelineError, match="no such thing"):
        add_files(index, [place / "nowhere"], [ColourFrames()], prune=True)
    assert names(index) == ["b.mp4"]


def test_a_film_that_changed_is_decoded_again(index: IndexStore, place: Path) -> None:
    add_files(index, [place], [ColourFrames()])
    write_film(place / "a.mp4", (5, BLUE))
    assert add_files(index, [place], [ColourFrames()]).encoded == 1
    assert len(index.matrix) == 5 + 20
    assert index.catalogue.counts()["films"] == 2


def test_broken_files_stop_nobody(index: IndexStore, place: Path) -> None:
    (place / "empty.mp4").touch()
    (place / "text.mp4").write_text("this is no film")
    os.symlink(place / "nowhere", place / "dangling.mp4")
    os.mkfifo(place / "pipe.mp4")
    odd = place / b"caf\xe9 'x'\n.mp4".decode("utf-8", "surrogateescape")
    (place / "b.mp4").rename(odd)
    report = add_files(index, [place], [ColourFrames()])
    assert sorted(one.path.name for one in report.failed) == ["dangling.mp4", "empty.mp4", "pipe.mp4", "text.mp4"]
    assert names(index) == sorted(["a.mp4", odd.name])
    assert len(index.catalogue.failures()) == 4
    write_film(place / "text.mp4", (3, RED))
    assert len(add_files(index, [place], [ColourFrames()]).failed) == 3
    assert len(index.catalogue.failures()) == 3


def test_files_and_folders_are_removed(index: IndexStore, place: Path) -> None:
    add_files(index, [place], [ColourFrames()])
    assert (remove(index, place / "a.mp4"), names(index)) == (1, ["b.mp4"])
    assert (remove(index, place), names(index)) == (1, [])
    assert (remove(index, place), len(index.matrix)) == (0, 0)


class Killed(BaseException):
    """Stands for a kill at a write point."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["extract:probed", "extract:video-complete", "shard:half-written", "shard:renamed", "extract:shard-published"],
)
def test_after_a_kill_the_same_command_goes_on(
    index: IndexStore, place: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(name: str) -> None:
        if name == point:
            raise Killed

    with monkeypatch.context() as patch:
        for module in ("extract.run", "extract.lane"):
            patch.setattr(f"mesm.pipeline.{module}.write_point", kill)
        patch.setattr("mesm.datasets.shards.publishing.write_point", kill)
        patch.setattr(build._Round, "_enter", lambda *_: None)
        with pytest.raises(Killed):
            add_files(index, [place], [ColourFrames()])
    index.close()
    opened = IndexStore.create_or_open(index.path, "colours", [ColourFrames()])
    add_files(opened, [place], [ColourFrames()])
    assert names(opened) == ["a.mp4", "b.mp4"]
    assert len(opened.matrix) == 42
    assert sorted(path.name for path in opened.folder.path.iterdir() if path.name.startswith(".tmp")) == []


def test_a_lost_catalogue_is_made_anew_without_encoding(
    index: IndexStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(index, [place], [ColourFrames()])
    index.close()
    (index.path / CATALOGUE_FILE).write_bytes(b"torn")
    with pytest.raises(PipelineError, match=r"damaged.*delete it"):
        IndexStore.open(index.path)
    for file in index.path.glob(f"{CATALOGUE_FILE}*"):
        file.unlink()
    with pytest.raises(PipelineError, match="run index again"):
        IndexStore.open(index.path)
    monkeypatch.setattr(ColourFrames, "encode", lambda *_: pytest.fail("encoded again"))
    opened = IndexStore.create_or_open(index.path, "colours", [ColourFrames()])
    add_files(opened, [place], [ColourFrames()])
    assert names(opened) == ["a.mp4", "b.mp4"]


@pytest.mark.slow
def test_lost_facts_are_made_anew_without_encoding(
    index: IndexStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_files(index, [place], [ColourFrames()])
    index.close()
    facts = index.path / INDEX_FILE
    facts.write_text(facts.read_text().replace("1.0", "2.0"))
    with pytest.raises(PipelineError, match=r"it was changed.*delete it and catalogue.sqlite"):
        IndexStore.open(index.path)
    for file in (facts, *index.path.glob(f"{CATALOGUE_FILE}*")):
        file.unlink()
    monkeypatch.setattr(ColourFrames, "encode", lambda *_: pytest.fail("encoded again"))
    opened = IndexStore.create_or_open(index.path, "colours", [ColourFrames()])
    add_files(opened, [place], [ColourFrames()])
    assert names(opened) == ["a.mp4", "b.mp4"]
    assert len(opened.matrix) == 42


def test_other_models_versions_and_folders_are_refused(index: IndexStore, tmp_path: Path) -> None:
    class Other(ColourFrames):
        spec = {"encoder": "colour", "weights": "other"}  # noqa: RUF012

    with pytest.raises(PipelineError, match=r"was made by colours.*others makes other vectors"):
        IndexStore.create_or_open(index.path, "others", [Other()])
    with pytest.raises(PipelineError, match="cannot be compared"):
        index.refuse_other_model("others", Other.spec)
    with pytest.raises(PipelineError, match="is no index; make one by"):
        IndexStore.open(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(PipelineError, match="is there already and is no index"):
        IndexStore.create_or_open(tmp_path / "full", "colours", [ColourFrames()])
    index.catalogue.rows("PRAGMA user_version=7")
    with pytest.raises(PipelineError, match=r"version 7.*reads version 1"):
        IndexStore.open(index.path)
    facts = index.path / INDEX_FILE
    publish_facts(facts, {**read_facts(facts), "format": 3})
    with pytest.raises(PipelineError, match="format 3"):
        IndexStore.open(index.path)
    facts.write_text("{")
    with pytest.raises(PipelineError, match="damaged"):
        IndexStore.open(index.path)


def test_a_catalogue_keeps_all_or_nothing(tmp_path: Path) -> None:
    catalogue = Catalogue.create_or_open(tmp_path / "catalogue.sqlite")
    catalogue.add_film(Film("x", 1, 2.0, 3, 4), [(0.5, b"picture")])
    with pytest.raises(PipelineError):
        catalogue.add_film(Film("x", 1, 2.0, 3, 4), [(0.5, b"one"), (0.5, b"two")])
    assert catalogue.thumbnail("x", 0.0) == b"picture"
    catalogue.add_norms([("x", np.ones(2, np.float32))])
    catalogue.add_file(IndexedFile(tmp_path / "x.mp4", 1, 2, "x"), [Cue(0, 1, "the door", "track 1")])
    catalogue.add_file(IndexedFile(tmp_path / "x.mp4", 1, 2, "x"), [Cue(0, 2, "the window", "track 1")])
    assert [cue.text for cue in catalogue.cues("x")] == ["the window"]
    assert catalogue.rows("SELECT count(*) FROM spoken WHERE spoken MATCH 'door'") == [(0,)]
    assert catalogue.remove_files([tmp_path / "x.mp4"]) == ["x"]
    assert (catalogue.counts()["films"], catalogue.cues("x"), catalogue.thumbnail("x", 0.0)) == (0, [], None)
    assert catalogue.rows("SELECT count(*) FROM spoken WHERE spoken MATCH 'window'") == [(0,)]


def test_writers_wait_for_one_another(index: IndexStore, place: Path) -> None:
    with build.only_writer(index.path):
        other = Catalogue.open(index.path / CATALOGUE_FILE)
        before = other.state()
        index.catalogue.set_fact("x", b"1")
        assert other.state() != before
        other.close()


def test_a_damaged_schema_of_the_catalogue_is_told(index: IndexStore) -> None:
    index.close()
    file = index.path / CATALOGUE_FILE
    content = file.read_bytes()
    assert content.count(b"tablefilmsfilms") == 1
    file.write_bytes(content.replace(b"tablefilmsfilms", b"tablef\xe9lmsfilms"))
    with pytest.raises(PipelineError, match=r"catalogue\.sqlite"):
        IndexStore.open(index.path).catalogue.films()
