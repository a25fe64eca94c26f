"""Two jobs to torture, of which one keeps what it promises: numbers, each a file, with the hash of it beside."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesm.datasets.shards.faults import write_point
from mesm.datasets.shards.publishing import held_alone, replace_file
from mesm.pipeline.config.errors import PipelineError
from mesm.tools.attacks.films import Material
from mesm.tools.attacks.jobs import JOBS, Job

NUMBERS = 6


def text_of(number: int) -> bytes:
    return str(number).encode() * 3000


def careful(material: Material, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    with held_alone(out, wait=True):
        for left in out.glob(".tmp-*"):
            left.unlink()
        for number in range(NUMBERS):
            content = text_of(number)
            stated = hashlib.sha256(content).hexdigest().encode()
            try:
                replace_file(out / str(number), lambda file, text=stated + content: file.write_bytes(text))
            except Exception as error:
                print(f"error: {error}")
                return 2
            write_point("number:written")
            time.sleep(0.01)
    return 0


def careless(material: Material, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    for number in range(NUMBERS):
        if (out / str(number)).exists():
            continue
        stream = os.open(out / str(number), os.O_CREAT | os.O_WRONLY)
        os.write(stream, text_of(number)[:100])
        write_point("number:half")
        time.sleep(0.02)
        os.write(stream, text_of(number)[100:])
        os.close(stream)
    return 0


def with_hash(content: bytes) -> str:
    stated, rest = content[:64], content[64:]
    if hashlib.sha256(rest).hexdigest().encode() != stated:
        raise PipelineError("damaged")
    return rest.decode()


def answer_by(read: Callable[[bytes], str]) -> Callable[[Path], dict[str, Any]]:
    return lambda out: {path.name: read(path.read_bytes()) for path in out.iterdir() if path.name[0] != "."}


JOBS["careful"] = Job(careful, answer_by(with_hash), lambda out: [], ("*",))
JOBS["careless"] = Job(careless, answer_by(lambda content: content.decode("latin-1")), lambda out: [], ("*",))
