"""A client comes in: it shows its token, and maps the memory that the daemon passes."""

from __future__ import annotations

import os
import socket

import msgspec

from symbiosis_core.errors import DaemonGoneError, DaemonSilentError, RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_core.protocol import refusal
from symbiosis_core.wire import Refused
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import Layout
from symbiosis_transports.posix_shm.attach import (
    MAX_DATAGRAM_BYTES,
    VERSION,
    Attach,
    Attached,
    Goodbye,
    check_owner,
    decode_from_daemon,
    encode,
)
from symbiosis_transports.posix_shm.client import ShmClientChannel

__all__ = ["connect"]


def connect(endpoint: str, token: Token, timeout_s: float) -> ShmClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.settimeout(timeout_s)
    try:
        sock.connect(endpoint)
        check_owner(sock, endpoint)
        sock.send(encode(Attach(VERSION, token)))
        datagram, fds, _, _ = socket.recv_fds(sock, MAX_DATAGRAM_BYTES, 1)
    except TimeoutError:
        sock.close()
        raise DaemonSilentError(endpoint, timeout_s) from None
    except OSError as error:
        sock.close()
        raise DaemonGoneError(endpoint, error.strerror or str(error)) from None
    except RemoteProtocolError:
        sock.close()
        raise
    try:
        welcome = _read_welcome(datagram, endpoint)
        if len(fds) != 1:
            raise RemoteProtocolError("the daemon sent no arena")
        layout = Layout(welcome.slots, welcome.slot_bytes)
        arena = Arena.attach(fds[0], layout.arena_bytes)
    except BaseException:
        sock.close()
        raise
    finally:
        for fd in fds:
            os.close(fd)
    sock.setblocking(False)
    return ShmClientChannel(sock, arena, layout, endpoint)


def _read_welcome(datagram: bytes, endpoint: str) -> Attached:
    if not datagram:
        raise DaemonGoneError(endpoint, "it hung up during the handshake")
    try:
        message = decode_from_daemon(datagram)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"who listens at {endpoint} is no daemon: {error}") from None
    if isinstance(message, Refused):
        raise refusal(message)
    if isinstance(message, Goodbye):
        raise DaemonGoneError(endpoint, message.reason)
    if not isinstance(message, Attached):
        raise RemoteProtocolError(f"the daemon answered {type(message).__name__} to a client that attached")
    if message.version != VERSION:
        raise RemoteProtocolError(f"the daemon speaks data plane version {message.version}, not {VERSION}")
    return message
