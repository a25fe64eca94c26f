"""Folders of feature shards: what goes in comes out, and what is damaged is noticed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import string
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from mesm.datasets.errors import FeatureError
from mesm.datasets.shards import index as shard_index
from mesm.datasets.shards.folder import FeatureFolder, row_count_problem

SPEC = {"encoder": "clip", "mode": "clean", "clip_len_s": 1.0}
NAMES = st.text(string.ascii_letters + string.digits + "._- äß", min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
NUMBERS = st.sampled_from(["<f2", "<f4", "<f8", ">f4", "<i8", "u1", "?"]).map(np.dtype)
FEATURES = arrays.arrays(NUMBERS, st.tuples(st.integers(0, 4), st.integers(1, 3)))


Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount (or remount) a small file system in memory on a folder; skip where that is forbidden."""
    mounted: set[Path] = set()

    def on(place: Path, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system is not allowed here")
        mounted.add(place)

    yield on
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def rows(seed: int, count: int = 3, dim: int = 4) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"features": generator.standard_normal((count, dim)).astype(np.float16)}


def make_folder(root: Path, shards: list[dict[str, int]]) -> FeatureFolder:
    """Publish one shard per dictionary of key to seed."""
    folder = FeatureFolder.create_or_open(root, "clip", SPEC)
    with folder.writer() as writer:
        for shard in shards:
            for key, seed in shard.items():
                writer.add(key, rows(seed), clip_len_s=1.0, duration_s=3.2)
            writer.publish()
    return folder


def contents(folder: FeatureFolder) -> dict[str, dict[str, np.ndarray]]:
    return {key: {name: array.copy() for name, array in folder.read(key).items()} for key in folder}


def assert_same(left: Mapping[str, Mapping[str, np.ndarray]], right: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].keys() == right[key].keys()
        for name in left[key]:
            np.testing.assert_array_equal(left[key][name], right[key][name])


