"""Transports by name, found by entry points, so that a third party adds one without touching us."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from symbiosis_core.errors import UsageError
from symbiosis_transports.ports import Transport

__all__ = ["GROUP", "names", "transport"]

GROUP = "symbiosis.transports"
_BY_SPEED = ("cuda_ipc", "posix_shm", "inproc", "zmq_ipc", "zmq_tcp")


def names() -> tuple[str, ...]:
    """Returns the names of all installed transports: ours by speed, then those of others."""
    installed = {entry.name for entry in entry_points(group=GROUP)}
    return (*(name for name in _BY_SPEED if name in installed), *sorted(installed - set(_BY_SPEED)))


@cache
def transport(name: str) -> Transport:
    """Returns the transport `name`.

    Raises:
        UsageError: nothing of that name is installed.
    """
    for entry in entry_points(group=GROUP, name=name):
        found: Transport = entry.load()
        return found
    raise UsageError(f"no transport named {name!r}; installed are {', '.join(names()) or 'none'}")
