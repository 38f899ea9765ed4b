"""The client's end: maps the daemon's arena, and checks it as `posix_shm` does."""

from __future__ import annotations

import os

from symbiosis_core.errors import DaemonGoneError, RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.zmq_rows.client import RowsClientChannel, open_line
from symbiosis_transports.zmq_rows.line import Line
from symbiosis_transports.zmq_rows.messages import Opened
from symbiosis_transports.zmq_rows.slots import Slots

__all__ = ["connect"]

_MOST_BYTES = 4096


def connect(endpoint: str, token: Token, timeout_s: float) -> RowsClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says."""
    line = Line(endpoint, most_bytes=_MOST_BYTES)
    opened = open_line(line, token, timeout_s)
    try:
        arena = _map(opened, endpoint)
    except BaseException:
        line.close()
        raise
    return RowsClientChannel(line, Slots(arena, opened.slots, opened.slot_bytes))


def _map(opened: Opened, endpoint: str) -> Arena:
    try:
        fd = os.open(opened.memory, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise DaemonGoneError(endpoint, f"its memory at {opened.memory!r} cannot be opened: {error}") from None
    try:
        if (owner := os.fstat(fd).st_uid) not in (os.getuid(), 0):
            raise RemoteProtocolError(f"the arena belongs to user {owner}")
        return Arena.attach(fd, Slots.arena_bytes(opened.slots, opened.slot_bytes))
    finally:
        os.close(fd)
