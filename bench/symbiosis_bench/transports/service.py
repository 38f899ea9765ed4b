"""The daemon's end of a transport without the daemon: the same turns, and work that can be said in one line.

It waits as the data plane does: looks a little longer, yielding, then asks every client to ring, and sleeps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from symbiosis_bench.transports.messages import Place, Tally
from symbiosis_bench.transports.places import place_of
from symbiosis_bench.transports.work import Wanted, Work
from symbiosis_core.errors import RefusalCode, RefusedError, RemoteProtocolError
from symbiosis_core.ids import ClientId, SlotIndex, Token
from symbiosis_transports.ports import Arrival, ChannelStatistics, Grant, Peer, ServerChannel
from symbiosis_transports.waiting import Watch

__all__ = ["ALIGNMENT", "Service"]

ALIGNMENT = 64
"""A product's rows out begin at a cache line behind its rows in."""
_SLOTS = 2
_TURNS = 16
"""In a row, before the loop has one: a turn of the loop costs as much as a good part of a small call."""


class Service:
    """The `Host` of one transport's listener."""

    def __init__(self, loop: asyncio.AbstractEventLoop, slot_bytes: int) -> None:
        self.watch = Watch(0)
        self._loop = loop
        self._slot_bytes = slot_bytes
        self._work = Work()
        self._channels: dict[ClientId, ServerChannel] = {}
        self._left: list[ChannelStatistics] = []
        self._clients = 0
        self._awake = False

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """Lets everybody in: the endpoint is known to this benchmark alone."""
        self._clients += 1
        return Grant(ClientId(self._clients), _SLOTS, self._slot_bytes)

    def lend(self, peer: Peer, model: str) -> int:
        """There are no weights here."""
        raise RefusedError(RefusalCode.NOT_LENT, "a benchmark lends no weights")

    def abandoned(self, grant: Grant) -> None:
        """Nothing is kept for a client before it is attached."""

    def attached(self, channel: ServerChannel) -> None:
        """See `Host.attached`."""
        self._channels[channel.client] = channel
        self._wake()

    def ready(self, channel: ServerChannel) -> None:
        """See `Host.ready`."""
        self._wake()

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """See `Host.gone`."""
        self._channels.pop(channel.client, None)
        self._left.append(channel.statistics())

    def tally(self) -> Tally:
        """Returns what was done so far."""
        counters = [*self._left, *(channel.statistics() for channel in self._channels.values())]
        return Tally(
            requests=self._work.requests,
            batches=self._work.batches,
            busy_ns=self._work.busy_ns,
            cpu_ns=time.process_time_ns(),
            doorbells=sum(one.doorbells for one in counters),
            copied_bytes=sum(one.copied_bytes for one in counters),
            places=tuple(_places(self._channels.values())),
        )

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            for channel in self._channels.values():
                channel.disarm()
            self._loop.call_soon(self._turns)

    def _turns(self) -> None:
        """Serves until nothing comes; but after a few turns whoever else waits for the loop has it."""
        for _ in range(_TURNS):
            self._serve()
            if not self.watch.sees(self._channels.values()):
                armed = [channel.arm() for channel in self._channels.values()]
                if all(armed):
                    self._awake = False
                    return
                for channel in self._channels.values():
                    channel.disarm()
        self._loop.call_soon(self._turns)

    def _serve(self) -> None:
        """Answers what is there."""
        batch, wanted = [], []
        for channel in list(self._channels.values()):
            if arrivals := self._take(channel):
                batch.append((channel, arrivals))
                for arrival in arrivals:
                    wanted.append(_wanted(channel, arrival))
        if not batch:
            return
        self.watch.came()
        self._work(wanted)
        for channel, arrivals in batch:
            for arrival in arrivals:
                channel.answer(arrival.slot, arrival.generation)
        for channel, _ in batch:
            channel.ring()

    def _take(self, channel: ServerChannel) -> list[Arrival]:
        try:
            return channel.take()
        except RemoteProtocolError as error:
            channel.close(str(error), breach=True)
            self.gone(channel, str(error))
            return []


def _wanted(channel: ServerChannel, arrival: Arrival) -> Wanted:
    """A row is a byte here, so that every transport tells how many there are."""
    call, rows = arrival.call, channel.buffer(arrival.slot)
    given = rows[call.in_offset : call.in_offset + call.rows]
    return call.op, call.memo, given, rows[call.out_offset : call.out_offset + call.rows]


def _places(channels: Iterable[ServerChannel]) -> Iterable[Place]:
    for channel in channels:
        for slot in range(_SLOTS):
            if (place := place_of(channel.buffer(SlotIndex(slot)))) is not None:
                yield place
