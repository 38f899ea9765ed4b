"""Gives the daemon's freed memory back to the system when nobody has asked for anything for some seconds."""

from __future__ import annotations

import asyncio

from symbiosis_core.heaps import trim_heap
from symbiosis_core.logs import event, get_logger
from symbiosis_core.resting import LOOK_EVERY_S, Resting

__all__ = ["Trimming"]

log = get_logger(__name__)


class Trimming:
    """A service of the kernel, in the main thread: the data plane has next to nothing to do when it works."""

    name = "trimming"

    def __init__(self, resting: Resting | None = None, look_every_s: float = LOOK_EVERY_S) -> None:
        self._resting = resting or Resting(look_every_s=look_every_s)
        self._look_every_s = look_every_s

    async def start(self) -> None:
        """Nothing to be done."""

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(self._look_every_s)
            if self._resting.look():
                trim_heap()
                log.debug(event("heap trimmed"))

    async def stop(self) -> None:
        """Nothing to be done."""
