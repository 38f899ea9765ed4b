"""One core that those of lower lanes leave to the first lane while both are at work.

Who decodes sleeps and is woken some sixty times a token, and so does the daemon that serves it. On a busy machine
either may wait for a core that somebody is on who has no hurry, and until the next tick of the clock (4 ms at 250
Hz), even where the other core has become free meanwhile: on two cores, beside two clients that train, that was a
fifth of a token. Less weight for those who train does not change it, since the kernel weighs sessions and control
groups first, and within a tick nobody is weighed. A core on which the others may not be is free when it is wanted.

Only threads that wait for each other are moved, and only while they do: the daemon's, and a client's between two
of its answers. Threads that one of them starts meanwhile stay where it was.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Place", "go", "return_to", "spared_core"]


class Place(NamedTuple):
    """Where a thread is asked to be."""

    core: int
    """The spared core."""
    leave: bool
    """Anywhere else; otherwise there and nowhere else."""


def spared_core() -> int | None:
    """Returns the core: the first that this thread may use. None where it may use no other."""
    cores = os.sched_getaffinity(0)
    return min(cores) if len(cores) > 1 else None


def go(place: Place) -> set[int] | None:
    """Takes this thread, and those that it will start, where it is asked to be, if it may be there.

    Returns where it could be before, for `return_to`; None where nothing has changed.
    """
    before = os.sched_getaffinity(0)
    cores = before - {place.core} if place.leave else before & {place.core}
    if not cores or cores == before:
        return None
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # a sandbox may forbid it
        return None
    return before


def return_to(cores: set[int]) -> None:
    """Lets this thread be where it could be before."""
    with suppress(OSError):  # some of them may be gone
        os.sched_setaffinity(0, cores)
