"""An `EchoDaemon` in a process of its own, for transports whose ends cannot share one.

So it is on a device: nobody opens memory that it has made itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from multiprocessing.connection import Connection
from typing import Final

from symbiosis_transports.ports import Transport
from symbiosis_transports.testing.echo import TIMEOUT_S, EchoDaemon

__all__ = ["EchoProcess"]

_START_S: Final = 120.0
"""The child imports what the transport needs, and starts a device, on a machine that may be busy."""


class EchoProcess:
    """What a test asks of an `EchoDaemon`, asked from another process."""

    def __init__(self, transport: Transport, endpoint: str, *, slots: int = 4) -> None:
        """Returns once the door is open. The transport is pickled.

        Raises:
            EOFError: the process has ended instead.
        """
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(transport, endpoint, slots, theirs), daemon=True)
        with contextlib.ExitStack() as undone:
            undone.callback(self._pipe.close)
            with theirs:
                self._process.start()
            undone.callback(self._kill)
            assert self._pipe.poll(_START_S), "the daemon's process did not start"
            self._pipe.recv()
            undone.pop_all()

    def __repr__(self) -> str:
        return f"<EchoProcess {self._process.pid}>"

    @property
    def inside(self) -> int:
        """How many clients are there."""
        return self._ask(0)[0]

    @property
    def left(self) -> int:
        """How many clients have left."""
        return self._ask(0)[1]

    def wait_until_gone(self, clients: int = 1) -> None:
        """Blocks until so many clients have left."""
        self._ask(clients)

    def close(self) -> None:
        """Has it stop, and waits for its end."""
        self._pipe.close()
        self._process.join(TIMEOUT_S)
        self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _ask(self, clients: int) -> tuple[int, int]:
        self._pipe.send(clients)
        assert self._pipe.poll(2 * TIMEOUT_S), "the daemon's process does not answer"
        inside, left = self._pipe.recv()
        return inside, left


def _serve(transport: Transport, endpoint: str, slots: int, pipe: Connection) -> None:
    """What the process does, until the other end of the pipe is closed."""
    daemon = EchoDaemon(transport, endpoint, slots=slots)
    pipe.send("ready")
    try:
        while True:
            daemon.wait_until_gone(pipe.recv())
            pipe.send((daemon.inside, daemon.left))
    except EOFError:
        daemon.close()
