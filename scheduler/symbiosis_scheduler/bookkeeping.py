"""What the daemon does once a minute: writes the cost curves down, and tells the log what holding has brought."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from symbiosis_core.ids import BaseId
from symbiosis_core.logs import event, get_logger
from symbiosis_core.wire import HoldStatus
from symbiosis_scheduler.cost_file import CostFile
from symbiosis_scheduler.dataplane_thread import DataPlaneThread
from symbiosis_scheduler.decisions.costs import Curves

__all__ = ["Bookkeeping"]

_EVERY_S: Final = 60.0

log = get_logger(__name__)


class Bookkeeping:
    """A service of the kernel. Starts after the data plane and stops before it."""

    name = "bookkeeping"

    def __init__(self, data: DataPlaneThread, files: Sequence[CostFile]) -> None:
        """`files` has one for every base."""
        self._data = data
        self._files = files
        self._told = HoldStatus()
        self._learned = 0

    async def start(self) -> None:
        """Nothing to be done."""

    async def run(self) -> None:
        """Keeps the books until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._keep()

    async def stop(self) -> None:
        """Keeps them for the last time."""
        await self._keep()

    async def _keep(self) -> None:
        learned, curves, holds = await self._data.call(self._look)
        if learned != self._learned:
            for file, written_down in zip(self._files, curves, strict=True):
                file.save(written_down)
            self._learned = learned
        if holds.count != self._told.count:
            log.info(
                event(
                    "holding",
                    holds=holds.count - self._told.count,
                    hits=holds.hits - self._told.hits,
                    expected_ms=round((holds.expected_us - self._told.expected_us) / 1e3, 1),
                    actual_ms=round((holds.actual_us - self._told.actual_us) / 1e3, 1),
                    off=holds.off,
                    together=",".join(holds.together) if isinstance(holds.together, tuple) else None,
                )
            )
            self._told = holds

    def _look(self) -> tuple[int, list[Curves], HoldStatus]:
        """Runs in the data plane's thread."""
        state = self._data.plane.state
        costs = state.known.costs
        curves = [costs.written_down(BaseId(base)) for base in range(len(self._files))]
        return costs.learned, curves, state.statistics().holds
