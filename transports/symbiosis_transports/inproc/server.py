"""The daemon's end within one process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import Final

from symbiosis_core.errors import RefusalCode, UsageError
from symbiosis_core.ids import ClientId, Generation, SlotIndex, Token
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.inproc.exchange import Exchange
from symbiosis_transports.ports import Arrival, ChannelStatistics, Host, Peer

__all__ = ["DOORS", "InprocListener", "InprocServerChannel"]

DOORS: Final[dict[str, InprocListener]] = {}
"""Open doors of this process, by endpoint."""
_doors_lock = threading.Lock()


class InprocListener:
    """An open door in this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> None:
        self._loop = loop
        self._endpoint = endpoint
        self._host = host
        with _doors_lock:
            if endpoint in DOORS:
                raise UsageError(f"{endpoint} is in use by another daemon of this process")
            DOORS[endpoint] = self

    def close(self) -> None:
        """Stops listening. Channels live on."""
        with _doors_lock:
            if DOORS.get(self._endpoint) is self:
                del DOORS[self._endpoint]

    async def admit(self, token: Token) -> InprocServerChannel:
        """Runs in the daemon's thread: the door's half of a client's `connect`."""
        grant = self._host.redeem(token, Peer(os.getpid(), os.getuid()))
        exchange = Exchange(grant.slots, grant.slot_bytes)
        channel = InprocServerChannel(self._loop, exchange, grant.client, self._host)
        self._host.attached(channel)
        return channel

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The daemon's loop."""
        return self._loop


class InprocServerChannel:
    """The daemon's end of one client's channel."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exchange: Exchange, client: ClientId, host: Host) -> None:
        self.client = client
        self.exchange = exchange
        self._loop = loop
        self._host = host
        self._taken = [0] * len(exchange.places)
        self._open = True

    @property
    def arena_bytes(self) -> int:
        """Bytes of all slots."""
        return self.exchange.slot_bytes * len(self.exchange.places)

    def statistics(self) -> ChannelStatistics:
        """Counters since the start."""
        return ChannelStatistics(sum(self._taken), doorbells=0, sleeps=0, spin_hits=0)

    def waiting(self) -> bool:
        """Whether something was published since the last `take`."""
        with self.exchange.changed:
            return any(
                place.published != taken for place, taken in zip(self.exchange.places, self._taken, strict=True)
            )

    def announced_us(self) -> int:
        """Nothing is announced."""
        return 0

    def take(self) -> list[Arrival]:
        """Everything published since the last call."""
        arrivals = []
        with self.exchange.changed:
            for index, place in enumerate(self.exchange.places):
                if place.published != self._taken[index] and place.call is not None:
                    self._taken[index] = place.published
                    arrivals.append(Arrival(SlotIndex(index), Generation(place.published), place.call))
        return arrivals

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self.exchange.places[slot].rows

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Makes the answer visible, and wakes the client at once."""
        with self.exchange.changed:
            place = self.exchange.places[slot]
            if self._open and self._taken[slot] == generation and place.answered != generation:
                place.refusal, place.answered = refusal, generation
                self.exchange.changed.notify_all()

    def ring(self) -> None:
        """Nothing left to do: `answer` has woken the client."""

    def arm(self) -> bool:
        """Asks to be woken; false when something has already come."""
        with self.exchange.changed:
            self.exchange.daemon_sleeps = True
        return not self.waiting()

    def disarm(self) -> None:
        """No wake-up wanted."""
        with self.exchange.changed:
            self.exchange.daemon_sleeps = False

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up."""
        with self.exchange.changed:
            self._open = False
            if self.exchange.daemon_gone is None:
                self.exchange.daemon_gone = Goodbye(reason or "the connection broke", breach)
            self.exchange.changed.notify_all()

    def wake(self) -> None:
        """Called by the client's thread: something was published, or the client left."""
        with contextlib.suppress(RuntimeError):  # the daemon's loop is closed: nobody is there to be woken
            self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        if not self._open:
            return
        if self.exchange.client_gone:
            self.close("")
            self._host.gone(self, "left")
        else:
            self._host.ready(self)
