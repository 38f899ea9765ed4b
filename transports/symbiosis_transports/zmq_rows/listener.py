"""Lets clients in over a ZeroMQ door: token in, slots out. Knows no backend; the backend makes the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_core.wire import Refused
from symbiosis_transports.keys import DaemonKeys
from symbiosis_transports.ports import Grant, Host
from symbiosis_transports.ports import Peer as Owner
from symbiosis_transports.zmq_rows.door import Door, Peer
from symbiosis_transports.zmq_rows.messages import VERSION, Opened, decode_open, encode
from symbiosis_transports.zmq_rows.server import RowsServerChannel

__all__ = ["MakeChannel", "RowsListener"]

log = get_logger(__name__)

MakeChannel = Callable[[Door, Peer, Grant, Host], tuple[RowsServerChannel, Opened]]
"""Makes the channel, and what the client is told about it. Raises UsageError, OSError: there is no memory."""


class RowsListener:
    """A door, and the channels behind it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        host: Host,
        make: MakeChannel,
        owner: Callable[[Peer], Owner],
        *,
        most_bytes: int,
        keys: DaemonKeys | None = None,
        heartbeat_ms: int = 0,
    ) -> None:
        self._host, self._make, self._owner = host, make, owner
        self._channels: dict[bytes, RowsServerChannel] = {}
        self._closing = False
        self._door = Door(
            loop, endpoint, self._said, self._left, most_bytes=most_bytes, keys=keys, heartbeat_ms=heartbeat_ms
        )

    def __repr__(self) -> str:
        return f"<RowsListener {self._door!r} channels={len(self._channels)}>"

    def close(self) -> None:
        """Lets nobody in any more. Channels live on, and so the door does, until the last of them has ended."""
        self._closing = True
        self._close_if_empty()

    def _said(self, peer: Peer, frames: list[memoryview]) -> None:
        channel = self._channels.get(peer.name)
        if channel is None:
            self._greet(peer, frames)
            return
        try:
            channel.hear(frames)
        except RemoteProtocolError as error:
            channel.close(str(error), breach=True)
            self._host.gone(channel, str(error))

    def _left(self, peer: Peer) -> None:
        channel = self._channels.get(peer.name)
        if channel is not None:
            channel.close("")
            self._host.gone(channel, "left")

    def _greet(self, peer: Peer, frames: list[memoryview]) -> None:
        try:
            self._let_in(peer, frames)
        except msgspec.MsgspecError as error:
            self._turn_away(peer, Refused(RefusalCode.MALFORMED, f"not an opening: {error}"))
        except RefusedError as error:
            self._turn_away(peer, Refused(error.code, error.reason, error.remedy))

    def _let_in(self, peer: Peer, frames: list[memoryview]) -> None:
        if len(frames) != 1:
            raise RefusedError(RefusalCode.MALFORMED, f"an opening has one frame, not {len(frames)}")
        opening = decode_open(frames[0])
        if opening.version != VERSION:
            raise RefusedError(
                RefusalCode.VERSION,
                f"the client speaks data plane version {opening.version}, the daemon {VERSION}",
                "install the same release of symbiosis-llm on both sides",
            )
        if self._closing:
            raise RefusedError(RefusalCode.DRAINING, "the daemon is stopping", "connect to the next one")
        grant = self._host.redeem(opening.token, self._owner(peer))
        try:
            channel, opened = self._make(self._door, peer, grant, self._host)
        except (UsageError, OSError) as error:
            self._host.abandoned(grant)
            raise RefusedError(RefusalCode.QUOTA, f"no slots for a client: {error}") from None
        if not self._door.send(peer, [encode(opened)]):
            channel.close("")
            self._host.abandoned(grant)
            return
        self._channels[peer.name] = channel
        channel.on_closed = lambda: self._ended(peer)
        self._host.attached(channel)

    def _turn_away(self, peer: Peer, why: Refused) -> None:
        self._door.send(peer, [encode(why)])
        self._door.forget(peer)
        log.info(event("turned a connection away", code=why.code, reason=why.reason))

    def _ended(self, peer: Peer) -> None:
        self._channels.pop(peer.name, None)
        self._door.forget(peer)
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._closing and not self._channels:
            self._door.close()
