"""The client's way to the weights themselves: ask at the data socket, and take a descriptor away.

The connection is for this alone and ends with it. What the descriptor stands for is the caller's to check.
"""

from __future__ import annotations

from symbiosis_transports.posix_shm.attach import VERSION, Collect, Handed
from symbiosis_transports.posix_shm.knock import knock

__all__ = ["collect"]


def collect(endpoint: str, model: str, timeout_s: float) -> int:
    """Returns the descriptor of the weights of the daemon's base `model`, which the caller closes.

    Raises as `knock` says; RefusedError: there is no such base, or nothing of it is lent to this user.
    """
    sock, _, fd = knock(endpoint, Collect(VERSION, model), Handed, timeout_s)
    sock.close()
    return fd
