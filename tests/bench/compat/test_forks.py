"""No cell stops the run: a fork is heard and ended however it goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def in_a_fork(work: str, folder: Path) -> list[str]:
    """Returns what comes of a fork that does `work`, seen from a process without threads."""
    script = f"""
import os, sys, time
from pathlib import Path
from symbiosis_bench.compat.forks import Fork
def work(say):
    say(b"begun")
    {work}
with Fork(work, Path({str(folder / "log")!r})) as fork:
    try:
        while (line := fork.hear(1.0)) is not None:
            print(line.decode())
        print(fork.how_it_ended())
    except TimeoutError:
        print("hangs")
print(Path(f"/proc/{{fork.pid}}").exists())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("work", "heard"),
    [
        ("say(b'more')", ["more", "ended with status 0"]),
        ("raise ValueError", ["ended with status 1"]),
        ("os.abort()", ["was ended by SIGABRT"]),
        ("time.sleep(600)", ["hangs"]),
    ],
)
def test_a_fork_is_heard_and_ended_however_it_goes(work: str, heard: list[str], tmp_path: Path) -> None:
    assert in_a_fork(work, tmp_path) == ["begun", *heard, "False"]
