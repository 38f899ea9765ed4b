"""The control plane's link: ZeroMQ ROUTER in the daemon, a short-lived DEALER in the client, ipc or tcp.

Control messages are few and small, so latency does not matter here; what matters is that no peer can hurt the
daemon: size limits stand in the socket, every request gets exactly one reply, and garbage gets a refusal.
A client keeps no link open after its start: the data channel tells it of the daemon's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from symbiosis_core.errors import (
    BusyError,
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    RefusalCode,
    RefusedError,
    UsageError,
)
from symbiosis_core.logs import event, get_logger
from symbiosis_core.protocol import ClientConversation
from symbiosis_core.wire import MAX_REQUEST_BYTES, Refused, Reply, Request, decode_request, encode
from symbiosis_transports.address import Address, parse
from symbiosis_transports.folder import check_folder, for_owner_alone
from symbiosis_transports.keys import (
    DAEMON_KEY_VARIABLE,
    KEY_TAKEN_BACK,
    KEY_VARIABLE,
    Gatekeeper,
    check_exposure,
    client_keys,
    daemon_keys,
)
from symbiosis_transports.peers import is_ours, sender_of, told_by_zeromq
from symbiosis_transports.ports import Answer

__all__ = ["ControlClient", "ControlServer"]

log = get_logger(__name__)

_QUEUED_MESSAGES = 256
_HANDSHAKE_MS = 5000
_ENDED = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED
_REJECTED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_KEYS = (
    f"a daemon with keys wants {KEY_VARIABLE} (your secret key, whose public one it allows) and "
    f"{DAEMON_KEY_VARIABLE} (its public key); a daemon without wants neither"
)


class ControlServer:
    """The daemon's end, a `LinkServer`."""

    def __init__(self, address: str, answer: Answer) -> None:
        self._address = _running(address)
        self._answer = answer
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket | None = None
        self._gatekeeper: Gatekeeper | None = None

    def open(self) -> None:
        """Binds the socket. The caller holds the `AddressClaim`: a socket that is there is taken over.

        Raises:
            UsageError: the folder cannot be written, the port is in use, or anybody could come in over a network.
        """
        networked = self._address.scheme == "tcp"
        keys = daemon_keys() if networked else None
        check_exposure(self._address, keys)
        try:
            self._context = zmq.asyncio.Context(io_threads=1)
            self._socket = self._context.socket(zmq.ROUTER)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            self._socket.setsockopt(zmq.RCVHWM, _QUEUED_MESSAGES)
            self._socket.setsockopt(zmq.SNDHWM, _QUEUED_MESSAGES)
            self._socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
            if keys is not None:
                self._gatekeeper = Gatekeeper(zmq.Context.shadow(self._context), keys)
                self._gatekeeper.secure(self._socket)
            with contextlib.nullcontext() if networked else for_owner_alone(Path(self._address.target)):
                self._socket.bind(self._address.control)
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
                sender, *frames = await socket.recv_multipart(copy=False)
            except asyncio.CancelledError:
                if self._socket is None:  # closing the socket cancels whoever waits for it
                    return
                raise
            key = self._gatekeeper.name_of(sender) if self._gatekeeper is not None else ""
            refused = self._other_user(sender) if key is not None else KEY_TAKEN_BACK
            reply = refused or await self._reply([frame.bytes for frame in frames], key or "")
            with contextlib.suppress(zmq.ZMQError):  # the asker has left
                await socket.send_multipart([sender.bytes, *encode(reply)])

    def close(self) -> None:
        """Gives the address back. May be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._gatekeeper is not None:
            self._gatekeeper.close()
            self._gatekeeper = None
        if self._context is not None:
            self._context.term()
            self._context = None
            if self._address.scheme == "ipc":
                with contextlib.suppress(OSError):
                    Path(self._address.target).unlink()

    def _other_user(self, sender: zmq.Frame) -> Refused | None:
        """Whoever comes over a socket is this user or root, by the kernel's word, however open its mode is."""
        if self._address.scheme != "ipc" or is_ours(peer := told_by_zeromq(sender_of(sender))):
            return None
        log.warning(event("turned another user away", uid=peer.uid, pid=peer.pid))
        return Refused(
            RefusalCode.PERMISSION,
            f"user {peer.uid} may not use the daemon of user {os.getuid()}",
            "start a daemon of your own, or ask for a key",
        )

    async def _reply(self, frames: list[bytes], key: str) -> Reply:
        try:
            return await self._answer(decode_request(frames), key)
        except RefusedError as error:
            log.info(event("refused a request", code=error.code, reason=error.reason))
            retry_after_s = error.retry_after_s if isinstance(error, BusyError) else None
            return Refused(error.code, error.reason, error.remedy, retry_after_s)


class ControlClient:
    """The client's end, a `Link`."""

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self._address = _running(address)
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._reached = self._rejected = False
        networked = self._address.scheme == "tcp"
        keys = client_keys() if networked else None
        if not networked:
            try:
                check_folder(Path(self._address.target), asking=True)
            except (FileNotFoundError, NotADirectoryError):
                raise DaemonGoneError(self._address.control, "there is no such socket") from None
        self._conversation = ClientConversation()
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a refused connection is final: no daemon is there
        if keys is not None:
            keys.secure(self._socket)
        self._monitor = self._socket.get_monitor_socket(_ENDED | _REJECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.connect(self._address.control)

    def ask(self, request: Request) -> Reply:
        """See `Link`."""
        if os.getpid() != self._pid:
            raise ClosedError("this is a forked child; ask over a link of its own")
        if self._context.closed:
            raise ClosedError("the link was closed")
        try:
            self._socket.send_multipart(self._conversation.ask(request), zmq.NOBLOCK)
        except zmq.Again:  # a connection that broke between two questions is not made again
            raise DaemonGoneError(self._address.control, "the connection broke") from None
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        deadline = time.monotonic() + self._timeout_s
        while ready := dict(poller.poll(max(0, int((deadline - time.monotonic()) * 1000)))):
            if self._socket in ready:
                return self._conversation.answered(self._socket.recv_multipart())
            self._hear(parse_monitor_message(self._monitor.recv_multipart())["event"])
        if self._address.scheme == "tcp" and not self._reached:  # no route, or a cable that was cut
            raise DaemonGoneError(self._address.control, f"there was no connection within {self._timeout_s:g} s")
        raise DaemonSilentError(self._address.control, self._timeout_s)

    def close(self) -> None:
        """See `Link`. A forked child has nothing of ZeroMQ's that it could close."""
        if not self._context.closed and os.getpid() == self._pid:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._context.term()

    def _hear(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._reached = True
        elif event & _REJECTED:
            self._rejected = True
        elif self._rejected:
            raise RefusedError(RefusalCode.PERMISSION, f"{self._address.control} refused this client", _KEYS)
        else:
            raise DaemonGoneError(self._address.control, "nobody listens at the socket")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _running(text: str) -> Address:
    address = parse(text)
    if address.scheme not in ("ipc", "tcp"):
        raise UsageError(f"{text!r} names no running daemon; write ipc:///path/to/socket or tcp://host:5555")
    return address
