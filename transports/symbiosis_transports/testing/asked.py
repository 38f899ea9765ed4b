"""The daemon's end of a control link, in a thread of its own, with a control plane in four lines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from symbiosis_core.errors import BusyError, RefusalCode, RefusedError
from symbiosis_core.wire import Fetch, Hello, Reply, Request, TensorPart
from symbiosis_transports.ports import Answer, LinkServer

__all__ = ["TEXT", "AskedDaemon", "answer"]

TEXT: Final = b"0123456789"
_END_S: Final = 20.0


async def answer(request: Request, key: str) -> Reply:
    """Fetch is answered with what is left of `TEXT`, hello is told to wait, and everything else refused."""
    if isinstance(request, Fetch):
        return TensorPart(request.offset, len(TEXT), TEXT[request.offset :])
    if isinstance(request, Hello):
        raise BusyError(RefusalCode.QUOTA, f"64 clients {key or 'of nobody'}", "wait", retry_after_s=2.5)
    raise RefusedError(RefusalCode.UNKNOWN_MODEL, "no such model", "ask for another")


class AskedDaemon:
    """A link's server that is open, and answers once it is told to `serve`."""

    def __init__(self, make: Callable[[str, Answer], LinkServer], address: str, *, serve: bool = True) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = make(address, answer)
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="asked-daemon", daemon=True)
        self._server.open()
        self._thread.start()
        if serve:
            self.serve()

    def serve(self) -> None:
        """Answers from now on."""

        async def begin() -> None:
            self._task = asyncio.get_running_loop().create_task(self._server.serve())

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(_END_S)

    def close(self) -> None:
        """Gives the address back, and ends the thread."""

        async def end() -> None:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            self._server.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(_END_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
