"""The client's end: maps the daemon's arena, and checks it as `posix_shm` does.

Where the memory is, the daemon says in words. They are not taken for more than they may be: a descriptor of some
process, behind which is memory.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from symbiosis_core.errors import DaemonGoneError, RemoteProtocolError
from symbiosis_core.ids import Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.folder import check_owner
from symbiosis_transports.peers import told_by_zeromq
from symbiosis_transports.zmq_rows.client import RowsClientChannel, open_line
from symbiosis_transports.zmq_rows.line import Line
from symbiosis_transports.zmq_rows.messages import Opened
from symbiosis_transports.zmq_rows.slots import Slots

__all__ = ["connect"]

_MOST_BYTES = 4096
_DESCRIPTOR: Final = re.compile(r"/proc/[1-9][0-9]{0,9}/fd/[0-9]{1,9}", re.ASCII)


def connect(endpoint: str, token: Token, timeout_s: float) -> RowsClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says."""
    line = Line(endpoint, most_bytes=_MOST_BYTES)
    opened = open_line(line, token, timeout_s)
    try:
        check_owner(told_by_zeromq(line.peer).uid, endpoint)
        arena = _map(opened, endpoint)
    except BaseException:
        line.close()
        raise
    return RowsClientChannel(line, Slots(arena, opened.slots, opened.slot_bytes))


def _map(opened: Opened, endpoint: str) -> Arena:
    if not _DESCRIPTOR.fullmatch(opened.memory):
        raise RemoteProtocolError(f"the arena is said to be at {opened.memory!r:.100}, no descriptor of a process")
    try:
        # Looked at before it is opened: to open a device or a pipe is to do something with it.
        _check(Path(opened.memory).stat(), endpoint)
        fd = os.open(opened.memory, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise DaemonGoneError(endpoint, f"its memory at {opened.memory!r} cannot be opened: {error}") from None
    try:
        _check(os.fstat(fd), endpoint)
        return Arena.attach(fd, Slots.arena_bytes(opened.slots, opened.slot_bytes))
    finally:
        os.close(fd)


def _check(status: os.stat_result, endpoint: str) -> None:
    """Lets through what is memory, or a file, of whom the daemon may be.

    Raises:
        RemoteProtocolError: it is something else.
        UsageError: it is another user's.
    """
    if not stat.S_ISREG(status.st_mode):
        raise RemoteProtocolError("the arena is no memory")
    check_owner(status.st_uid, endpoint)
