"""What a run took place on, so that its figures can be judged."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from symbiosis_core import __version__

__all__ = ["Machine", "commit", "this_machine"]

_FAST: Final = frozenset(
    {
        *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_bf16", "amx_int8"),
        *("asimd", "bf16", "i8mm", "sve", "sve2"),  # Arm
    }
)


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
    symbiosis: str = ""
    """The installed version."""
    commit: str = ""
    """Of the checkout that this runs from, with `+changes` where a file of it is another one. Empty: it runs from
    no checkout, or there is no git to ask."""
    memory_bytes: int = 0
    cpu_flags: tuple[str, ...] = ()
    """The instructions that it has, of those that decide how fast matrices are multiplied."""


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
        symbiosis=__version__,
        commit=commit(Path(__file__)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpu_flags=tuple(sorted(set((_told("flags") or _told("Features")).split()) & _FAST)),
    )


def commit(file: Path) -> str:
    """Returns the commit that a file is of; see `Machine.commit`."""
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return ""  # installed, perhaps into an environment that lies in somebody's checkout
    found = _git(file.parent, "rev-parse", "HEAD") or ""
    return f"{found}+changes" if _git(file.parent, "status", "--porcelain", "--untracked-files=no") else found


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what git says; None where it fails or is not there."""
    try:
        asked = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return asked.stdout.strip()


def _cpu() -> str:
    return _told("model name") or platform.machine()


def _told(key: str) -> str:
    """Returns what the kernel says about the first processor; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
