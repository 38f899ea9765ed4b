"""One step: a process of its own, with a limit on its time, whose last line of output is its figures as JSON.

A process of its own, because a step that loses the device, hangs or is killed must not take the others with it.
What it says goes into a file and not through a pipe: something that it has started, and that outlives it, would
keep a pipe open, and whoever reads it waiting.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

__all__ = ["Outcome", "Step", "run"]

_TAIL: Final = 1500
"""Characters of what a failed step said that go into the report."""
_REAP_S: Final = 5.0
"""A process that the driver does not let go is left behind after that."""


class Step(NamedTuple):
    """What is to be run."""

    name: str
    arguments: Sequence[str]
    """Of this interpreter."""
    limit_s: float
    """Its share of the whole time."""
    environment: Mapping[str, str] = {}


class Outcome(NamedTuple):
    """What came of it."""

    name: str
    status: str
    """passed, failed, or skipped: the machine lacks something that only this step wants."""
    seconds: float
    figures: Any
    """What the step told; of a failed one, the end of what it said."""


def run(step: Step, most_s: float) -> Outcome:
    """Runs a step for that long at most: its own limit, and what the steps before it have left."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [sys.executable, *step.arguments],
            env={**os.environ, **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends it
        )
        over = ""
        try:
            process.wait(max(most_s, 0.0))
        except subprocess.TimeoutExpired:
            over = f"\nit was ended after {time.monotonic() - began:.0f} s"
        finally:
            _end(process)
        said = _read(told) + over
    seconds = round(time.monotonic() - began, 1)
    if over or process.returncode != 0:
        return Outcome(step.name, "failed", seconds, said[-_TAIL:])
    figures = _figures(said)
    skipped = isinstance(figures, dict) and "skipped" in figures
    return Outcome(step.name, "skipped" if skipped else "passed", seconds, figures)


def _end(leader: subprocess.Popen[bytes]) -> None:
    """Kills it, its group, and, as long as it lives, all that it has started: some have a session of their own."""
    started = _descendants(leader.pid) if leader.poll() is None else []
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        leader.wait(_REAP_S)


def _descendants(pid: int) -> list[int]:
    """Returns the processes that one has started, and those that they have, in the kernel's words."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended in the meantime
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = list[int](), [pid]
    while left:
        mine = children.get(left.pop(), [])
        found += mine
        left += mine
    return found


def _read(told: IO[bytes]) -> str:
    """Returns what is in the file until now: somebody may still write into it."""
    told.seek(0)
    return told.read().decode(errors="replace")


def _figures(said: str) -> Any:
    lines = said.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
