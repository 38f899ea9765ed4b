"""Device memory of clients that have left, until nobody can touch it any more.

The end of a client's socket does not say that its device memory is closed: the kernel closes the files of a dying
process in an order of its own, and what was queued on the device goes on meanwhile. Freeing memory that another
process has open is undefined. So an arena is freed only once

- the client has said that it closed the memory, or its process has ended, as the kernel tells by a pidfd;
- and what the daemon itself has queued for it is done.
"""

from __future__ import annotations

import asyncio
import os
import select
from typing import Final

from symbiosis_core.logs import event, get_logger
from symbiosis_transports.cuda_ipc.arena import DeviceArena

__all__ = ["Grave", "Graves", "open_process"]

log = get_logger(__name__)

_LOOK_S: Final = 0.01


class Grave:
    """One arena, and who may still have it open."""

    def __init__(self, arena: DeviceArena, left: memoryview, process: int) -> None:
        """`left` is where the client says that it closed the memory; `process` a pidfd, now the grave's, or -1."""
        self.arena = arena
        self._left = left
        self._process = process

    def untouchable(self) -> bool:
        """Whether neither the client nor the device can touch the memory any more."""
        return (self._left[0] == 1 or self._ended()) and self.arena.at_rest()

    def free(self) -> None:
        """Frees the memory and forgets the client."""
        self.arena.free()
        self._left.release()
        if self._process >= 0:
            os.close(self._process)

    def _ended(self) -> bool:
        """Whether the process has ended. Where the system cannot say, the end of the socket counts as such."""
        if self._process < 0:
            return True
        poll = select.poll()  # `select.select` takes no descriptor of 1024 or more
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(0))


class Graves:
    """All of them. Looks again as long as there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._graves: list[Grave] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._graves)

    def bury(self, grave: Grave) -> None:
        """Frees an arena as soon as that is allowed."""
        self._graves.append(grave)
        self._look()

    def _look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for grave in [grave for grave in self._graves if grave.untouchable()]:
            self._graves.remove(grave)
            grave.free()
            log.debug(event("device memory freed", bytes=grave.arena.nbytes))
        if self._graves:
            self._timer = self._loop.call_later(_LOOK_S, self._look)


def open_process(pid: int) -> int:
    """Returns a descriptor of the process, or -1 where the system has none to give, or it has ended."""
    try:
        return os.pidfd_open(pid) if pid > 0 else -1
    except OSError:
        return -1
