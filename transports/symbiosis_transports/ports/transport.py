"""One way to carry rows: how a daemon opens its door with it, and how a client comes in."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple, Protocol, runtime_checkable

from symbiosis_core.ids import ClientId, Token
from symbiosis_core.wire import Capability
from symbiosis_transports.ports.channel import ClientChannel, ServerChannel

__all__ = [
    "MOST_DESCRIPTORS",
    "Grant",
    "Host",
    "Listener",
    "Peer",
    "Placeable",
    "Transport",
]


MOST_DESCRIPTORS: Final = 4
"""So many files and sockets a client takes of its daemon at most, from its opening until it has left."""


class Peer(NamedTuple):
    """Who is at the other end: nobody's word but that of the kernel, or of CURVE."""

    pid: int
    """0: not known."""
    uid: int | None
    """None: no user of this host; the transport has asked for a key instead, or listens on the loopback only."""
    key: str = ""
    """The name of the key that was shown; empty: none was asked for."""


class Grant(NamedTuple):
    """What a token was issued for."""

    client: ClientId
    slots: int
    """1 to 4096: no client believes more."""
    slot_bytes: int


class Host(Protocol):
    """What a listener asks of the daemon. All calls come in the thread of the loop."""

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """Exchanges a token for what it was issued for, once.

        Raises:
            RefusedError: unknown, expired or used token, or a user who may not.
        """

    def lend(self, peer: Peer, model: str) -> int:
        """Returns the descriptor of the sealed weights of that base, which stays the host's.

        Raises:
            RefusedError: there is no such base, or they are not lent, or not to this user.
        """

    def abandoned(self, grant: Grant) -> None:
        """The token was redeemed, but no channel came of it: the place is free again."""

    def attached(self, channel: ServerChannel) -> None:
        """A client has connected."""

    def ready(self, channel: ServerChannel) -> None:
        """The channel was armed and something came."""

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """The client went away or broke the protocol; the channel is already closed."""


class Listener(Protocol):
    """A transport's open door."""

    def close(self) -> None:
        """Stops listening and removes what was left in the file system. Channels live on."""


class Transport(Protocol):
    """One way to carry rows, found by an entry point in the group `symbiosis.transports`."""

    @property
    def name(self) -> str:
        """The entry point's name."""

    def capability(self) -> Capability:
        """What this process can do with the transport, for negotiation."""

    def endpoint(self, address: str) -> str:
        """Where the rows travel for a daemon whose control address is `address`."""

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """Opens the daemon's end.

        Raises:
            UsageError: the endpoint cannot be used; the message says why and what to do.
        """

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """Opens a client's end.

        Raises:
            DaemonGoneError: nobody listens there.
            RefusedError: the daemon does not take the token; with `NO_TRANSPORT`, another transport may do.
            RemoteProtocolError: who listens there is no daemon of this version.
            UsageError: it is another user's.
        """


@runtime_checkable
class Placeable(Transport, Protocol):
    """A transport that depends on where the daemon's weights are."""

    def placed(self, device: str) -> Transport:
        """Returns it for a daemon whose weights are on that device, such as `cpu` or `cuda:1`."""
