"""The daemon's end of a channel over ZeroMQ: the journey of a slot, whoever shares its memory."""

from __future__ import annotations

from collections.abc import Callable

from symbiosis_core.errors import RefusalCode, RemoteProtocolError
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_transports.endings import Goodbye
from symbiosis_transports.layout import code_of
from symbiosis_transports.ports import Arrival, Call, ChannelStatistics, Host
from symbiosis_transports.zmq_rows.door import Caller, Door
from symbiosis_transports.zmq_rows.messages import (
    ANSWER,
    ASK,
    PIECE,
    Head,
    encode,
    pack_head,
    unpack_call,
    unpack_head,
)
from symbiosis_transports.zmq_rows.slots import Slots

__all__ = ["RowsServerChannel"]


class RowsServerChannel:
    """One client. This class expects rows in shared memory; who carries them overrides two methods."""

    def __init__(self, door: Door, caller: Caller, client: ClientId, slots: Slots, host: Host) -> None:
        self.client = client
        self.on_closed: Callable[[], None] = lambda: None
        self._door, self._caller, self._host = door, caller, host
        self._slots = slots
        self._calls: list[Call | None] = [None] * len(slots)
        self._taken = [0] * len(slots)
        self._answered = [0] * len(slots)
        self._arrivals: list[Arrival] = []
        self._armed = True
        self._open = True
        self._copied_bytes = 0

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<{type(self).__name__} client={self.client} {state} taken={sum(self._taken)}>"

    @property
    def arena_bytes(self) -> int:
        """Bytes of all slots."""
        return Slots.arena_bytes(len(self._taken), self._slots.slot_bytes)

    def statistics(self) -> ChannelStatistics:
        """Counters since the start. Every answer is a doorbell."""
        return ChannelStatistics(sum(self._taken), sum(self._answered), 0, 0, self._copied_bytes)

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self._slots.buffers[slot]

    def waiting(self) -> bool:
        """Whether something came since the last `take`, or may have: another client's message counts, too."""
        return self._open and (bool(self._arrivals) or self._door.pending())

    def announced_us(self) -> int:
        """Nothing is announced."""
        return 0

    def take(self) -> list[Arrival]:
        """Everything published since the last call."""
        self._door.drain()
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Sends the answer."""
        if not self._open or self._taken[slot] != generation or self._answered[slot] == generation:
            return
        self._answered[slot] = generation
        call = self._calls[slot]
        assert call is not None  # it was taken
        at, rows = (0, []) if refusal is not None else self.rows_out(slot, generation, call)
        head = pack_head(ANSWER, slot, generation, code=code_of(refusal), at=at)
        if not self._door.send(self._caller, [head, *rows]):
            self._door.soon(self._abandon)  # not now: whoever answers is in the middle of something

    def ring(self) -> None:
        """Nothing left to do: the answer itself wakes the client."""

    def arm(self) -> bool:
        """Asks to be woken; false when something has already come."""
        self._armed = True
        return not self.waiting()

    def disarm(self) -> None:
        """No wake-up wanted."""
        self._armed = False

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up."""
        if not self._open:
            return
        self._open = False
        self._arrivals.clear()
        if reason:
            self._door.send(self._caller, [encode(Goodbye(reason, breach))])
        self._slots.close()
        self.on_closed()

    def hear(self, frames: list[memoryview]) -> None:
        """Takes a message of the client.

        Raises:
            RemoteProtocolError: it broke the protocol; the caller closes the channel.
        """
        head = unpack_head(frames[0]) if frames else None
        if head is None or head.kind not in (ASK, PIECE):
            raise RemoteProtocolError("the data socket carries calls and rows only")
        if head.slot >= len(self._taken):
            raise RemoteProtocolError(f"slot {head.slot} of {len(self._taken)}")
        taken, answered = self._taken[head.slot], self._answered[head.slot]
        if head.generation != taken + 1 or answered != taken:
            raise RemoteProtocolError(
                f"slot {head.slot} was published as generation {head.generation} after {taken}, "
                f"of which {answered} is answered"
            )
        if head.kind == PIECE:
            self.rows_in(head, None, frames[1:])
            return
        call = unpack_call(frames[0])
        self.rows_in(head, call, frames[1:])
        self._taken[head.slot] = head.generation
        self._calls[head.slot] = call
        self._arrivals.append(Arrival(SlotIndex(head.slot), Generation(head.generation), call))
        if self._armed:
            self._door.soon(self._wake)  # not now: other messages may be on their way through the same door

    def rows_in(self, head: Head, call: Call | None, rows: list[memoryview]) -> None:
        """Takes the rows that came with a call, or without one yet. Here they are where they belong.

        Raises:
            RemoteProtocolError: there are rows.
        """
        if rows or call is None:
            raise RemoteProtocolError("rows came in a message, where both sides see the same memory")

    def rows_out(self, slot: SlotIndex, generation: Generation, call: Call) -> tuple[int, list[memoryview]]:
        """Returns what is to be sent with an answer, and where it begins. Here the client sees it anyway."""
        return 0, []

    def _wake(self) -> None:
        if self._open and self._armed and self._arrivals:
            self._host.ready(self)

    def _abandon(self) -> None:
        if self._open:
            self.close("")
            self._host.gone(self, "left, or does not read its answers")
