"""Lets clients in over a ZeroMQ door: token in, slots out. Knows no backend; the backend makes the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError, UsageError
from symbiosis_core.logs import event, get_logger
from symbiosis_core.wire import Refused
from symbiosis_transports.handshake import check_client
from symbiosis_transports.keys import DaemonKeys
from symbiosis_transports.ports import Grant, Host, Peer
from symbiosis_transports.zmq_rows.door import Caller, Door
from symbiosis_transports.zmq_rows.messages import VERSION, Opened, decode_open, encode
from symbiosis_transports.zmq_rows.server import RowsServerChannel

__all__ = ["MakeChannel", "RowsListener"]

log = get_logger(__name__)

MakeChannel = Callable[[Door, Caller, Grant, Host], tuple[RowsServerChannel, Opened]]
"""Makes the channel, and what the client is told about it. Raises UsageError, OSError: there is no memory."""


class RowsListener:
    """A door, and the channels behind it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        host: Host,
        make: MakeChannel,
        peer_of: Callable[[Caller], Peer],
        *,
        most_bytes: int,
        keys: DaemonKeys | None = None,
        heartbeat_ms: int = 0,
    ) -> None:
        self._host, self._make, self._peer_of = host, make, peer_of
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

    def _said(self, caller: Caller, frames: list[memoryview]) -> None:
        channel = self._channels.get(caller.name)
        if channel is None:
            self._greet(caller, frames)
            return
        try:
            channel.hear(frames)
        except RemoteProtocolError as error:
            channel.close(str(error), breach=True)
            self._host.gone(channel, str(error))

    def _left(self, caller: Caller) -> None:
        channel = self._channels.get(caller.name)
        if channel is not None:
            channel.close("")
            self._host.gone(channel, "left")

    def _greet(self, caller: Caller, frames: list[memoryview]) -> None:
        try:
            self._let_in(caller, frames)
        except msgspec.MsgspecError as error:
            self._turn_away(caller, Refused(RefusalCode.MALFORMED, f"not an opening: {error}"))
        except RefusedError as error:
            self._turn_away(caller, Refused(error.code, error.reason, error.remedy))

    def _let_in(self, caller: Caller, frames: list[memoryview]) -> None:
        if len(frames) != 1:
            raise RefusedError(RefusalCode.MALFORMED, f"an opening has one frame, not {len(frames)}")
        opening = decode_open(frames[0])
        check_client(opening.version, VERSION)
        if self._closing:
            raise RefusedError(RefusalCode.DRAINING, "the daemon is stopping", "connect to the next one")
        grant = self._host.redeem(opening.token, self._peer_of(caller))
        try:
            channel, opened = self._make(self._door, caller, grant, self._host)
        except (UsageError, OSError) as error:
            self._host.abandoned(grant)
            raise RefusedError(RefusalCode.QUOTA, f"no slots for a client: {error}") from None
        if not self._door.send(caller, [encode(opened)]):
            channel.close("")
            self._host.abandoned(grant)
            return
        self._channels[caller.name] = channel
        channel.on_closed = lambda: self._ended(caller)
        self._host.attached(channel)

    def _turn_away(self, caller: Caller, why: Refused) -> None:
        self._door.send(caller, [encode(why)])
        self._door.forget(caller)
        log.info(event("turned a connection away", code=why.code, reason=why.reason))

    def _ended(self, caller: Caller) -> None:
        self._channels.pop(caller.name, None)
        self._door.forget(caller)
        self._close_if_empty()

    def _close_if_empty(self) -> None:
        if self._closing and not self._channels:
            self._door.close()
