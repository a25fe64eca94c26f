from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from layouts import blob, golden_state, write_checkpoint
from networks import TINY_CLIP

from mesm.extractors.encoders.c3d import CHANNEL_MEANS
from mesm.extractors.encoders.clip import make_clip
from mesm.extractors.encoders.registry import create_video_encoder
from mesm.extractors.errors import WeightsError
from mesm.extractors.weights import sources as weights
from mesm.extractors.weights.downloads import download
from mesm.extractors.weights.sources import WeightSources, WeightsRequest, find_weights
from mesm.extractors.weights.table import WEIGHTS

CONTENT = bytes(range(256)) * 4096


@dataclass
class Site:
    """What a local server gives, and what it was asked."""

    content: bytes = CONTENT
    etag: str = '"one"'
    kind: str = "application/octet-stream"
    stop_after: int | None = None
    ranges: bool = True
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range")
        site.asked.append(wanted)
        if site.status != 200:
            self.send_error(site.status)
            return
        start = 0
        if wanted and site.ranges and self.headers.get("If-Range") == site.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(site.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", site.etag)
        self.send_header("Content-Type", site.kind)
        self.send_header("Content-Length", str(len(site.content) - start))
        self.end_headers()
        self.wfile.write(site.content[start : start + site.stop_after if site.stop_after else None])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": served}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/weights.bin"
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def add_entry(monkeypatch, site: Site, **changes) -> weights.WeightsEntry:
    entry = replace(weights.WeightsEntry("local", site.url, licence="none", layout="bytes"), **changes)
    monkeypatch.setattr(weights, "WEIGHTS", {**WEIGHTS, "local": entry})
    return entry


def names_in(folder: Path) -> list[str]:
    """Names of a folder's files but the locks, which some versions of filelock remove and some leave."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def no_problems(_path: Path) -> list[str]:
    return []


def test_a_download_is_whole_and_reports_its_progress(site, tmp_path):
    heard = []
    target = tmp_path / "deep" / "weights.bin"
    download(site.url, target, no_problems, lambda done, total: heard.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert heard == sorted(heard)
    assert names_in(target.parent) == ["weights.bin"]


def test_an_interrupted_download_continues(site, tmp_path):
    target = tmp_path / "weights.bin"
    site.stop_after = 100_000
    with pytest.raises(WeightsError, match=f"100000 of {len(CONTENT)} bytes"):
        download(site.url, target, no_problems)
    assert not target.exists()
    site.stop_after = None
    download(site.url, target, no_problems)
    assert target.read_bytes() == CONTENT
    assert site.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("change", ["another file", "no ranges"])
def test_what_cannot_be_continued_starts_anew(change, site, tmp_path):
    target = tmp_path / "weights.bin"
    site.stop_after = 100_000
    with pytest.raises(WeightsError):
        download(site.url, target, no_problems)
    site.stop_after = None
    if change == "another file":
        site.content, site.etag = CONTENT[::-1], '"two"'
    else:
        site.ranges = False
    download(site.url, target, no_problems)
    assert target.read_bytes() == site.content


def test_a_complete_partial_file_is_fetched_again_if_the_server_says_so(site, tmp_path):
    target = tmp_path / "weights.bin"
    (tmp_path / "weights.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "weights.bin.part.version").write_text(site.etag)
    download(site.url, target, no_problems)
    assert target.read_bytes() == CONTENT


def test_several_ask_and_one_fetches(site, tmp_path):
    target = tmp_path / "weights.bin"
    threads = [threading.Thread(target=download, args=(site.url, target, no_problems)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert site.asked == [None]


def test_a_killed_download_lets_the_next_one_in(site, tmp_path):
    target = tmp_path / "weights.bin"
    program = (
        "import os, signal, sys, pathlib\n"
        "from mesm.extractors.weights.downloads import download\n"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]), lambda path: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, site.url, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names_in(tmp_path) == ["weights.bin.part", "weights.bin.part.version"]
    download(site.url, target, no_problems)
    assert target.read_bytes() == CONTENT
    assert names_in(tmp_path) == ["weights.bin"]


def test_a_cache_that_cannot_be_locked_is_an_error(site, tmp_path, monkeypatch):
    def refuse(_descriptor: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(WeightsError, match=r"could not download.*No locks available"):
        download(site.url, tmp_path / "weights.bin", no_problems)
    assert site.asked == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "weights.bin"])
def test_only_web_addresses_are_downloaded_from(url, tmp_path):
    with pytest.raises(WeightsError, match="expected https"):
        download(url, tmp_path / "weights.bin", no_problems)


def test_a_checksum_that_fails_leaves_nothing(site, cache, monkeypatch):
    add_entry(monkeypatch, site, sha256="0" * 64)
    found = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(WeightsError, match=f"its sha256 is {found}, published is 0000"):
        find_weights("local", WeightSources())
    assert names_in(cache) == []


def test_a_checked_download_is_found_again(site, cache, monkeypatch):
    digest = hashlib.sha256(CONTENT).hexdigest()
    blob_id = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    add_entry(monkeypatch, site, sha256=digest[:8], git_sha1=blob_id)
    first = find_weights("local", WeightSources())
    assert first == find_weights("local", WeightSources(download=False))
    assert first.path == cache / "weights.bin"
    assert first.identity == f"sha256:{digest}"
    assert len(site.asked) == 1


def test_a_cached_file_that_changed_is_refused(site, cache, monkeypatch):
    add_entry(monkeypatch, site, sha256=hashlib.sha256(CONTENT).hexdigest())
    path = find_weights("local", WeightSources()).path
    path.write_bytes(b"other")
    with pytest.raises(WeightsError, match="its sha256 is"):
        find_weights("local", WeightSources())


def test_without_a_network_the_error_says_where_to_put_the_file(cache):
    entry = WEIGHTS["openai-clip-vit-b-32"]
    with pytest.raises(WeightsError) as raised:
        create_video_encoder("clip", sources=WeightSources(download=False))
    for part in (entry.url, str(cache / "ViT-B-32.pt"), "--weights openai-clip-vit-b-32=PATH"):
        assert part in str(raised.value)


def test_a_server_that_fails_is_an_error_with_the_same_advice(site, cache, monkeypatch):
    add_entry(monkeypatch, site)
    site.status = 503
    with pytest.raises(WeightsError, match=r"503.*put it at .*weights\.bin"):
        find_weights("local", WeightSources())


def test_a_server_that_is_not_there_is_an_error(cache, monkeypatch):
    entry = replace(WEIGHTS["vgg16-imagenet"], url="http://127.0.0.1:9/vgg.pth")
    monkeypatch.setattr(weights, "WEIGHTS", {"vgg16-imagenet": entry})
    with pytest.raises(WeightsError, match="Connection refused"):
        find_weights("vgg16-imagenet", WeightSources())


def test_a_web_page_is_not_taken_for_the_file(site, cache, monkeypatch):
    add_entry(monkeypatch, site)
    site.kind, site.content = "text/html; charset=utf-8", b"<html></html>"
    with pytest.raises(WeightsError, match="a web page instead of the file"):
        find_weights("local", WeightSources())
    assert not (cache / "weights.bin").exists()


def test_pickles_are_not_even_downloaded_unless_trusted(site, cache, monkeypatch):
    add_entry(monkeypatch, site, needs_trust=True)
    with pytest.raises(WeightsError, match="--trust-pickle"):
        find_weights("local", WeightSources())
    assert site.asked == []
    assert find_weights("local", WeightSources(trust_pickle=True)).trust_pickle


def test_files_are_given_for_names_of_the_table():
    with pytest.raises(WeightsError, match=r"no weights called vgg; the table has .*vgg16-imagenet"):
        WeightSources(files={"vgg": Path("vgg.pth")})


def test_an_unwritable_cache_is_an_error(site, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.setenv("MESM_CACHE", str(tmp_path / "cache"))
    add_entry(monkeypatch, site)
    with pytest.raises(WeightsError, match="could not download"):
        find_weights("local", WeightSources())


def test_a_member_is_taken_out_of_its_archive(site, cache, tmp_path, monkeypatch):
    archive = tmp_path / "vectors.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("vectors.txt", "a 1 2\n")
    site.content = archive.read_bytes()
    add_entry(monkeypatch, site, member="vectors.txt")
    assert find_weights("local", WeightSources()).path.read_text() == "a 1 2\n"
    assert not (cache / "weights.bin").exists()
    site.content = b"no zip"
    (cache / "vectors.txt").unlink()
    with pytest.raises(WeightsError, match=r"not the archive that holds vectors.txt"):
        find_weights("local", WeightSources())


def test_several_ask_for_a_member_and_all_have_it(site, cache, monkeypatch):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("vectors.txt", b"x" * 2_000_000)
    site.content = content.getvalue()
    add_entry(monkeypatch, site, member="vectors.txt")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_weights("local", WeightSources()), range(4)))
    assert {file.path.stat().st_size for file in found} == {2_000_000}
    assert names_in(cache) == ["vectors.txt"]


@pytest.mark.parametrize("ending", [".lock", ".part", ".part.version"])
def test_links_in_a_shared_cache_are_not_followed(site, tmp_path, ending):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"file{ending}").symlink_to(precious)
    with pytest.raises(WeightsError, match="could not download"):
        download(site.url, tmp_path / "cache" / "file", no_problems)
    assert precious.read_text() == "precious"


def test_the_users_file_stands_for_a_name(tmp_path, cache):
    torch.manual_seed(1)
    state = make_clip(TINY_CLIP).state_dict()
    mine = write_checkpoint(state, tmp_path / "mine.pt")
    sources = WeightSources(files={"i3d-r50-pytorchvideo": mine}, download=False)
    found = WeightsRequest("default", sources).resolve("i3d-r50-pytorchvideo")
    assert found.path == mine
    assert WeightsRequest(str(mine), sources).resolve(None).identity == found.identity
    with pytest.raises(WeightsError, match=r"missing.pt is not a file"):
        find_weights("vgg16-imagenet", WeightSources(files={"vgg16-imagenet": tmp_path / "missing.pt"}))
    with pytest.raises(WeightsError, match="its sha256 is"):
        find_weights("vgg16-imagenet", WeightSources(files={"vgg16-imagenet": mine}))


def test_an_unknown_name_lists_the_table(cache):
    with pytest.raises(WeightsError, match=r"no weights 'nothing': .*vgg16-imagenet.*untrained:SEED"):
        WeightsRequest("nothing", WeightSources()).resolve(None)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MESM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_folder() == tmp_path / "mesm-pipeline"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert weights.cache_folder() == tmp_path / "home" / ".cache" / "mesm-pipeline"


def test_every_entry_of_the_table_is_complete():
    for name, entry in WEIGHTS.items():
        assert entry.name == name
        assert entry.url.startswith(("https://", "http://"))
        assert entry.licence
        assert entry.layout
        assert len(entry.git_sha1) in (0, 40)
        assert set(entry.sha256 + entry.git_sha1) <= set("0123456789abcdef")


@pytest.mark.slow
def test_trained_c3d_takes_the_published_mean_cube(tmp_path, cache):
    path = write_checkpoint(golden_state("c3d_sports1m"), tmp_path / "c3d.pickle")
    cube = torch.rand(3, 16, 128, 171)
    mean = tmp_path / "mean.binaryproto"
    mean.write_bytes(blob(cube[None].numpy()))
    with pytest.raises(WeightsError, match="c3d-sports1m-mean"):
        create_video_encoder("c3d", weights=str(path), sources=WeightSources(download=False))
    encoder = create_video_encoder("c3d", weights=str(path), options={"mean_cube": str(mean)})
    assert torch.equal(encoder.mean_cube, cube[:, :, 8:120, 29:141])
    assert encoder.spec["mean_cube"] == f"sha256:{hashlib.sha256(mean.read_bytes()).hexdigest()}"
    channels = create_video_encoder("c3d", weights=str(path), options={"mean_cube": "channels"})
    assert channels.mean_cube.flatten().tolist() == pytest.approx(CHANNEL_MEANS)
    mean.write_bytes(blob(cube[None, :, :8].numpy()))
    with pytest.raises(WeightsError, match=r"shape \(3, 8, 128, 171\); expected \(3, 16, 128, 171\)"):
        create_video_encoder("c3d", weights=str(path), options={"mean_cube": str(mean)})
