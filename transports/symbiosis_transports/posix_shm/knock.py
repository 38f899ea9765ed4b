"""A client at the data socket, whatever it comes for: one opening, one answer, and the descriptor with it."""

from __future__ import annotations

import os
import socket
import time
from typing import TypeVar

import msgspec

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RemoteProtocolError
from symbiosis_transports.folder import check_owner
from symbiosis_transports.handshake import let_in
from symbiosis_transports.peers import peer_of
from symbiosis_transports.posix_shm.attach import (
    MAX_DATAGRAM_BYTES,
    VERSION,
    Attached,
    Handed,
    Opening,
    decode_from_daemon,
    encode,
)

__all__ = ["knock"]

T = TypeVar("T", Attached, Handed)

_PAUSE_S = 0.01
"""Between two tries at a door before which too many wait: nothing tells when there is room."""


def knock(endpoint: str, opening: Opening, wanted: type[T], timeout_s: float) -> tuple[socket.socket, T, int]:
    """Returns the connection, the answer of that kind, and its descriptor. Both are the caller's to close.

    What the descriptor stands for is the caller's to check.

    Raises:
        RefusedError: the daemon says no.
        DaemonGoneError: nobody listens there, or it hung up.
        DaemonSilentError: no answer within `timeout_s`.
        RemoteProtocolError: who listens there is no daemon of this version.
        UsageError: it is another user's.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout_s)
    fds: list[int] = []
    try:
        _connect(sock, endpoint, timeout_s)
        check_owner(peer_of(sock).uid, endpoint)
        sock.send(encode(opening))
        datagram, fds, _, _ = socket.recv_fds(sock, MAX_DATAGRAM_BYTES, 1)
        answer = _read(datagram, endpoint, wanted)
        if len(fds) != 1:
            raise RemoteProtocolError(f"the daemon at {endpoint} lent nothing: no descriptor came with its answer")
        os.set_inheritable(fds[0], False)  # recv_fds takes no flag that would have it so from the start (3.13)
    except BaseException as error:
        sock.close()
        for fd in fds:
            os.close(fd)
        if isinstance(error, TimeoutError):
            raise DaemonSilentError(endpoint, timeout_s) from None
        if isinstance(error, OSError):
            raise DaemonGoneError(endpoint, error.strerror or str(error)) from None
        raise
    return sock, answer, fds[0]


def _connect(sock: socket.socket, endpoint: str, timeout_s: float) -> None:
    """Queues up at the door. Raises TimeoutError where there was no room in the queue for so long."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            sock.connect(endpoint)
            return
        except BlockingIOError:  # at once, whatever the socket's limit of time
            if time.monotonic() > deadline:
                raise TimeoutError from None
        time.sleep(_PAUSE_S)


def _read(datagram: bytes, endpoint: str, wanted: type[T]) -> T:
    if not datagram:
        raise DaemonGoneError(endpoint, "it hung up before it answered")
    try:
        message = decode_from_daemon(datagram)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"who listens at {endpoint} is no daemon: {error}") from None
    return let_in(endpoint, message, wanted, VERSION)
