"""A client comes in: it shows its token, and maps the memory that the daemon passes."""

from __future__ import annotations

import os

from symbiosis_core.ids import Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import Layout
from symbiosis_transports.posix_shm.attach import VERSION, Attach, Attached
from symbiosis_transports.posix_shm.client import ShmClientChannel
from symbiosis_transports.posix_shm.knock import knock

__all__ = ["connect"]


def connect(endpoint: str, token: Token, timeout_s: float) -> ShmClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says."""
    sock, welcome, fd = knock(endpoint, Attach(VERSION, token), Attached, timeout_s)
    try:
        layout = Layout(welcome.slots, welcome.slot_bytes)
        arena = Arena.attach(fd, layout.arena_bytes)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    sock.setblocking(False)
    return ShmClientChannel(sock, arena, layout, endpoint)
