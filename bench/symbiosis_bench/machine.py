"""What a run took place on, so that its figures can be judged."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

__all__ = ["Machine", "this_machine"]


class Machine(msgspec.Struct, frozen=True):
    """A machine, and the libraries that compute on it."""

    cores: int
    """That this process may use."""
    cpu: str
    python: str
    torch: str
    transformers: str
    peft: str
    os: str
    date: str
    """When this was written: UTC, ISO 8601."""


def this_machine() -> Machine:
    """Returns this machine. Imports none of the libraries."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu(),
        python=platform.python_version(),
        torch=version("torch"),
        transformers=version("transformers"),
        peft=version("peft"),
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
