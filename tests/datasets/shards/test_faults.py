"""The hook that kills a process at a named point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mesm.datasets.shards.faults import FAULT_VARIABLE, parse_fault, write_point

PROGRAM = """
from mesm.datasets.shards.faults import write_point
for passage in range(1, 4):
    write_point("other:point")
    write_point("shard:written")
    print(passage, flush=True)
"""


def run_with(fault: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != FAULT_VARIABLE}
    if fault is not None:
        environment[FAULT_VARIABLE] = fault
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("fault", "passed"), [("shard:written", ""), ("shard:written:1", ""), ("shard:written:3", "1\n2\n")]
)
def test_a_named_point_kills_at_its_passage(fault: str, passed: str) -> None:
    result = run_with(fault)
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == passed


@pytest.mark.parametrize("fault", [None, "", "shard:written:4", "shard", "written"])
def test_other_points_do_nothing(fault: str | None) -> None:
    result = run_with(fault)
    assert (result.returncode, result.stdout) == (0, "1\n2\n3\n")


def test_nothing_happens_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FAULT_VARIABLE, raising=False)
    write_point("shard:written")


def test_a_name_may_hold_colons() -> None:
    assert parse_fault("a:b") == ("a:b", 1)
    assert parse_fault("a:b:12") == ("a:b", 12)
    assert parse_fault("7") == ("7", 1)