class TestRoundTrip:
    @settings(max_examples=25, deadline=None)
    @given(st.dictionaries(NAMES, FEATURES, max_size=4), st.integers(1, 3))
    def test_numbers_dtypes_and_shapes_survive(
        self, tmp_path_factory: pytest.TempPathFactory, videos: dict[str, np.ndarray], a_shard: int
    ) -> None:
        folder = FeatureFolder.create_or_open(tmp_path_factory.mktemp("root"), "clip", SPEC)
        with folder.writer() as writer:
            for key, array in videos.items():
                writer.add(key, {"features": array})
                if writer.pending == a_shard:
                    writer.publish()
        opened = FeatureFolder.open(folder.path)
        assert list(opened.keys()) == sorted(videos)
        for key, array in videos.items():
            found = opened.read(key)["features"]
            assert found.dtype == array.dtype.newbyteorder("<")
            np.testing.assert_array_equal(found, array)
        assert opened.verify() == []

    def test_everything_known_of_a_video_survives(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        with folder.writer() as writer:
            writer.add(
                "3MSZA",
                rows(1, count=30),
                clip_len_s=np.float32(1.0),  # type: ignore[arg-type]
                duration_s=30.25,
                fps=Fraction(30000, 1001),
                source_size=2**40,
                source_hash="ab" * 32,
                meta={"decoder": "pyav", "crop": (1, 2)},
            )
        record = FeatureFolder.open(folder.path).record("3MSZA")
        assert (record.key, record.rows, record.clip_len_s, record.duration_s) == ("3MSZA", 30, 1.0, 30.25)
        assert (record.fps, record.source_size, record.source_hash) == (
            Fraction(30000, 1001),
            2**40,
            "ab" * 32,
        )
        assert record.meta == {"decoder": "pyav", "crop": [1, 2]}
        assert len(record.payload_sha256) == 64

    def test_text_features_hold_several_arrays(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip-text", SPEC)
        stored: dict[str, np.ndarray] = {
            "tokens": np.ones((5, 8), np.float32),
            "token_ids": np.arange(5),
            "pooled": np.zeros(8, np.float32),
        }
        with folder.writer() as writer:
            writer.add("k", stored, meta={"text": "a person öpens"})
        assert_same({"k": folder.read("k")}, {"k": stored})
        assert folder.record("k").rows == 5
        assert folder.array_shapes("k") == {"tokens": (5, 8), "token_ids": (5,), "pooled": (8,)}

    def test_a_shard_is_a_plain_safetensors_file(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2}])
        tensors = load_file(folder.path / "shard-000000.safetensors")
        np.testing.assert_array_equal(tensors["b/features"], rows(2)["features"])

    def test_bytes_depend_on_the_records_alone(self, tmp_path: Path) -> None:
        first = make_folder(tmp_path / "1", [{"a": 1, "b": 2, "c": 3}])
        second = make_folder(tmp_path / "2", [{"c": 3, "a": 1, "b": 2}])
        assert first.path.name == second.path.name
        for name in ("shard-000000.safetensors", "fingerprint.json"):
            assert (first.path / name).read_bytes() == (second.path / name).read_bytes()

    def test_reads_are_mapped_and_cannot_be_written(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        array = folder.read("a")["features"]
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert np.shares_memory(array, folder.read("a")["features"])

    def test_reading_more_shards_than_may_be_mapped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shard_index, "_MOST_MAPS", 2)
        folder = make_folder(tmp_path, [{f"v{seed}": seed} for seed in range(5)])
        kept = {key: folder.read(key) for key in folder}
        assert_same(kept, {f"v{seed}": rows(seed) for seed in range(5)})

    def test_a_later_caller_may_change_the_array_that_was_added(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        buffer = rows(1)["features"]
        with folder.writer() as writer:
            writer.add("a", {"features": buffer})
            buffer[:] = 0
        assert_same(contents(folder), {"a": rows(1)})


class TestWriting:
    def test_publish_returns_the_shard_and_nothing_for_nothing(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        with folder.writer() as writer:
            assert writer.publish() is None
            writer.add("a", rows(1))
            assert writer.pending_bytes == 3 * 4 * 2
            assert writer.publish() == folder.path / "shard-000000.safetensors"
            assert writer.pending == 0
        assert len(folder.shards()) == 1

    def test_a_later_record_supersedes_an_earlier_one(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2}, {"a": 3}])
        expected = {"a": rows(3), "b": rows(2)}
        assert_same(contents(folder), expected)
        assert_same(contents(FeatureFolder.open(folder.path)), expected)

    def test_an_exception_gives_up_what_was_not_published(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)

        def interrupted() -> None:
            with folder.writer() as writer:
                writer.add("a", rows(1))
                writer.publish()
                writer.add("b", rows(2))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert list(FeatureFolder.open(folder.path)) == ["a"]

    @pytest.mark.parametrize(
        "key", ["", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a\\b", "a\0b", "a\nb", "\udcff", "x" * 252]
    )
    def test_keys_that_cannot_be_file_names_are_refused(self, tmp_path: Path, key: str) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        with folder.writer() as writer, pytest.raises(FeatureError, match=r"cannot be a key|at most 251"):
            writer.add(key, rows(1))

    @pytest.mark.parametrize(
        "stored",
        [
            {},
            {"pooled": np.zeros(3)},
            {"features": np.zeros(3)},
            {"features": np.zeros((2, 3)), "tokens": np.zeros((2, 3))},
            {"features": np.array([["a"]])},
            {"features": np.zeros((2, 3)), "a/b": np.zeros(2)},
        ],
    )
    def test_arrays_that_cannot_be_stored_are_refused(self, tmp_path: Path, stored: dict[str, np.ndarray]) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        with folder.writer() as writer, pytest.raises(FeatureError):
            writer.add("a", stored)

    @pytest.mark.parametrize("wrong", [{"duration_s": float("nan")}, {"clip_len_s": -1.0}, {"meta": {"a": object()}}])
    def test_facts_that_cannot_be_stored_are_refused(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        with folder.writer() as writer, pytest.raises(FeatureError, match=r"^a: "):
            writer.add("a", rows(1), **wrong)  # type: ignore[arg-type]

    def test_two_processes_write_at_the_same_time(self, tmp_path: Path) -> None:
        FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(2)
        writers = [context.Process(target=write_part, args=(tmp_path, part, barrier)) for part in range(2)]
        for process in writers:
            process.start()
        for process in writers:
            process.join(60)
        assert [process.exitcode for process in writers] == [0, 0]
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        assert [shard.path.name for shard in folder.shards()] == [f"shard-{n:06d}.safetensors" for n in range(20)]
        assert_same(contents(folder), {f"{part}-{n}": rows(n) for part in range(2) for n in range(10)})
        assert folder.verify() == []


def write_part(root: Path, part: int, barrier: object) -> None:
    folder = FeatureFolder.create_or_open(root, "clip", SPEC)
    with folder.writer() as writer:
        barrier.wait(30)  # type: ignore[attr-defined]
        for number in range(10):
            writer.add(f"{part}-{number}", rows(number))
            writer.publish()


class TestSpecifications:
    def test_the_folder_is_named_by_encoder_and_fingerprint(self, tmp_path: Path) -> None:
        folder = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        assert folder.path == tmp_path / f"clip-{folder.fingerprint[:12]}"
        assert FeatureFolder.create_or_open(tmp_path, "clip", {**SPEC, "mode": "parity"}).path != folder.path

    def test_a_folder_of_another_specification_is_refused_with_the_difference(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        with pytest.raises(FeatureError, match='mode: found "clean", expected "parity"'):
            FeatureFolder.open(folder.path, {**SPEC, "mode": "parity"})

    def test_a_shard_of_other_features_is_refused(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        other = FeatureFolder.create_or_open(tmp_path, "clip", {**SPEC, "mode": "parity"})
        (folder.path / "shard-000000.safetensors").rename(other.path / "shard-000000.safetensors")
        with pytest.raises(FeatureError, match="belongs to features of fingerprint"):
            other.keys()

    def test_an_edited_specification_is_noticed(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        file = folder.path / "fingerprint.json"
        file.write_text(file.read_text().replace("clean", "parity"))
        with pytest.raises(FeatureError, match="was edited"):
            FeatureFolder.open(folder.path)

    @pytest.mark.parametrize(
        "text",
        ["", "{", "[]", "{}", "null", "[" * 10**5, '{"format": 1, "name": "clip", "fingerprint": "0", "spec": null}'],
    )
    def test_a_damaged_fingerprint_says_what_to_do_and_that_works(self, tmp_path: Path, text: str) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        (folder.path / "fingerprint.json").write_text(text)
        with pytest.raises(FeatureError, match="delete it and extract again"):
            FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        (folder.path / "fingerprint.json").unlink()
        assert list(FeatureFolder.create_or_open(tmp_path, "clip", SPEC)) == ["a"]

    def test_a_folder_without_features_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(FeatureError, match="is no folder of features"):
            FeatureFolder.open(tmp_path)

    @pytest.mark.parametrize("name", ["", "../clip", "a/b", ".hidden"])
    def test_names_stay_below_the_root(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(FeatureError, match="cannot name a folder"):
            FeatureFolder.create_or_open(tmp_path, name, SPEC)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    match how:
        case "empty":
            content = bytearray()
        case "cut header":
            del content[40:]
        case "cut numbers":
            del content[-1:]
        case "longer":
            content += b"\0"
        case "garbage header":
            content[8:30] = os.urandom(22)
        case "huge header":
            content[:8] = b"\xff" * 8
        case "other safetensors":
            header = json.dumps({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()
            content = bytearray(len(header).to_bytes(8, "little") + header)
        case "zeros":
            content = bytearray(len(content))
    path.write_bytes(content)


DAMAGES = [
    "empty",
    "cut header",
    "cut numbers",
    "longer",
    "garbage header",
    "huge header",
    "other safetensors",
    "zeros",
]


class TestDamage:
    @pytest.mark.parametrize("how", DAMAGES)
    def test_a_damaged_shard_is_named_with_the_remedy(self, tmp_path: Path, how: str) -> None:
        folder = make_folder(tmp_path, [{"a": 1}, {"b": 2}])
        damage(folder.path / "shard-000001.safetensors", how)
        with pytest.raises(FeatureError, match=r"shard-000001\.safetensors is damaged .*verify --remove-damaged"):
            FeatureFolder.open(folder.path).keys()

    @pytest.mark.parametrize("how", DAMAGES)
    def test_setting_a_damaged_shard_aside_leaves_the_others(self, tmp_path: Path, how: str) -> None:
        folder = make_folder(tmp_path, [{"a": 1}, {"b": 2}])
        damage(folder.path / "shard-000001.safetensors", how)
        opened = FeatureFolder.open(folder.path)
        problems = opened.verify(remove_damaged=True)
        assert [problem.shard.name for problem in problems] == ["shard-000001.safetensors"]
        assert (folder.path / "shard-000001.safetensors.damaged").exists()
        assert_same(contents(opened), {"a": rows(1)})
        assert opened.verify() == []

    def test_a_flipped_bit_costs_one_record_only(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2, "c": 3}, {"c": 4}])
        path = folder.path / "shard-000000.safetensors"
        content = bytearray(path.read_bytes())
        place = content.index(rows(2)["features"].tobytes())
        content[place] ^= 1
        path.write_bytes(content)
        opened = FeatureFolder.open(folder.path)
        (problem,) = opened.verify()
        assert (problem.shard, problem.key) == (path, "b")
        assert str(problem).startswith("shard-000000.safetensors, b: its numbers have the sha256")
        opened.verify(remove_damaged=True)
        assert_same(contents(opened), {"a": rows(1), "c": rows(4)})
        assert opened.verify() == []

    def test_a_flipped_bit_in_an_arrays_name_costs_one_record_only(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2}])
        path = folder.path / "shard-000000.safetensors"
        path.write_bytes(path.read_bytes().replace(b'"b/features"', b'"b/geatures"'))
        opened = FeatureFolder.open(folder.path)
        assert_same({"a": dict(opened.read("a"))}, {"a": rows(1)})
        with pytest.raises(FeatureError, match=r"is damaged \('b' has no rows, but 'geatures'\).*--remove-damaged"):
            opened.read("b")
        assert [problem.key for problem in opened.verify(remove_damaged=True)] == ["b"]
        assert list(opened) == ["a"]

    def test_the_number_of_a_shard_set_aside_is_not_used_again(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}, {"b": 2}])
        damage(folder.path / "shard-000001.safetensors", "zeros")
        folder.verify(remove_damaged=True)
        opened = FeatureFolder.open(folder.path)
        with opened.writer() as writer:
            writer.add("b", rows(2))
        assert [shard.path.name for shard in opened.shards()] == [
            "shard-000000.safetensors",
            "shard-000002.safetensors",
        ]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**31))
    def test_no_damage_passes_unnoticed_or_ends_in_another_error(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int
    ) -> None:
        folder = make_folder(tmp_path_factory.mktemp("root"), [{"a": 1, "b": 2}])
        path = folder.path / "shard-000000.safetensors"
        records = {key: folder.record(key) for key in folder}
        content = bytearray(path.read_bytes())
        generator = random.Random(seed)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        path.write_bytes(content)
        opened = FeatureFolder.open(folder.path)
        problems = opened.verify()
        if not problems:  # a number was replaced by itself, or white space by white space
            assert_same(contents(opened), {"a": rows(1), "b": rows(2)})
            assert {key: opened.record(key) for key in opened} == records

    def test_a_changed_fact_in_the_header_is_noticed(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        path = folder.path / "shard-000000.safetensors"
        content = path.read_bytes()
        assert content.count(b"3.2") == 1
        path.write_bytes(content.replace(b"3.2", b"9.2"))
        with pytest.raises(FeatureError, match="its records do not have the hash"):
            FeatureFolder.open(folder.path).keys()

    def test_an_unknown_key_says_what_to_do(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        with pytest.raises(FeatureError, match="holds no features of 'zz'; extract or import them first"):
            folder.read("zz")
        assert "zz" not in folder


class TestCompact:
    def test_small_shards_become_one_and_nothing_else_changes(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2}, {"a": 3}, {"c": 4}, {"b": 5, "d": 6}])
        records = {key: folder.record(key) for key in folder}
        before = contents(folder)
        reader = FeatureFolder.open(folder.path)
        mapped = reader.read("c")
        assert folder.compact() == 3
        for opened in (folder, reader, FeatureFolder.open(folder.path)):
            assert_same(contents(opened), before)
            assert {key: opened.record(key) for key in opened} == records
            assert opened.verify() == []
        np.testing.assert_array_equal(mapped["features"], rows(4)["features"])
        assert len(folder.shards()) == 1
        assert folder.compact() == 0

    def test_groups_stay_below_the_target(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{f"v{n}": n} for n in range(9)])
        before = contents(folder)
        size = folder.shards()[0].size
        assert folder.compact(target_bytes=3 * size) == 6
        assert max(shard.size for shard in folder.shards()) <= 3 * size
        assert_same(contents(folder), before)

    def test_a_superseded_record_does_not_come_back_from_a_large_shard(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1, "b": 2}])
        with folder.writer() as writer:
            writer.add("a", rows(3, count=4000))
            writer.publish()
            writer.add("c", rows(4))
        folder.compact(target_bytes=20_000)
        assert [list(shard.entries) for shard in folder.shards()] == [["a"], ["b", "c"]]
        expected = {"a": rows(3, 4000), "b": rows(2), "c": rows(4)}
        assert_same(contents(FeatureFolder.open(folder.path)), expected)

    def test_compact_waits_for_no_writer(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}, {"b": 2}])
        with folder.writer(), pytest.raises(FeatureError, match="being written by another process"):
            FeatureFolder.open(folder.path).compact()
        assert folder.compact() == 1


