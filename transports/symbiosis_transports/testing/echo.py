"""A daemon's end that adds one to every byte, and a client's round trip through it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.ids import ClientId, OpId, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import (
    Arrival,
    Call,
    ClientChannel,
    Grant,
    Peer,
    ServerChannel,
    ServesOnDevice,
    Transport,
)
from symbiosis_transports.testing.rows import get, put

__all__ = ["ADD_ONE", "HANG_UP", "NEVER", "REFUSE", "TIMEOUT_S", "EchoDaemon", "add_one"]

T = TypeVar("T")

ADD_ONE, REFUSE, NEVER, HANG_UP = OpId(0), OpId(1), OpId(2), OpId(3)
"""What the echo daemon does with a call: add one to every byte, refuse it, ignore it, or drop the client."""
TIMEOUT_S: Final = 20.0
_ONE_MORE: Final = bytes([(byte + 1) % 256 for byte in range(256)])


class EchoDaemon:
    """The daemon's end of a transport with a trivial service, in a thread of its own.

    Serves batches in reverse order of arrival, so that nobody can rely on the order of answers.
    """

    def __init__(self, transport: Transport, endpoint: str, *, slots: int = 4, slot_bytes: int = 1 << 16) -> None:
        self.channels: dict[ClientId, ServerChannel] = {}
        self.goodbyes: list[tuple[ClientId, str]] = []
        self.served = 0
        self.changed = threading.Condition()
        self._slots, self._slot_bytes = slots, slot_bytes
        self._endpoint = endpoint
        self._loop = asyncio.new_event_loop()
        self._clients = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="echo-daemon", daemon=True)
        self._thread.start()
        try:
            self._listener = self._call(lambda: transport.listen(self._loop, endpoint, self))
        except BaseException:
            self._end_thread()
            raise

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """Takes every token but `bad`."""
        if token == "bad" or peer.uid not in (None, os.getuid(), 0):
            raise RefusedError(RefusalCode.BAD_TOKEN, "the token is unknown", "say hello again")
        self._clients += 1
        return Grant(ClientId(self._clients), self._slots, self._slot_bytes)

    def lend(self, peer: Peer, model: str) -> int:
        """See `Host.lend`. An echo has no weights."""
        raise RefusedError(RefusalCode.NOT_LENT, "there are no weights here")

    def abandoned(self, grant: Grant) -> None:
        """A client left during its handshake."""
        with self.changed:
            self.goodbyes.append((grant.client, "abandoned"))
            self.changed.notify_all()

    def attached(self, channel: ServerChannel) -> None:
        """A client has connected."""
        with self.changed:
            self.channels[channel.client] = channel
            self.changed.notify_all()

    def ready(self, channel: ServerChannel) -> None:
        """Serves until nothing is left, then arms again."""
        channel.disarm()
        try:
            while True:
                for arrival in reversed(channel.take()):
                    self._serve(channel, arrival)
                channel.ring()
                if channel.arm():
                    return
        except RemoteProtocolError as error:
            channel.close(str(error), breach=True)
            self.gone(channel, str(error))

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """A client has left."""
        with self.changed:
            self.channels.pop(channel.client, None)
            self.goodbyes.append((channel.client, reason))
            self.changed.notify_all()

    @property
    def inside(self) -> int:
        """How many clients are there."""
        return len(self.channels)

    @property
    def left(self) -> int:
        """How many clients have left."""
        return len(self.goodbyes)

    def wait_until_gone(self, clients: int = 1) -> None:
        """Blocks until so many clients have left."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.goodbyes) >= clients, TIMEOUT_S)

    def hang_up(self, reason: str) -> None:
        """Closes every channel, as a daemon that stops does."""
        self._call(lambda: self._close_all(reason))

    def close(self) -> None:
        """Stops listening, hangs up and ends the thread."""
        if not self._thread.is_alive():
            return
        self._call(self._listener.close)
        self.hang_up("the echo daemon stops")
        self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()

    def _close_all(self, reason: str) -> None:
        for channel in self.channels.values():
            channel.close(reason)

    def _serve(self, channel: ServerChannel, arrival: Arrival) -> None:
        call = arrival.call
        if call.op == REFUSE:
            channel.answer(arrival.slot, arrival.generation, RefusalCode.BAD_ROWS)
        elif call.op == HANG_UP:
            channel.close("asked to hang up")
            self.gone(channel, "asked to hang up")
        elif call.op == ADD_ONE:
            took = get(channel, arrival.slot, call.in_offset, call.rows)
            put(channel, arrival.slot, call.out_offset, took.translate(_ONE_MORE))
            if isinstance(channel, ServesOnDevice):
                channel.computed(arrival.slot)
            self.served += 1
            channel.answer(arrival.slot, arrival.generation)

    def _call(self, function: Callable[[], T]) -> T:
        """Runs `function` in the daemon's thread and returns what it returns."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(TIMEOUT_S)


def add_one(channel: ClientChannel, data: bytes, size: int) -> bool:
    """One round trip through the echo daemon; true when the answer is right."""
    slot = channel.lease_nowait()
    at = -(-size // 64) * 64
    put(channel, slot, 0, data[:size])
    channel.publish(slot, Call(ADD_ONE, Direction.FORWARD, size, 0, at, in_bytes=size, out_bytes=size))
    channel.wait(slot, TIMEOUT_S)
    answer = get(channel, slot, at, size)
    channel.release(slot)
    return answer == data[:size].translate(_ONE_MORE)
