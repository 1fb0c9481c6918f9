"""Reading files in another process whose memory is limited, and what came of each; and a disk without room."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, pathlib, resource, sys, time
import converters
from converters.errors import FileFormatError
from tests.hostile.digests import digest

converters.read(sys.argv[1])  # what is imported when it is first needed is imported now
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for path, max_bytes in json.loads(sys.stdin.read()):
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * max_bytes + 200 * 10**6, hard))
    start = time.process_time()
    try:
        outcome = "read " + digest(converters.read(path, max_bytes=max_bytes))
    except FileFormatError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = f"escaped: {type(error).__name__}: {error}"
    print(json.dumps([outcome, time.process_time() - start]), flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
"""


@dataclass(frozen=True)
class Outcome:
    """``said``: the message, or ``read`` and a hash of all that was read; ``seconds`` of the processor."""

    said: str
    seconds: float


def read_limited(good: Path, files: list[tuple[Path, int]], *, timeout: float = 300) -> list[Outcome]:
    """Each file with its ``max_bytes``, under a limit of 3 times that and 200 MB beyond what the process has already.

    A process that dies leaves the list short.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    jobs = json.dumps([(str(path), max_bytes) for path, max_bytes in files])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(good)]
    done = subprocess.run(
        command, input=jobs, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    return [Outcome(*json.loads(line)) for line in done.stdout.splitlines()]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file grows past so many bytes: to whoever writes, a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
