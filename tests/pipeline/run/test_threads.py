"""Idle threads leave the cores to others in every program of ours, and in nobody else's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mesm.pipeline.run.threads import CHOICES, PASSIVE, QUIET_LOOKS, WATCHED, Crowd

ROOT = Path(__file__).resolve().parents[3]

# Where RECORD names a file, the first import of torch ends the process, after writing what was chosen.
RECORDER = f"""
import json, os, sys

class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and "RECORD" in os.environ:
            with open(os.environ["RECORD"], "a") as file:
                print(json.dumps({{name: os.environ.get(name) for name in {CHOICES}}}), file=file)
            os._exit(0)

sys.meta_path.insert(0, Recorder())
"""

PROGRAMS = {
    "mesm-pipeline": ("-c", "from mesm.pipeline.cli import main; main()", "doctor"),
    "mesm.pipeline": ("-m", "mesm.pipeline", "doctor"),
    "mesm.tools.bench": ("-m", "mesm.tools.bench", "evaluate"),
    "mesm.tools.benchmark_extraction": ("-m", "mesm.tools.benchmark_extraction"),
    "mesm.tools.parity": ("-m", "mesm.tools.parity", "golden.npz"),
    "mesm.tools.readme_table": ("-m", "mesm.tools.readme_table"),
}

WITHOUT_TORCH = {f"mesm.tools.{name}": ("-m", f"mesm.tools.{name}", "--help") for name in ("torture", "trial_spans")}

LIBRARY = """
import os, threading
before = dict(os.environ)
import mesm.datasets, mesm.extractors.decoding.pool, mesm.model, mesm.pipeline.cli, mesm.pipeline.grounding
import mesm.pipeline.run.threads, mesm.tools.bench, mesm.tools.benchmark_extraction, mesm.tools.parity
assert dict(os.environ) == before
assert not [thread.name for thread in threading.enumerate() if "cores" in thread.name]
"""

DECODING = """
import os, sys
from pathlib import Path
from mesm.pipeline.run.threads import wait_quietly
wait_quietly()
from mesm.extractors.decoding.pool import DecodePool
from mesm.extractors.errors import ExtractorError
os.environ["RECORD"] = sys.argv[1]
with DecodePool() as pool:
    pool.start(0, Path("film.mp4"))
    try:
        pool.next_event()
    except ExtractorError:
        pass
"""

OWN_PROCESS = f"""
import os
from mesm.pipeline.run.own_process import in_own_process
if __name__ == "__main__":
    assert in_own_process(os.getenv, "OMP_WAIT_POLICY") == "PASSIVE"
    assert not [name for name in {CHOICES} if name in os.environ]
"""

# Threads that spin without end never sleep, unless there are too many of them.
PARKING = """
import os
import torch
from mesm.pipeline.run import threads

def sleeps():
    return sum(int(line.split()[1]) for task in os.listdir("/proc/self/task")
               for line in open(f"/proc/self/task/{task}/status") if line.startswith("voluntary"))

def regions(count):
    before, x = sleeps(), torch.linspace(-1, 1, 2**17)
    for _ in range(count):
        x = torch.sin(x)
    return sleeps() - before, x.sum().item(), len(os.listdir("/proc/self/task"))

torch.set_num_threads(2)
regions(10)
spinning = regions(200)
team = threads.ParkedTeam(threads._loaded_libgomps())
parked = regions(200)
team.release()
released = regions(200)
print([*spinning], [*parked], [*released])
assert spinning[0] < 20 <= 100 < parked[0] and released[0] < 20
assert spinning[1] == parked[1] == released[1]
assert spinning[2] < parked[2] and released[2] == spinning[2]
"""


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in CHOICES}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder with the recorder, and a golden file to ask parity about."""
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    np.savez(tmp_path / "golden.npz", numbers=np.zeros(3))
    return tmp_path


def choices_of(folder: Path, *arguments: str, **environment: str) -> dict[str, str]:
    """What was chosen when the program first asked for torch."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    record = folder / "record"
    done = run(*arguments, cwd=folder, PYTHONPATH=path, RECORD=str(record), **environment)
    assert record.exists(), done.stderr
    return {name: value for name, value in json.loads(record.read_text()).items() if value is not None}


@pytest.mark.parametrize("arguments", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_programs_choose_before_they_import_torch(recorded: Path, arguments: tuple[str, ...]) -> None:
    assert choices_of(recorded, *arguments) in (WATCHED, PASSIVE)


def test_every_program_of_the_tools_is_among_them() -> None:
    programs = {f"mesm.tools.{path.stem}" for path in (ROOT / "tools").rglob("*.py") if "__main__" in path.read_text()}
    assert programs == {name for name in (*PROGRAMS, *WITHOUT_TORCH) if name.startswith("mesm.tools.")}


@pytest.mark.parametrize("arguments", WITHOUT_TORCH.values(), ids=WITHOUT_TORCH.keys())
def test_programs_that_choose_nothing_never_import_torch(recorded: Path, arguments: tuple[str, ...]) -> None:
    path = os.pathsep.join([str(recorded), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run(*arguments, cwd=ROOT, PYTHONPATH=path, RECORD=str(recorded / "record"))
    assert done.returncode == 0, done.stderr
    assert not (recorded / "record").exists()


@pytest.mark.parametrize("name", CHOICES)
def test_what_a_user_chose_stays(recorded: Path, name: str) -> None:
    assert choices_of(recorded, *PROGRAMS["mesm.pipeline"], **{name: "5"}) == {name: "5"}


def test_programs_that_ours_start_wait_as_they_do(recorded: Path) -> None:
    assert choices_of(recorded, *PROGRAMS["mesm.pipeline"], **WATCHED) == WATCHED


@pytest.mark.slow
def test_decode_processes_wait_as_their_parent_does(recorded: Path) -> None:
    path = os.pathsep.join([str(recorded), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = run("-c", DECODING, str(recorded / "record"), cwd=recorded, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    lines = (recorded / "record").read_text().splitlines()
    assert lines
    for line in lines:
        found = json.loads(line)
        assert {name: value for name, value in found.items() if value is not None} in (WATCHED, PASSIVE)


def test_work_in_a_process_of_its_own_waits_quietly(tmp_path: Path) -> None:
    done = run("-c", OWN_PROCESS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_changes_nothing(tmp_path: Path) -> None:
    done = run("-c", LIBRARY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_crowd_is_noticed_at_once_and_gone_after_some_quiet_looks() -> None:
    crowd = Crowd()
    assert [crowd.look(waited) for waited in (0.0, 0.05, 0.4)] == [False, False, True]
    assert [crowd.look(0.02) for _ in range(QUIET_LOOKS)] == [True] * (QUIET_LOOKS - 1) + [False]
    assert not crowd.look(0.02)
    assert [crowd.look(waited) for waited in (0.4, 0.02, 0.4, *[0.02] * (QUIET_LOOKS - 1))] == [True] * (
        QUIET_LOOKS + 2
    )


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: there are too many threads already")
def test_threads_sleep_while_a_team_is_parked_and_compute_the_same(tmp_path: Path) -> None:
    done = run("-c", PARKING, cwd=tmp_path, OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT="100000000000")
    assert done.returncode == 0, done.stdout + done.stderr
