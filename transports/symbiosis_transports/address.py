"""Addresses: where a daemon is, and which of its models is meant.

ipc:///run/user/1000/symbiosis.sock         the daemon of this host at that socket
ipc:///run/user/1000/symbiosis.sock#name    ... its model `name`
tcp://host:5555                             the daemon of another host; rows travel over the next port, 5556
embedded:smollm2                            a private daemon that dies with the client
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from symbiosis_core.errors import UsageError

__all__ = ["SOCKET_PATH_MAX", "Address", "default_address", "parse"]

SOCKET_PATH_MAX = 100
"""Longest socket path taken, in bytes: the kernel's limit is 107, and `.data` and `.lock` are appended."""

_LAST_PORT = 65534
"""The one behind it is for rows."""


class Address(NamedTuple):
    """A parsed address."""

    scheme: str
    """`ipc`, `tcp` or `embedded`."""
    target: str
    """The socket's path, host and port, or what the private daemon is to load."""
    model: str
    """The model's name in the daemon; empty for its default."""

    @property
    def control(self) -> str:
        """The control plane's endpoint, without the model."""
        return f"{self.scheme}://{self.target}"

    @property
    def host(self) -> str:
        """The host of a tcp address, a name or an IPv4 address."""
        return self.target.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port of a tcp address. Control messages use it, and rows the next one."""
        return int(self.target.rpartition(":")[2])

    def __str__(self) -> str:
        base = self.control if self.scheme != "embedded" else f"{self.scheme}:{self.target}"
        return f"{base}#{self.model}" if self.model else base


def parse(text: str) -> Address:
    """Returns the parts of an address.

    Raises:
        UsageError: not an address; the message shows what one looks like.
    """
    body, _, model = text.partition("#")
    if body.startswith("embedded:") and len(body) > len("embedded:"):
        return Address("embedded", body.removeprefix("embedded:"), model)
    if body.startswith("ipc://"):
        path = body.removeprefix("ipc://")
        if not Path(path).is_absolute():
            raise UsageError(f"{text!r}: an ipc address has an absolute path, as in ipc:///tmp/symbiosis.sock")
        if len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise UsageError(f"{text!r}: a socket path has at most {SOCKET_PATH_MAX} bytes; choose a shorter one")
        return Address("ipc", path, model)
    if body.startswith("tcp://"):
        return _tcp(text, body.removeprefix("tcp://"), model)
    raise UsageError(
        f"{text!r} is not the address of a daemon; write ipc:///path/to/socket, as in `symbiosis serve --listen`, "
        "tcp://host:5555, or embedded:smollm2"
    )


def _tcp(text: str, target: str, model: str) -> Address:
    host, _, port = target.rpartition(":")
    if not host or ":" in host or "/" in target or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise UsageError(
            f"{text!r}: a tcp address has a host and a port from 1 to {_LAST_PORT}, as tcp://host:5555"
        )
    return Address("tcp", target, model)


def default_address() -> str:
    """Returns the address used where none is given: a socket in this user's runtime folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/symbiosis-{os.getuid()}"
    return f"ipc://{runtime}/symbiosis.sock"
