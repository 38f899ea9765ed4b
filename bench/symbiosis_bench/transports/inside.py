"""The reference transport, whose ends share a process: the client's, with the daemon's end in a thread."""

from __future__ import annotations

import threading
from typing import Final

import uvloop

from symbiosis_bench.transports.contenders import ChannelContender
from symbiosis_bench.transports.service import Service
from symbiosis_bench.transports.yardsticks import INPROC
from symbiosis_transports.registry import transport

__all__ = ["InprocContender"]

_END_S: Final = 20.0


class InprocContender(ChannelContender):
    """A client that has its daemon with it: what the contract itself costs, under one interpreter's lock."""

    def __init__(self, endpoint: str, spin: str, slot_bytes: int) -> None:
        self._loop = uvloop.new_event_loop()
        self._listener = transport(INPROC).listen(self._loop, endpoint, Service(self._loop, slot_bytes))
        self._thread = threading.Thread(target=self._loop.run_forever, name="inproc-server", daemon=True)
        self._thread.start()
        super().__init__(INPROC, endpoint, spin)

    def close(self) -> None:
        """Ends both ends."""
        super().close()
        self._listener.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_S)
        self._loop.close()
