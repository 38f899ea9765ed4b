"""Device memory of clients that have left, until nobody can touch it any more.

The end of a client's socket does not say that its device memory is closed: the kernel closes the files of a dying
process in an order of its own, and what was queued on the device goes on meanwhile. Freeing memory that another
process has open is undefined. So an arena is freed only once

- the client has said that it closed the memory, or its process has ended;
- and what the daemon itself has queued for it is done.

Both may take as long as they like, so there are never more than `MOST` when somebody new is let in.
"""

from __future__ import annotations

import asyncio
from typing import Final

from symbiosis_core.logs import event, get_logger
from symbiosis_transports.cuda_ipc.arena import DeviceArena
from symbiosis_transports.cuda_ipc.process import ClientProcess

__all__ = ["MOST", "Grave", "Graves"]

log = get_logger(__name__)

MOST: Final = 16
"""So the device holds the memory of those who are inside, whom the daemon counts, and of so many who have left."""
_LOOK_S: Final = 0.01


class Grave:
    """One arena, and who may still have it open."""

    def __init__(self, arena: DeviceArena, left: memoryview, process: ClientProcess) -> None:
        """`left` is where the client says that it closed the memory. All three are the grave's from now on."""
        self.arena = arena
        self._left = left
        self._process = process

    def untouchable(self) -> bool:
        """Whether neither the client nor the device can touch the memory any more."""
        return (self._left[0] == 1 or self._process.ended()) and self.arena.at_rest()

    def free(self) -> None:
        """Frees the memory and forgets the client."""
        self.arena.free()
        self._left.release()
        self._process.close()


class Graves:
    """All of them. Looks again as long as there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._graves: list[Grave] = []
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._graves)

    def full(self) -> bool:
        """Whether as many are kept as may be, after a look at which can go."""
        if len(self._graves) >= MOST:
            self._look()
        return len(self._graves) >= MOST

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
