"""A client's DEALER: blocking, with limits on time, and with the news that the daemon has gone."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError
from symbiosis_transports.keys import ClientKeys
from symbiosis_transports.peers import sender_of
from symbiosis_transports.zmq_rows.door import beat

__all__ = ["Line"]

_REJECTED: Final = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_ENDED: Final = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
_COPY_BELOW_BYTES: Final = 1 << 16


class Line:
    """One connection. A second one is never made: who lost it says so, and the session attaches anew."""

    def __init__(
        self, endpoint: str, *, most_bytes: int, keys: ClientKeys | None = None, heartbeat_ms: int = 0
    ) -> None:
        self.endpoint = endpoint
        self.sent = 0
        self.peer = ""
        """Whom this line has reached, by ZeroMQ's word with the first message; empty: nothing was said yet."""
        self._connected = self._rejected = False
        self._connection: tuple[int, tuple[int, int]] | None = None
        """The descriptor under this line, and what it stood for when ZeroMQ told of it: numbers are used again."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        if heartbeat_ms:
            beat(self._socket, heartbeat_ms)
        if keys is not None:
            keys.secure(self._socket)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _REJECTED | _ENDED
        )
        self._poller = zmq.Poller()
        self._poller.register(self._monitor, zmq.POLLIN)
        self._socket.connect(endpoint)

    @property
    def closed(self) -> bool:
        """Whether it was closed on this side."""
        return self._context.closed

    def send(self, frames: Sequence[bytes | memoryview], timeout_s: float) -> None:
        """Sends one message, waiting while the daemon takes none.

        Raises:
            DaemonGoneError: it went away.
            DaemonSilentError: it has taken nothing for so long.
        """
        deadline = time.monotonic() + timeout_s
        for number, frame in enumerate(frames, 1):
            more = zmq.SNDMORE if number < len(frames) else 0
            while True:
                try:
                    self._socket.send(frame, more | zmq.NOBLOCK, copy=len(frame) < _COPY_BELOW_BYTES)
                    break
                except zmq.Again:
                    self._wait(zmq.POLLOUT, deadline, timeout_s)
        self.sent += 1

    def receive(self, timeout_s: float) -> list[memoryview]:
        """Returns the next message. Raises as `send` does."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._wait(zmq.POLLIN, deadline, timeout_s)
            else:
                self.peer = self.peer or sender_of(frames[0])
                if self._connection is None:
                    self._hear()  # the first thing that there is to hear: that there was a connection
                return [frame.buffer for frame in frames]

    def close(self) -> None:
        """Ends the connection. May be called twice."""
        if not self._context.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=0)
            self._context.term()

    def forget_in_child(self) -> None:
        """Closes the copy that a forked child has of the connection, and nothing of ZeroMQ's.

        As long as somebody has a copy, the daemon does not see that this side has closed the connection, or died.
        """
        if self._connection is not None:
            descriptor, identity = self._connection
            with contextlib.suppress(OSError):  # it was closed before the fork
                if _identity(descriptor) == identity:
                    os.close(descriptor)

    def _wait(self, for_what: int, deadline: float, timeout_s: float) -> None:
        self._poller.register(self._socket, for_what)
        left_ms = max(0, int((deadline - time.monotonic()) * 1000))
        ready = dict(self._poller.poll(left_ms))
        if self._socket in ready:
            return  # what the daemon said before it went away is heard first
        if self._monitor in ready:
            self._hear()
        elif not ready and not self._connected:  # no route, or a cable that was cut: nobody says no
            raise DaemonGoneError(self.endpoint, f"there was no connection within {timeout_s:g} s")
        elif not ready:
            raise DaemonSilentError(self.endpoint, timeout_s)

    def _hear(self) -> None:
        message = parse_monitor_message(self._monitor.recv_multipart())
        event = message["event"]
        if event == zmq.EVENT_CONNECTED:
            self._connection = _identified(message["value"])
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected = True
        elif event & _REJECTED:
            self._rejected = True
        elif self._rejected:
            raise DaemonGoneError(self.endpoint, "the keys of the two sides do not go together")
        else:
            raise DaemonGoneError(self.endpoint, "the connection broke" if self._connected else "nobody listens")


def _identified(descriptor: int) -> tuple[int, tuple[int, int]]:
    """Returns the descriptor with what it stands for; zeros, which no socket has, where it is closed already."""
    try:
        return descriptor, _identity(descriptor)
    except OSError:
        return descriptor, (0, 0)


def _identity(descriptor: int) -> tuple[int, int]:
    """A file may have the number of a socket's inode, on a device of its own."""
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
