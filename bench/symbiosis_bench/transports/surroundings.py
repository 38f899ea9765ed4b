"""What bears on waking a process and on touching memory: read from the kernel, empty where it does not say."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import msgspec

__all__ = ["Surroundings", "surroundings"]


class Surroundings(msgspec.Struct, frozen=True):
    """Beside the machine's fingerprint."""

    affinity: tuple[int, ...]
    hypervisor: bool
    cpuidle_governor: str
    halt_poll_ns: str
    """How long an idle virtual core looks before it halts: `haltpoll.guest_halt_poll_ns`."""
    shmem_huge_pages: str
    load_average: tuple[float, float, float]
    uvloop: str
    pyzmq: str


def surroundings() -> Surroundings:
    """Returns those of this process, now."""
    return Surroundings(
        affinity=tuple(sorted(os.sched_getaffinity(0))),
        hypervisor=" hypervisor" in _said("/proc/cpuinfo"),
        cpuidle_governor=_said("/sys/devices/system/cpu/cpuidle/current_governor"),
        halt_poll_ns=_said("/sys/module/haltpoll/parameters/guest_halt_poll_ns"),
        shmem_huge_pages=_said("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        load_average=os.getloadavg(),
        uvloop=version("uvloop"),
        pyzmq=version("pyzmq"),
    )


def _said(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
