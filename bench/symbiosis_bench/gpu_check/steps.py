"""One step: a process of its own, with a limit on its time, whose last line of output is its figures as JSON.

A process of its own, because a step that loses the device, hangs or is killed must not take the others with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

__all__ = ["Outcome", "Step", "run"]

_TAIL: Final = 1500
"""Characters of what a failed step said that go into the report."""


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
    process = subprocess.Popen(
        [sys.executable, *step.arguments],
        env={**os.environ, **step.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # what it started ends with it
    )
    try:
        said, _ = process.communicate(timeout=most_s)
    except subprocess.TimeoutExpired:
        _end_group(process.pid)
        said, _ = process.communicate()
        said += f"\nit was ended after {time.monotonic() - began:.0f} s"
    finally:
        _end_group(process.pid)
    seconds = round(time.monotonic() - began, 1)
    if process.returncode != 0:
        return Outcome(step.name, "failed", seconds, said[-_TAIL:])
    figures = _figures(said)
    skipped = isinstance(figures, dict) and "skipped" in figures
    return Outcome(step.name, "skipped" if skipped else "passed", seconds, figures)


def _end_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _figures(said: str) -> Any:
    lines = said.strip().splitlines()
    try:
        return json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
