"""Runs a data plane in a thread of its own, as a service of the kernel.

The two threads meet here only: `call` runs something in the data plane's thread and awaits what it returns.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import uvloop

from symbiosis_core.logs import event, get_logger
from symbiosis_scheduler.dataplane import DataPlane
from symbiosis_transports.ports import Listener

__all__ = ["DataPlaneThread", "Opening"]

log = get_logger(__name__)

T = TypeVar("T")
Opening = Callable[[asyncio.AbstractEventLoop], tuple[DataPlane, list[Listener]]]
"""Builds the data plane and opens its doors, in its own thread."""


class DataPlaneThread:
    """The data plane as a service. `open_plane` runs in the new thread; `drain_s` bounds the farewell."""

    name = "data plane"

    def __init__(self, open_plane: Opening, *, drain_s: float) -> None:
        self._open_plane = open_plane
        self._drain_s = drain_s
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="symbiosis-data", daemon=True)
        self._plane: DataPlane | None = None
        self._listeners: list[Listener] = []
        self._home: asyncio.AbstractEventLoop | None = None
        self._failed: asyncio.Future[None] | None = None
        self._broken = False

    async def start(self) -> None:
        """Starts the thread and returns when its doors are open."""
        self._home = asyncio.get_running_loop()
        self._failed = self._home.create_future()
        self._loop.set_exception_handler(self._on_exception)
        self._thread.start()
        try:
            await self.call(self._open)
        except BaseException:
            self._end_thread()
            raise

    async def run(self) -> None:
        """Waits for a failure in the thread, and raises it here."""
        assert self._failed is not None  # start() comes first
        await self._failed

    async def stop(self) -> None:
        """Lets what was taken be answered, hangs up, and ends the thread."""
        try:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close(), self._loop))
        finally:
            self._end_thread()

    async def call(self, function: Callable[[], T]) -> T:
        """Runs `function` in the data plane's thread, between two turns, and returns what it returns."""

        async def run() -> T:
            return function()

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    @property
    def plane(self) -> DataPlane:
        """The data plane; touch it through `call` alone."""
        assert self._plane is not None  # start() comes first
        return self._plane

    def _open(self) -> None:
        self._plane, self._listeners = self._open_plane(self._loop)

    async def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._broken:  # there is no turn any more that could drain
            self.plane.hang_up("it failed; its log has the traceback")
        else:
            try:
                await asyncio.wait_for(self.plane.drain(), self._drain_s)
            except TimeoutError:
                log.warning(event("stopping with requests unanswered", drained_s=self._drain_s))
            self.plane.hang_up("it was stopped")
        self.plane.close()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _end_thread(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback is a bug: it ends the daemon, with its traceback."""
        error = context.get("exception") or RuntimeError(context.get("message", "unknown failure"))
        self._broken = True
        home, failed = self._home, self._failed
        assert home is not None  # the thread is started by start()
        assert failed is not None

        def tell() -> None:
            if not failed.done():
                failed.set_exception(error)

        home.call_soon_threadsafe(tell)
