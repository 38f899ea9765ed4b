"""The client's end within one process."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as FutureTimeoutError

from symbiosis_core.errors import (
    ClosedError,
    DaemonGoneError,
    DaemonSilentError,
    RefusedError,
)
from symbiosis_core.ids import SlotIndex, Token
from symbiosis_transports.endings import ending
from symbiosis_transports.inproc.server import DOORS, InprocServerChannel
from symbiosis_transports.leases import Leases
from symbiosis_transports.ports import Call, ChannelStatistics

__all__ = ["InprocClientChannel"]


class InprocClientChannel:
    """The client's end of a channel."""

    def __init__(self, endpoint: str, far: InprocServerChannel) -> None:
        self._endpoint = endpoint
        self._far = far
        self._exchange = far.exchange
        self._leases = Leases(len(self._exchange.places))
        self._closed = False
        self._requests = self._doorbells = self._sleeps = 0

    @classmethod
    def connect(cls, endpoint: str, token: Token, timeout_s: float) -> InprocClientChannel:
        """Opens the client's end. Raises as `Transport.connect` says."""
        door = DOORS.get(endpoint)
        if door is None:
            raise DaemonGoneError(endpoint, "nobody in this process listens there")
        try:
            far = asyncio.run_coroutine_threadsafe(door.admit(token), door.loop).result(timeout_s)
        except FutureTimeoutError:
            raise DaemonSilentError(endpoint, timeout_s) from None
        return cls(endpoint, far)

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return len(self._exchange.places)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return self._exchange.slot_bytes

    def lease_nowait(self) -> SlotIndex:
        """Takes a free slot."""
        if self._closed:
            raise ClosedError("the channel was closed")
        return self._leases.take()

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows of `slot`."""
        return self._exchange.places[slot].rows

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """Hands the slot to the daemon."""
        if self._closed:
            raise ClosedError("the channel was closed")
        with self._exchange.changed:
            self._raise_if_gone()
            place = self._exchange.places[slot]
            place.call = call
            place.published += 1
            self._requests += 1
            wake = self._exchange.daemon_sleeps
        if wake:
            self._doorbells += 1
            self._far.wake()

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """Blocks until the slot is answered."""
        if self._closed:
            raise ClosedError("the channel was closed")
        place = self._exchange.places[slot]
        with self._exchange.changed:
            if place.answered != place.published:
                self._sleeps += 1
            answered = self._exchange.changed.wait_for(
                lambda: place.answered == place.published or self._exchange.daemon_gone is not None, timeout_s
            )
            if not answered:
                raise DaemonSilentError(self._endpoint, timeout_s)
            if place.answered != place.published:
                self._raise_if_gone()
            if place.refusal is not None:
                raise RefusedError(place.refusal, f"the daemon refused a call in slot {slot}")

    def release(self, slot: SlotIndex) -> None:
        """Gives a slot back."""
        with self._exchange.changed:
            place = self._exchange.places[slot]
            over = self._closed or self._exchange.daemon_gone is not None
            answered = over or place.answered == place.published
        self._leases.give_back(slot, answered=answered)

    def close(self) -> None:
        """Ends the channel."""
        if not self._closed:
            self._closed = True
            with self._exchange.changed:
                self._exchange.client_gone = True
            self._far.wake()

    def statistics(self) -> ChannelStatistics:
        """Counters since the start."""
        return ChannelStatistics(self._requests, self._doorbells, self._sleeps, 0)

    def _raise_if_gone(self) -> None:
        if self._exchange.daemon_gone is not None:
            raise ending(self._endpoint, self._exchange.daemon_gone).error
