"""The seats: every connected client's channel, from which its requests are taken and by which it is answered.

In the data plane's thread. What a request means is not known here; neither is who decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from symbiosis_core.clock import monotonic_us
from symbiosis_core.errors import RemoteProtocolError
from symbiosis_core.ids import ClientId
from symbiosis_core.spared_core import Place
from symbiosis_core.telemetry import LatencyHistogram
from symbiosis_scheduler.decisions.events import Answer, Arrived
from symbiosis_scheduler.grants import Tenant
from symbiosis_transports.ports import SaysPlace, ServerChannel
from symbiosis_transports.waiting import Watch

__all__ = ["Seat", "Seats"]


class Seat:
    """A connected client: its channel, who it is, and how fast it was served."""

    __slots__ = ("asks", "channel", "latency", "tenant")

    def __init__(self, channel: ServerChannel, tenant: Tenant) -> None:
        self.channel = channel
        self.asks: SaysPlace | None = channel if isinstance(channel, SaysPlace) else None
        """The channel, if the client can be asked where to compute. To find that out takes microseconds."""
        self.tenant = tenant
        self.latency = LatencyHistogram()


class Seats(Mapping[ClientId, Seat]):
    """All of them, in the order in which they were taken."""

    def __init__(self, spin_us: int) -> None:
        """So long they are looked at before anybody sleeps."""
        self._seats: dict[ClientId, Seat] = {}
        self._to_ring: set[ServerChannel] = set()
        self.watch: Final = Watch(spin_us)

    def __getitem__(self, client: ClientId) -> Seat:
        return self._seats[client]

    def __iter__(self) -> Iterator[ClientId]:
        return iter(self._seats)

    def __len__(self) -> int:
        return len(self._seats)

    def add(self, seat: Seat) -> None:
        """A client has come."""
        self._seats[seat.channel.client] = seat

    def remove(self, client: ClientId) -> Seat | None:
        """A client is gone; None: it had no seat."""
        seat = self._seats.pop(client, None)
        if seat is not None:
            self._to_ring.discard(seat.channel)
        return seat

    def take(self) -> Iterator[Arrived | tuple[ServerChannel, RemoteProtocolError]]:
        """Yields what every client has published; or, of who broke the protocol, how. Seats may go meanwhile."""
        now_us = 0
        for seat in list(self._seats.values()):
            try:
                arrivals = seat.channel.take()
            except RemoteProtocolError as error:
                yield seat.channel, error
                continue
            if arrivals:
                if not now_us:
                    now_us = monotonic_us()
                    self.watch.came()
                yield Arrived(seat.channel.client, arrivals, now_us)

    def answer(self, answer: Answer) -> None:
        """Gives a slot back; the client is told by the next `ring`. Nobody is there any more: nothing happens."""
        seat = self._seats.get(answer.client)
        if seat is None:
            return
        seat.channel.answer(answer.slot, answer.generation, answer.refusal)
        self._to_ring.add(seat.channel)
        now_us = monotonic_us()
        seat.latency.add(now_us - answer.arrived_us, now_us)

    def ask_to(self, client: ClientId, place: Place | None) -> None:
        """Asks a client to compute there, where it computes on this host."""
        seat = self._seats.get(client)
        if seat is not None and seat.asks is not None:
            seat.asks.ask_to(place)

    def hears_of_place(self, client: ClientId) -> bool:
        """Whether it can be asked."""
        seat = self._seats.get(client)
        return seat is not None and seat.asks is not None

    def ring(self) -> None:
        """Tells everybody who was answered."""
        for channel in self._to_ring:
            channel.ring()
        self._to_ring.clear()

    def look(self, *, briefly: bool) -> bool:
        """Looks a little longer, yielding, and returns whether anything came."""
        return self.watch.sees([seat.channel for seat in self._seats.values()], briefly=briefly)

    def arm(self) -> bool:
        """Asks everybody to ring; False: somebody has published meanwhile, and nobody will."""
        if all(seat.channel.arm() for seat in self._seats.values()):
            return True
        self.disarm()
        return False

    def disarm(self) -> None:
        """Nobody needs to ring: somebody is awake and will look."""
        for seat in self._seats.values():
            seat.channel.disarm()
