"""The client's end of a channel over ZeroMQ: the journey of a slot, whoever shares its memory."""

from __future__ import annotations

import contextlib
import time

import msgspec

from symbiosis_core.errors import (
    ClosedError,
    DaemonGoneError,
    RefusalCode,
    RefusedError,
    RemoteProtocolError,
)
from symbiosis_core.ids import SlotIndex, Token
from symbiosis_transports.endings import Ending, ending, gone
from symbiosis_transports.forks import FORGOTTEN, forgets_in_child
from symbiosis_transports.handshake import let_in
from symbiosis_transports.layout import refusal_of
from symbiosis_transports.leases import Leases
from symbiosis_transports.ports import Call, ChannelStatistics
from symbiosis_transports.zmq_rows.line import Line
from symbiosis_transports.zmq_rows.messages import (
    ANSWER,
    ASK,
    PIECE,
    VERSION,
    Head,
    Open,
    Opened,
    decode_from_daemon,
    encode,
    pack_call,
    pack_head,
    unpack_head,
)
from symbiosis_transports.zmq_rows.slots import Slots

__all__ = ["RowsClientChannel", "open_line"]

_SEND_S = 60.0


def open_line(line: Line, token: Token, timeout_s: float) -> Opened:
    """Shows the token and returns what the daemon lends. Closes the line where that fails.

    Raises as `Transport.connect` says.
    """
    try:
        line.send([encode(Open(VERSION, token))], timeout_s)
        frames = line.receive(timeout_s)
        return _opened(frames[0], line.endpoint)
    except BaseException:
        line.close()
        raise


def _opened(frame: memoryview, endpoint: str) -> Opened:
    try:
        message = decode_from_daemon(frame)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"who listens at {endpoint} is no daemon: {error}") from None
    return let_in(endpoint, message, Opened, VERSION)


class RowsClientChannel:
    """The client's end. This class expects rows in shared memory; who carries them overrides two methods."""

    def __init__(self, line: Line, slots: Slots) -> None:
        self._line = line
        self._memory = slots
        self._generations = [0] * len(slots)
        self._answered = [0] * len(slots)
        self._refusals: list[RefusalCode | None] = [None] * len(slots)
        self._calls: list[Call | None] = [None] * len(slots)
        self._leases = Leases(len(slots))
        self._closed_because = ""
        self._requests = self._sleeps = self._copied_bytes = 0
        forgets_in_child(self)

    def __repr__(self) -> str:
        state = self._closed_because or "open"
        return f"<{type(self).__name__} {self._line.endpoint} {state} {self._leases}>"

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return len(self._generations)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self._memory.slot_bytes

    def lease_nowait(self) -> SlotIndex:
        """Takes a free slot."""
        self._raise_if_closed()
        return self._leases.take()

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self._memory.buffers[slot]

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """Hands the slot to the daemon."""
        self._raise_if_closed()
        generation = self._generations[slot] + 1
        at, rows = self.rows_out(slot, generation, call)
        self.send([pack_head(ASK, slot, generation, at=at) + pack_call(call), *rows])
        # Only now: a generation whose call was never sent would look like a leap to the daemon.
        self._generations[slot], self._calls[slot] = generation, call
        self._requests += 1

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """Blocks until the slot is answered."""
        self._raise_if_closed()
        deadline = time.monotonic() + timeout_s
        self._sleeps += self._answered[slot] != self._generations[slot]
        while self._answered[slot] != self._generations[slot]:
            try:
                frames = self._line.receive(max(0.0, deadline - time.monotonic()))
            except DaemonGoneError as error:
                raise self._over(gone(self._line.endpoint, error.reason)) from None
            self._hear(frames)
        if (why := self._refusals[slot]) is not None:
            raise RefusedError(why, f"the daemon refused a call in slot {slot}")

    def release(self, slot: SlotIndex) -> None:
        """Gives a slot back."""
        answered = self._closed_because or self._answered[slot] == self._generations[slot]
        self._leases.give_back(slot, answered=bool(answered))

    def close(self) -> None:
        """Ends the channel."""
        self._end("the channel was closed")

    def statistics(self) -> ChannelStatistics:
        """Counters since the start. Every message is a doorbell."""
        return ChannelStatistics(self._requests, self._line.sent, self._sleeps, 0, self._copied_bytes)

    def send(self, frames: list[bytes | memoryview]) -> None:
        """Sends one message. Raises as `publish` does."""
        try:
            self._line.send(frames, _SEND_S)
        except DaemonGoneError as error:
            raise self._over(gone(self._line.endpoint, error.reason)) from None

    def rows_out(self, slot: SlotIndex, generation: int, call: Call) -> tuple[int, list[memoryview]]:
        """Returns what is to be sent with a call, and where it begins. Here the daemon sees it anyway.

        Raises as `publish` does.
        """
        return 0, []

    def rows_in(self, head: Head, call: Call, rows: list[memoryview]) -> bool:
        """Takes rows of an answer; false: they are none. Here they are where they belong."""
        return not rows

    def forget_in_child(self) -> None:
        """See `forks`. ZeroMQ must not be used in a forked child: the connection is closed, and not its socket."""
        if not self._closed_because:
            self._closed_because = FORGOTTEN
            self._line.forget_in_child()

    def _hear(self, frames: list[memoryview]) -> None:
        head = unpack_head(frames[0])
        if head is None:
            raise self._last_words(frames[0])
        if head.kind not in (ANSWER, PIECE) or head.slot >= self.slots:
            raise self._over(ending(self._line.endpoint, None))
        call = self._calls[head.slot]
        if head.generation != self._generations[head.slot] or call is None:
            return  # nobody waits for that any more
        if not self.rows_in(head, call, frames[1:]):
            raise self._over(ending(self._line.endpoint, None))
        if head.kind == ANSWER:
            self._refusals[head.slot] = refusal_of(head.code)
            self._answered[head.slot] = head.generation

    def _last_words(self, frame: memoryview) -> DaemonGoneError | RemoteProtocolError:
        message: object = None
        with contextlib.suppress(msgspec.MsgspecError):
            message = decode_from_daemon(frame)
        return self._over(ending(self._line.endpoint, message))

    def _over(self, how: Ending) -> DaemonGoneError | RemoteProtocolError:
        self._end(how.why)
        return how.error

    def _raise_if_closed(self) -> None:
        if self._closed_because:
            raise ClosedError(self._closed_because)

    def _end(self, why: str) -> None:
        if not self._closed_because:
            self._closed_because = why
            self._line.close()
            self._memory.close()