class TestLeftOvers:
    def test_temporary_files_of_the_dead_go_and_those_of_the_living_stay(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        host = os.uname().nodename
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        names = {
            "dead": f".tmp-{host}@{dead.pid}-{'0' * 16}",
            "living": f".tmp-{host}@{os.getpid()}-{'1' * 16}",
            "elsewhere": f".tmp-another-host@{dead.pid}-{'2' * 16}",
            "old": f".tmp-another-host@{dead.pid}-{'3' * 16}",
            "foreign": ".tmp-notes",
        }
        for name in names.values():
            (folder.path / name).write_bytes(b"half")
        os.utime(folder.path / names["old"], (0, 0))
        assert list(FeatureFolder.open(folder.path)) == ["a"]
        folder.writer().close()
        left = {label for label, name in names.items() if (folder.path / name).exists()}
        assert left == {"living", "elsewhere", "foreign"}


class TestUnwritable:
    def test_a_folder_that_is_read_only_by_permission(self, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("permissions do not bind the superuser")
        folder = make_folder(tmp_path, [{"a": 1}])
        folder.path.chmod(0o500)
        with pytest.raises(FeatureError, match="cannot be written"):
            folder.writer()

    def test_a_read_only_file_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        real_open = open

        def refuse(path: object, mode: str = "r", *rest: object, **named: object) -> object:
            if set(mode) & set("wax+"):
                raise OSError(30, "Read-only file system", str(path))
            return real_open(path, mode, *rest, **named)  # type: ignore[call-overload]

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(FeatureError, match=r"cannot be written .Read-only file system.; choose another"):
            folder.writer()
        opened = FeatureFolder.create_or_open(tmp_path, "clip", SPEC)
        assert_same(contents(opened), {"a": rows(1)})
        assert opened.verify() == []

    def test_a_read_only_mount(self, tmp_path: Path, mount: Mount) -> None:
        mount(tmp_path, "size=1m")
        folder = make_folder(tmp_path, [{"a": 1}])
        mount(tmp_path, "remount,ro")
        with pytest.raises(FeatureError, match="cannot be written"):
            folder.writer()
        with pytest.raises(FeatureError, match="cannot be written"):
            FeatureFolder.create_or_open(tmp_path, "other", SPEC)
        assert_same(contents(FeatureFolder.open(folder.path)), {"a": rows(1)})

    def test_a_full_disk_keeps_what_was_published_and_leaves_nothing_behind(self, tmp_path: Path, mount: Mount) -> None:
        mount(tmp_path, "size=1m")
        folder = make_folder(tmp_path, [{"a": 1}])
        names = sorted(path.name for path in folder.path.iterdir())
        writer = folder.writer()
        writer.add("b", rows(2, count=200_000))
        with pytest.raises(FeatureError, match=r"the disk is full .No space left on device.; free some space"):
            writer.publish()
        assert sorted(path.name for path in folder.path.iterdir()) == names
        assert writer.pending == 1
        writer.close()
        assert_same(contents(FeatureFolder.open(folder.path)), {"a": rows(1)})
        with folder.writer() as again:
            again.add("b", rows(2))
        assert_same(contents(folder), {"a": rows(1), "b": rows(2)})

    def test_a_file_size_limit_is_reported_as_a_full_disk(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path, [{"a": 1}])
        program = (
            "import resource, sys, numpy as np; from pathlib import Path\n"
            "from mesm.datasets.shards.folder import FeatureFolder, FeatureError\n"
            "folder = FeatureFolder.open(Path(sys.argv[1])); writer = folder.writer()\n"
            "writer.add('b', {'features': np.zeros((9999, 9))})\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))\n"
            "try: writer.publish()\n"
            "except FeatureError as error: print(error)\n"
        )
        result = subprocess.run([sys.executable, "-c", program, folder.path], capture_output=True, text=True)
        assert "the disk is full (File too large)" in result.stdout, result.stderr
        assert list(folder.path.glob(".tmp-*")) == []
        assert_same(contents(FeatureFolder.open(folder.path)), {"a": rows(1)})

    def test_a_file_system_without_hard_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        folder = make_folder(tmp_path, [{"a": 1}])
        other = FeatureFolder.open(folder.path)
        with other.writer() as late, folder.writer() as early:
            early.add("b", rows(2))
            early.publish()
            late.add("c", rows(3))
        assert_same(contents(FeatureFolder.open(folder.path)), {"a": rows(1), "b": rows(2), "c": rows(3)})
        assert len(list(folder.path.glob("shard-*"))) == 3


def test_opening_reads_headers_only(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, [{"a": 1}])
    with folder.writer() as writer:
        writer.add("large", rows(2, count=50_000, dim=64))
    path = folder.path / "shard-000001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:9000] + bytes(len(content) - 9000))
    assert FeatureFolder.open(folder.path).record("large").rows == 50_000


def test_rows_and_duration_must_agree_within_one_clip() -> None:
    assert row_count_problem(30, 1.0, 30.9) is None
    assert row_count_problem(31, 1.0, 30.1) is None
    assert row_count_problem(30, None, 99.0) is None
    assert row_count_problem(30, 1.0, None) is None
    assert row_count_problem(1, 2.0, 0.3) is None
    assert row_count_problem(32, 1.0, 30.8, slack_s=0.25) is None
    assert row_count_problem(30, 1.0, 60.0) == ("30 rows of 1 s are 30.00 s, the video lasts 60.00 s (2 s a row)")
