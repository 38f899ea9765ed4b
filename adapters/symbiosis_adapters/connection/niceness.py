"""Gives up a part of this process's weight for the processor, where its lane asks for that (`lanes.NAME.nice`).

Where clients compute on the cores that the daemon wants, the kernel gives each process the same, so that two that
train have twice what the daemon has to serve everybody. Linux weighs twice, and both are told here:

- *Threads.* Niceness is each thread's own, and a new one begins with that of the thread that starts it. So every
  thread that there is gets it. It counts among threads of one scheduling group.
- *The session's group.* With `sched_autogroup_enabled` every session has a group, all groups have the same weight,
  and what its threads have counts within it alone. A group's weight belongs to all processes of the session: to
  the shell that started this one, and to a daemon that the same shell started. So it is only touched where
  this process leads its session and nobody else is in it: in a service, a container, a job of a launcher. What it
  starts from then on shares it.

A thread, or a group, that has given up more keeps that. What was given up cannot be taken back without privileges,
so it lasts as long as the process. `SYMBIOSIS_KEEP_NICE=1` in the environment leaves all that alone.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from symbiosis_core.logs import event, get_logger

__all__ = ["KEEP_VARIABLE", "give_up_weight"]

log = get_logger(__name__)

KEEP_VARIABLE: Final = "SYMBIOSIS_KEEP_NICE"
_PROC: Final = Path("/proc")
_GROUP: Final = _PROC / "self" / "autogroup"
_GROUPS_COUNT: Final = _PROC / "sys" / "kernel" / "sched_autogroup_enabled"


def give_up_weight(nice: int) -> None:
    """Gives this process a niceness of `nice`, 1 to 19, wherever it has less. Told once, and never an error."""
    if os.environ.get(KEEP_VARIABLE, "0") not in ("", "0"):
        return
    with suppress(OSError):  # no /proc: nobody knows the threads
        while _set_threads(nice):
            pass  # one may have been started meanwhile by a thread that had not been reached
    _tell(nice, _set_group(nice))


def _set_threads(nice: int) -> bool:
    """Returns whether any thread had less."""
    changed = False
    for task in (_PROC / "self" / "task").iterdir():
        thread = int(task.name)
        with suppress(OSError):  # it has ended
            if os.getpriority(os.PRIO_PROCESS, thread) < nice:
                os.setpriority(os.PRIO_PROCESS, thread, nice)
                changed = True
    return changed


def _set_group(nice: int) -> str:
    """Returns why the session's group has more weight than that; empty: it has not, or groups do not count."""
    try:
        if _GROUPS_COUNT.read_text().strip() != "1" or _group_nice() >= nice:
            return ""
    except (OSError, ValueError):
        return ""  # a kernel without such groups
    if os.getsid(0) != os.getpid():
        return "this process does not lead its session"
    if _has_company():
        return "other processes are in its session"
    try:
        _GROUP.write_text(f"{nice}\n")
    except OSError as error:
        return f"the kernel refused: {error.strerror}"
    return ""


def _group_nice() -> int:
    """Returns what the group has: the last word of `/autogroup-25 nice 0`."""
    return int(_GROUP.read_text().split()[-1])


def _has_company() -> bool:
    """Whether any other process is in the session that this one leads."""
    own = os.getpid()
    for process in _PROC.iterdir():
        if process.name.isdecimal() and process.name != str(own):
            with suppress(OSError):  # it has ended
                state, _, _, session = _told(process / "stat")[:4]
                if int(session) == own and state != "Z":
                    return True
    return False


def _told(stat: Path) -> list[str]:
    """Returns what is told behind a process's name, which may hold anything: state, parent, group, session."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()


@cache
def _tell(nice: int, obstacle: str) -> None:
    if obstacle:
        log.warning(
            event(
                "this process gave up weight, but its session did not: it may count within the session only",
                nice=nice,
                reason=obstacle,
                remedy=f"start it with setsid, or write {nice} into /proc/self/autogroup in its shell",
            )
        )
    else:
        log.info(event("this process gave up weight, as its lane asks", nice=nice))
