"""The client's way to the weights themselves: ask at the data socket, and take a descriptor away.

The connection is for this alone and ends with it. What the descriptor stands for is the caller's to check.
"""

from __future__ import annotations

import os
import socket

import msgspec

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RemoteProtocolError
from symbiosis_core.protocol import refusal
from symbiosis_core.wire import Refused
from symbiosis_transports.posix_shm.attach import (
    MAX_DATAGRAM_BYTES,
    VERSION,
    Collect,
    Handed,
    check_owner,
    decode_from_daemon,
    encode,
)

__all__ = ["collect"]


def collect(endpoint: str, model: str, timeout_s: float) -> int:
    """Returns the descriptor of the weights of the daemon's base `model`, which the caller closes.

    Raises:
        RefusedError: there is no such base, or nothing of it is lent to this user.
        DaemonGoneError: nobody listens there.
        DaemonSilentError: no answer within `timeout_s`.
        RemoteProtocolError: who listens there is no daemon of this version, or of another user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(endpoint)
            check_owner(sock, endpoint)
            sock.send(encode(Collect(VERSION, model)))
            datagram, fds, _, _ = socket.recv_fds(sock, MAX_DATAGRAM_BYTES, 1)
        except TimeoutError:
            raise DaemonSilentError(endpoint, timeout_s) from None
        except OSError as error:
            raise DaemonGoneError(endpoint, error.strerror or str(error)) from None
    try:
        _check(datagram, endpoint)
        if len(fds) != 1:
            raise RemoteProtocolError("the daemon handed the weights over and sent no descriptor")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    os.set_inheritable(fds[0], False)  # recv_fds takes no flag that would have it so from the start (Python 3.13)
    return fds[0]


def _check(datagram: bytes, endpoint: str) -> None:
    if not datagram:
        raise DaemonGoneError(endpoint, "it hung up before it answered")
    try:
        message = decode_from_daemon(datagram)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"who listens at {endpoint} is no daemon: {error}") from None
    if isinstance(message, Refused):
        raise refusal(message)
    if not isinstance(message, Handed) or message.version != VERSION:
        raise RemoteProtocolError(
            f"the daemon at {endpoint} answered {message!r:.100} to a client that came for the weights"
        )
