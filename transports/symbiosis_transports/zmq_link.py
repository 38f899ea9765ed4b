"""The control plane's link: ZeroMQ ROUTER in the daemon, a short-lived DEALER in the client.

Control messages are few and small, so latency does not matter here; what matters is that no peer can hurt the
daemon: size limits stand in the socket, every request gets exactly one reply, and garbage gets a refusal.
A client keeps no link open after its start: the data channel tells it of the daemon's end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from symbiosis_core.errors import (
    BusyError,
    DaemonGoneError,
    DaemonSilentError,
    RefusedError,
    UsageError,
)
from symbiosis_core.logs import event, get_logger
from symbiosis_core.protocol import ClientConversation
from symbiosis_core.wire import MAX_REQUEST_BYTES, Refused, Reply, Request, decode_request, encode
from symbiosis_transports.address import Address, parse

__all__ = ["ControlClient", "ControlServer"]

log = get_logger(__name__)

_QUEUED_MESSAGES = 256


class ControlServer:
    """The daemon's end. `answer` maps a request to its reply and may raise `RefusedError`."""

    def __init__(self, address: str, answer: Callable[[Request], Awaitable[Reply]]) -> None:
        self._address = _ipc(address)
        self._answer = answer
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None

    def open(self) -> None:
        """Binds the socket. The caller holds the `AddressClaim`: a socket that is there is taken over.

        Raises:
            UsageError: the folder cannot be written.
        """
        path = Path(self._address.target)
        try:
            self._context = zmq.asyncio.Context(io_threads=1)
            self._socket = self._context.socket(zmq.ROUTER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            self._socket.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
            self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
            self._socket.bind(self._address.control)
            path.chmod(0o600)
        except OSError as error:  # zmq.ZMQError is not one of them
            self.close()
            raise UsageError(
                f"cannot listen at {self._address.control}: {error.strerror or error}; choose a path you may write"
            ) from error
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(f"cannot listen at {self._address.control}: {error}") from error

    async def serve(self) -> None:
        """Answers requests until cancelled or closed."""
        while (socket := self._socket) is not None:
            try:
                sender, *frames = await socket.recv_multipart()
            except asyncio.CancelledError:
                if self._socket is None:  # closing the socket cancels whoever waits for it
                    return
                raise
            reply = await self._reply(frames)
            with contextlib.suppress(zmq.ZMQError):  # the asker has left
                await socket.send_multipart([sender, *encode(reply)])

    def close(self) -> None:
        """Gives the address back. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._context is not None:
            self._context.term()
            self._context = None
            with contextlib.suppress(OSError):
                Path(self._address.target).unlink()

    async def _reply(self, frames: list[bytes]) -> Reply:
        try:
            return await self._answer(decode_request(frames))
        except RefusedError as error:
            log.info(event("refused a request", code=error.code, reason=error.reason))
            retry_after_s = error.retry_after_s if isinstance(error, BusyError) else None
            return Refused(error.code, error.reason, error.remedy, retry_after_s)


class ControlClient:
    """The client's end: ask, and wait for the answer. One thread, one question at a time."""

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self._address = _ipc(address)
        self._timeout_s = timeout_s
        if not Path(self._address.target).exists():
            raise DaemonGoneError(self._address.control, "there is no such socket")
        self._conversation = ClientConversation()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a refused connection is final: no daemon is there
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._address.control)

    def ask(self, request: Request) -> Reply:
        """Returns the daemon's answer, of the kind that the request calls for.

        Raises:
            RefusedError: the daemon said no.
            DaemonGoneError: nobody is there, or it went away.
            DaemonSilentError: somebody is there and does not answer.
            RemoteProtocolError: the answer is none.
        """
        self._socket.send_multipart(self._conversation.ask(request))
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        ready = dict(poller.poll(int(self._timeout_s * 1000)))
        if self._socket in ready:
            return self._conversation.answered(self._socket.recv_multipart())
        if self._monitor in ready:
            raise DaemonGoneError(self._address.control, "nobody listens at the socket")
        raise DaemonSilentError(self._address.control, self._timeout_s)

    def close(self) -> None:
        """Ends the conversation. May be called twice."""
        if not self._context.closed:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _ipc(text: str) -> Address:
    address = parse(text)
    if address.scheme != "ipc":
        raise UsageError(f"{text!r} names no running daemon; write ipc:///path/to/socket")
    return address
