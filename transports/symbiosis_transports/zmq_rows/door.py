"""A ROUTER in the daemon's loop: messages in, messages out, and who has gone.

ZeroMQ does not say whose connection ended, but two things together do: every message carries the descriptor of the
connection that it came over, and the socket's monitor tells which descriptor was closed. Descriptors are used
again, so closings are heard before every message that is handled: one I/O thread writes both, in order.

The descriptor of the ROUTER wakes the loop once for many messages and may be quiet with messages waiting, for any
operation on the socket may have taken the signal. So every reading goes on until there is nothing, and every
sending looks whether something came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from symbiosis_core.errors import UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_transports.keys import KEY_TAKEN_BACK, DaemonKeys, Gatekeeper
from symbiosis_transports.peers import sender_of
from symbiosis_transports.zmq_rows.messages import encode

__all__ = ["SENT", "Caller", "Door", "beat"]

log = get_logger(__name__)

_AT_ONCE: Final = 256
"""Messages that are handled before others have the loop again."""
_RECEIVED: Final = 16
"""Messages of one client that wait here; more wait on its side."""
SENT: Final = 4096
"""Messages to one client that wait here. One that does not read gets no more."""
_HANDSHAKE_MS: Final = 5000
_FAREWELL_MS: Final = 500
"""What has been said last may take so long to leave, where somebody does not read."""
_COPY_BELOW_BYTES: Final = 1 << 16
_ENDED: Final = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


class Caller:
    """A connected client that has said something."""

    def __init__(self, name: bytes, descriptor: int, where: str, key: str | None) -> None:
        """A `key` of None was taken back."""
        self.name = name
        """By which the ROUTER knows it."""
        self.descriptor = descriptor
        self.where = where
        """As ZeroMQ tells it: an address, or the user, group and process."""
        self.key = key or ""
        """The name of the key that it has shown; empty: none was asked for."""
        self.welcome = key is not None
        """Else it came in before its key was taken back, and is not heard."""

    def __repr__(self) -> str:
        return f"<Caller {self.name.hex()} {self.where}>"


class Door:
    """The socket. `said` is given every message of a caller, `left` every caller that went away."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        said: Callable[[Caller, list[memoryview]], None],
        left: Callable[[Caller], None],
        *,
        most_bytes: int,
        keys: DaemonKeys | None = None,
        heartbeat_ms: int = 0,
    ) -> None:
        self._loop, self._said, self._left = loop, said, left
        self._callers: dict[bytes, Caller] = {}
        self._draining = self._scheduled = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._gatekeeper = Gatekeeper(self._context, keys) if keys is not None else None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, most_bytes)
        self._socket.setsockopt(zmq.RCVHWM, _RECEIVED)
        self._socket.setsockopt(zmq.SNDHWM, SENT)
        self._socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        if heartbeat_ms:
            beat(self._socket, heartbeat_ms)
        if self._gatekeeper is not None:
            self._gatekeeper.secure(self._socket)
        self._monitor = self._socket.get_monitor_socket(_ENDED)
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._end()
            raise UsageError(f"cannot listen at {endpoint}: {error}; choose another address") from None
        for socket in (self._socket, self._monitor):
            loop.add_reader(_number(socket, zmq.FD), self.drain)

    def __repr__(self) -> str:
        return f"<Door {'closed' if self._context.closed else 'open'} callers={len(self._callers)}>"

    def pending(self) -> bool:
        """Whether there is something to read."""
        return not self._context.closed and bool(_number(self._socket, zmq.EVENTS) & zmq.POLLIN)

    def drain(self) -> None:
        """Reads what there is."""
        if self._draining or self._context.closed:
            return
        self._draining = True
        try:
            for _ in range(_AT_ONCE):
                if not self._read_one():
                    return
        finally:
            self._draining = False
        self._drain_soon()

    def send(self, caller: Caller, frames: Sequence[bytes | memoryview]) -> bool:
        """Sends without waiting; false: the caller has gone, or does not read what it is sent."""
        if self._context.closed:
            return False
        try:
            self._socket.send(caller.name, zmq.SNDMORE | zmq.NOBLOCK)
            for number, frame in enumerate(frames, 1):
                more = zmq.SNDMORE if number < len(frames) else 0
                self._socket.send(frame, more | zmq.NOBLOCK, copy=len(frame) < _COPY_BELOW_BYTES)
        except zmq.ZMQError:
            return False
        self._drain_soon()
        return True

    def soon(self, callback: Callable[[], None]) -> None:
        """Has it called in the next turn of the loop."""
        self._loop.call_soon(callback)

    def forget(self, caller: Caller) -> None:
        """What the caller says from now on is said by a stranger."""
        self._callers.pop(caller.name, None)

    def close(self) -> None:
        """Ends every connection. May be called twice."""
        if not self._context.closed:
            for socket in (self._socket, self._monitor):
                self._loop.remove_reader(_number(socket, zmq.FD))
            self._end()

    def _read_one(self) -> bool:
        try:
            name, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._hear_endings()
            return False
        self._hear_endings()
        caller = self._callers.get(name.bytes) or self._meet(name)
        if caller is not None and caller.welcome:
            self._said(caller, [frame.buffer for frame in frames])
        return not self._context.closed

    def _meet(self, name: zmq.Frame) -> Caller | None:
        """Returns who says something for the first time; None: noise that ZeroMQ takes for its oldest protocol.

        Whose key was taken back is told so, once, and remembered until it goes: to look for the key whenever it
        says something would cost those inside more than it.
        """
        descriptor = _descriptor(name)
        if descriptor is None:
            return None
        key = self._gatekeeper.name_of(name) if self._gatekeeper is not None else ""
        caller = self._callers[name.bytes] = Caller(name.bytes, descriptor, sender_of(name), key)
        self._replace(caller)
        if not caller.welcome:
            self.send(caller, [encode(KEY_TAKEN_BACK)])
            log.info(event("turned a connection away", code=KEY_TAKEN_BACK.code, reason=KEY_TAKEN_BACK.reason))
        return caller

    def _replace(self, newcomer: Caller) -> None:
        """Whoever had the newcomer's descriptor is gone, and its ending was heard before it was known."""
        for caller in list(self._callers.values()):
            if caller is not newcomer and caller.descriptor == newcomer.descriptor:
                self._lose(caller)

    def _hear_endings(self) -> None:
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            for caller in [one for one in self._callers.values() if one.descriptor == event["value"]]:
                self._lose(caller)

    def _lose(self, caller: Caller) -> None:
        self.forget(caller)
        self._left(caller)

    def _drain_soon(self) -> None:
        if not self._scheduled and self.pending():
            self._scheduled = True
            self._loop.call_soon(self._drain_scheduled)

    def _drain_scheduled(self) -> None:
        self._scheduled = False
        self.drain()

    def _end(self) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_FAREWELL_MS)
        if self._gatekeeper is not None:
            self._gatekeeper.close()
        self._context.term()


def beat(socket: zmq.Socket[bytes], every_ms: int) -> None:
    """A side that is silent for five beats is gone, also where its cable was cut."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, every_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 5 * every_ms)
    socket.setsockopt(zmq.HEARTBEAT_TTL, 5 * every_ms)


def _number(socket: zmq.Socket[bytes], option: zmq.SocketOption) -> int:
    found = socket.getsockopt(option)
    assert isinstance(found, int)  # of these options
    return found


def _descriptor(frame: zmq.Frame) -> int | None:
    try:
        found: Any = frame.get(zmq.SRCFD)
    except zmq.ZMQError:
        return None
    return int(found)
