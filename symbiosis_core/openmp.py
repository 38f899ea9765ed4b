"""Keeps OpenMP's threads from holding cores that nobody computes on, in the daemon and in its clients.

Every thread that has once computed in parallel keeps a team of its own, and the teams of a process are counted
together. Where they are more threads than cores, GNU's OpenMP looks for work much shorter before it sleeps.
So a team left over from loading a model made every product of the data plane wait for a worker to be woken: 23
context switches instead of 0 to 2 in a block of 128 rows, which took 4.3 instead of 3.5 ms. A thread that has
computed in parallel, and soon will not again, lets its team go.

How long they look is read when torch is imported. A client imports it when it likes, so there it is that rule of
GNU's which has threads sleep soon: one team more is held, which sleeps for good (`sleep_soon`).

Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

__all__ = ["GOMP_SPINCOUNT", "bound_openmp", "let_team_go", "sleep_soon", "waiting_told"]

GOMP_SPINCOUNT: Final = "1000"
"""How often an OpenMP thread looks for work before it sleeps: some 10 us. Longer looking takes a core from the
clients when they have their answer; none at all makes a sequence of small products 2-3 times slower."""
_SOFT: Final = 1
"""omp_pause_soft: the threads end, everything else stays."""


def bound_openmp() -> None:
    """Bounds the waiting of OpenMP threads, unless the user has. Works only before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINCOUNT)


def waiting_told() -> str:
    """Returns how OpenMP's threads of this process wait for work, in words; empty where nobody has said."""
    if policy := os.environ.get("OMP_WAIT_POLICY"):
        return f"OMP_WAIT_POLICY={policy}"
    count = os.environ.get("GOMP_SPINCOUNT", "")
    return f"GOMP_SPINCOUNT={count}" if count else ""


def let_team_go() -> None:
    """Ends the OpenMP threads that wait for this thread's next parallel operation, which makes them anew.

    Takes 0.3 us where there are none and some 30 us where there are (OpenMP 5's `omp_pause_resource_all`). To be
    called only once torch is there: what it finds loaded the first time, it keeps to. Does nothing with another
    OpenMP than GNU's.
    """
    _pause()(_SOFT)


@cache
def sleep_soon() -> None:
    """Has OpenMP's threads of this process sleep soon after they have worked, though torch is there already.

    That is where as many compute as there are cores; fewer look as long as ever. Not if the user has said how they
    wait. A process that is forked later goes on like that. Does nothing with another OpenMP than GNU's.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        threading.Thread(target=_hold_team, name="symbiosis-openmp", daemon=True).start()


def _hold_team() -> None:
    """Has a team of two, which does nothing, for as long as the process lives."""
    gomp = _library()
    if gomp is not None:
        nothing = ctypes.CDLL(None).free  # of no memory: the least that a C library does
        gomp.GOMP_parallel(nothing, None, 2, 0)
        threading.Event().wait()  # with this thread would go its team


@cache
def _pause() -> Callable[[int], Any]:
    pause: Callable[[int], Any] | None = getattr(_library(), "omp_pause_resource_all", None)  # from version 5 on
    return pause or (lambda kind: None)


@cache
def _library() -> ctypes.CDLL | None:
    """Returns GNU's OpenMP, if it is loaded: torch's, where others have brought theirs."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    loaded = {line.split()[-1] for line in lines if "libgomp" in line}
    path = min(loaded, key=lambda path: "/torch" not in path, default=None)
    return None if path is None else ctypes.CDLL(path)
